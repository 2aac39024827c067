"""Wrong rollouts that are kept as far as they are right, and finished by a teacher."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import FINISHED, GUIDED, TRUNCATED, Group, Trajectory
from anypo.engine.base import Completion
from anypo.generate.base import World, rollout_key
from anypo.generate.conversation import ending, words
from anypo.generate.groups.rounds import solved
from anypo.generate.guided.triggers import Failing, Trigger
from anypo.generate.repaired.faults import Faults, Verdicts, steps_of
from anypo.generate.repaired.teachers import Begun, ByModel, Teacher
from anypo.generate.resume import Start, decisions, score
from anypo.generate.trees.segments import _OneTurn
from anypo.outlook import Outlook
from anypo.tasks.base import Task, worked

CORRECTED = "corrected"
"""The `guidance` of a rollout that a teacher has finished."""

SPLIT = 4
"""At most so many tokens of one character: until the last of them, their text is not what it will be, nor as long."""

FINISHING = 67
"""The role of corrected rollouts in their keys."""


@dataclass(frozen=True)
class Broken:
    """A wrong rollout (member `place` of group `home`) whose first `kept` of `of` steps are right: its first `cut` decisions, which
    say `said`."""

    home: int
    place: int
    kept: int
    of: int
    cut: int
    said: str


class Corrected(_OneTurn, name="corrected"):
    """Independent rollouts, of which in groups that want help the wrong ones with most right steps are finished by a teacher from
    their first wrong step on (step-wise correction of SCOPE, arXiv:2602.24110).

    trigger: which groups. faults: who finds the first wrong step. floor: the least share of an answer's steps before it. replaced:
    at most so many rollouts of a group, those with the largest share. teacher, tries: who goes on from there, and how often it is
    asked; the first continuation with which the answer is right by the task's outcome takes the wrong rollout's place in the
    group, which is set aside; without one it stays. Steps end with `delimiter`; an empty one makes every character a step.

    A corrected rollout has the tag ``guided`` and names in `fork` how many decisions are the policy's own: these keep what they
    were sampled with, the teacher's have log-probability 0 and version -1. An answer in which no wrong step is found is not
    corrected.
    """

    traced = True
    provides = frozenset({f"tag:{GUIDED}"})
    trigger: Trigger = Failing(rate=0.5)
    faults: Faults = Verdicts()
    teacher: Teacher = ByModel()
    floor: float = Field(0.3, ge=0.0, lt=1.0)
    replaced: int = Field(1, ge=0)
    tries: int = Field(1, ge=1)
    delimiter: str = "\n"

    def suits(self, task: Task) -> str | None:
        return self.faults.suits(task) or self.teacher.suits(task) or super().suits(task)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        task = outlook.task
        if self.floor and task is not None and worked(task):
            shown = [task.train(index).solution for index in range(min(len(task), 64))]
            if all(len(steps_of(text, self.delimiter)) < 2 for text in shown if text):
                return (
                    "to wrong answers: the task's solutions have a single step, before which nothing is right; set "
                    "generate.delimiter to what ends a step (an empty one: every character), or choose a task of several steps"
                )
        return super().dormant(algorithm, outlook)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [ask.samples for ask in asks], world, context)
        broken = self._broken(groups, world, context)
        better = self._finished(broken, groups, world, context)
        out, aside = list(groups), []
        for home, group in enumerate(groups):
            mended = {one.place: better[n] for n, one in enumerate(broken) if one.home == home and n in better}
            members = [mended.get(place, t) for place, t in enumerate(group.trajectories)]
            out[home] = group.replace(trajectories=tuple(members))
            if mended:
                gone = tuple(group.trajectories[place] for place in mended)
                aside.append(group.replace(trajectories=gone, aside=True))
        self._log(broken, better, len(asks), context)
        return [*out, *aside]

    def _broken(self, groups: Sequence[Group], world: World, context: Context) -> list[Broken]:
        """The wrong rollouts to be corrected, by group and share of right steps."""
        wrong = [
            (home, place, t, steps_of(t.text, self.delimiter))
            for home, group in enumerate(groups)
            if self.replaced and self.trigger.wants(group, world.task, context)
            for place, t in enumerate(group.trajectories)
            if not solved(t, world.task) and len(t)
        ]
        wrong = [one for one in wrong if one[3]]
        if not wrong:
            return []
        found = self.faults.first([(groups[home].problem, said) for home, _, _, said in wrong], world, context)
        out: list[Broken] = []
        for (home, place, t, said), first in zip(wrong, found):
            if first is not None and first >= self.floor * len(said) - 1e-9:
                cut, kept = beginning(t, "".join(said[:first]), world.policy)
                out.append(Broken(home, place, first, len(said), cut, kept))
        best = sorted(out, key=lambda one: (one.home, -one.kept / one.of, one.place))
        return [one for n, one in enumerate(best) if sum(b.home == one.home for b in best[:n]) < self.replaced]

    def _finished(
        self, broken: Sequence[Broken], groups: Sequence[Group], world: World, context: Context
    ) -> dict[int, Trajectory]:
        """The corrected rollouts that are right, by place in `broken`."""
        done: dict[int, Trajectory] = {}
        begun = [Begun(groups[one.home].problem, one.said, one.kept) for one in broken]
        for attempt in range(self.tries):
            waiting = [n for n in range(len(broken)) if n not in done]
            said = self.teacher.rests([begun[n] for n in waiting], self.max_new, attempt, world, context)
            rests = {
                n: taught(world.policy, text, broken[n].cut, self.max_new)
                for n, text in zip(waiting, said)
                if text.strip() and broken[n].cut < self.max_new
            }
            starts = [self._start(broken[n], groups, attempt, context) for n in rests]
            made = score(starts, list(rests.values()), world, self.sampling(context))
            done |= {n: t.replace(tag=GUIDED) for n, t in zip(rests, made) if solved(t, world.task)}
        return done

    def _start(self, one: Broken, groups: Sequence[Group], attempt: int, context: Context) -> Start:
        group = groups[one.home]
        own = group.trajectories[one.place]
        key = rollout_key(context, group.problem, group.visit, FINISHING, own.sample, attempt)
        extra = {"kept_steps": one.kept, "steps": one.of}
        return Start(group.problem, key, own, one.cut, own.sample, fork=one.cut, guidance=CORRECTED, extra=extra)

    def _log(self, broken: Sequence[Broken], better: dict[int, Trajectory], asks: int, context: Context) -> None:
        """How many prompts had a rollout with something to keep, how many corrections were right, and how much was kept."""
        context.log("generate/broken_share", len({one.home for one in broken}) / max(1, asks))
        context.log("generate/corrected", float(len(better)))
        if broken:
            context.log("generate/corrected_right", len(better) / len(broken))
            context.log("generate/kept_steps", float(np.mean([one.kept / one.of for one in broken])))


def beginning(trajectory: Trajectory, said: str, policy: Any) -> tuple[int, str]:
    """How many decisions of a rollout say the beginning `said` of its text, and what they say: less than all of it where a token goes
    over its end."""
    own = decisions(trajectory)
    cut = bisect.bisect_right(range(len(own) + 1), len(said), key=lambda t: len(policy.decode(own[:t]))) - 1
    cut = min(len(own), cut + SPLIT)
    while not said.startswith(text := str(policy.decode(own[:cut]))):
        cut -= 1
    return cut, text


def taught(policy: Any, text: str, cut: int, most: int) -> Completion:
    """`text`, which no policy sampled, and the end of the turn as the rest of an answer of which `cut` decisions are there: at most
    `most` in all."""
    tokens = np.asarray(policy.answer(text) if not cut else np.concatenate([words(policy, text), ending(policy)]))
    n = min(len(tokens), most - cut)
    unknown, version = np.full(n, np.nan), np.full(n, -1, dtype=np.int64)
    finish = FINISHED if n == len(tokens) else TRUNCATED
    return Completion(tokens[:n].astype(np.int64), np.zeros(n), unknown, np.zeros(n), version, finish)


__all__ = ["CORRECTED", "Broken", "Corrected", "beginning", "taught"]
