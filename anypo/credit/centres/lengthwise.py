"""Baselines and scales in which every token of a group counts alike (long responses weigh more), and the greedy baseline."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Centre, Scale
from anypo.data import segments
from anypo.data.batch import Batch


class LengthMean(Centre, name="length_mean"):
    """sum_i l_i R_i / sum_i l_i over the group: the mean reward of its tokens. The variance-optimal baseline when a response's
    squared gradient norm grows with its length (OPO, arXiv:2505.23585).

    fallback: where some |A| under token statistics would reach it, the group uses the plain mean instead (HAPO's guard).
    """

    fallback: float | None = Field(None, gt=0.0)

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        mean = length_statistics(values, batch)[0]
        plain = segments.mean(values, batch.group, batch.n_groups)[batch.group]
        return torch.where(outlying(values, batch, self.fallback), plain, mean)


class LengthDeviation(Scale, name="length_std"):
    """Population standard deviation of the group's rewards over its tokens, plus `eps`; with `fallback`, the plain sample
    standard deviation for groups in which some |A| would reach it (HAPO's token-level group average)."""

    eps: float = Field(1e-6, ge=0.0)
    fallback: float | None = Field(5.0, gt=0.0)

    def divisor(self, values: Tensor, centred: Tensor, batch: Batch, context: Context) -> Tensor:
        spread = length_statistics(values, batch)[1]
        plain = segments.std(values, batch.group, batch.n_groups, 1)[batch.group]
        chosen = torch.where(outlying(values, batch, self.fallback), plain, spread)
        return torch.where(chosen > 0, chosen + self.eps, torch.ones_like(chosen))


class GreedyBaseline(Centre, name="greedy"):
    """The reward of the greedy decoding of the same prompt (reward component ``greedy``; ReMax, arXiv:2310.10505)."""

    requires = frozenset({"greedy"})

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return batch.sequences["reward/greedy"].to(values.dtype).unsqueeze(1).expand_as(values)


def length_statistics(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of `values` [S, K] over the tokens of each group, copied to its members; equal
    values have exactly their common value as mean and deviation 0."""
    lengths = batch.sequences["length"].to(values.dtype)
    origin = segments.min(values, batch.group, batch.n_groups)[batch.group]
    above = values - origin
    mean = segments.mean(above, batch.group, batch.n_groups, lengths)[batch.group]
    variance = segments.mean((above - mean) ** 2, batch.group, batch.n_groups, lengths)[batch.group]
    return origin + mean, variance.sqrt()


def outlying(values: Tensor, batch: Batch, bound: float | None) -> Tensor:
    """Whether some member of the row's group has |value - token mean| >= bound x token deviation, bool [S, K]."""
    if bound is None:
        return torch.zeros_like(values, dtype=torch.bool)
    mean, spread = length_statistics(values, batch)
    size = (values - mean).abs() / torch.where(spread > 0, spread, torch.ones_like(spread))
    return segments.max(size, batch.group, batch.n_groups)[batch.group] >= bound
