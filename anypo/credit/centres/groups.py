"""Baselines over groups and batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Centre
from anypo.data import segments
from anypo.data.batch import Batch


class Uncentred(Centre, name="none"):
    """No baseline."""

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return torch.zeros_like(values)


class GroupMean(Centre, name="group_mean"):
    """Mean reward of the group, the own sample included (GRPO, arXiv:2402.03300)."""

    least = 2

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return segments.mean(values, batch.group, batch.n_groups)[batch.group]


class BatchMean(Centre, name="batch_mean"):
    """Mean reward of the whole batch (REINFORCE with a batch baseline)."""

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return segments.mean(values, torch.zeros_like(batch.group), 1).expand_as(values)


class LeaveOneOut(Centre, name="leave_one_out"):
    """Mean reward of the other samples of the group (RLOO, arXiv:2402.14740); a group of one has baseline 0."""

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return leave_one_out(values, batch.group, batch.n_groups)


class GroupMedian(Centre, name="group_median"):
    """Median reward of the group (MC-GRPO, arXiv:2601.22582). `lower`: the lower middle value of an even group, which is a
    member of it; otherwise the mean of the middle two."""

    lower: bool = True
    least = 2

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return columnwise(values, lambda column: median(column, batch, self.lower))[batch.group]


class GroupQuantile(Centre, name="group_quantile"):
    """The `q`-quantile of the group's rewards, linearly interpolated: a high q leaves a positive advantage only to
    rare successes, a low q a negative one only to rare failures (quantile baselines, arXiv:2509.22611)."""

    q: float = Field(0.4, ge=0.0, le=1.0)
    least = 2

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        quantiles = columnwise(values, lambda column: segments.quantile(column, batch.group, batch.n_groups, self.q))
        return quantiles[batch.group]


def leave_one_out(values: Tensor, ids: Tensor, n: int) -> Tensor:
    """Mean of the other members of each entry's segment, [S, ...]; 0 for a lone one. Exact when all members are equal."""
    origin = segments.min(values, ids, n)[ids]
    above = values - origin
    size = segments.count(ids, n, values.dtype)[ids].reshape(-1, *([1] * (values.dim() - 1)))
    others = origin + (segments.sum(above, ids, n)[ids] - above) / (size - 1).clamp(min=1)
    return torch.where(size > 1, others, torch.zeros_like(values))


def median(values: Tensor, batch: Batch, lower: bool) -> Tensor:
    """Median of a sequence column [S] by group, [G]; with `lower`, the lower middle value."""
    if not lower or not len(values):
        return segments.median(values, batch.group, batch.n_groups)
    ordered = values[segments.order(batch.group, values)]
    size = torch.bincount(batch.group, minlength=batch.n_groups)
    at = segments.starts(batch.group, batch.n_groups) + (size - 1).clamp(min=0) // 2
    return torch.where(size > 0, ordered[at.clamp(max=len(values) - 1)], torch.zeros_like(ordered[:1]))


def columnwise(values: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
    """`rule` applied to every column of [S, K] and stacked again, [..., K]."""
    return torch.stack([rule(values[:, k]) for k in range(values.shape[1])], 1)
