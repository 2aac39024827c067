"""Windowed rollouts: every step continues unfinished answers by a fixed number of tokens, so that no slot waits for the longest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import FINISHED, Group, Trajectory
from anypo.data.stored import plain, restore
from anypo.generate.base import OWN, Generate, World, rollout_key
from anypo.generate.resume import Start, resume
from anypo.outlook import Outlook
from anypo.tasks.base import Problem


class Windowed(Generate, name="windowed"):
    """A fixed number of slots (the step's planned rollouts), each extended by at most `window` tokens with the current policy per
    step; finished answers leave and new prompts take their slots (T-PPO, arXiv:2506.15050). One turn.

    A returned trajectory holds everything decided so far, each decision with its own log-probability and version;
    ``extra["window"]`` is the index of the first decision of this step. Unfinished ones have finish "length"; an answer
    that reaches `max_new` counts as finished, for it will not go on. Rollouts of one prompt that are in the same state of
    progress or not form one group for as long as some are in their slots. Prompts that find no free slot are passed over.
    """

    provides = frozenset({"windows"})
    window: int = Field(32, ge=1, description="tokens per step")

    def refuse(self, algorithm: Any) -> str | None:
        return None if self.turns == 1 else "continues one-turn answers only; set generate.turns to 1"

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if self.window < self.max_new:
            return super().dormant(algorithm, outlook)
        return (
            f"a window of {self.window} tokens is not shorter than the longest answer, generate.max_new={self.max_new}; set "
            f"generate.window={max(1, self.max_new // 3)} or generate.max_new={3 * self.window}"
        )

    def start(self) -> dict[str, Any]:
        return {"open": [], "next": 0}

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        memory = context.memory[self]
        slots = sum(ask.samples for ask in asks)
        work = [
            Slot(group, index, sample, visit, restore(saved)) for group, index, sample, visit, saved in memory["open"]
        ]
        for ask in asks:
            free = slots - len(work)
            work += [Slot(memory["next"], ask.index, sample, ask.visit) for sample in range(min(free, ask.samples))]
            memory["next"] += 1
        done = self._extend(work, world, context)
        memory["open"] = [
            (slot.group, slot.index, slot.sample, slot.visit, plain(t)) for slot, t in zip(work, done) if t.truncated
        ]
        finished = [t.reward for t in done if not t.truncated]
        context.log("rollout/finished", len(finished))
        if finished:
            context.log("rollout/finished_reward", float(np.mean(finished)))
        return [self._group(number, work, done, world, context) for number in sorted({slot.group for slot in work})]

    def _extend(self, work: list[Slot], world: World, context: Context) -> list[Trajectory]:
        """Every slot one window further, in order; slots of equal progress share one call of the engine."""
        out: dict[int, Trajectory] = {}
        sampling = self.sampling(context)
        for begun in sorted({slot.begun for slot in work}):
            places = [place for place, slot in enumerate(work) if slot.begun == begun]
            limit = min(begun + self.window, self.max_new)
            starts = [
                Start(
                    problem := world.task.train(work[place].index),
                    work[place].key(context, problem),
                    work[place].so_far,
                    begun,
                    work[place].sample,
                    extra={"window": begun},
                )
                for place in places
            ]
            for place, t in zip(places, resume(starts, world, dataclasses.replace(sampling, max_new=limit))):
                capped = t.truncated and len(t) >= self.max_new
                out[place] = t.replace(finish=FINISHED) if capped else t
        return [out[place] for place in range(len(work))]

    def _group(self, number: int, work: list[Slot], done: list[Trajectory], world: World, context: Context) -> Group:
        members = [(slot, t) for slot, t in zip(work, done) if slot.group == number]
        first = members[0][0]
        problem = world.task.train(first.index)
        return Group(problem.prompt, tuple(t for _, t in members), problem, context.step, first.index, first.visit)


@dataclasses.dataclass(frozen=True)
class Slot:
    """One place in the decoding batch: the group and sample it works for, the problem's index, which ask of this problem it
    serves, and the answer so far."""

    group: int
    index: int
    sample: int
    visit: int
    so_far: Trajectory | None = None

    @property
    def begun(self) -> int:
        """Decisions made before this step."""
        return 0 if self.so_far is None else len(self.so_far)

    def key(self, context: Context, problem: Problem) -> tuple[int, ...]:
        """Key of the random numbers: at first that of an independent rollout, then one of its own for every window."""
        further = (self.begun,) if self.begun else ()
        return rollout_key(context, problem, self.visit, OWN, self.sample, *further)
