"""Rollouts beside the worked solutions of the same prompts, for methods that learn from both."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group
from anypo.generate.base import Independent, World
from anypo.generate.guided.demonstrations import demonstration, solution, worked_only
from anypo.tasks.base import Task


class WithExperts(Independent, name="with_experts"):
    """Independent rollouts, and for every `every`-th prompt its solution as a demonstration: a group of its own, so that it never
    enters the rollouts' statistics. Raises `UserError` when the task has no solutions."""

    traced = True
    provides = frozenset({"demonstrations", "tag:demo"})
    plans = frozenset({"shown"})  # a solution is one from the beginning
    every: int = Field(1, ge=1)

    def suits(self, task: Task) -> str | None:
        return worked_only(task) or super().suits(task)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = super().rollout(asks, world, context)
        taught = groups[:: self.every]
        demos = [demonstration(g.problem, solution(g.problem, world, self.max_new), world) for g in taught]
        return groups + [group.replace(trajectories=(demo,)) for group, demo in zip(taught, demos)]
