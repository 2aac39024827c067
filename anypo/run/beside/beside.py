"""The base beside the run: what it would have asked, kept, credited and pulled at in every step.

Credit and objective are pure functions of columns, so the base's coefficients, d loss / d column, on the very batch of the run cost
no pass of any model. Every room is a number from 0 (as the base would have), logged with the step:

  base/prompts, rollouts, signals, kept   share that differs (`anypo.run.beside.rooms`)
  base/advantages, base/coefficients      1 - cosine of the two vectors over the step
  base/update                             share by which the optimiser steps, or their learning rates, differ; 1 for a reference that
                                          begins at other weights
  base/cosine, base/distance              of the coefficients: a.b / |a||b| and |a - b| / |b|, a the run's
  base/part/PATH                          1 - cosine to the run with only this part of credit or objective as the base has it
  base/same                               1 where every room is the base's

Vectors whose cosine is within `TOLERANCE` of 1 are the same: a constant factor is nothing under Adam.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from anypo.algorithm import Algorithm
from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.errors import UserError, brief
from anypo.run.beside import rooms
from anypo.run.beside.angle import Angle
from anypo.run.beside.base import candidates, lacking, readable, swapped
from anypo.run.beside.shadow import ROW, Shadow
from anypo.run.beside.witness import Witness
from anypo.run.record.timing import timed
from anypo.update.gradient import GradientUpdate
from anypo.update.pulls import Pull
from anypo.update.weights import Weights

TOLERANCE = 1e-8
"""1 - cosine below which two vectors point the same way."""

ROOMS = ("prompts", "rollouts", "signals", "kept", "advantages", "coefficients", "update")

BASE = "base"


def beside(algorithm: Algorithm, weights: Weights) -> Beside:
    """The nearest base of a run's checked algorithm whose losses can be taken on the columns of the run."""
    why = ""
    for name, full in candidates(algorithm):
        base, without = readable(full, weights)
        reason = lacking(base, weights)
        if not reason:
            return Beside(algorithm, weights, name, base, without and f"{name} is without {without}")
        why = why or f"{name}: {reason}"
    return Beside(algorithm, weights, "", None, why or "it has no base here")


class Beside(Witness):
    """The base of one run. name: the base's, '' where there is none to compare with; `why` then says so, else what it is without.

    left: shadows that a step could not be taken with, and why; they are not looked at again.
    """

    def __init__(
        self, algorithm: Algorithm, weights: Weights, name: str, base: Algorithm | None, why: str = ""
    ) -> None:
        self.algorithm, self.weights, self.name, self.why = algorithm, weights, name, why
        self.shadows: dict[str, Shadow] = {}
        self.left: dict[str, str] = {}
        self.apart = base is not None and rooms.references_apart(algorithm.update, base.update, weights)
        if base is not None:
            others = {
                f"part/{path}": one for path, one in swapped(algorithm, base).items() if not lacking(one, weights)
            }
            self.shadows = {BASE: Shadow(base, weights)} | {path: Shadow(one, weights) for path, one in others.items()}
        self._begin()

    def _begin(self) -> None:
        self.found: dict[str, list[float]] = {}
        self.asks: tuple[list[Ask], list[Ask]] = ([], [])
        self.kept: tuple[list[Group], list[Group]] = ([], [])
        self.advantages = Angle()
        self.rates: list[tuple[float, float]] = []
        self.steps: tuple[int, int] = (0, 0)
        self.rows, self.sequences, self.rounds = 0, 0, 0
        for shadow in self.shadows.values():
            shadow.coefficients = Angle()

    @property
    def base(self) -> Shadow | None:
        return self.shadows.get(BASE)

    @property
    def said(self) -> dict[str, str]:
        return {"base": self.name} | ({"base/why": self.why} if self.why else {})

    @property
    def parts(self) -> list[str]:
        return [name.removeprefix("part/") for name in self.shadows if name != BASE]

    # -- what the run does, room by room ----------------------------------------------------------------------------------------

    def screened(
        self,
        asks: Sequence[Ask],
        made: Sequence[Group],
        scored: Sequence[Group],
        kept: Sequence[Group],
        context: Context,
    ) -> None:
        if self.base is None:
            return
        self.rounds += 1
        with self._aside(BASE, context):
            ours, base, mine = self.algorithm, self.base.algorithm, self.base.context(context)
            wanted: Sequence[Ask] = asks if self.rounds <= base.filter.rounds else ()
            if wanted and ours.control != base.control:
                wanted = base.control.choose(len(context.world.task), base.control.prompts, mine)
            self.asks[0].extend(asks)
            self.asks[1].extend(wanted)
            version = self.weights.policy.version
            self._note("rollouts", rooms.rollouts(asks, made, ours, base, version))
            signals, theirs = getattr(ours.filter, "signals", ()), getattr(base.filter, "signals", ())
            unlike = ours.filter.part != base.filter.part or signals != theirs
            others = scored
            if unlike and not theirs:
                others = base.filter.score(list(made), mine)
            self._note("signals", rooms.rewards(scored, others) if not (unlike and theirs) else 1.0)
            differs = ours.filter != base.filter
            self.kept[0].extend(kept)
            self.kept[1].extend((base.filter.keep(list(others), mine) if differs else kept) if wanted else ())

    def prepared(self, batch: Batch) -> Batch:
        if self.base is None or not len(batch):
            return batch
        self.rows = len(batch)
        return batch.with_rows(**{ROW: torch.arange(len(batch))})

    def credited(self, before: Batch, after: Batch, context: Context) -> None:
        if self.base is None:
            return
        self.sequences = after.n_sequences
        for name, shadow in list(self.shadows.items()):
            if name in self.shadows:  # without the base nothing is left
                with self._aside(name, context):
                    shadow.assign(before, context)
        if self.base is not None:
            with self._aside(BASE, context):
                self._credited(after, self.base.batch)

    def _credited(self, ours: Batch, theirs: Batch) -> None:
        assert self.base is not None
        a, b = (rooms.counted(batch, self.rows) for batch in (ours, theirs))
        self._note("kept", rooms.uncommon(a, b))
        if self.algorithm.replay != self.base.algorithm.replay:
            self._note("kept", 1.0 if self.base.algorithm.replay.part != "on_policy" else _replayed(ours))
        if "advantage" in ours.rows and "advantage" in theirs.rows:
            both = a & b
            wide = [torch.zeros(self.rows, dtype=torch.float64) for _ in range(2)]
            for column, batch in zip(wide, (ours, theirs)):
                column[batch[ROW]] = batch["advantage"].detach().double()
            self.advantages.add(wide[0][both], wide[1][both])
        planned = rooms.stepped(self.base.algorithm.update, theirs)
        self.steps = (self.steps[0], self.steps[1] + (planned or 0))

    def pulled(self, pull: Pull, context: Context) -> None:
        if self.base is None or ROW not in pull.batch.rows:
            return
        whole = pull.batch.n_sequences == self.sequences
        for name, shadow in list(self.shadows.items()):
            if name in self.shadows:
                with self._aside(name, context):
                    shadow.pull(pull, whole, self.rows, self.weights.steps, context)
        self.steps = (self.steps[0] + 1, self.steps[1])
        if self.base is not None and isinstance(self.base.algorithm.update, GradientUpdate):
            theirs = self.base.algorithm.update.schedule.factor(context.step, context.total)
            self.rates.append((pull.rate, theirs))

    # -- the numbers of a step ----------------------------------------------------------------------------------------------------

    def ended(self, groups: Sequence[Group], context: Context) -> None:
        if self.base is not None:
            with self._aside(BASE, context):
                control = self.base.algorithm.control
                if control != self.algorithm.control:
                    control.observe(groups, self.base.batch, self.base.context(context))
        if self.base is not None:
            self._log(self.base, context)
        self._begin()

    def _log(self, base: Shadow, context: Context) -> None:
        self._note("prompts", rooms.differing(*map(rooms.asked, self.asks)))
        self._note("kept", rooms.differing(*map(rooms.members, self.kept)))
        found = {room: max(values) for room, values in self.found.items()}
        coefficients = base.coefficients
        found |= {"advantages": 1.0 - self.advantages.cosine, "coefficients": 1.0 - coefficients.cosine}
        found["update"] = self._stepped(base)
        for room in ROOMS:
            context.metrics.put(f"base/{room}", found.get(room, 0.0))
        if coefficients.known:
            context.metrics.put("base/cosine", coefficients.cosine)
            context.metrics.put("base/distance", coefficients.distance)
            for name, shadow in self.shadows.items():
                if name != BASE:
                    context.metrics.put(f"base/{name}", 1.0 - shadow.coefficients.cosine)
        context.metrics.put("base/same", float(all(value <= TOLERANCE for value in found.values())))

    def _stepped(self, base: Shadow) -> float:
        """Share by which the update differs from the base's."""
        ours, theirs = self.algorithm.update, base.algorithm.update
        if self.apart or not rooms.alike(ours, theirs):
            return 1.0
        if not isinstance(ours, GradientUpdate):
            return 0.0
        if not self.sequences and self.kept[1] and base.algorithm.replay.part == "on_policy":
            return 1.0  # nothing was trained on, though there was something
        steps = rooms.relative(*((count,) for count in self.steps))
        return max(steps, rooms.relative(*zip(*self.rates)) if self.rates else 0.0)

    def _note(self, room: str, share: float) -> None:
        self.found.setdefault(room, []).append(share)

    @contextmanager
    def _aside(self, name: str, context: Context) -> Iterator[None]:
        """Work on a shadow, which may change nothing of the run: no random number is drawn for it, its time is counted, and what it
        lacks ends it, not the run."""
        state = torch.get_rng_state()
        try:
            with timed("base", context):
                yield
        except Exception as error:  # whatever it is: what only looks on must not end a run
            lacks = isinstance(error, (KeyError, UserError))
            self.left[name] = brief(error).strip("'\"") if lacks else f"{type(error).__name__}: {brief(error)}"
            self.shadows.pop(name, None)
            if name == BASE:
                self.why, self.name, self.shadows = f"{self.name}: {self.left[name]}", "", {}
        finally:
            torch.set_rng_state(state)

    # -- state ------------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: the memories beside the run's, and what was given up."""
        return {
            "name": self.name,
            "why": self.why,
            "left": dict(self.left),
            "apart": self.apart,
            "shadows": {name: shadow.state_dict() for name, shadow in self.shadows.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not state:  # of a run that had nothing beside it
            return
        self.name, self.why, self.left = state["name"], state["why"], dict(state["left"])
        self.apart = state.get("apart", self.apart)
        self.shadows = {name: shadow for name, shadow in self.shadows.items() if name in state["shadows"]}
        for name, shadow in self.shadows.items():
            shadow.load_state_dict(state["shadows"][name])


def _replayed(batch: Batch) -> float:
    """Share of the decisions of a batch that other weights than the newest in it sampled, or nobody."""
    version = batch["version"]
    return float((version != version.max()).double().mean()) if len(version) else 0.0


__all__ = ["BASE", "ROOMS", "TOLERANCE", "Beside", "beside"]
