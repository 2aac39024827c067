"""Rollouts beside the worked solutions of the same prompts, for methods that learn from both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group
from anypo.generate.base import Generate, Independent, World, answered
from anypo.generate.guided.demonstrations import demonstration, solution, worked_only
from anypo.tasks.base import Problem, Task


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


class Worked(Generate, name="worked"):
    """No rollouts: the worked solution of every prompt that is asked for, a group of its own, whatever the number of rollouts. A
    solution is never cut; a problem without one has no group. So control decides what supervised training meets."""

    provides = frozenset({"demonstrations", "tag:demo", "unrewarded"})
    conversational = False

    def suits(self, task: Task) -> str | None:
        return worked_only(task)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        pairs = [(ask, problem) for ask in asks if (problem := world.problem(ask)).solution]
        made = [demonstration(problem, self._tokens(problem, world), world) for _, problem in pairs]
        return [answered(ask, problem, [demo], context) for (ask, problem), demo in zip(pairs, made)]

    def _tokens(self, problem: Problem, world: World) -> np.ndarray:
        return np.asarray(world.policy.answer(problem.solution))
