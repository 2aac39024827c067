"""Credit by turn: a trajectory's outcome, discounted by how many turns before its end a decision was made."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Granularity
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.outlook import Outlook


class TurnDiscount(Granularity, name="turn_discount"):
    """gamma^(K - k) A for every decision of turn k of K: the turns' returns under a discount per interaction instead of per
    token, equal for all decisions of a turn (chunk-level returns of IPA, arXiv:2512.24873). gamma = 1: the same for all."""

    gamma: float = Field(0.95, ge=0.0, le=1.0)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if getattr(algorithm.generate, "turns", None) != 1 or self.gamma == 1.0:
            return None
        return "generate.turns=1, so that every answer is one turn; set generate.turns, on a task that answers"

    def spread(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        turn = batch["turn"].to(advantages.dtype)
        left = segments.max(turn, batch.sequence, batch.n_sequences)[batch.sequence] - turn
        return batch.spread(advantages) * self.gamma**left
