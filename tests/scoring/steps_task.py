"""A task as control has them, in words: the outcome is an amount (10 for every digit of the answer), the score its mean."""

from __future__ import annotations

from typing import Any

from anypo.scoring import Returns
from anypo.tasks import Problem, Reply


class Steps:
    name, weights, outcome, n_heldout = "steps", {"return": 1.0}, "return", 3
    scorer = Returns()

    def __len__(self) -> int:
        return 20

    def train(self, index: int) -> Problem:
        return Problem(index, ({"role": "user", "content": f"{index} ="},))

    def heldout(self, index: int) -> Problem:
        return Problem(100 + index, ({"role": "user", "content": f"{100 + index} ="},))

    def environment(self, problem: Problem) -> Episode:
        return Episode(problem)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "source": "counts digits"}


class Episode:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def reset(self) -> Any:
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        return Reply({"return": 10.0 * sum(letter.isdigit() for letter in text)})


def make() -> Steps:
    return Steps()
