"""Aggregations: from values per decision to one scalar, divided exactly once over the whole update batch."""

from __future__ import annotations

from torch import Tensor

from anypo.data.batch import Batch
from anypo.objective.base import Aggregate


class TokenMean(Aggregate, name="token_mean"):
    """Sum over all counted rows / number of counted rows (DAPO, arXiv:2503.14476)."""

    def reduce(self, values: Tensor, batch: Batch) -> Tensor:
        return batch.row_mean(values)


class SequenceMean(Aggregate, name="sequence_mean"):
    """Mean over sequences of the mean over each sequence's rows (GRPO, arXiv:2402.03300)."""

    def reduce(self, values: Tensor, batch: Batch) -> Tensor:
        return batch.sequence_mean(values).sum() / max(1, batch.n_sequences)
