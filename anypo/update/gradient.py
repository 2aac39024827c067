"""Gradient descent on the objective: the standard member of the update room."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.fits import POLICY
from anypo.update.base import Optimiser, Reference, Schedule, StepRule, Update
from anypo.update.optimisers import AdamW
from anypo.update.references import NoReference
from anypo.update.rules.head import Head

if TYPE_CHECKING:
    from anypo.algorithm import Algorithm
    from anypo.update.pulls import Pull
    from anypo.update.weights import Weights


class Constant(Schedule, name="constant"):
    """Linear warm-up over `warmup` steps, then constant."""

    warmup: int = Field(0, ge=0)

    def factor(self, step: int, total: int) -> float:
        return min(1.0, (step + 1) / (self.warmup + 1))


class _Decay(Schedule):
    """Linear warm-up over `warmup` steps, then a fall to `floor` at the last step, in a form of its own."""

    warmup: int = Field(0, ge=0)
    floor: float = Field(0.0, ge=0.0, le=1.0)

    def factor(self, step: int, total: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        return self.fallen(min(1.0, (step - self.warmup) / max(1, total - self.warmup)))

    def fallen(self, done: float) -> float:
        """The factor once this share of the fall is done."""
        raise NotImplementedError


class Linear(_Decay, name="linear"):
    """Linear warm-up over `warmup` steps, then linear decay to `floor` at the last step."""

    def fallen(self, done: float) -> float:
        return 1.0 - (1.0 - self.floor) * done


class Cosine(_Decay, name="cosine"):
    """Linear warm-up over `warmup` steps, then half a cosine down to `floor` at the last step (Loshchilov & Hutter, arXiv:1608.03983,
    without restarts)."""

    def fallen(self, done: float) -> float:
        return self.floor + (1.0 - self.floor) * (1.0 + math.cos(math.pi * done)) / 2.0


def _cut(groups: Tensor, batch: Batch, count: int) -> list[Tensor]:
    """`groups` in at most `count` pieces, none empty, in their order; those of a tag spread over the pieces of the others."""
    untagged = torch.isin(groups, torch.unique(batch.group[batch.tagged("")]))
    if untagged.any() and not untagged.all():
        pieces = _cut(groups[untagged], batch, count)
        return [torch.cat(pair) for pair in zip(pieces, groups[~untagged].tensor_split(len(pieces)))]
    return [piece for piece in groups.tensor_split(count) if len(piece)]


class GradientUpdate(Update, name="gradient"):
    """`epochs` passes over the step's batch in `minibatches_per_epoch` optimiser steps each.

    Groups are never split between minibatches (objectives may couple them): minibatches differ by one group at most, and where there
    are fewer groups than minibatches each gets a step of its own. Groups that belong wholly to a tag's loss are dealt to the
    minibatches of the others: the losses of a batch meet in every step, else Adam would undo the weight of a loss that has steps to
    itself. One optimiser step takes the fits that come before the
    policy one by one, then all others in one joint step. Gradients are clipped to `max_grad_norm` over all parameters of a
    learner, and one whose norm is above `skip_norm` is thrown away (metric ``update/too_large``). A non-finite loss, gradient or
    gradient norm skips the optimiser step; `patience` such steps in a row stop the run.
    """

    optimiser: Optimiser = AdamW()
    schedule: Schedule = Constant()
    epochs: int = Field(1, ge=1)
    minibatches_per_epoch: int = Field(1, ge=1)
    shuffle: bool = True
    max_grad_norm: float = Field(1.0, gt=0.0)
    skip_norm: float = Field(math.inf, gt=0.0, description="gradient norm beyond which a learner takes no step at all")
    reference: Reference = NoReference()
    references: tuple[Reference, ...] = Field((), description="further references, each with a name of its own")
    rules: tuple[StepRule, ...] = ()
    patience: int = Field(5, ge=1)

    def start(self) -> dict[str, Any]:
        return {"failures": 0}

    def keepers(self) -> tuple[Reference, ...]:
        return (self.reference, *self.references)

    def turns(self) -> int | None:
        return self.epochs * self.minibatches_per_epoch

    def regime(self) -> tuple[str, ...]:
        if self.turns() == 1:
            return ("one optimiser step per batch",)
        cut = f" in {self.minibatches_per_epoch} minibatches (never more than prompts)" * (
            self.minibatches_per_epoch > 1
        )
        return (f"{self.epochs} pass{'es' * (self.epochs > 1)} over each batch{cut}",)

    def minibatches(self, batch: Batch, context: Context) -> Iterator[Tensor]:
        """Sequence indices of every optimiser step of this update, in order."""
        for epoch in range(self.epochs):
            context.epoch = epoch
            if self.minibatches_per_epoch == 1:
                context.minibatch = 0
                yield torch.arange(batch.n_sequences)
                continue
            present = torch.unique(batch.group)
            if self.shuffle:
                present = present[torch.randperm(len(present), generator=context.generator(17, epoch))]
            for number, groups in enumerate(_cut(present, batch, self.minibatches_per_epoch)):
                context.minibatch = number
                yield torch.isin(batch.group, groups).nonzero().flatten()

    def apply(self, batch: Batch, weights: Weights, context: Context) -> Batch:
        version = weights.policy.version
        for index in self.minibatches(batch, context):
            part = batch.select(index)
            current = weights.policy.version == version and (weights.reuse != "always" or weights.fresh(part))
            self._optimise(part, weights, current, context)
        weights.keep(context)
        return batch

    def pull(self, batch: Batch, weights: Weights, current: bool, context: Context) -> Pull:
        """The joint loss of one update batch and its derivative with respect to every live column, with what the step rules make
        of both. `current`: the ``_old`` columns are those of the present weights (no new pass is needed)."""
        joint = [owned for owned in weights.fits if owned.fit.when == "with_policy" and owned.fit.due(weights.steps)]
        batch, leaves = weights.with_leaves(batch, {owned.path for owned in joint}, current)
        rate = self.schedule.factor(context.step, context.total) * context.hooks.pop("learning_rate", 1.0)
        context.head = Head.of(weights.policy, weights.optimisers[POLICY], rate)
        for rule in self.rules:
            batch = batch.with_rows(weight=rule.weigh(batch, context))
            rate *= rule.learning_rate(batch, context)
        return dataclasses.replace(weights.pull(batch, leaves, joint, context), rate=rate)

    def _optimise(self, batch: Batch, weights: Weights, current: bool, context: Context) -> None:
        first = [owned for owned in weights.fits if owned.fit.when == "before_policy"]
        moved, finite = False, True
        for owned in first:
            if owned.fit.due(weights.steps):
                for turn in range(owned.fit.repeat):
                    pull = weights.differentiate(batch, [owned], current and turn == 0, context)
                    rate = self.schedule.factor(context.step, context.total)
                    done = weights.take(owned.path, pull, rate, self.max_grad_norm, context, self.skip_norm)
                    moved, finite = moved or bool(done), finite and done is not False
        pull = weights.seen(self.pull(batch, weights, current, context), context)
        finite &= pull.finite
        if pull.gradients:
            context.log("update/loss", pull.loss if pull.finite else math.nan)
        for path in weights.learners:
            done = weights.take(path, pull, pull.rate, self.max_grad_norm, context, self.skip_norm)
            moved, finite = moved or bool(done), finite and done is not False
        context.log("update/lr", self.optimiser.lr * pull.rate)
        context.log("update/skipped", 0.0 if finite else 1.0)
        self._watch(finite, context)
        weights.steps += 1
        if moved:
            weights.moved(context)

    def _watch(self, finite: bool, context: Context) -> None:
        """Stop with a diagnosis after too many non-finite steps in a row."""
        memory = context.memory[self]
        memory["failures"] = 0 if finite else memory["failures"] + 1
        if memory["failures"] >= self.patience:
            raise UserError(
                f"the loss or its gradient was not finite in {memory['failures']} optimiser steps in a row (step {context.step}); "
                "lower update.optimiser.lr, bound the ratio (objective.trust), or check the rewards for inf/NaN"
            )


def by_gradient(algorithm: Algorithm) -> GradientUpdate:
    """The algorithm's update. `UserError` when it takes no gradient of the objective."""
    update = algorithm.update
    if not isinstance(update, GradientUpdate):
        raise UserError(
            f"'{algorithm.name}' takes no gradient of its objective (update={update.part}); this needs update=gradient"
        )
    return update
