"""A task as a user would write it: satisfies the protocol without importing a base class."""

from __future__ import annotations

from typing import Any

from anypo.tasks import Problem, Reply


class Task:
    name, weights, outcome, n_heldout = "mine", {"right": 1.0}, "right", 1

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def __len__(self) -> int:
        return 1

    def train(self, index: int) -> Problem:
        return Problem(1, ({"role": "user", "content": "?"},), answer=self.answer)

    heldout = train

    def environment(self, problem: Problem) -> Any:
        return Episode(problem)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}


class Episode:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def reset(self) -> Any:
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        return Reply({"right": float(text == self.problem.answer)})


def make(answer: str) -> Task:
    return Task(answer)


def not_a_task() -> object:
    return object()
