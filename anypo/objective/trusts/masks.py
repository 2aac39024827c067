"""Masked score functions: a region of ratios decides which decisions keep their gradient, a weight how much of it.

keep(r, A) * W * A * log pi is the common form of REINFORCE variants off-policy (REC / RED, arXiv:2509.24203): the mask is
the regulariser, the importance weight is optional.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp, through_logp
from anypo.objective.base import Ratio, Trust
from anypo.outlook import Outlook
from anypo.parts import Part


class Region(Part, slot="region"):
    """Which decisions keep their gradient, from the log ratio and the advantage, both [N] -> bool [N]."""

    def keep(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        raise NotImplementedError


class Everywhere(Region, name="everywhere"):
    """No mask."""

    def keep(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        return torch.ones_like(advantage, dtype=torch.bool)


class OneSide(Region, name="one_side"):
    """Drop decisions that already moved far in the direction of their advantage: r > 1 + high with A > 0, r < 1 - low with
    A < 0. The mask that PPO's min() implies."""

    low: float = Field(0.2, ge=0.0)
    high: float = Field(0.2, ge=0.0)

    def keep(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        ratio = bounded_exp(log_ratio)
        return ((advantage >= 0) & (ratio <= 1 + self.high)) | ((advantage <= 0) & (ratio >= 1 - self.low))


class TwoSide(Region, name="two_side"):
    """Keep 1 - low <= r <= 1 + high only, whatever the advantage."""

    low: float = Field(0.2, ge=0.0)
    high: float = Field(0.2, ge=0.0)

    def keep(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        ratio = bounded_exp(log_ratio)
        return (ratio >= 1 - self.low) & (ratio <= 1 + self.high)


class Ring(Region, name="ring"):
    """The two-sided band, plus decisions far away on the wrong side (A > 0 with r <= 1 - far_low, A < 0 with
    r >= 1 + far_high), which their gradient brings back."""

    low: float = Field(0.2, ge=0.0)
    high: float = Field(0.2, ge=0.0)
    far_low: float = Field(0.6, ge=0.0)
    far_high: float = Field(2.0, ge=0.0)

    def keep(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        ratio = bounded_exp(log_ratio)
        near = (ratio >= 1 - self.low) & (ratio <= 1 + self.high)
        far_below = (advantage >= 0) & (ratio <= 1 - self.far_low)
        far_above = (advantage <= 0) & (ratio >= 1 + self.far_high)
        return near | far_below | far_above


class Mask(Trust, name="mask"):
    """keep * W * A * log pi, with `keep` the region's verdict and W the `weight`, both detached (arXiv:2509.24203).

    weight: ``none`` 1; ``ratio`` r; ``truncated`` r clipped to [1 - low, 1 + high]; ``advantage`` exp(A / temperature).
    test: the ratio that the region looks at, where it is not the objective's own: a sequence ratio drops whole responses.
    """

    region: Region = OneSide()
    weight: Literal["none", "ratio", "truncated", "advantage"] = "none"
    test: Ratio | None = None
    low: float = Field(0.6, ge=0.0)
    high: float = Field(2.0, ge=0.0)
    temperature: float = Field(1.0, gt=0.0)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        acts = self.weight == "advantage" or (self.test is not None and self.test.certain(algorithm) is None)
        return None if acts else super().dormant(algorithm, outlook)

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        tested = log_ratio if self.test is None else self.test.log_ratio(batch, context)
        keep = self.region.keep(tested.detach(), advantage).to(advantage.dtype)
        context.log("objective/clip_fraction", 1 - batch.row_mean(keep))
        return through_logp(keep * self._weight(log_ratio.detach(), advantage) * advantage, batch)

    def _weight(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        if self.weight == "advantage":
            return bounded_exp(advantage / self.temperature)
        if self.weight == "none":
            return torch.ones_like(advantage)
        ratio = bounded_exp(log_ratio)
        return ratio if self.weight == "ratio" else ratio.clamp(max(0.0, 1 - self.low), 1 + self.high)
