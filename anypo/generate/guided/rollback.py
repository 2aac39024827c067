"""Hard prompts from their end: rollouts begin late in an expert's solution, and earlier as they succeed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group
from anypo.errors import UserError
from anypo.generate.base import OWN, World, answered, rollout_key
from anypo.generate.guided.demonstrations import steps, worked_only
from anypo.generate.resume import Start, resume
from anypo.generate.trees.segments import _OneTurn
from anypo.tasks.base import Task

PREFIX = "prefix"
"""The `guidance` of a rollout that began with part of a solution."""


class Rollback(_OneTurn, name="rollback"):
    """Every rollout continues the first chunks of the problem's solution, at first all but the last one; once a group's success
    rate reaches `success`, the prompt's next groups begin one chunk earlier, down to the prompt itself (sequential rollback of
    IPA, arXiv:2512.24873; a reverse curriculum).

    The solution's chunks are context: shown and conditioned on, never trained. Chunks end with `delimiter`; an empty one makes
    every character a chunk.
    """

    success: float = Field(0.5, gt=0.0, le=1.0)
    delimiter: str = "\n"

    def suits(self, task: Task) -> str | None:
        return worked_only(task) or super().suits(task)

    def start(self) -> dict[str, Any]:
        return {"kept": {}}

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        kept: dict[int, int] = context.memory[self]["kept"]
        problems = [world.problem(ask) for ask in asks]
        starts, given = [], []
        for ask, problem in zip(asks, problems):
            if not problem.solution:
                raise UserError(f"task '{world.task.name}' has no worked solutions to begin in; choose a task that has")
            chunks = steps(problem.solution, self.delimiter)
            given.append(kept.setdefault(problem.prompt, max(0, len(chunks) - 1)))
            said = "".join(chunks[: given[-1]])
            starts += [
                Start(
                    problem,
                    rollout_key(context, problem, ask.visit, OWN, k),
                    sample=k,
                    said=said,
                    guidance=PREFIX if said else "",
                )
                for k in range(ask.samples)
            ]
        done = iter(resume(starts, world, self.sampling(context)))
        groups = [
            answered(ask, problem, [next(done) for _ in range(ask.samples)], context)
            for ask, problem in zip(asks, problems)
        ]
        for group, begun in zip(groups, given):
            right = np.mean([t.reward >= 1 - 1e-9 for t in group.trajectories]) if group.trajectories else 0.0
            if right >= self.success:
                kept[group.prompt] = min(kept[group.prompt], max(0, begun - 1))
        context.log("generate/given_chunks", float(np.mean(given)) if given else 0.0)
        return groups
