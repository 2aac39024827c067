"""What the rollouts of a run cost, and what came of them: the rollout card of a survey of rollout strategies (arXiv:2605.02913).

Once filters, budgets and replay decide which rollouts reach the optimiser, two runs with the same loss are two different experiments.
So a run is told by what it sampled for what it trained on, and by the shares that were lost in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from anypo.errors import UserError
from anypo.measures.base import Estimate, Measure

if TYPE_CHECKING:
    from anypo.run.disk.folder import RunFolder

MEANS = {
    "kept": "filter/kept_share",
    "without a difference": "rollout/degenerate",
    "cut off": "rollout/truncated",
    "failed": "rollout/failed",
    "right or rewarded": "reward/mean",
    "length": "rollout/length",
    "age of a trained token": "policy/staleness",
    "of another policy": "policy/off_policy_share",
    "effective sample size": "objective/ess",
}
"""Details that are means over the steps that logged them, and their metrics."""


def ratio(above: np.ndarray, below: np.ndarray) -> tuple[float, float, float]:
    """sum(above) / sum(below) over independent pairs [n], and its 95 % interval by the jackknife: the pairs are left out one at a
    time (infinitely wide for a single pair). inf where `below` sums to 0."""
    top, bottom, n = float(above.sum()), float(below.sum()), len(above)
    value = top / bottom if bottom else math.inf
    rest = bottom - below
    if n < 2 or not bottom or not rest.all():
        return value, 0.0, math.inf
    without = (top - above) / rest
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    return value, max(0.0, value - 1.96 * error), value + 1.96 * error


def bill(rows: Sequence[Mapping[str, Any]]) -> Estimate:
    """Tokens sampled for every token trained on, from the metrics of a run's steps; details: tokens in all, and `MEANS`.

    Every sampled token counts, also those of rollouts that a filter dropped. Raises `UserError` without steps that sampled."""
    sampled = np.array([row.get("tokens/generated") or 0.0 for row in rows])
    trained = np.array([row.get("tokens/trained") or 0.0 for row in rows])
    if not sampled.sum():
        raise UserError("the run sampled nothing, so there is no price of what it trained on")
    value, low, high = ratio(sampled, trained)
    details = {"sampled": float(sampled.sum()), "trained on": float(trained.sum())}
    seconds = [(row["time/generate"], row["time/step"]) for row in rows if row.get("time/step")]
    if seconds:
        details["time spent sampling"] = sum(s for s, _ in seconds) / sum(t for _, t in seconds)
    for name, metric in MEANS.items():
        seen = [row[metric] for row in rows if isinstance(row.get(metric), (int, float)) and math.isfinite(row[metric])]
        if seen:
            details[name] = float(np.mean(seen))
    return Estimate(value, low, high, len(rows), "tokens", details)


class RolloutCard(Measure, name="rollout_card"):
    """Tokens sampled for every token trained on, with what happened to the others: the share of groups that a filter kept, of groups
    without a difference in reward, of rollouts cut off; how old and how foreign what was trained on was. A step is an
    observation."""

    def of(self, run: RunFolder) -> Estimate:
        return bill(run.metrics())


__all__ = ["RolloutCard", "bill", "ratio"]
