"""Divisors beyond the standard deviation."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Scale
from anypo.credit.centres.groups import columnwise, median
from anypo.data import segments
from anypo.data.batch import Batch


class MedianDeviation(Scale, name="mad"):
    """Median absolute centred reward of the group plus `eps` (MC-GRPO, arXiv:2601.22582).

    With binary rewards the median deviation is 0 whenever more than half of the group agree, so the published floor of 1e-3
    turns a unit reward into an advantage of 1000; a larger `eps` (or ``scale=std``) is the repaired form.
    """

    eps: float = Field(1e-3, gt=0.0)
    lower: bool = True

    def divisor(self, values: Tensor, centred: Tensor, batch: Batch, context: Context) -> Tensor:
        spread = columnwise(centred.abs(), lambda column: median(column, batch, self.lower))
        return (spread + self.eps)[batch.group]


class BetaDensity(Scale, name="beta_density"):
    """The density at a group's success rate of a Beta law fitted to the batch's success rates (BNPO, arXiv:2506.02864).

    Rewards lie in [0, 1]. With p the group means, m and v their mean and sample variance over the groups and
    a = (m(1-m)/v - 1) m, b = (m(1-m)/v - 1)(1-m) (method of moments), the density is Beta(max(1, 1 + a/3), max(1, 1 + b/3)),
    the exponents that minimise the variance of the normalised advantage. It is bounded below by 1 / `max_weight`. All groups
    alike, or a single one, divide by 1.
    """

    max_weight: float = Field(1e6, gt=0.0)

    def divisor(self, values: Tensor, centred: Tensor, batch: Batch, context: Context) -> Tensor:
        rates = segments.mean(values.double(), batch.group, batch.n_groups)
        present = segments.count(batch.group, batch.n_groups) > 0
        density = torch.ones_like(rates)
        for k in range(values.shape[1]):
            alpha, beta = beta_exponents(rates[present, k])
            density[:, k] = beta_density(rates[:, k].clamp(0.0, 1.0), alpha, beta)
        return density.clamp(min=1.0 / self.max_weight)[batch.group].to(values.dtype)


def beta_exponents(rates: Tensor) -> tuple[Tensor, Tensor]:
    """The two exponents of BNPO's density from the success rates [G] of a batch's prompts; (1, 1) when they do not vary."""
    one = torch.ones((), dtype=rates.dtype)
    if len(rates) < 2 or float(rates.var()) <= 0:
        return one, one
    mean, variance = rates.mean(), rates.var()
    strength = mean * (1 - mean) / variance - 1
    return torch.maximum(one, 1 + strength * mean / 3), torch.maximum(one, 1 + strength * (1 - mean) / 3)


def beta_density(p: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Density of Beta(alpha, beta) at p in [0, 1]; exponents of at least 1, so it is finite."""
    log_norm = torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
    return (torch.xlogy(alpha - 1, p) + torch.xlogy(beta - 1, 1 - p) - log_norm).exp()
