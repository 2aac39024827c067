"""Corrections: detached weights that repair who sampled the data. They multiply the surrogate of any objective.

The ratio inside says what is compared and at which level: by default the trainer's policy at the start of the step against
the sampler's, token by token (training-inference mismatch). With ``numerator="current"`` the whole ratio to the sampler is
corrected instead; with a sequence ratio the correction acts on trajectories.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp, effective_sample_size
from anypo.objective.base import Correction, Ratio
from anypo.objective.ratios import TokenRatio
from anypo.outlook import Outlook

MISMATCH = TokenRatio(numerator="old", denominator="behaviour")


class Truncated(Correction, name="truncated"):
    """min(w, cap): truncated importance sampling (Ionides, 2008; IMPALA, arXiv:1802.01561), token- or sequence-level by the
    choice of ratio. Never drops a row; biased towards the sampler where w > cap."""

    ratio: Ratio = MISMATCH
    cap: float = Field(2.0, gt=0.0)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return self.ratio.certain(algorithm)

    def factor(self, batch: Batch, context: Context) -> Tensor:
        log_weight = self.ratio.log_ratio(batch, context).detach()
        weight = bounded_exp(log_weight).clamp(max=self.cap)
        context.log("objective/correction_ess", effective_sample_size(log_weight, batch.weight > 0))
        context.log("objective/truncated_share", batch.row_mean((weight >= self.cap).to(weight.dtype)))
        return weight


class Banded(Correction, name="masked"):
    """w inside [low, high], 0 outside: masked importance sampling (IcePop: low 0.5, high 5). With `weigh` off the factor is 1
    inside, a pure rejection mask."""

    ratio: Ratio = MISMATCH
    low: float = Field(0.5, ge=0.0)
    high: float = Field(5.0, gt=0.0)
    weigh: bool = True

    def refuse(self, algorithm: Any) -> str | None:
        return None if self.low < self.high else f"low = {self.low:g} must be below high = {self.high:g}"

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return self.ratio.certain(algorithm)

    def factor(self, batch: Batch, context: Context) -> Tensor:
        weight = bounded_exp(self.ratio.log_ratio(batch, context).detach())
        inside = ((weight >= self.low) & (weight <= self.high)).to(weight.dtype)
        context.log("objective/rejected_share", 1 - batch.row_mean(inside))
        return weight * inside if self.weigh else inside


class SelfNormalised(Correction, name="self_normalised"):
    """Another correction divided by its mean over the counted rows, so that it redistributes weight without changing the
    step's size (weighted importance sampling). All-zero weights stay zero."""

    of: Correction = Truncated()

    def factor(self, batch: Batch, context: Context) -> Tensor:
        weight = self.of.factor(batch, context)
        mean = batch.row_mean(weight)
        return weight / torch.where(mean > 0, mean, torch.ones_like(mean))
