"""Another composition's credit and objective, on the run's own batches."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.column import OLD
from anypo.context import Context, Memory, Metrics
from anypo.data.batch import Batch
from anypo.fits import POLICY
from anypo.run.beside.angle import Angle
from anypo.update.pulls import Pull
from anypo.update.weights import Weights

ROW = "row"
"""The row column that numbers the decisions of an update batch before credit, so that they are found again after it."""


class Shadow:
    """A composition beside the run: a memory of its own, and of each step the angle between its d loss / d column and the run's.

    Only columns of the policy count. A coefficient on a decision or a column that one of the two does not read is zero there.
    """

    def __init__(self, algorithm: Algorithm, weights: Weights) -> None:
        self.algorithm = Algorithm.from_dict(algorithm.dump())  # every part its own object: memory is keyed by it
        self.memory = Memory(self.algorithm)
        self.columns = weights.names.live[POLICY].keys()
        self.live = sorted(self.algorithm.columns() & self.columns)
        self.fits = [
            fit
            for fit in self.algorithm.objective.fits()
            if fit.when == "with_policy" and (fit.learner or "objective") == POLICY
        ]
        self.batch = Batch.pack([])
        self.coefficients = Angle()

    def context(self, context: Context) -> Context:
        """The run's context with this memory, and nothing that it writes kept."""
        return dataclasses.replace(context, memory=self.memory, metrics=Metrics(), hooks=dict(context.hooks))

    def assign(self, batch: Batch, context: Context) -> None:
        """Credit a batch."""
        self.batch = self.algorithm.credit.assign(batch, self.context(context))

    def pull(self, pull: Pull, whole: bool, rows: int, number: int, context: Context) -> None:
        """Take the loss on the decisions of a pull. whole: the pull is of all that credit left, so decisions that only this
        composition kept belong to it, too. rows: decisions before credit. number: optimiser steps before this one."""
        context = self.context(context)
        batch, leaves = self._at(pull, whole, rows)
        for rule in getattr(self.algorithm.update, "rules", ()):
            batch = batch.with_rows(weight=rule.weigh(batch, context))
        terms = [fit.loss(batch, context) for fit in self.fits if fit.due(number)] if len(batch) else []
        loss = sum(terms[1:], terms[0]) if terms else torch.zeros(())
        found = (
            torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            if loss.requires_grad
            else [None] * len(leaves)
        )
        theirs = {name: g for name, g in zip(leaves, found) if g is not None}
        for name in sorted(theirs.keys() | (pull.gradients.keys() & self.columns)):
            ours = pull.gradients.get(name)
            wide = _like(theirs[name] if ours is None else ours, rows)
            self.coefficients.add(
                wide if ours is None else wide.index_copy(0, pull.batch[ROW], ours.to(wide)),
                wide if name not in theirs else wide.index_copy(0, batch[ROW], theirs[name].to(wide)),
            )

    def _at(self, pull: Pull, whole: bool, rows: int) -> tuple[Batch, dict[str, Tensor]]:
        """This composition's batch restricted to the decisions of a pull, and its leaves: the pull's own values of the live columns,
        and where the pull has none those at the start of the update."""
        place = torch.full((rows,), -1, dtype=torch.int64)
        place[pull.batch[ROW]] = torch.arange(len(pull.batch))
        known = all(f"{name}_{OLD}" in self.batch.rows for name in self.live)
        batch = self.batch
        if not (whole and known):
            there = place[batch[ROW]] >= 0
            chosen = torch.zeros(batch.n_sequences, dtype=torch.bool)
            chosen[batch.sequence[there]] = True
            if not known:  # of the others no value is known
                chosen[batch.sequence[~there]] = False
            batch = batch.select(chosen)
        at = place[batch[ROW]]
        leaves = {}
        for name in self.live:
            given, own = at >= 0, pull.batch[name].detach()
            values = (
                batch[f"{name}_{OLD}"].to(own, copy=True)
                if not bool(given.all())
                else own.new_zeros((len(at), *own.shape[1:]))
            )
            values[given] = own[at[given]]
            leaves[name] = values.requires_grad_()
        return batch.with_rows(**leaves), leaves

    def state_dict(self) -> dict[str, Any]:
        return self.memory.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.memory.load_state_dict(state)


def _like(column: Tensor, rows: int) -> Tensor:
    return torch.zeros((rows, *column.shape[1:]), dtype=torch.float64)


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.ndim - 1))
