"""Baselines over groups and batches."""

from __future__ import annotations

import torch
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

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return segments.mean(values, batch.group, batch.n_groups)[batch.group]


class BatchMean(Centre, name="batch_mean"):
    """Mean reward of the whole batch (REINFORCE with a batch baseline)."""

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return values.mean(0, keepdim=True).expand_as(values) if len(values) else values


class LeaveOneOut(Centre, name="leave_one_out"):
    """Mean reward of the other samples of the group (RLOO, arXiv:2402.14740); a group of one has baseline 0."""

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        size = segments.count(batch.group, batch.n_groups, values.dtype)[batch.group].unsqueeze(1)
        total = segments.sum(values, batch.group, batch.n_groups)[batch.group]
        return torch.where(size > 1, (total - values) / (size - 1).clamp(min=1), torch.zeros_like(values))
