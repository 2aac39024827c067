"""Baselines of groups whose rollouts were made in several contexts."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Centre
from anypo.data import segments
from anypo.data.batch import Batch


class ContextMean(Centre, name="context_mean"):
    """Two levels: a rollout against its context, weighed 1, and its context against the group, weighed `between` (NudgeRL,
    arXiv:2605.15726). What is left of a reward is (r - mean of the context) + between * (mean of the context - mean of the group),
    of a rollout without a context r - mean of the group; then its mean over the group is taken off. 1 gives the group's mean.

    The context is the key `key`; -1 and a missing key say that there is none.
    """

    least = 2
    between: float = Field(1.1, ge=0.0)
    key: str = "context"

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        of = batch.sequences.get(f"key/{self.key}", torch.full_like(batch.group, -1))
        ids, n = segments.joint(batch.group, of)
        own = segments.mean(values, ids, n)[ids]
        whole = segments.mean(values, batch.group, batch.n_groups)[batch.group]
        inside = (values - own) + self.between * (own - whole)
        raw = torch.where((of >= 0).unsqueeze(1), inside, values - whole)
        return values - (raw - segments.mean(raw, batch.group, batch.n_groups)[batch.group])
