"""Entropy control through the few tokens whose covariance of advantage and log-probability drives it down (arXiv:2505.22617)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp, counted, row_uniform
from anypo.objective.base import Trust
from anypo.objective.trusts.clips import clipped


class ClipCov(Trust, name="clip_cov"):
    """PPO's clip, and no gradient for a few random tokens out of those with a high covariance (Clip-Cov).

    Candidates: counted rows the clip leaves alone with lower < cov < upper; floor(rate x rows) of them, at least one, lose
    their surrogate (they stay in the mean). rate = 0 or no candidate: plain PPO.
    """

    low: float = Field(0.2, ge=0.0)
    high: float = Field(0.2, ge=0.0)
    needs_ratio = False
    rate: float = Field(0.0002, ge=0.0, le=1.0)
    lower: float = 1.0
    upper: float = 5.0

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        value, active = clipped(bounded_exp(log_ratio), advantage, 1 - self.low, 1 + self.high, None)
        dropped = self.chosen(active, advantage, batch, context)
        context.log("objective/clip_fraction", batch.row_mean(active))
        context.log("objective/cov_dropped", batch.row_mean(dropped.to(value.dtype)))
        return torch.where(dropped, torch.zeros_like(value), value)

    def chosen(self, active: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        """Rows that lose their gradient, bool [N]; drawn by keyed noise, so the choice does not depend on packing order."""
        covariance = row_covariance(advantage, batch)
        candidates = counted(batch) & (active == 0) & (covariance > self.lower) & (covariance < self.upper)
        size = min(quota(self.rate, batch), int(candidates.sum()))
        noise = torch.where(candidates, row_uniform(batch, context, 29), 2.0)
        chosen = torch.zeros_like(candidates)
        chosen[noise.argsort(stable=True)[:size]] = True
        return chosen


class KLCov(Trust, name="kl_cov"):
    """r A, minus beta |log r| for the share `rate` of rows with the largest covariance (KL-Cov); no clip."""

    rate: float = Field(0.002, ge=0.0, le=1.0)
    beta: float = Field(1.0, ge=0.0)

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        held = self.chosen(advantage, batch, context)
        context.log("objective/cov_held", batch.row_mean(held.to(log_ratio.dtype)))
        return bounded_exp(log_ratio) * advantage - self.beta * held.to(log_ratio.dtype) * log_ratio.abs()

    def chosen(self, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        """The rows with the largest covariance, bool [N]; ties by keyed noise."""
        keep = counted(batch)
        covariance = torch.where(keep, row_covariance(advantage, batch), torch.full_like(advantage, -torch.inf))
        by_noise = row_uniform(batch, context, 31).argsort(stable=True)
        order = by_noise[covariance[by_noise].argsort(descending=True, stable=True)]
        chosen = torch.zeros_like(keep)
        chosen[order[: quota(self.rate, batch)]] = True
        return chosen & keep


def row_covariance(advantage: Tensor, batch: Batch) -> Tensor:
    """(A_t - mean A)(log pi_t - mean log pi) with means over the counted rows, detached, [N]."""
    logp = batch["logp"].detach()
    return (advantage - batch.row_mean(advantage)) * (logp - batch.row_mean(logp))


def quota(rate: float, batch: Batch) -> int:
    """floor(rate x counted rows), at least one; none for rate 0."""
    return max(1, int(rate * int(counted(batch).sum()))) if rate > 0 else 0
