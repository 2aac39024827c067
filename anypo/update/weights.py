"""Weights: the mechanism between what losses say about columns and what happens to parameters.

A loss is a function of a whole update batch's columns. `Weights` (1) fills the columns some part asks for, (2) makes leaves of
the live ones and takes d loss / d column over the whole batch, (3) pushes these coefficients through the learners in
micro-batches and steps their optimisers. The parameter gradient is therefore the same however the work is cut, and sequences
whose coefficients are all zero cost nothing. *When* any of this happens is the update room's decision, never made here.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anypo.column import BEHAVIOUR, OLD
from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.fits import POLICY, Fit, Nets
from anypo.policies.base import Learner
from anypo.policies.divergences import Comparisons, Divergence
from anypo.policies.views import View, look
from anypo.update.base import Optimiser
from anypo.update.naming import Names, named
from anypo.update.norms import size, total_norm
from anypo.update.pulls import Pull, gradients, push, score_norms

if TYPE_CHECKING:
    from anypo.algorithm import Algorithm

REF = "ref"
"""The name of the policy's own reference."""

BLOWN = 1000.0
"""Growth of the policy's weights (their root mean square against that of the initial ones) that no training explains and no further
step mends."""


@dataclass(frozen=True)
class Owned:
    """A fit with the path of the learner it moves."""

    path: str
    fit: Fit


@dataclass
class Weights:
    """The policy and the parts' own learners, their optimisers, and the references that are kept of them.

    names: who fills which column. held: passes of learners that hold theirs, until they are pushed through. steps: optimiser steps
    prepared so far.
    witness: is shown every pull at the policy's weights that a step is taken on.
    start: root mean square of the policy's initial weights (1 where these are nearly 0, as in a table of logits). growth: that of
    the present ones over it.
    """

    algorithm: Algorithm
    policy: Any
    seed: int
    exact_sampler: bool = True
    models: Mapping[str, Any] = field(default_factory=dict)
    learners: dict[str, Learner] = field(default_factory=dict)
    optimisers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    references: dict[str, Any] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    held: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    steps: int = 0
    start: float = 1.0
    growth: float = 1.0
    tempered: bool = False
    witness: Callable[[Pull, Context], None] | None = None

    def __post_init__(self) -> None:
        update = self.algorithm.update
        self.tempered = any("tempered" in part.provided() for _, part in self.algorithm.walk())
        self.learners = {POLICY: self.policy}
        initial = size(self.policy.parameters())
        self.start = initial if initial > 1e-3 else 1.0
        optimiser: Optimiser | None = getattr(update, "optimiser", None)
        if optimiser is not None:
            self.optimisers = {POLICY: optimiser.over(self.policy.parameters(), matrices(self.policy))}
        for path, part in self.algorithm.walk():
            learner = part.learner(self.policy, self.seed + zlib.crc32(path.encode()))
            if learner is not None:
                self.learners[path] = learner
                own: Optimiser | None = getattr(part, "optimiser", None) or optimiser
                if own is not None:
                    self.optimisers[path] = own.over(learner.parameters(), matrices(learner))
        self._parameters: dict[str, list[nn.Parameter]] = {}
        self.keepers = update.keepers()
        for keeper in self.keepers:
            kept = keeper.begin(self._learner(keeper.of))
            if kept is not None:
                self.references[keeper.name] = kept
        self.fits = tuple(_owned(self.algorithm))
        if hasattr(self.policy, "compared"):
            self.policy.compared = Comparisons(
                {part.stat: part.statistic() for _, part in self.algorithm.walk() if isinstance(part, Divergence)},
                frozenset({OLD, *self.frozen}),
            )
        read, kept = self.algorithm.columns(), [keeper.name for keeper in self.keepers]
        self.names = named(read, self.learners, kept, self.models)

    # -- who fills what -------------------------------------------------------------------------------------------------

    @cached_property
    def views(self) -> tuple[View, ...]:
        """The algorithm's views that some column is read in."""
        read = {column.view for column in self.names.columns.values()}
        return tuple(part for _, part in self.algorithm.walk() if isinstance(part, View) and part.view in read)

    def _unseen(self, batch: Batch) -> tuple[View, ...]:
        """The views whose contexts the batch does not have yet."""
        return tuple(view for view in self.views if view.view not in batch.views)

    @property
    def frozen(self) -> Mapping[str, Any]:
        """Sources whose weights no optimiser moves, by name: references and models in other roles."""
        return {**self.models, **self.references}

    def _learner(self, path: str) -> Any:
        if path not in self.learners:
            raise UserError(
                f"update.references: there is no learner '{path}' to keep; learners here: {', '.join(self.learners)}"
            )
        return self.learners[path]

    def parameters(self, path: str) -> list[nn.Parameter]:
        """The parameters of a learner, looked for once: a walk over its modules costs as much as a small layer."""
        if path not in self._parameters:
            self._parameters[path] = list(self.learners[path].parameters())
        return self._parameters[path]

    # -- columns that are fixed during the update ----------------------------------------------------------------------------

    def prepare(self, batch: Batch, context: Context) -> Batch:
        """The batch with everything credit may read: draws of noise, the fits that come before credit taken, all fixed columns."""
        batch = self._draw(look(batch, self._unseen(batch), self.policy), context)
        for owned in self.fits:
            if owned.fit.when == "before_credit" and owned.fit.due(context.step):
                for _ in range(owned.fit.repeat):
                    pull = self.differentiate(batch, [owned], False, context)
                    self.take(owned.path, pull, 1.0, math.inf, context)
        return self.fill(batch)

    def fill(self, batch: Batch) -> Batch:
        """Fill every column that some part reads and that is fixed during the update: ``*_old``, references', models', features."""
        batch = self._give(look(batch, self._unseen(batch), self.policy))
        for path, learner in self.learners.items():
            names = self._starting(path, batch)
            filled = self._known(batch, names) if path == POLICY else {}
            rest = {asked: name for name, asked in names.items() if name not in filled}
            if rest:
                found = learner.fill(batch, sorted(rest), grad=False)
                filled |= {rest[asked]: column for asked, column in found.items()}
            batch = batch.with_rows(**filled)
        for source, kept in self.frozen.items():
            asked = {
                c.plain: n for n, c in self.names.columns.items() if c.source == source and self._missing(n, batch)
            }
            if asked:
                found = kept.fill(batch, sorted(asked), grad=False)
                batch = batch.with_rows(**{asked[plain]: column for plain, column in found.items()})
        if self._missing("score_norm", batch):
            norms = score_norms(self.policy, batch, self.algorithm.engine.token_budget)
            batch = batch.with_sequences(score_norm=norms)
        features = sorted(n for n in getattr(self.policy, "features", ()) if self._missing(n, batch))
        return batch.with_rows(**self.policy.fill(batch, features, grad=False)) if features else batch

    def _give(self, batch: Batch) -> Batch:
        """The batch with the far side of every divergence, each source's as it is now, and the policy told who they were."""
        for source in sorted({column.source for column in self.names.given.values()}):
            other = self.policy if source == OLD else self.frozen[source]
            asked = {c.plain: n for n, c in self.names.given.items() if c.source == source and n not in batch}
            if asked:
                found = other.fill(batch, sorted(asked), grad=False)
                batch = batch.with_rows(**{asked[plain]: column for plain, column in found.items()})
                self.policy.compared.meet(source, getattr(other, "policy", other))
        return batch

    def _missing(self, name: str, batch: Batch) -> bool:
        return (
            name in self.names.columns
            and name not in batch
            and not any(name in mine for mine in self.names.live.values())
        )

    def _starting(self, path: str, batch: Batch) -> dict[str, str]:
        """The columns of a learner at the start of the update, with what it is asked for: those that some part reads, and those of
        its live columns, which are the leaves of the first step (a learner that holds its pass makes these itself)."""
        learner, out = self.learners[path], {}
        for name, plain in self.names.old[path].items():
            if name not in batch:
                out[name] = plain
        if self._holds(learner, batch):
            return out
        return out | {
            f"{name}_{OLD}": asked for name, asked in self.names.live[path].items() if f"{name}_{OLD}" not in batch
        }

    def _known(self, batch: Batch, names: Iterable[str]) -> dict[str, Tensor]:
        """Columns the sampler recorded under exactly these weights, or under whichever when the engine is told so."""
        if self.reuse != "always" and not (self.reuse == "exact" and self.fresh(batch)):
            return {}
        recorded = {name: name.replace(f"_{OLD}", f"_{BEHAVIOUR}") for name in names}
        return {name: batch[found] for name, found in recorded.items() if found in batch.rows}

    def _draw(self, batch: Batch, context: Context) -> Batch:
        """The noise of every view that is a fresh draw (``noise@view``): kept in the batch, so that filling again repeats the draw."""
        for path, views in self.names.draws.items():
            learner: Any = self.learners[path]
            for view in views:
                generator = context.generator(43, self.steps, zlib.crc32(f"{path}@{view}".encode()))
                batch = batch.with_rows(**{f"noise@{view}": learner.noise(len(batch), generator)})
        return batch

    @property
    def reuse(self) -> str:
        return getattr(self.algorithm.engine, "reuse_logp", "never")

    def fresh(self, batch: Batch) -> bool:
        """The sampler's log-probabilities are the trainer's for the present weights: never where it varies the temperature, or
        saw another context than is trained on."""
        if not self.exact_sampler or self.tempered or any(_shown(t) for t in batch.trajectories):
            return False
        return bool((batch["version"] == self.policy.version).all())

    # -- from losses to parameters --------------------------------------------------------------------------------------------

    def with_leaves(self, batch: Batch, paths: Collection[str], current: bool) -> tuple[Batch, dict[str, Tensor]]:
        """The batch with the live columns of these learners as leaves, and the leaves: the ``_old`` columns while they are those of
        the present weights (`current`), a new pass afterwards."""
        leaves: dict[str, Tensor] = {}
        for path, learner in self.learners.items():
            if path not in paths:
                continue
            names = self.names.live[path]
            self.held.pop(
                path, None
            )  # a pass that was never pushed through (its loss was not finite) belongs to another batch
            ready = {n: batch[f"{n}_{OLD}"] for n in sorted(names) if current and f"{n}_{OLD}" in batch.rows}
            missing = {asked: n for n, asked in sorted(names.items()) if n not in ready}
            if missing:
                held = self._holds(learner, batch)
                found = learner.fill(batch, sorted(missing), grad=held)
                self.held[path] = found if held else {}
                ready |= {missing[asked]: column for asked, column in found.items()}
            leaves |= {name: column.detach().clone().requires_grad_() for name, column in ready.items()}
        return batch.with_rows(**leaves), leaves

    def differentiate(self, batch: Batch, fits: Sequence[Owned], current: bool, context: Context) -> Pull:
        """The summed loss of some fits and its derivative with respect to every live column of the learners they move."""
        batch, leaves = self.with_leaves(batch, {owned.path for owned in fits}, current)
        return self.pull(batch, leaves, fits, context)

    def _holds(self, learner: Any, batch: Batch) -> bool:
        """Whether the pass that gives the leaves is the one that is pushed through, too: for small learners, in one piece."""
        return getattr(type(learner), "holds", False) and len(batch) <= self.algorithm.engine.token_budget

    def pull(self, batch: Batch, leaves: Mapping[str, Tensor], fits: Sequence[Owned], context: Context) -> Pull:
        """`differentiate` for a batch that has its leaves already."""
        context.nets = Nets(self.learners)
        terms = [owned.fit.loss(batch, context) for owned in fits]
        loss = terms[0] if terms else torch.zeros(())
        for term in terms[1:]:
            loss = loss + term
        return Pull(batch, loss, gradients(loss, leaves))

    def seen(self, pull: Pull, context: Context) -> Pull:
        """The pull itself, shown to the witness: whoever moves the policy says so."""
        if self.witness is not None:
            self.witness(pull, context)
        return pull

    def push(self, path: str, pull: Pull) -> bool:
        """Add the gradient of a pull to the parameters of one learner. False when nothing pulls at its weights."""
        names = self.names.live[path].keys() & pull.gradients.keys()
        gradients = {name: pull.gradients[name] for name in sorted(names)}
        batch, learner = pull.batch, self.learners[path]
        size = sum((g.abs().flatten(1).sum(1) if g.ndim > 1 else g.abs() for g in gradients.values()), torch.zeros(1))
        if not len(batch) or not gradients:
            return False
        keep = segments.sum(size, batch.sequence, batch.n_sequences) > 0
        if not bool(keep.any()):
            return False
        rows = keep[batch.sequence] if not bool(keep.all()) else slice(None)
        asked = {self.names.live[path][name]: g[rows] for name, g in gradients.items()}
        held = self.held.pop(path, {})
        if held.keys() == asked.keys() and keep.all():
            torch.autograd.backward([held[n] for n in asked], [g.to(held[n]) for n, g in asked.items()])
            return True
        push(learner, batch.select(keep), asked, self.algorithm.engine.token_budget)
        return True

    def take(
        self, path: str, pull: Pull, rate: float, max_norm: float, context: Context, most: float = math.inf
    ) -> bool | None:
        """Push a pull through one learner and step it. The weights stay as they were, with None, when nothing pulls at them or the
        gradient's norm is above `most`; with False when the pull or its gradient is not finite (which another learner than the policy
        logs under its own name)."""
        if not self.names.live[path].keys() & pull.gradients.keys():
            return None
        if pull.finite and not self.push(path, pull):
            return None
        done = pull.finite and self.step(path, rate, max_norm, context, most)
        if done is False and path != POLICY:
            context.log(f"update/skipped/{path}", 1.0)
        return done

    def step(self, path: str, rate: float, max_norm: float, context: Context, most: float = math.inf) -> bool | None:
        """Clip the gradient of one learner to `max_norm`, step its optimiser at `rate` times its learning rate, and forget the
        gradient. With the weights as they were, False when the gradient is not finite, None when its norm is above `most`. Raises
        `UserError` when the step leaves weights that are not finite."""
        optimiser = self.optimisers[path]
        parameters = [p for p in self.parameters(path) if p.grad is not None]
        norm = total_norm([p.grad for p in parameters if p.grad is not None])
        if math.isfinite(max_norm):
            nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        finite = bool(torch.isfinite(norm))
        large = finite and float(norm) > most
        if finite and not large:
            for group in optimiser.param_groups:
                group.setdefault("peak_lr", group["lr"])
                group["lr"] = group["peak_lr"] * rate
            optimiser.step()
            if path != POLICY and not math.isfinite(size(self.parameters(path))):  # the policy: see `moved`
                raise UserError(
                    f"the weights of '{path}' are not finite after an optimiser step (step {context.step + 1}); lower "
                    f"{path}.optimiser.lr, or check the rewards for huge values. The last checkpoint is from before"
                )
        context.log("update/grad_norm" if path == POLICY else f"update/grad_norm/{path}", norm if finite else math.nan)
        if math.isfinite(most):
            context.log("update/too_large", float(large))
        optimiser.zero_grad(set_to_none=True)
        return None if large else finite

    # -- after an update -----------------------------------------------------------------------------------------------------

    def moved(self, context: Context) -> None:
        """Say that the policy's weights are others now: what is sampled from here on carries a new version. Raises `UserError` when
        they have blown up."""
        self.policy.version += 1
        self.growth = size(self.parameters(POLICY)) / self.start
        if not self.growth < BLOWN:
            how = (
                f"have grown {self.growth:.3g}-fold"
                if math.isfinite(self.growth)
                else "are no longer finite, or nearly so"
            )
            raise UserError(
                f"the policy's weights blew up: after step {context.step + 1} they {how}; take smaller steps (lower "
                "update.optimiser.lr). The last checkpoint is from before"
            )
        context.metrics.put("update/weight_growth", self.growth)

    def keep(self, context: Context) -> None:
        """End an update: say how large the weights are, and let every reference follow the learner it is kept of."""
        context.metrics.put("update/weight_growth", self.growth)
        for keeper in self.keepers:
            kept = keeper.after(self.references.get(keeper.name), self._learner(keeper.of), context)
            if kept is not None:
                self.references[keeper.name] = kept

    @contextmanager
    def swapped(self, parameters: Mapping[str, Tensor] | None) -> Iterator[None]:
        """The policy with other parameters inside (by name of its ``state_dict``), as it was afterwards."""
        if not parameters:
            yield
            return
        saved = {name: value.clone() for name, value in self.policy.state_dict().items()}
        self.policy.load_state_dict({**saved, **parameters})
        try:
            yield
        finally:
            self.policy.load_state_dict(saved)

    # -- state -----------------------------------------------------------------------------------------------------------

    @property
    def reference(self) -> Any:
        """The policy's own reference, or None."""
        return self.references.get(REF)

    @reference.setter
    def reference(self, kept: Any) -> None:
        if kept is not None:
            self.references[REF] = kept

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": self.policy.version,
            "steps": self.steps,
            "start": self.start,
            "growth": self.growth,
            "references": {name: kept.state_dict() for name, kept in self.references.items()},
            "learners": {path: learner.state_dict() for path, learner in self.learners.items()},
            "optimisers": {path: optimiser.state_dict() for path, optimiser in self.optimisers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.policy.version, self.steps = state["version"], state["steps"]
        self.start, self.growth = state.get("start", self.start), state.get("growth", self.growth)
        for path, learner in self.learners.items():
            learner.load_state_dict(state["learners"][path])
        for path, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][path])
        for name, kept in self.references.items():
            kept.load_state_dict(state["references"][name])


def matrices(learner: Any) -> list[nn.Parameter]:
    """The matrices inside of a learner's network, where it says which these are."""
    return list(learner.matrices()) if hasattr(learner, "matrices") else []


def _shown(trajectory: Any) -> bool:
    return getattr(trajectory.content, "shown", None) is not None


def _owned(algorithm: Algorithm) -> Iterator[Owned]:
    """The fits of every part with the learners they move, the objective's first. Objectives inside the objective are its own
    affair: it says what becomes of their losses."""
    for fit in algorithm.objective.fits():
        yield Owned(fit.learner or "objective", fit)
    for path, part in algorithm.walk():
        if part.slot != "objective":
            yield from (Owned(fit.learner or path, fit) for fit in part.fits())


__all__ = ["Owned", "Weights"]
