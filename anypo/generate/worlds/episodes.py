"""Rollouts in Gymnasium environments: whole episodes, each in a new environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import FAILED, Group, Trajectory
from anypo.errors import UserError
from anypo.generate.act import Act, Own
from anypo.generate.base import OWN, Generate, World, answered, episode
from anypo.generate.conversation import Episode
from anypo.generate.worlds.steps import whole_episodes
from anypo.tasks.base import Task

MEMBER = "member"
"""The entry of a plan, and the key of trajectories, that says which member of a population acts."""

CANDIDATE = "candidate"
"""The tag of further episodes, by which the best of the fittest are found."""


class Episodes(Generate, name="episodes"):
    """`Ask.samples` whole episodes of every ask, played with the parameters that act for its plan (`World.acting`); one group each.

    Every episode is reset with its own seed, made of the run's seed, the prompt, the visit and the sample; its reward is the
    return. Trajectories of an ask that names a member of a population have the key ``member``. Logs ``episode/return`` and
    ``episode/length``.

    `candidates` members play `again` further episodes each, in groups of their own with the tag ``candidate``: those with the
    highest mean returns, and from the second step on member 0, whom a population keeps, in the place of the last of them.
    """

    conversational = False

    plans: ClassVar[frozenset[str]] = frozenset({MEMBER})
    provides = frozenset({f"key:{MEMBER}"})

    act: Act = Own()
    sampled: bool = Field(True, description="draw actions as while training; false: the most likely ones")
    candidates: int = Field(0, ge=0, description="members that are judged by further episodes")
    again: int = Field(30, ge=1, description="further episodes of each")

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        if self.suits(world.task) or not hasattr(world.policy, "act"):
            raise UserError("the generator 'episodes' needs a Gymnasium task and a control policy")
        groups = [self._played(ask, range(ask.samples), "", world, context) for ask in asks]
        chosen = self._candidates(asks, groups, context)
        return groups + [
            self._played(ask, range(ask.samples, ask.samples + self.again), CANDIDATE, world, context) for ask in chosen
        ]

    def _played(self, ask: Ask, samples: Sequence[int], tag: str, world: World, context: Context) -> Group:
        """The episodes of these numbers."""
        problem = world.problem(ask)
        episodes = [episode(ask, problem, context, OWN, sample) for sample in samples]
        with world.acting(ask.plan):
            played = whole_episodes(episodes, world, self.act, self.sampled)
        keys = {MEMBER: int(ask.plan[MEMBER])} if MEMBER in ask.plan else {}
        trajectories = [t.replace(keys=keys, tag=tag, extra={**t.extra, "episode_return": t.reward}) for t in played]
        for trajectory in trajectories:
            if trajectory.finish == FAILED:
                continue
            context.log("episode/return", trajectory.reward)
            context.log("episode/length", float(trajectory.turns))
        return answered(ask, problem, trajectories, context)

    def _candidates(self, asks: Sequence[Ask], groups: Sequence[Group], context: Context) -> list[Ask]:
        """The asks of the members that are to play again."""
        members = {number: int(ask.plan[MEMBER]) for number, ask in enumerate(asks) if MEMBER in ask.plan}
        worth = {number: _worth(groups[number]) for number in members}
        order = sorted(members, key=lambda number: (-worth[number], members[number]))[: self.candidates]
        kept = next((number for number, member in members.items() if member == 0), None)
        if order and context.step > 0 and kept is not None and kept not in order:
            order[-1] = kept
        return [asks[number] for number in order]

    def evaluate(self, episodes: Sequence[Episode], world: World, temperature: float = 0.0) -> list[Trajectory]:
        """Whole episodes with the trained parameters: the best actions (temperature 0), or actions as while training (1)."""
        if temperature not in (0.0, 1.0):
            raise UserError(f"a control policy is scored at temperature 0 or 1, not {temperature:g}")
        return whole_episodes(episodes, world, self.act, sampled=temperature == 1.0)

    def suits(self, task: Task) -> str | None:
        return None if hasattr(task, "make") else "it plays Gymnasium environments; choose a generator of texts"


def _worth(group: Group) -> float:
    """The mean return of the episodes that did not fail; minus infinity where it is no number, or there are none."""
    returns = [t.reward for t in group.trajectories if t.finish != FAILED]
    return float(np.nan_to_num(np.mean(returns), nan=-np.inf)) if returns else -np.inf
