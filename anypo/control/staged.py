"""Easy problems first: stages of a run, by what problems say of themselves."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from anypo.context import Context
from anypo.control.base import Ask, Uniform
from anypo.control.choosing import again
from anypo.outlook import Outlook
from anypo.tasks.base import Problem

LOOKS = 50
"""Problems looked at for every one that is wanted, before one of another stage is taken in its place."""


class Staged(Uniform, name="staged"):
    """The run goes through as many stages of equal length as `edges` make of the problems, the easiest first; a problem's difficulty
    is the entry `key` of its metadata, and stage i holds what is above `edges[i - 1]` and at most `edges[i]` (CRAFT-GUI,
    arXiv:2508.11360). Of the prompts of a later stage the share `review` is drawn from earlier ones. The policy goes on from stage to
    stage.

    Problems are drawn evenly until enough of the stage are found, so nothing depends on the size of the pool; where a stage has
    too few, others take their place, as do problems that say nothing of themselves.
    """

    key: str = "operations"
    edges: tuple[float, ...] = (3.0, 8.0)
    review: float = Field(0.1, ge=0.0, lt=1.0)

    @field_validator("edges")
    @classmethod
    def _rising(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if list(edges) != sorted(set(edges)):
            raise ValueError("edges are rising numbers")
        return edges

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if not self.edges:
            return f"without edges there is one stage; set control.edges to bounds of the metadata '{self.key}'"
        if outlook.steps <= len(self.edges):
            return f"{outlook.steps} steps are too few for {len(self.edges) + 1} stages; plan more steps"
        if outlook.task is None or not outlook.problems:
            return None
        some = [outlook.task.train(index) for index in range(min(outlook.problems, 256))]
        stages = {self.stage(problem) for problem in some}
        if stages == {None}:
            known = ", ".join(sorted(some[0].metadata)) or "nothing"
            return f"problems of this task do not say '{self.key}' in their metadata ({known}); set control.key to what they say"
        if len(stages) == 1:
            return (
                f"all problems of this task are of one stage; set control.edges to bounds of the metadata '{self.key}'"
            )
        return None

    def stage(self, problem: Problem) -> int | None:
        """The stage a problem belongs to; None where it does not say."""
        value = problem.metadata.get(self.key)
        return None if value is None else bisect.bisect_left(self.edges, float(value))

    def now(self, context: Context) -> int:
        """The stage of this step."""
        return min(len(self.edges), context.step * (len(self.edges) + 1) // max(1, context.total))

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        if context.world is None:
            return super().choose(problems, count, context)
        memory, pool, stage = context.memory[self], self.pool(problems, context.total), self.now(context)
        rng = np.random.default_rng([context.seed, context.step, memory["cursor"], 79])
        wanted = [int(rng.integers(stage)) if stage and rng.random() < self.review else stage for _ in range(count)]
        asked = set(again(memory, context, pool).tolist())
        drawn = (int(i) for i in rng.integers(pool, size=LOOKS * count))
        chosen = self._sorted(wanted, (i for i in drawn if i not in asked), context)
        memory["cursor"] += count
        memory["asked"] += chosen
        context.log("control/stage", float(stage))
        return [Ask(index, self.samples) for index in chosen]

    def _sorted(self, wanted: Sequence[int], drawn: Any, context: Context) -> list[int]:
        """A problem for every wanted stage, each once while there are others."""
        open_, taken, others = list(wanted), [], []
        for index in drawn:
            if not open_:
                break
            if index in taken or index in others:
                continue
            stage = self.stage(context.world.problem(Ask(index, 1)))
            if stage is None or stage in open_:
                open_.remove(open_[0] if stage is None else stage)
                taken.append(index)
            else:
                others.append(index)
        context.log("control/in_stage", len(taken) / max(1, len(wanted)))
        full = [*taken, *others[: len(open_)]] or [0]
        return np.resize(full, len(wanted)).tolist()  # type: ignore[no-any-return]
