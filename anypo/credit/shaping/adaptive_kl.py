"""A KL penalty in the reward whose coefficient keeps the KL near a target."""

from __future__ import annotations

from pydantic import Field

from anypo.context import Context
from anypo.credit.base import Shaping
from anypo.credit.shaping.reward_kl import RewardKL
from anypo.data.batch import Batch


class AdaptiveRewardKL(Shaping, name="adaptive_reward_kl"):
    """`RewardKL` (k1) with a coefficient that moves by beta <- beta (1 + `gain` e), e = (KL - `target`) / `target`
    clipped to +-0.2, once per step; KL in nats per decision (RL4LMs, arXiv:2210.01241; arXiv:1909.08593)."""

    initial: float = Field(0.1, gt=0.0)
    target: float = Field(0.3, gt=0.0)
    gain: float = Field(0.2, ge=0.0)
    reads = frozenset({"logp_old", "logp_ref"})
    requires = frozenset({"reference"})

    def start(self) -> dict[str, float]:
        return {"coefficient": self.initial}

    def shape(self, batch: Batch, context: Context) -> Batch:
        memory = context.memory[self]
        shaped = RewardKL(coefficient=memory["coefficient"]).shape(batch, context)
        kl = float(batch.row_mean(batch["logp_old"] - batch["logp_ref"]))
        error = min(0.2, max(-0.2, (kl - self.target) / self.target))
        context.log("credit/kl_coefficient", memory["coefficient"])
        memory["coefficient"] *= 1 + self.gain * error
        return shaped
