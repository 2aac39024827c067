"""The KL penalty inside the reward: every decision pays for its distance to the reference."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Shaping
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.numerics import k1, k2, k3

ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


class RewardKL(Shaping, name="reward_kl"):
    """step_reward_t - coefficient * KL_t with KL_t an estimate at the decision taken, log(pi_old/pi_ref) for k1 (RLHF,
    arXiv:1909.08593). The trajectory's ``reward`` falls by the sum, so trajectory-level credit sees it too.

    With k1 the penalised return's policy gradient is exactly that of E[R] - coefficient KL(pi || ref).
    """

    coefficient: float = Field(0.01, ge=0.0)
    estimator: Literal["k1", "k2", "k3"] = "k1"
    reads = frozenset({"logp_old", "logp_ref"})
    requires = frozenset({"reference"})

    def shape(self, batch: Batch, context: Context) -> Batch:
        cost: Tensor = self.coefficient * ESTIMATORS[self.estimator](batch["logp_old"] - batch["logp_ref"])
        cost = cost * (batch.weight > 0).to(cost.dtype)
        paid = segments.sum(cost, batch.sequence, batch.n_sequences)
        context.log("credit/kl_cost", paid.mean() if len(paid) else 0.0)
        batch = batch.with_rows(step_reward=batch["step_reward"] - cost)
        return batch.with_sequences(reward=batch.sequences["reward"] - paid)
