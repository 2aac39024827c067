"""A task without its labels: what test-time reinforcement learning may see of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from anypo.data.content import Message
from anypo.tasks.base import Action, Environment, Problem, Reply, Task, restores
from anypo.tasks.live import attempt

LABEL = "label"
"""Reward component that carries the verifier's verdict, where there is one. Nothing trains on it: signals that make
pseudo-rewards take it out of the components before credit sees them."""


def labelled(task: Task) -> bool:
    """Whether the task can say right or wrong."""
    return bool(getattr(task, "labelled", True))


class Unlabelled:
    """The problems of `task` without answers, solutions and rewards (every scalar reward is 0). Satisfies
    `anypo.tasks.base.Task`. The verdict of the task's outcome stays as the component `LABEL`, for measuring only; its other
    components may depend on the answer too and are left out."""

    def __init__(self, task: Task) -> None:
        self.task, self.name, self.outcome = task, task.name, task.outcome
        self.weights: Mapping[str, float] = {}
        self._whole: dict[int, Problem] = {}

    def __len__(self) -> int:
        return len(self.task)

    @property
    def n_heldout(self) -> int:
        return self.task.n_heldout

    def train(self, index: int) -> Problem:
        return self._hide(self.task.train(index))

    def heldout(self, index: int) -> Problem:
        return self._hide(self.task.heldout(index))

    def environment(self, problem: Problem) -> Environment:
        """The episode; a problem that this task did not pose (an auxiliary question) is played as it is."""
        return Blind(self.task.environment(self._whole.get(problem.prompt, problem)), self._verdict)

    def describe(self) -> dict[str, Any]:
        return {**self.task.describe(), "labels": "hidden from training"}

    def _hide(self, problem: Problem) -> Problem:
        self._whole[problem.prompt] = problem
        return replace(problem, answer="", solution="")

    @property
    def stored(self) -> bool:
        return bool(getattr(self.task, "stored", False))

    @property
    def turns(self) -> int | None:
        """Most turns of an episode, where the task says so."""
        return getattr(self.task, "turns", None)

    @property
    def restores(self) -> bool:
        return restores(self.task)

    @property
    def _verdict(self) -> str:
        return self.outcome if labelled(self.task) else ""


@dataclass
class Blind:
    """An environment whose rewards are reduced to the verdict (component `outcome`, '' when there is none)."""

    environment: Environment
    outcome: str

    def reset(self, start: Any = None) -> tuple[Message, ...]:
        return self.environment.reset() if start is None else self.environment.reset(start)  # type: ignore[call-arg]

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        reply = attempt(self.environment, Action(text, tokens, limit))
        return replace(reply, rewards={LABEL: reply.rewards[self.outcome]} if self.outcome in reply.rewards else {})

    def __getattr__(self, name: str) -> Any:
        """What only some environments have: `snapshot`, `restores`."""
        if name in ("snapshot", "restores"):
            return getattr(self.environment, name)
        raise AttributeError(name)
