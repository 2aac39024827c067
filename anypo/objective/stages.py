"""Imitation first, reinforcement afterwards."""

from __future__ import annotations

from pydantic import Field

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.objective.supervised import Mixing
from anypo.outlook import said_of


class Stages(Mixing, name="stages"):
    """Weights (0, 1) during the first `share` of the run and (1, 0) from then on."""

    share: float = Field(0.3, ge=0.0, le=1.0)

    def regime(self) -> tuple[str, ...]:
        return (f"imitation until {said_of(self.share)}, reinforcement from then on",)

    def weights(self, batch: Batch, context: Context) -> tuple[float, float]:
        return (0.0, 1.0) if context.step < self.share * context.total else (1.0, 0.0)
