"""Recursive estimates of the gradient: what earlier batches said, carried to where the policy is now."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.column import OLD
from anypo.context import Context
from anypo.data.batch import Batch
from anypo.fits import POLICY
from anypo.update.base import Update
from anypo.update.direct.vectors import assign, pulled, shaped, vector

if TYPE_CHECKING:
    from anypo.update.weights import Weights


class ImplicitTransport(Update, name="implicit_transport"):
    """N-PG-IGT: momentum whose gradients are taken ahead of the policy, and steps of a fixed length (Fatkhullin et al.,
    arXiv:2302.01734; implicit gradient transport is Arnold et al., arXiv:1906.03532).

    With eta_t = first * (2 / (t + 2))^power, rollouts are sampled with the parameters

        theta~_t = theta_t + (1 - eta_t) / eta_t * (theta_t - theta_{t-1}),

    where the gradient g of minus the objective's loss is taken, too; then d_t = (1 - eta_t) d_{t-1} + eta_t g(theta~_t) and
    theta_{t+1} = theta_t + step * 2 / (t + 2) * d_t / |d_t|. For a quadratic objective d_t is then an average of gradients at
    theta_t itself. The first batch is taken at theta_0 and counts in full where `first` is 1. What is evaluated is theta_t. A
    gradient that is not finite changes nothing; one of length 0 makes no step. One policy step per batch; all other learners take
    `repeat` steps on their own losses with their own optimisers.
    """

    step: float = Field(0.1, gt=0.0, description="length of the first step, in parameters")
    first: float = Field(1.0, gt=0.0, le=1.0, description="weight of the first gradient")
    power: float = Field(0.8, ge=0.0, description="how fast the weight of new gradients falls")
    repeat: int = Field(1, ge=0, description="steps of every other learner")
    max_grad_norm: float = Field(math.inf, gt=0.0, description="bound on the other learners' gradients")

    def start(self) -> dict[str, Any]:
        return {"turn": 0, "average": None, "before": None}

    def weight(self, turn: int) -> float:
        """eta_t."""
        return self.first * (2.0 / (turn + 2.0)) ** self.power

    def query(self, weights: Weights, context: Context) -> Tensor:
        """theta~_t, [P]."""
        here, memory = vector(weights.policy), context.memory[self]
        if memory["before"] is None:
            return here
        eta = self.weight(memory["turn"])
        return here + (1.0 - eta) / eta * (here - memory["before"])

    def acting(
        self, weights: Weights, plan: Mapping[str, int | float | str], context: Context
    ) -> Mapping[str, Tensor] | None:
        return shaped(weights.policy, self.query(weights, context))

    def apply(self, batch: Batch, weights: Weights, context: Context) -> Batch:
        own = [owned for owned in weights.fits if owned.path == POLICY]
        with weights.swapped(self.acting(weights, {}, context)):
            pull = weights.differentiate(self._at_query(batch, weights), own, True, context)
            gradient = -pulled(weights, pull) if pull.finite else torch.full((1,), math.nan)
        finite = bool(torch.isfinite(gradient).all())
        context.log("update/loss", pull.loss if pull.finite else math.nan)
        context.log("update/grad_norm", gradient.norm())
        context.log("update/skipped", float(not finite))
        if finite:
            self._advance(gradient, weights, context)
        for owned in weights.fits:
            for _ in range(self.repeat if owned.path != POLICY else 0):
                pull = weights.differentiate(batch, [owned], False, context)
                weights.take(owned.path, pull, 1.0, self.max_grad_norm, context)
        weights.steps += 1
        return batch

    def _at_query(self, batch: Batch, weights: Weights) -> Batch:
        """The batch with the policy's ``_old`` columns under the parameters that sampled it, so that ratios begin at 1."""
        names = weights.names.live[POLICY]
        filled = weights.policy.fill(batch, sorted(set(names.values())), grad=False)
        return batch.with_rows(**{f"{name}_{OLD}": filled[asked] for name, asked in names.items()})

    def _advance(self, gradient: Tensor, weights: Weights, context: Context) -> None:
        """Average, and take the step."""
        memory, here = context.memory[self], vector(weights.policy)
        eta = self.weight(memory["turn"])
        past = torch.zeros_like(gradient) if memory["average"] is None else memory["average"]
        average = (1.0 - eta) * past + eta * gradient
        size = average.norm()
        if size > 0:
            assign(weights.policy, here + self.step * 2.0 / (memory["turn"] + 2.0) * average / size)
            weights.moved(context)
        memory.update(turn=memory["turn"] + 1, average=average, before=here)
        context.log("update/average_norm", size)
