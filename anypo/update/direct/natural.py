"""Natural gradient: the direction that gains most for a given change of the policy's distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import k3
from anypo.fits import POLICY
from anypo.update.base import Update
from anypo.update.direct.vectors import assign, fisher_product, pulled, vector

if TYPE_CHECKING:
    from anypo.update.weights import Weights


class NaturalGradient(Update, name="natural"):
    """One step of the policy along F^-1 g, as long as the trust region allows (Schulman et al., "Trust Region Policy Optimization",
    arXiv:1502.05477, appendix C).

    g is the gradient of minus the objective's loss over the whole batch, F the Fisher matrix of its decisions, E[s s^T] with
    s = grad log pi (the empirical form of the paper, on sampled decisions). `iterations` of conjugate gradients solve
    (F + damping I) x = g; the full step is sqrt(2 radius / x^T (F + damping I) x) x. It is shortened by `shrink` until the loss is
    lower than before and the mean KL(pi_old || pi) of the decisions, estimated without bias, is within `radius`; after `attempts`
    lengths the weights stay. All other learners make `repeat` passes over the batch, of `minibatches` steps each, on their own
    losses with their own optimisers; groups are never split.
    """

    reads = frozenset({"logp_old"})

    radius: float = Field(0.01, gt=0.0, description="largest mean KL of a step")
    iterations: int = Field(10, ge=1, description="conjugate gradient iterations")
    damping: float = Field(0.1, ge=0.0)
    shrink: float = Field(0.5, gt=0.0, lt=1.0)
    attempts: int = Field(10, ge=1, description="lengths that are tried")
    repeat: int = Field(10, ge=0, description="passes of every other learner over the batch")
    minibatches: int = Field(1, ge=1, description="steps of every such pass")
    max_grad_norm: float = Field(math.inf, gt=0.0, description="bound on the other learners' gradients")

    def suits(self, task: Any) -> str | None:
        if hasattr(task, "make"):
            return None
        return "it differentiates log-probabilities twice, which no language model's pass allows here; choose a task of actions"

    def apply(self, batch: Batch, weights: Weights, context: Context) -> Batch:
        if self._move(batch, weights, context):
            weights.moved(context)
        for owned in weights.fits:
            for turn in range(self.repeat if owned.path != POLICY else 0):
                for number, piece in enumerate(self._pieces(batch, turn, context)):
                    pull = weights.differentiate(piece, [owned], turn == number == 0, context)
                    weights.take(owned.path, pull, 1.0, self.max_grad_norm, context)
        weights.steps += 1
        return batch

    def _pieces(self, batch: Batch, turn: int, context: Context) -> Iterator[Batch]:
        """The batches of one pass: all of it, or its groups in a new order."""
        if self.minibatches == 1:
            yield batch
            return
        present = torch.unique(batch.group)
        order = present[torch.randperm(len(present), generator=context.generator(17, turn))]
        for groups in order.chunk(self.minibatches):
            yield batch.select(torch.isin(batch.group, groups).nonzero().flatten())

    def _move(self, batch: Batch, weights: Weights, context: Context) -> bool:
        """Take the policy's step; whether there was one."""
        own = [owned for owned in weights.fits if owned.path == POLICY]
        pull = weights.seen(weights.differentiate(batch, own, True, context), context)
        gradient = -pulled(weights, pull) if pull.finite else torch.zeros(0)
        context.log("update/loss", pull.loss if pull.finite else math.nan)
        context.log("update/grad_norm", gradient.norm())
        known = len(gradient) > 0 and bool(torch.isfinite(gradient).all()) and bool(gradient.any())
        length = (
            self._search(self.direction(batch, gradient, weights), batch, pull.loss, weights, context) if known else 0.0
        )
        context.log("update/step_length", length)
        context.log("update/skipped", float(length == 0.0))
        return length > 0.0

    def direction(self, batch: Batch, gradient: Tensor, weights: Weights) -> Tensor:
        """The full step [P]: F^-1 g, scaled to the border of the trust region."""
        product = lambda vector: fisher_product(weights, batch, vector) + self.damping * vector
        found = conjugate_gradients(product, gradient, self.iterations)
        curvature = torch.dot(found, product(found))
        return (2 * self.radius / curvature).sqrt() * found if curvature > 0 else torch.zeros_like(found)

    def _search(self, step: Tensor, batch: Batch, loss: Tensor, weights: Weights, context: Context) -> float:
        """Shorten the step until it is good enough; the share that was taken, 0 with the weights as they were."""
        own = [owned for owned in weights.fits if owned.path == POLICY]
        start = vector(weights.policy)
        for attempt in range(self.attempts):
            share = self.shrink**attempt
            assign(weights.policy, start + share * step)
            pull = weights.differentiate(batch, own, False, context)
            weight = batch.weight / batch.weight.sum()
            drift = (batch["logp_old"] - pull.batch["logp"].detach()).double()
            divergence = float((weight * k3(drift)).sum())
            if pull.finite and bool(pull.loss < loss) and divergence <= self.radius:
                context.log("update/kl", divergence)
                return share
        assign(weights.policy, start)
        return 0.0


def conjugate_gradients(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    """x with A x = target for a symmetric positive definite A given by its product with vectors (Hestenes and Stiefel 1952); stops
    after `iterations`, or once the squared residual is 1e-10 of the target's."""
    found, residual = torch.zeros_like(target), target.clone()
    along, size = residual.clone(), torch.dot(target, target)
    enough = 1e-10 * size
    for _ in range(iterations):
        image = product(along)
        curvature = torch.dot(along, image)
        if size <= enough or curvature <= 0:
            break
        rate = size / curvature
        found, residual = found + rate * along, residual - rate * image
        size, before = torch.dot(residual, residual), size
        along = residual + size / before * along
    return found
