"""Distillation of whole next-token distributions on the policy's own tokens."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.objective.distil.sources import _Taught
from anypo.policies.divergences import Divergence, Generalised


class Distil(_Taught, name="distil"):
    """aggregate( D(teacher, policy) ) of a divergence between next-token distributions at every decision, the teacher's fixed. No
    score function: how the sampled tokens came about is not differentiated (OPSD, arXiv:2601.18734; GKD, arXiv:2306.13649).

    cap: most that one decision may add to the loss (0: no bound); above it a decision has no gradient. The bound on single tokens of
    the vocabulary is the divergence's own (`clip`).
    """

    divergence: Divergence = Generalised()
    cap: float = Field(0.0, ge=0.0)

    def needs(self) -> frozenset[str]:
        return frozenset({self.taught(self.divergence.stat)})

    def loss(self, batch: Batch, context: Context) -> Tensor:
        found = batch[self.taught(self.divergence.stat)]
        context.log(f"objective/{self.divergence.stat}", batch.row_mean(found.detach()))
        context.log("objective/shown_share", self.shown_share(batch))
        if self.cap:
            context.log("objective/capped_share", batch.row_mean((found.detach() > self.cap).to(found.dtype)))
            found = found.clamp(max=self.cap)
        return self.aggregate.reduce(found, batch)
