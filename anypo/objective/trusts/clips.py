"""Trust regions: what is maximised per decision, given the log ratio and the advantage.

The ratio decides what is compared, the trust region what happens when it strays: with a sequence ratio, `clip` is GSPO's
sequence-level clip.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp, counted, through_logp
from anypo.freshness import ratios
from anypo.objective.base import Ratio, Trust
from anypo.objective.ratios import SequenceRatio, SequenceTokenRatio, TokenRatio


class Clip(Trust, name="clip"):
    """min( r A, clip(r, 1 - low, 1 + high) A ) (PPO, arXiv:1707.06347; asymmetric bounds: DAPO, arXiv:2503.14476).

    `dual`: for A < 0 the surrogate is at least dual * A, so that huge ratios of bad actions lose their gradient too (dual-clip
    PPO, arXiv:1912.09729); off when absent.
    `length`: the bounds are for responses of that many decisions; for L of them they are sqrt(length / L) times as wide, as the
    deviation of a geometric mean of L ratios is. Off when absent.
    """

    low: float = Field(0.2, ge=0.0)
    high: float = Field(0.2, ge=0.0)
    dual: float | None = Field(None, gt=1.0)
    length: float | None = Field(None, gt=0.0)

    def refuse(self, algorithm: Any) -> str | None:
        if self.length is None or all(_geometric(ratio) for ratio in ratios(self, algorithm)):
            return None
        return (
            "a band that narrows with the length of a response is one for geometric means over it; set the ratio to sequence or "
            "sequence_token, or this part's length to null"
        )

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        width = self.width(batch).to(log_ratio.dtype)
        bounds = (1 - self.low * width).clamp(min=0), 1 + self.high * width
        value, active = clipped(bounded_exp(log_ratio), advantage, *bounds, self.dual)
        context.log("objective/clip_fraction", batch.row_mean(active))
        return value

    def width(self, batch: Batch) -> Tensor:
        """Factor on the bounds of every row, [N]; counted decisions are what a response is long."""
        if self.length is None:
            return torch.ones_like(batch.weight)
        decisions = segments.sum(counted(batch).to(batch.weight.dtype), batch.sequence, batch.n_sequences)
        return batch.spread((self.length / decisions.clamp(min=1)).sqrt())


def _geometric(ratio: Ratio) -> bool:
    """Whether a ratio is the geometric mean over a whole response."""
    whole = isinstance(ratio, SequenceRatio) and ratio.normalise and ratio.span == "sequence"
    return whole or isinstance(ratio, SequenceTokenRatio)


class Unclipped(Trust, name="none"):
    """r A: no trust region. With the ratio `score` this is REINFORCE."""

    needs_ratio = False

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        return bounded_exp(log_ratio) * advantage


class SoftClip(Trust, name="soft_clip"):
    """sg[ clip(r, 1 - low, 1 + high) ] A log pi: the weight is clipped and detached, every token keeps a gradient through its
    own log-probability (CISPO, arXiv:2506.13585). `low` = 1 leaves the lower side open."""

    low: float = Field(1.0, ge=0.0)
    high: float = Field(0.2, ge=0.0)

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        ratio = bounded_exp(log_ratio.detach())
        weight = ratio.clamp(max(0.0, 1 - self.low), 1 + self.high)
        context.log("objective/clip_fraction", batch.row_mean((weight != ratio).to(ratio.dtype)))
        return through_logp(weight * advantage, batch)


class RecentredClip(Trust, name="recentred_clip"):
    """min( r A, clip(r, c - low, c + high) A ), where r divides by the policy that sampled the row and c is the same ratio for
    the step's starting policy: the window moves with the data's age (generalised PPO; ReMix, arXiv:2507.06892).

    Use with a ratio over ``behaviour``; fresh data has c = 1 and is clipped as in PPO. `relative`: the window is c (1 - low) to
    c (1 + high), a trust region around the step's starting policy however old the data (rollout replay, arXiv:2506.05316).
    """

    low: float = Field(0.2, ge=0.0)
    high: float = Field(0.2, ge=0.0)
    relative: bool = False
    reads = frozenset({"logp_old", "logp_behaviour"})

    def refuse(self, algorithm: Any) -> str | None:
        if all(isinstance(r, TokenRatio) and r.denominator == "behaviour" for r in ratios(self, algorithm)):
            return None
        return "its window is centred on old/behaviour token by token, so the ratio must be 'token' over 'behaviour'"

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        centre = bounded_exp(batch["logp_old"] - batch["logp_behaviour"])
        width = centre if self.relative else torch.ones_like(centre)
        bounds = centre - self.low * width, centre + self.high * width
        value, active = clipped(bounded_exp(log_ratio), advantage, *bounds, None)
        context.log("objective/clip_fraction", batch.row_mean(active))
        return value


class SigmoidGate(Trust, name="sigmoid_gate"):
    """(4/tau) sigmoid( tau (r - 1) ) A: a smooth gate in place of the clip, with slope 1 at r = 1 that fades on both sides;
    `negative` > `positive` fades faster for A < 0 (SAPO, arXiv:2511.20347)."""

    positive: float = Field(1.0, gt=0.0)
    negative: float = Field(1.05, gt=0.0)

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        heat = torch.where(advantage > 0, self.positive, self.negative).to(log_ratio.dtype)
        return 4 / heat * torch.sigmoid(heat * (bounded_exp(log_ratio) - 1)) * advantage


def clipped(
    ratio: Tensor, advantage: Tensor, low: Tensor | float, high: Tensor | float, dual: float | None
) -> tuple[Tensor, Tensor]:
    """min(r A, clip(r, low, high) A), at least dual * A where A < 0; and 1.0 for the rows whose gradient that removed. Both [N].

    `low` / `high` are bounds on the ratio itself (numbers or per row).
    """
    free = ratio * advantage
    low, high = torch.as_tensor(low, dtype=ratio.dtype), torch.as_tensor(high, dtype=ratio.dtype)
    bounded = torch.maximum(torch.minimum(ratio, high), low) * advantage
    value = torch.minimum(free, bounded)
    active = bounded < free
    if dual is not None:
        floor = dual * advantage
        below = (advantage < 0) & (value < floor)
        value, active = torch.where(below, floor, value), active | below
    return value, active.to(ratio.dtype)
