"""Trust regions that depend on each token's entropy (HAPO)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp, counted
from anypo.objective.base import Trust
from anypo.objective.trusts.clips import clipped


class HeterogeneousClip(Trust, name="heterogeneous_clip"):
    """PPO's clip with a range and an advantage per token, from its normalised entropy h in [-1, 1] (HAPO).

    Range: confident tokens (h <= 0) may fall further, low (1 - alpha h); uncertain ones (h > 0) may rise further,
    high (1 + alpha h). Advantage: A (1 + beta h) for uncertain tokens once r has left the neutral zone
    (1 - low/2, 1 + high/2), and for confident tokens while it is still inside. Dual clip for A < 0. h is that of the policy at
    the start of the step; everything but r is detached.

    pivot: the quantile of log entropies that is h = 0; tokens below it are confident. unsigned: h of confident tokens without its
    sign, as the released code computes it (it divides by a negative number): nothing is damped then, or widened downwards.
    """

    needs_ratio = False
    low: float = Field(0.2, ge=0.0)
    high: float = Field(0.2, ge=0.0)
    alpha: float = Field(1.0, ge=0.0)
    beta: float = Field(1.0, ge=0.0)
    dual: float | None = Field(10.0, gt=1.0)
    pivot: float = Field(0.8, ge=0.0, le=1.0)
    unsigned: bool = False
    reads = frozenset({"entropy_old"})

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        level = entropy_level(batch["entropy_old"], counted(batch), self.pivot).to(log_ratio.dtype)
        level = level.abs() if self.unsigned else level
        ratio = bounded_exp(log_ratio)
        low, high = self.ranges(level)
        uncertain = level > 0
        neutral = (ratio.detach() > 1 - low / 2) & (ratio.detach() < 1 + high / 2)
        shaped = torch.where(uncertain != neutral, advantage * (1 + self.beta * level), advantage)
        value, active = clipped(ratio, shaped, 1 - low, 1 + high, self.dual)
        context.log("objective/clip_fraction", batch.row_mean(active))
        return value

    def ranges(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Width of the clip below and above 1 per row, for normalised entropies [N]."""
        low = self.low * torch.where(level <= 0, 1 - self.alpha * level, torch.ones_like(level))
        high = self.high * torch.where(level > 0, 1 + self.alpha * level, torch.ones_like(level))
        return low, high


def entropy_level(entropy: Tensor, keep: Tensor, pivot: float) -> Tensor:
    """Normalised entropy h in [-1, 1] per row, [N]: log entropy around its `pivot` quantile, each side scaled so that its extreme is
    +-1; 0 everywhere when it does not vary."""
    log_entropy = entropy.detach().clamp(min=1e-6).log()
    pool = log_entropy[keep]
    if len(pool) < 2:
        return torch.zeros_like(log_entropy)
    centred = log_entropy - pool.quantile(pivot)
    above = centred[keep].max().clamp(min=1e-12)
    below = (-centred[keep].min()).clamp(min=1e-12)
    return torch.where(centred > 0, centred / above, centred / below).clamp(-1.0, 1.0)
