"""Trust regions that are not a clip: a target for the ratio with a pull from both sides, and importance weights for bad decisions
only."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp, through_logp
from anypo.objective.base import Trust
from anypo.outlook import Outlook


class BoundedRatio(Trust, name="bounded_ratio"):
    """- |A| |r - r*|, with r* = 1 + high for decisions better than the threshold, 1 - low for worse ones, 1 at it (BPO,
    arXiv:2604.18578): the distance, in total variation weighted by |A|, to the solution of "maximise E[r A] with 1 - low <= r <=
    1 + high everywhere".

    PPO's clip is one side of it; here a ratio beyond its target is pulled back instead of being let go. threshold: ``zero``, the
    advantage's own sign; ``quantile``, the group's quantile of advantages at which raised and lowered mass balance,
    high / (high + low) of the responses below it (the median when both widths are equal; with low = 1 the elite selection of the
    cross-entropy method). huber: distances below it are squared (d^2 / (2 huber)), so that the pull fades at the target.
    """

    low: float = Field(0.2, ge=0.0, le=1.0)
    high: float = Field(0.2, ge=0.0)
    threshold: Literal["zero", "quantile"] = "zero"
    huber: float = Field(0.0, ge=0.0)

    def refuse(self, algorithm: Any) -> str | None:
        if self.low + self.high <= 0:
            return "low and high cannot both be 0: no ratio could move"
        if self.threshold == "quantile" and any(part.part == "scatter" for _, part in algorithm.walk()):
            return "after 'scatter' every decision is a group of its own, at its own quantile; set threshold to 'zero'"
        return None

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return None if self.threshold == "quantile" else super().dormant(algorithm, outlook)

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        side = self.side(advantage, batch)
        target = 1 + self.high * side.clamp(min=0) + self.low * side.clamp(max=0)
        gap = bounded_exp(log_ratio) - target
        context.log("objective/overshoot", batch.row_mean((gap.detach() * side > 0).to(gap.dtype)))
        distance = gap.abs()
        if self.huber > 0:
            distance = torch.where(distance < self.huber, gap**2 / (2 * self.huber), distance - self.huber / 2)
        return -advantage.abs() * distance

    def side(self, advantage: Tensor, batch: Batch) -> Tensor:
        """1 for decisions to raise, -1 for those to lower, 0 for those at the threshold, [N]."""
        if self.threshold == "zero":
            return advantage.sign()
        per_sequence = batch.sequence_mean(advantage)
        counted = batch.sequence_sum(torch.ones_like(advantage)) > 0
        middle = segments.quantile(
            per_sequence[counted], batch.group[counted], batch.n_groups, self.high / (self.high + self.low)
        )
        above = per_sequence - middle[batch.group]
        tie = (
            1e-6 * segments.max(per_sequence.abs(), batch.group, batch.n_groups)[batch.group]
        )  # rounding is not a side
        return batch.spread(torch.where(above.abs() <= tie, torch.zeros_like(above), above.sign()))


class Tapered(Trust, name="tapered"):
    """A log pi for A >= 0; sg[ clip(r, 0, cap) ] A log pi for A < 0 (TOPR, arXiv:2503.14286): good decisions are imitated however
    unlikely they have become, bad ones lose their pull as the policy leaves them."""

    cap: float = Field(1.0, gt=0.0)

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        weight = bounded_exp(log_ratio.detach()).clamp(max=self.cap)
        weight = torch.where(advantage >= 0, torch.ones_like(weight), weight)
        context.log("objective/taper", batch.row_mean(weight))
        return through_logp(weight * advantage, batch)
