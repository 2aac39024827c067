"""The machine: turns what objectives say about columns into changes of weights.

An objective is a function of a whole update batch's columns. The machine (1) fills the columns some part asks for, (2) makes
leaves of the live ones and takes d loss / d column over the whole batch, (3) pushes these coefficients through the learners
in micro-batches. The parameter gradient is therefore the same however the work is cut, and sequences whose coefficients
are all zero cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.parts import Part
from anypo.policies.base import Learner
from anypo.update import GradientUpdate, Optimiser
from anypo.update.rules.head import Head


@dataclass(frozen=True)
class Pull:
    """What the loss of one update batch says: its derivative with respect to every live column (rows of `batch`), and the
    factor on the learning rate of the step."""

    batch: Batch
    loss: Tensor
    gradients: Mapping[str, Tensor]
    rate: float

    @property
    def finite(self) -> bool:
        return bool(torch.isfinite(self.loss)) and all(bool(torch.isfinite(g).all()) for g in self.gradients.values())


@dataclass
class Machine:
    """Policy, reference, the parts' own learners, and their optimisers."""

    algorithm: Algorithm
    policy: Any
    seed: int
    exact_sampler: bool = True
    reference: Any = None
    learners: dict[str, Learner] = field(default_factory=dict)
    optimisers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    failures: int = 0
    columns: frozenset[str] = frozenset()
    terms: tuple[Part, ...] = ()
    tempered: bool = False

    def __post_init__(self) -> None:
        update = self.rule
        self.tempered = any("tempered" in part.provided() for _, part in self.algorithm.walk())
        self.columns = self.algorithm.columns()
        self.terms = tuple(p for _, p in self.algorithm.walk() if type(p).loss_term is not Part.loss_term)
        self.reference = update.reference.begin(self.policy)
        self.learners = {"policy": self.policy}
        self.optimisers = {"policy": update.optimiser.build(self.policy.parameters())}
        for number, (path, part) in enumerate(self.algorithm.walk()):
            learner = part.learner(self.policy, self.seed + number)
            if learner is not None:
                self.learners[path] = learner
                optimiser: Optimiser = getattr(part, "optimiser", update.optimiser)
                self.optimisers[path] = optimiser.build(learner.parameters())

    @property
    def rule(self) -> GradientUpdate:
        """The update room's part (the machine executes gradient updates)."""
        assert isinstance(self.algorithm.update, GradientUpdate)
        return self.algorithm.update

    # -- columns --------------------------------------------------------------------------------------------------------

    def fill(self, batch: Batch) -> Batch:
        """Fill every column that some part reads and that is fixed during the update: ``*_old``, ``*_ref``, features."""
        wanted = {name for name in self.columns if name not in batch}
        live = self._live()
        for learner in self.learners.values():
            names = {n for n in wanted if n.removesuffix("_old") in learner.columns and n.endswith("_old")}
            names |= {f"{n}_old" for n in learner.columns & live}
            filled = self._known(batch, names) if learner is self.policy else {}
            rest = sorted(n.removesuffix("_old") for n in names - filled.keys())
            if rest:
                filled |= {f"{name}_old": column for name, column in learner.fill(batch, rest, grad=False).items()}
            batch = batch.with_rows(**filled)
        if self.reference is not None:
            names = {n for n in wanted if n.endswith("_ref")}
            found = (
                self.reference.fill(batch, sorted(n.removesuffix("_ref") for n in names), grad=False) if names else {}
            )
            batch = batch.with_rows(**{f"{name}_ref": column for name, column in found.items()})
        if "score_norm" in wanted:
            norms = score_norms(self.policy, batch, self.algorithm.engine.token_budget)
            batch = batch.with_sequences(score_norm=norms)
        features = sorted(wanted & getattr(self.policy, "features", frozenset()))
        return batch.with_rows(**self.policy.fill(batch, features, grad=False)) if features else batch

    def _known(self, batch: Batch, names: Iterable[str]) -> dict[str, Tensor]:
        """Columns the sampler recorded under exactly these weights, or under whichever when the engine is told so."""
        if self._reuse != "always" and not (self._reuse == "exact" and self._fresh(batch)):
            return {}
        return {
            name: batch[name.replace("_old", "_behaviour")]
            for name in names
            if name.replace("_old", "_behaviour") in batch.rows
        }

    @property
    def _reuse(self) -> str:
        return getattr(self.algorithm.engine, "reuse_logp", "never")

    def _fresh(self, batch: Batch) -> bool:
        """The sampler's log-probabilities are the trainer's for the present weights (never where it varies the temperature)."""
        return self.exact_sampler and not self.tempered and bool((batch["version"] == self.policy.version).all())

    def _live(self) -> frozenset[str]:
        """Columns that some part differentiates."""
        available = frozenset().union(*(learner.columns for learner in self.learners.values()))
        return self.columns & available

    # -- updates ----------------------------------------------------------------------------------------------------------

    def update(self, batch: Batch, context: Context) -> None:
        """Every optimiser step of this update."""
        version = self.policy.version
        for index in self.rule.minibatches(batch, context):
            part = batch.select(index)
            current = self.policy.version == version and (self._reuse != "always" or self._fresh(part))
            self._optimise(part, current, context)
        self.reference = self.rule.reference.after(self.reference, self.policy, context)

    def differentiate(self, batch: Batch, current: bool, context: Context) -> Pull:
        """The loss of one update batch and its derivative with respect to every live column. `current`: the ``_old`` columns
        are those of the present weights (no new pass is needed)."""
        batch = batch.with_rows(**self._leaves(batch, current))
        rate = self.rule.schedule.factor(context.step, context.total) * context.hooks.pop("learning_rate", 1.0)
        context.head = Head.of(self.policy, self.optimisers["policy"], rate)
        for rule in self.rule.rules:
            batch = batch.with_rows(weight=rule.weigh(batch, context))
            rate *= rule.learning_rate(batch, context)
        leaves = {name: batch[name] for name in self._live()}
        loss = self._loss(batch, context)
        return Pull(batch, loss, _gradients(loss, leaves), rate)

    def _optimise(self, batch: Batch, current: bool, context: Context) -> None:
        pull = self.differentiate(batch, current, context)
        finite = pull.finite
        context.log("update/loss", pull.loss if finite else math.nan)
        moved = False
        for path, learner in self.learners.items():
            mine = {name: pull.gradients[name] for name in sorted(learner.columns & pull.gradients.keys())}
            moved |= finite and self._step(path, learner, pull.batch, mine, pull.rate, context)
        context.log("update/lr", self.rule.optimiser.lr * pull.rate)
        context.log("update/skipped", 0.0 if finite else 1.0)
        self._watch(finite, context)
        if moved:
            self.policy.version += 1

    def _leaves(self, batch: Batch, current: bool) -> dict[str, Tensor]:
        """Live columns as leaves: the ``_old`` ones while they are those of the current weights, a new pass afterwards."""
        out: dict[str, Tensor] = {}
        live = self._live()
        for learner in self.learners.values():
            names = sorted(learner.columns & live)
            ready = {n: batch[f"{n}_old"] for n in names if current and f"{n}_old" in batch.rows}
            missing = [n for n in names if n not in ready]
            ready |= learner.fill(batch, missing, grad=False) if missing else {}
            out |= {name: column.detach().clone().requires_grad_() for name, column in ready.items()}
        return out

    def _loss(self, batch: Batch, context: Context) -> Tensor:
        loss = self.algorithm.objective.loss(batch, context)
        for part in self.terms:
            term = part.loss_term(batch, context)
            if term is not None:
                loss = loss + term
        return loss

    def _step(
        self, path: str, learner: Learner, batch: Batch, gradients: Mapping[str, Tensor], rate: float, context: Context
    ) -> bool:
        """Push the coefficients through one learner and step its optimiser. False when nothing pulled at its weights."""
        pull = sum((g.abs() for g in gradients.values()), torch.zeros(len(batch)))
        keep = (
            segments.sum(pull, batch.sequence, batch.n_sequences) > 0
            if len(batch)
            else torch.zeros(0, dtype=torch.bool)
        )
        if not bool(keep.any()):
            return False
        rows = keep[batch.sequence]
        push(
            learner,
            batch.select(keep),
            {name: g[rows] for name, g in gradients.items()},
            self.algorithm.engine.token_budget,
        )
        parameters = [p for p in learner.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.rule.max_grad_norm, foreach=True)
        label = "update/grad_norm" if path == "policy" else f"update/grad_norm/{path}"
        optimiser = self.optimisers[path]
        done = bool(torch.isfinite(norm))
        if done:
            for group in optimiser.param_groups:
                group.setdefault("peak_lr", group["lr"])
                group["lr"] = group["peak_lr"] * rate
            optimiser.step()
        context.log(label, norm if done else math.nan)
        optimiser.zero_grad(set_to_none=True)
        return done

    def _watch(self, finite: bool, context: Context) -> None:
        """Stop with a diagnosis after too many non-finite steps in a row."""
        self.failures = 0 if finite else self.failures + 1
        if self.failures >= self.rule.patience:
            raise UserError(
                f"the loss or its gradient was not finite in {self.failures} optimiser steps in a row (step {context.step}); "
                "lower update.optimiser.lr, bound the ratio (objective.trust), or check the rewards for inf/NaN"
            )

    # -- state -----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        reference = self.reference.state_dict() if self.reference is not None else None
        return {
            "version": self.policy.version,
            "failures": self.failures,
            "reference": reference,
            "learners": {path: learner.state_dict() for path, learner in self.learners.items()},
            "optimisers": {path: optimiser.state_dict() for path, optimiser in self.optimisers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.policy.version, self.failures = state["version"], state["failures"]
        for path, learner in self.learners.items():
            learner.load_state_dict(state["learners"][path])
            self.optimisers[path].load_state_dict(state["optimisers"][path])
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])


def push(learner: Any, batch: Batch, gradients: Mapping[str, Tensor], token_budget: int) -> None:
    """Add the gradient of sum over rows and columns of gradient * column to the learner's parameters, in micro-batches.

    A learner with a method ``backward(batch, gradients, token_budget)`` cuts the work itself.
    """
    if hasattr(learner, "backward"):
        learner.backward(batch, gradients, token_budget)
        return
    names = sorted(gradients)
    for index in cut(batch, token_budget):
        part = batch.select(index)
        rows = torch.isin(batch.sequence, index)
        columns = learner.fill(part, names, grad=True)
        torch.autograd.backward([columns[n] for n in names], [gradients[n][rows].to(columns[n].dtype) for n in names])


def score_norms(policy: Any, batch: Batch, token_budget: int) -> Tensor:
    """|grad of the mean log-probability of its counted decisions|^2 of every sequence, [S] float64: one backward pass each.

    Gradients that the parameters hold are lost.
    """
    parameters = list(policy.parameters())
    found = torch.zeros(batch.n_sequences, dtype=torch.float64)
    for index in range(batch.n_sequences):
        one = batch.select(torch.tensor([index]))
        total = one.weight.sum()
        if total <= 0:
            continue
        push(policy, one, {"logp": one.weight / total}, token_budget)
        found[index] = sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None)
        for p in parameters:
            p.grad = None
    return found


def cut(batch: Batch, budget: int) -> list[Tensor]:
    """Consecutive sequences in pieces of at most `budget` rows (at least one sequence each), as index tensors."""
    pieces: list[list[int]] = [[]]
    used = 0
    for index, length in enumerate(batch.sequences["length"].tolist()):
        if pieces[-1] and used + length > budget:
            pieces.append([])
            used = 0
        pieces[-1].append(index)
        used += length
    return [torch.tensor(piece) for piece in pieces if piece]


def _gradients(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not loss.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(leaf) if g is None else g for (n, leaf), g in zip(leaves.items(), found)}


__all__ = ["Machine", "Memory", "Pull", "cut", "push", "score_norms"]
