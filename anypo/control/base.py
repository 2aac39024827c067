"""The control room's interface and its simplest member."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.outlook import Outlook
from anypo.parts import Part
from anypo.tasks.base import Problem


@dataclass(frozen=True)
class Ask:
    """`samples` rollouts wanted of a problem.

    index: the training problem's, unless `problem` is one that no task lists (rewritten, evolved, synthesised; index -1, or that
    of the problem it came from). start: the state of the environment to begin in (None: its own beginning). shown: messages put
    before the prompt when sampling only; what is trained on is the plain prompt. plan: further entries (a level, a horizon, a
    member) that generators know by name. visit: how many asks of the same prompt came before this one in this run
    (`anypo.control.visits.Visits` fills it in).
    """

    index: int
    samples: int
    problem: Problem | None = None
    start: Any = None
    shown: tuple[Mapping[str, str], ...] = ()
    plan: Mapping[str, int | float | str] = field(default_factory=dict)
    visit: int = 0


class Control(Part, slot="control"):
    """Chooses the prompts of a step. `prompts` and `samples` are the planned size of a step.

    plans: what its asks may say beyond a problem and a number: entries of `Ask.plan`, and ``shown`` and ``start``. An algorithm
    in which nobody reads one of them is refused (`Generate.plans`).
    """

    plans: ClassVar[frozenset[str]] = frozenset()
    prompts: int = Field(8, ge=1, description="prompts per step")
    samples: int = Field(8, ge=1, description="rollouts per prompt")

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        """`count` asks among training problems 0..problems-1 (called again in one step when a filter wants more)."""
        raise NotImplementedError

    def observe(self, groups: Sequence[Group], batch: Batch, context: Context) -> None:
        """Learn from the finished groups of this step, those a filter dropped included, and from the last update batch as credit and
        update left it (without rows where nothing was trained on)."""

    def pool(self, problems: int, steps: int) -> int:
        """How many of the task's `problems` a run of `steps` steps draws from, the first ones."""
        return problems

    @property
    def often(self) -> int:
        """How often prompts should be met where something is remembered of them."""
        return 5

    def seldom(self, outlook: Outlook) -> str | None:
        """A sentence where a run visits no more prompts than it draws from, so that what is remembered of a prompt is hardly ever
        read; None where prompts are met again, or where nobody can know."""
        visits = outlook.steps * self.prompts
        if not outlook.problems or visits > self.pool(outlook.problems, outlook.steps):
            return None
        able = "passes" in type(self).model_fields and outlook.steps >= 5
        advice = f"; set control.passes={self.often}" if able else "; plan more steps"
        return f"{outlook.problems} problems and {visits} visits, so hardly a prompt is met twice{advice}"


class Uniform(Control, name="uniform"):
    """Every problem once per pass, in an order drawn anew for every pass.

    `passes`: how often the run is to meet every problem. It then trains on the first steps * `prompts` / `passes` problems of the
    task (at least `prompts`); methods that remember prompts need this on a task with more problems than the run visits. 0: on all.
    """

    passes: float = Field(0.0, ge=0.0)

    def pool(self, problems: int, steps: int) -> int:
        wanted = math.ceil(steps * self.prompts / self.passes) if self.passes else problems
        return min(problems, max(wanted, self.prompts))

    def start(self) -> dict[str, int]:
        return {"cursor": 0}

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        memory, problems = context.memory[self], self.pool(problems, context.total)
        places = range(memory["cursor"], memory["cursor"] + count)
        passes = {place // problems for place in places}
        orders = {number: np.random.default_rng([context.seed, number]).permutation(problems) for number in passes}
        memory["cursor"] += count
        return [Ask(int(orders[place // problems][place % problems]), self.samples) for place in places]
