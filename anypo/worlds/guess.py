"""A small multi-turn environment: find a secret number from "higher" and "lower".

Binary search needs ceil(log2(numbers + 1)) guesses; a policy that ignores the hints finds the number by luck.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from anypo.data.content import Message
from anypo.data.records import prompt_id
from anypo.errors import UserError
from anypo.tasks.base import Problem, Reply
from anypo.tasks.text.extract import last_integer
from anypo.tasks.text.onestep import conversation
from anypo.tasks.text.options import read
from anypo.worlds.drawn import DrawnOptions

NAME = "guess_number"


class GuessOptions(DrawnOptions):
    """The secret lies in a range of `numbers` consecutive integers between 0 and `highest`; there are `turns` guesses."""

    numbers: int = Field(10, ge=2)
    highest: int = Field(99, ge=3)
    turns: int = Field(5, ge=1)


def parse(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options (`UserError`)."""
    checked = read(GuessOptions, NAME, options)
    ranges = checked.highest - checked.numbers + 2
    if ranges < 2:
        raise UserError(f"task '{NAME}': {checked.numbers} numbers do not fit twice between 0 and {checked.highest}")
    return {"name": NAME, **options}


def load(options: Mapping[str, Any]) -> GuessTask:
    """The task."""
    parse(options)
    return GuessTask(read(GuessOptions, NAME, options))


class GuessTask:
    """Satisfies `anypo.tasks.base.Task`. The lowest number of the range decides the side: even ones train, odd are held out."""

    name = NAME
    weights: Mapping[str, float] = {"correct": 1.0}
    outcome = "correct"

    def __init__(self, options: GuessOptions) -> None:
        self.options = options
        self.turns = options.turns

    def __len__(self) -> int:
        return self.options.size

    @property
    def n_heldout(self) -> int:
        """As many as wanted, and no more than there are different ones."""
        return min(self.options.heldout, len(self._lows(1)) * self.options.numbers)

    def train(self, index: int) -> Problem:
        if not 0 <= index < len(self):
            raise IndexError(index)
        draw = random.Random(f"{self.options.seed}:{index}")
        low = draw.choice(self._lows(0))
        return self._problem(low, low + draw.randrange(self.options.numbers))

    def heldout(self, index: int) -> Problem:
        """The problems of a seeded shuffle of all different ones."""
        if not 0 <= index < self.n_heldout:
            raise IndexError(index)
        every = [(low, low + step) for low in self._lows(1) for step in range(self.options.numbers)]
        random.Random(self.options.seed).shuffle(every)
        return self._problem(*every[index])

    def environment(self, problem: Problem) -> GuessNumber:
        return GuessNumber(problem, self.options.turns)

    def describe(self) -> dict[str, Any]:
        """Provenance."""
        return {
            "name": NAME,
            "source": self.options.model_dump() | {"split": "by the lowest number: even trains, odd is held out"},
            "rewards": [{"name": "correct", "verifier": {"part": "secret found", "extract": "last_integer"}}],
            "outcome": self.outcome,
        }

    def _lows(self, side: int) -> range:
        return range(side, self.options.highest - self.options.numbers + 2, 2)

    def _problem(self, low: int, secret: int) -> Problem:
        high = low + self.options.numbers - 1
        content = (
            f"I am thinking of an integer from {low} to {high}. You have {self.options.turns} guesses. "
            "Answer with one integer; I will say higher or lower."
        )
        return Problem(
            prompt=prompt_id(f"{content} {secret}"),  # one question text stands for several secrets
            messages=conversation(content),
            answer=str(secret),
            metadata={"low": low, "high": high},
        )


class GuessNumber:
    """One game."""

    def __init__(self, problem: Problem, turns: int) -> None:
        self.problem, self.turns, self.taken = problem, turns, 0

    def reset(self) -> tuple[Message, ...]:
        self.taken = 0
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        """One guess: reward 1 when it is right. A text without an integer is told so and costs a turn."""
        self.taken += 1
        found = last_integer(text)
        secret = int(self.problem.answer)
        guess = int(found) if found is not None and len(found) < 20 else None
        if guess == secret:
            return Reply({"correct": 1.0})
        if self.taken >= self.turns:
            return Reply({"correct": 0.0})
        hint = "Answer with one integer." if guess is None else "higher" if secret > guess else "lower"
        return Reply({"correct": 0.0}, done=False, messages=({"role": "user", "content": hint},))
