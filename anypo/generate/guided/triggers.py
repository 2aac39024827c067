"""When a prompt is given help."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.records import Group
from anypo.generate.groups.rounds import solved
from anypo.outlook import Outlook, unreached
from anypo.parts import Part
from anypo.tasks.base import Task


class Trigger(Part, slot="trigger"):
    """Decides for each prompt whether it is given help. blind: it does not look at the rollouts that had none, so that they need
    not be made where they are not trained on."""

    blind: ClassVar[bool] = False

    @abstractmethod
    def wants(self, group: Group, task: Task, context: Context) -> bool:
        """Whether the prompt of `group`, whose rollouts so far these are, is given (more) help."""


class Always(Trigger, name="always"):
    """Every prompt."""

    blind = True

    def wants(self, group: Group, task: Task, context: Context) -> bool:
        return True


class ByLot(Trigger, name="by_lot"):
    """A prompt drawn with probability `share`, and the same prompts in the whole run."""

    blind = True
    share: float = Field(0.5, ge=0.0, le=1.0)

    def wants(self, group: Group, task: Task, context: Context) -> bool:
        return float(np.random.default_rng([context.seed, group.prompt, 61]).random()) < self.share


class Failing(Trigger, name="failing"):
    """A prompt of whose rollouts a share of at most `rate` is right (0: none is), from the moment `after` on (steps, below 1 a
    share of the run). Right is what the task's outcome says: a reward for the form alone does not count."""

    rate: float = Field(0.0, ge=0.0, lt=1.0)
    after: float = Field(0.0, ge=0.0)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return unreached(self.after, outlook.steps, "generate.trigger.after") if self.after else None

    def wants(self, group: Group, task: Task, context: Context) -> bool:
        right = [solved(t, task) for t in group.trajectories]
        return (
            context.step >= context.moment(self.after) and bool(right) and sum(right) <= self.rate * len(right) + 1e-9
        )


class Hard(Failing, name="hard"):
    """Decided once for each prompt, when its first rollouts are seen: one that was `failing` then is hard for the whole run."""

    def start(self) -> dict[str, Any]:
        return {"hard": {}}

    def wants(self, group: Group, task: Task, context: Context) -> bool:
        known: dict[int, bool] = context.memory[self]["hard"]
        if group.prompt not in known:
            known[group.prompt] = super().wants(group, task, context)
        return known[group.prompt]


__all__ = ["Always", "ByLot", "Failing", "Hard", "Trigger"]
