"""Entropy as part of the return: every decision is paid for its surprise."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Shaping
from anypo.data import segments
from anypo.data.batch import Batch


class RewardEntropy(Shaping, name="reward_entropy"):
    """step_reward_t - coefficient * log pi_old(a_t), and the trajectory's ``reward`` grows by the sum (maximum-entropy
    reinforcement learning; Ziebart, 2010).

    On fresh data the policy gradient of this return is exactly that of E[R] + coefficient * H(pi), the entropy of whole
    trajectories: the derivative of log pi itself has expectation zero. The optimum is softmax(Q / coefficient), Q soft.
    """

    coefficient: float = Field(0.01, ge=0.0)
    reads = frozenset({"logp_old"})

    def shape(self, batch: Batch, context: Context) -> Batch:
        paid: Tensor = -self.coefficient * batch["logp_old"] * (batch.weight > 0).to(batch["logp_old"].dtype)
        total = segments.sum(paid, batch.sequence, batch.n_sequences)
        context.log("credit/entropy_paid", total.mean() if len(total) else 0.0)
        batch = batch.with_rows(step_reward=batch["step_reward"] + paid)
        return batch.with_sequences(reward=batch.sequences["reward"] + total)
