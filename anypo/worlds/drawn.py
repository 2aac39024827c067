"""What worlds share whose problems are drawn one by one: their options, and a task of two sides."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from anypo.tasks.base import Environment, Problem
from anypo.tasks.text.options import read


class DrawnOptions(BaseModel):
    """seed: of the draws. size: training problems; heldout: held-out ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0)
    size: int = Field(10_000, ge=1)
    heldout: int = Field(256, ge=1)


def parsed(kind: type[DrawnOptions], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the task `name`, checked (`UserError`)."""
    read(kind, name, options)
    return {"name": name, **options}


@dataclass
class Drawn:
    """A task of drawn problems. Satisfies `anypo.tasks.base.Task`.

    draw: a problem from random numbers, on side 0 (training) or 1 (held out), which share no question; split: how it sees to that, in
    words. play: a problem's episode, of at most `turns` answers. reward: the component that is paid, the first where `paid` gives
    several their weights; verifier: what gives it, for provenance. tools: what may be called in an answer.
    """

    name: str
    options: DrawnOptions
    draw: Callable[[random.Random, int], Problem]
    play: Callable[[Problem], Environment]
    split: str
    reward: str
    verifier: Mapping[str, str]
    turns: int = 1
    tools: tuple[str, ...] = ()
    outcome: str = "correct"
    paid: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.weights = dict(self.paid) or {self.reward: 1.0}

    def __len__(self) -> int:
        return self.options.size

    @property
    def n_heldout(self) -> int:
        return self.options.heldout

    def train(self, index: int) -> Problem:
        return self._problem(index, len(self), 0)

    def heldout(self, index: int) -> Problem:
        return self._problem(index, self.n_heldout, 1)

    def environment(self, problem: Problem) -> Environment:
        return self.play(problem)

    def describe(self) -> dict[str, Any]:
        """Provenance."""
        return {
            "name": self.name,
            "source": self.options.model_dump() | {"split": self.split},
            "rewards": [{"name": self.reward, "verifier": dict(self.verifier)}],
            "outcome": self.outcome,
        }

    def _problem(self, index: int, count: int, side: int) -> Problem:
        if not 0 <= index < count:
            raise IndexError(index)
        return self.draw(random.Random(f"{self.options.seed}:{side}:{index}"), side)


__all__ = ["Drawn", "DrawnOptions", "parsed"]
