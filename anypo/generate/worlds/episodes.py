"""Rollouts in Gymnasium environments: whole episodes, each in a new environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

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


class Episodes(Generate, name="episodes"):
    """`Ask.samples` whole episodes of every ask, played with the parameters that act for its plan (`World.acting`); one group each.

    Every episode is reset with its own seed, made of the run's seed, the prompt, the visit and the sample; its reward is the
    return. Trajectories of an ask that names a member of a population have the key ``member``. Logs ``episode/return`` and
    ``episode/length``.
    """

    plans: ClassVar[frozenset[str]] = frozenset({MEMBER})
    provides = frozenset({f"key:{MEMBER}"})

    act: Act = Own()
    sampled: bool = Field(True, description="draw actions as while training; false: the most likely ones")

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        if self.suits(world.task) or not hasattr(world.policy, "act"):
            raise UserError("the generator 'episodes' needs a Gymnasium task and a control policy")
        groups = []
        for ask in asks:
            problem = world.problem(ask)
            episodes = [episode(ask, problem, context, OWN, sample) for sample in range(ask.samples)]
            with world.acting(ask.plan):
                played = whole_episodes(episodes, world, self.act, self.sampled)
            keys = {MEMBER: int(ask.plan[MEMBER])} if MEMBER in ask.plan else {}
            trajectories = [t.replace(keys=keys, extra={**t.extra, "episode_return": t.reward}) for t in played]
            for trajectory in trajectories:
                if trajectory.finish == FAILED:
                    continue
                context.log("episode/return", trajectory.reward)
                context.log("episode/length", len(trajectory))
            groups.append(answered(ask, problem, trajectories, context))
        return groups

    def evaluate(self, episodes: Sequence[Episode], world: World, temperature: float = 0.0) -> list[Trajectory]:
        """Whole episodes with the trained parameters: the best actions (temperature 0), or actions as while training (1)."""
        if temperature not in (0.0, 1.0):
            raise UserError(f"a control policy is scored at temperature 0 or 1, not {temperature:g}")
        return whole_episodes(episodes, world, self.act, sampled=temperature == 1.0)

    def suits(self, task: Task) -> str | None:
        return None if hasattr(task, "make") else "it plays Gymnasium environments; choose a generator of texts"
