"""A trust region without edges: the hazard of having moved, from survival analysis, damps every update."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp
from anypo.objective.base import Trust


class Hazard(Trust, name="hazard"):
    """exp( x - sg[zeta(x)] ) A with x the log ratio and zeta = (s(x) / up)^up_shape + (s(-x) / down)^down_shape, s = softplus:
    Weibull cumulative hazards of moving up and of moving down (MHPO, arXiv:2603.16929).

    zeta is detached: it scales the update and never turns it. It does not vanish at x = 0, where the factor is
    exp( -(ln 2 / up)^up_shape - (ln 2 / down)^down_shape ) = 0.265 with the published values. Meant for a bounded ratio (``tanh``).
    """

    up: float = Field(1.0, gt=0.0)
    up_shape: float = Field(1.5, gt=0.0)
    down: float = Field(0.8, gt=0.0)
    down_shape: float = Field(2.0, gt=0.0)

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        hazard = self.hazard(log_ratio.detach())
        context.log("objective/hazard", batch.row_mean(hazard))
        return bounded_exp(log_ratio - hazard) * advantage

    def hazard(self, shift: Tensor) -> Tensor:
        """zeta of every log ratio, [N]."""
        rise = (F.softplus(shift) / self.up) ** self.up_shape
        return rise + (F.softplus(-shift) / self.down) ** self.down_shape
