"""Trust regions: what is maximised per decision, given the log ratio and the advantage."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.objective.base import Trust


class Clip(Trust, name="clip"):
    """min( r A, clip(r, 1 - low, 1 + high) A ) (PPO, arXiv:1707.06347; asymmetric bounds: DAPO, arXiv:2503.14476)."""

    low: float = Field(0.2, ge=0.0)
    high: float = Field(0.2, ge=0.0)

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        ratio = log_ratio.clamp(-20.0, 20.0).exp()
        clipped = ratio.clamp(1.0 - self.low, 1.0 + self.high)
        active = (clipped * advantage < ratio * advantage).to(ratio.dtype)
        context.log("objective/clip_fraction", batch.row_mean(active))
        return torch.minimum(ratio * advantage, clipped * advantage)
