"""An update in phases: sequences marked with a phase are stepped on separately and in order."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.update.gradient import GradientUpdate


class PhasedUpdate(GradientUpdate, name="phased"):
    """One optimiser step on sequences of phase 0 (learning rate times `first_rate`), then a plain gradient update on the rest.
    The phase is the sequence column ``phase`` (absent: all sequences are of the last phase)."""

    first_rate: float = Field(1.0, ge=0.0, description="learning-rate factor of phase 0")

    def turns(self) -> int | None:
        return None

    def minibatches(self, batch: Batch, context: Context) -> Iterator[Tensor]:
        if "phase" not in batch.sequences:
            yield from super().minibatches(batch, context)
            return
        early = batch.sequences["phase"] == 0
        if bool(early.any()):
            context.epoch = context.minibatch = 0
            context.hooks["learning_rate"] = context.hooks.get("learning_rate", 1.0) * self.first_rate
            yield early.nonzero().flatten()
        late = (~early).nonzero().flatten()
        for index in super().minibatches(batch.select(late), context):
            yield late[index]
