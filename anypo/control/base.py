"""The control room's interface and its simplest member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.records import Group
from anypo.parts import Part


@dataclass(frozen=True)
class Ask:
    """`samples` rollouts wanted of the training problem with this index. `visit`: how many asks of the same prompt came before
    it in this run (`anypo.control.visits.Visits` fills it in)."""

    index: int
    samples: int
    visit: int = 0


class Control(Part, slot="control"):
    """Chooses the prompts of a step. `prompts` and `samples` are the planned size of a step."""

    prompts: int = Field(8, ge=1, description="prompts per step")
    samples: int = Field(8, ge=1, description="rollouts per prompt")

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        """`count` asks among training problems 0..problems-1 (called again in one step when a filter wants more)."""
        raise NotImplementedError

    def observe(self, groups: Sequence[Group], context: Context) -> None:
        """Learn from the finished groups of this step, those a filter dropped included."""


class Uniform(Control, name="uniform"):
    """Every problem once per pass, in an order drawn anew for every pass."""

    def start(self) -> dict[str, int]:
        return {"cursor": 0}

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        memory = context.memory[self]
        asks = []
        for place in range(memory["cursor"], memory["cursor"] + count):
            order = np.random.default_rng([context.seed, place // problems]).permutation(problems)
            asks.append(Ask(int(order[place % problems]), self.samples))
        memory["cursor"] += count
        return asks
