"""First signs that the weights are lost, read off the metrics of single steps."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

GROWTH, GROWN = "update/weight_growth", 10.0
"""The growth of the policy's weights, and how much of it deserves a look."""


def dead(entry: Mapping[str, Any]) -> bool | None:
    """Whether a step taught nothing although its rewards differed: some decisions had an advantage, and the gradient was exactly 0
    or not a number. None where no decision had one, or the step does not say."""
    live = entry.get("credit/live_share")
    if "update/grad_norm" not in entry or live is None or not live > 0:
        return None
    norm = entry["update/grad_norm"]
    return norm is None or norm == 0 or not math.isfinite(norm)


def ailing(entry: Mapping[str, Any]) -> bool:
    """Whether a step's metrics show a sign that the weights are lost: an optimiser step that was skipped, a dead gradient, or
    weights that have grown tenfold."""
    skipped = any(value != 0 for name, value in entry.items() if name.startswith("update/skipped"))
    growth = entry.get(GROWTH, 1.0)
    return skipped or bool(dead(entry)) or growth is None or not growth < GROWN


def last_good(checkpoints: Collection[int], metrics: Iterable[Mapping[str, Any]]) -> int | None:
    """The newest of `checkpoints` (steps) whose weights are known to be sound: neither the step that made them nor the one that used
    them first shows a sign of loss. The oldest when there is none such, None when there are no checkpoints."""
    sound: dict[int, bool] = {}
    last: Mapping[str, Any] = {}
    for entry in metrics:
        last = {GROWTH: last.get(GROWTH, 1.0), **entry}  # a step without an update leaves the weights as they were
        sound[int(entry["step"])] = not ailing(last)
    proven = [step for step in checkpoints if sound.get(step + 1, False) and sound.get(step, step == 0)]
    return max(proven, default=min(checkpoints, default=None))
