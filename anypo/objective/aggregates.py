"""Aggregations: from values per decision to one scalar, divided exactly once over the whole update batch.

All respect the row column ``weight``. They differ in who counts equally: every token, every trajectory, or every prompt.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.data import segments
from anypo.data.batch import Batch
from anypo.objective.base import Aggregate


class TokenMean(Aggregate, name="token_mean"):
    """Sum over all counted rows / number of counted rows: tokens count alike, long responses more (DAPO, arXiv:2503.14476)."""

    def reduce(self, values: Tensor, batch: Batch) -> Tensor:
        return batch.row_mean(values)


class SequenceMean(Aggregate, name="sequence_mean"):
    """Mean over trajectories of the mean over each one's rows: responses count alike, tokens of long ones less (GRPO,
    arXiv:2402.03300). A trajectory without counted rows contributes 0 and is still divided by."""

    def reduce(self, values: Tensor, batch: Batch) -> Tensor:
        return batch.sequence_mean(values).sum() / max(1, batch.n_sequences)


class SequenceSum(Aggregate, name="sequence_sum"):
    """Sum over rows / number of trajectories: the gradient of the expected return itself, no length normalisation
    (REINFORCE; MiniRL, arXiv:2512.01374)."""

    def reduce(self, values: Tensor, batch: Batch) -> Tensor:
        return batch.sequence_sum(values).sum() / max(1, batch.n_sequences)


class ConstantLength(Aggregate, name="constant_length"):
    """Sum over rows / (number of trajectories x `length`): `sequence_sum` on the scale of a mean, with a divisor that does not
    depend on what was sampled (Dr. GRPO, arXiv:2503.20783). `length`: usually the generation budget."""

    length: int = Field(64, ge=1)

    def reduce(self, values: Tensor, batch: Batch) -> Tensor:
        return batch.sequence_sum(values).sum() / (self.length * max(1, batch.n_sequences))


class GroupMean(Aggregate, name="group_mean"):
    """Mean over prompts of the token mean inside each: prompts count alike whatever their responses' lengths.

    `by`: a group is a prompt's rollouts of this step; ``prompt`` also pools groups of a prompt that was drawn more than once.
    `inner`: tokens or trajectories count alike inside a prompt.
    """

    by: Literal["group", "prompt"] = "group"
    inner: Literal["token", "sequence"] = "token"

    def reduce(self, values: Tensor, batch: Batch) -> Tensor:
        _, ids = torch.unique(batch.group if self.by == "group" else batch.sequences["prompt"], return_inverse=True)
        n = int(ids.max()) + 1 if len(ids) else 0
        if self.inner == "token":
            per_prompt = segments.mean(values, ids[batch.sequence], n, batch.weight.to(values.dtype))
        else:
            per_prompt = segments.mean(batch.sequence_mean(values), ids, n)
        return per_prompt.sum() / max(1, n)
