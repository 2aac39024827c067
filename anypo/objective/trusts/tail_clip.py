"""A trust region whose width follows the confidence at the end of the response."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp
from anypo.objective.base import Trust


class TailClip(Trust, name="tail_clip"):
    """min( r A, clip(r, 1 - eps, 1 + eps) A ) with one eps per response, eps = `low` + (`high` - `low`) sigmoid(`slope`
    (1 - T)), T the mean probability of the last `window` decisions (ECHO): confident responses get the tighter region."""

    low: float = Field(0.05, ge=0.0)
    high: float = Field(0.2, ge=0.0)
    slope: float = Field(4.0, ge=0.0)
    window: int = Field(16, ge=1)
    reads = frozenset({"logp_old"})

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        eps = batch.spread(self.width(batch)).to(advantage.dtype)
        ratio = bounded_exp(log_ratio)
        clipped = torch.minimum(torch.maximum(ratio, 1 - eps), 1 + eps)
        context.log("objective/tail_clip", batch.row_mean(eps))
        return torch.minimum(ratio * advantage, clipped * advantage)

    def width(self, batch: Batch) -> Tensor:
        """eps of every sequence, [S]."""
        from_end = batch.spread(batch.sequences["length"]) - batch["position"]
        tail = (from_end <= self.window).to(batch["logp_old"].dtype)
        sure = segments.mean(batch["logp_old"].exp(), batch.sequence, batch.n_sequences, tail)
        return self.low + (self.high - self.low) * torch.sigmoid(self.slope * (1 - sure))
