"""Guided rollouts: one operator with four switches. When a prompt is given help (`trigger`), what it is shown (`guides`), on which
prompt its answer is trained (`trained`), and what becomes of it in the group (`fate`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import GUIDED, RIGHT, Group, Tokens, Trajectory
from anypo.generate.base import OWN, World, answered, rollout_key
from anypo.generate.groups.rounds import solved
from anypo.generate.guided.fates import Fate, Regroup
from anypo.generate.guided.guides import Guide, Guides, Hints
from anypo.generate.guided.triggers import Failing, Trigger
from anypo.generate.resume import Start
from anypo.generate.trees.segments import _OneTurn
from anypo.policies.base import fits
from anypo.policies.views import behind
from anypo.tasks.base import Problem, Task

HELPED = 53
"""The role of guided rollouts in their keys."""


class Guided(_OneTurn, name="guided"):
    """Independent rollouts, and others of the same prompts that were shown something beside.

    trigger, guides, fate: as their slots say. trained: the prompt before a guided answer when it is scored and trained on. ``shown``:
    what the sampler saw, so that numerator and denominator of every ratio have the guide. ``plain``: the problem alone; the
    sampler's log-probabilities are still those with the guide (denominator ``behaviour``), those of the trainer (numerator,
    denominator ``old``) are without it. Such rollouts have the tag ``guided``.

    A guided rollout names what kind of guide it saw (``guidance``), its text, its level, and whether the task's outcome is right
    (`extra`: ``guide``, ``level``, ``right``). Rollouts that were made and are not trained on are groups of their own, ``aside``.
    """

    traced = True
    trigger: Trigger = Failing()
    guides: Guides = Hints()
    fate: Fate = Regroup()
    trained: Literal["shown", "plain"] = "shown"

    def provided(self) -> frozenset[str]:
        off = frozenset({"shown", f"tag:{GUIDED}"}) if self.trained == "plain" else frozenset()
        return super().provided() | off

    def suits(self, task: Task) -> str | None:
        return self.guides.suits(task) or super().suits(task)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        step = Guiding(self, asks, world, context)
        groups = self.fate.groups(step)
        step.log([*groups, *step.aside])
        return [*groups, *step.aside]


@dataclass
class Guiding:
    """One step of guided generation, as fates and guides see it. aside: groups that are made on the way and not trained on. made: the
    rollouts of every ask so far, by its place."""

    part: Guided
    asks: Sequence[Ask]
    world: World
    context: Context
    aside: list[Group] = field(default_factory=list)
    made: dict[int, list[Trajectory]] = field(default_factory=dict)

    @cached_property
    def problems(self) -> list[Problem]:
        """What each ask asks for."""
        return [self.world.problem(ask) for ask in self.asks]

    def wants(self, group: Group) -> bool:
        """Whether the trigger gives the prompt of this group help."""
        return self.part.trigger.wants(group, self.world.task, self.context)

    def plain(self, counts: Sequence[int], first: Sequence[int] | None = None) -> list[Group]:
        """A group for each ask with `counts` independent rollouts, numbered from `first` (0) on: the very ones of `independent`."""
        numbers = [range(f, f + n) for f, n in zip(first or [0] * len(counts), counts)]
        starts = [
            Start(problem, rollout_key(self.context, problem, ask.visit, OWN, sample), sample=sample)
            for ask, problem, samples in zip(self.asks, self.problems, numbers)
            for sample in samples
        ]
        done = iter(self.part.resumed(starts, self.world, self.context))
        groups = [self.group(place, [next(done) for _ in samples]) for place, samples in enumerate(numbers)]
        for place, group in enumerate(groups):
            self.made.setdefault(place, []).extend(group.trajectories)
        return groups

    def group(self, place: int, trajectories: Sequence[Trajectory]) -> Group:
        """Rollouts as the group that answers the ask at `place`."""
        return answered(self.asks[place], self.problems[place], trajectories, self.context)

    def ladders(self, places: Sequence[int]) -> Mapping[int, list[Guide]]:
        """The guides of the asks at `places` that the model's context has room for; asks without any are left out."""
        found = zip(places, self.part.guides.ladders(places, self)) if places else ()
        fitting = {place: [guide for guide in guides if self.fits(guide)] for place, guides in found}
        return {place: guides for place, guides in fitting.items() if guides}

    def fits(self, guide: Guide) -> bool:
        """Whether the model's context has room for a guide and an answer."""
        return fits(self.world.policy, guide.messages, self.part.max_new)

    def play(self, wishes: Sequence[tuple[int, Guide, int]]) -> list[Trajectory]:
        """A rollout for each (ask, guide, sample number), in order, as it is trained on."""
        starts = []
        for place, guide, sample in wishes:
            problem = self.problems[place]
            key = rollout_key(self.context, problem, self.asks[place].visit, HELPED, sample, guide.level)
            shown = dataclasses.replace(problem, messages=guide.messages)
            extra = {"guide": guide.text, "level": guide.level}
            starts.append(Start(shown, key, sample=sample, guidance=guide.kind, extra=extra))
        done = [self._judged(t) for t in self.part.resumed(starts, self.world, self.context)]
        for trajectory, (place, _, _) in zip(done, wishes):
            self.made.setdefault(place, []).append(trajectory)
        if self.part.trained == "shown":
            return done
        return [self._stripped(t, self.problems[place]) for t, (place, _, _) in zip(done, wishes)]

    def _judged(self, trajectory: Trajectory) -> Trajectory:
        """The rollout with what the task's outcome says of it, for those who select among guided ones."""
        return trajectory.replace(extra={**trajectory.extra, RIGHT: solved(trajectory, self.world.task)})

    def _stripped(self, trajectory: Trajectory, problem: Problem) -> Trajectory:
        """The rollout on the problem alone, with what the sampler saw beside it."""
        content = trajectory.content
        assert isinstance(content, Tokens)
        seen = content.tokens[: int(content.actions[0])] if len(content.actions) else content.tokens
        plain = behind(self.world.policy.encode(problem.messages), content)
        return trajectory.replace(content=dataclasses.replace(plain, shown=seen), tag=GUIDED)

    def log(self, groups: Sequence[Group]) -> None:
        """How often help was given and how often it helped: shares of asks and of rollouts."""
        made = [t for group in groups for t in group.trajectories]
        helped = [t for t in made if t.guidance]
        prompts = {(group.prompt, group.visit) for group in groups if any(t.guidance for t in group.trajectories)}
        self.context.log("generate/guided_share", len(prompts) / max(1, len(self.asks)))
        if helped:
            right = [solved(t, self.world.task) for t in helped]
            self.context.log("generate/guided_success", float(np.mean(right)))
            self.context.log("generate/guide_level", float(np.mean([t.extra["level"] for t in helped])))


__all__ = ["Guided", "Guiding"]
