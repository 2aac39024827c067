"""Metrics as curves: one list a metric, thinned out when a run has more steps than a chart has pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MOST_POINTS = 400


@dataclass(frozen=True)
class Curves:
    """`values[name][i]` belongs to `steps[i]`; None where it was not recorded or not finite. `bin`: steps averaged in a point.
    `broken`: steps where a metric was recorded but not finite. `done`: steps completed."""

    steps: list[float]
    values: dict[str, list[float | None]]
    bin: int
    broken: dict[str, list[int]]
    done: int


def curves(metrics: Sequence[dict[str, Any]]) -> Curves:
    """The numeric metrics of a run as curves, in consecutive bins of equal size, at most `MOST_POINTS` of them."""
    steps = [int(entry.get("step", number)) for number, entry in enumerate(metrics, 1)]
    names = sorted({name for entry in metrics for name, value in entry.items() if name != "step" and _is_number(value)})
    full = {name: [_number(entry.get(name)) for entry in metrics] for name in names}
    if "time/step" in full:
        full["time/other"] = _other(full)
    broken = {
        name: [
            step for step, entry in zip(steps, metrics) if _is_number(entry.get(name)) and _number(entry[name]) is None
        ]
        for name in names
    }
    size = max(1, math.ceil(len(steps) / MOST_POINTS))
    starts = range(0, len(steps), size)
    return Curves(
        steps=[_mean(steps[i : i + size]) or 0.0 for i in starts],
        values={name: [_mean(column[i : i + size]) for i in starts] for name, column in full.items()},
        bin=size,
        broken={name: found for name, found in broken.items() if found},
        done=max(steps, default=0),
    )


def ends(values: Sequence[float | None]) -> tuple[float, ...]:
    """Mean of the first and of the last few finite values (a quarter of them, one to five); one number, or none, where
    there is only one value, or none."""
    finite = [value for value in values if value is not None]
    if len(finite) < 2:
        return tuple(finite)
    window = max(1, min(5, len(finite) // 4))
    return sum(finite[:window]) / window, sum(finite[-window:]) / window


def _other(full: dict[str, list[float | None]]) -> list[float | None]:
    """Time of a step that no room accounts for."""
    rooms = [column for name, column in full.items() if name.startswith("time/") and name != "time/step"]
    return [
        None if total is None else max(0.0, total - sum(column[i] or 0.0 for column in rooms))
        for i, total in enumerate(full["time/step"])
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    return float(value) if _is_number(value) and math.isfinite(value) else None


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return sum(finite) / len(finite) if finite else None
