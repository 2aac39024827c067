"""Small exercises in Python, made one after the other: a function is asked for and judged by tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from anypo.data.records import prompt_id
from anypo.errors import UserError
from anypo.tasks.base import Problem
from anypo.tasks.code.verifier import Program
from anypo.tasks.pool import Pool
from anypo.tasks.text.extract import INSTRUCTIONS
from anypo.tasks.text.onestep import OneStepTask, conversation, identify
from anypo.tasks.text.options import TaskOptions, read
from anypo.tasks.text.rewards import complete
from anypo.tasks.text.scoring import Scorer, prepare

NAME = "python_exercises"

TESTS = 4
"""Tests of an exercise."""


@dataclass(frozen=True)
class Exercise:
    """A function that is asked for. what: what it does, after "a function NAME(arguments) that"; body: an expression that does it;
    draw: an argument for a test."""

    name: str
    arguments: str
    what: str
    body: str
    draw: Callable[[random.Random], Any]


def _numbers(rng: random.Random) -> list[int]:
    return [rng.randint(-9, 9) for _ in range(rng.randint(1, 6))]


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("abcdeiou") for _ in range(rng.randint(1, 8)))


def _integer(rng: random.Random) -> int:
    return rng.randint(0, 60)


FORMS: Mapping[str, Sequence[tuple[str, str, str, Callable[[random.Random], Any]]]] = {
    "easy": (
        ("add_{a}(x)", "returns x plus {a}", "x + {a}", _integer),
        ("times_{a}(x)", "returns x times {a}", "x * {a}", _integer),
        ("minus_{b}(x)", "returns x minus {b}", "x - {b}", _integer),
        ("rest_{a}(x)", "returns the remainder of x divided by {a}", "x % {a}", _integer),
        ("over_{b}(x)", "returns whether x is greater than {b}", "x > {b}", _integer),
    ),
    "medium": (
        ("line_{a}_{b}(x)", "returns {a} times x plus {b}", "{a} * x + {b}", _integer),
        ("scale_{a}(numbers)", "returns a list of the numbers times {a}", "[{a} * n for n in numbers]", _numbers),
        (
            "above_{b}(numbers)",
            "returns how many of the numbers are above {b}",
            "sum(n > {b} for n in numbers)",
            _numbers,
        ),
        ("total_{a}(numbers)", "returns the sum of the numbers plus {a}", "sum(numbers) + {a}", _numbers),
        ("count_{c}(text)", "returns how often the letter {c} is in the text", "text.count('{c}')", _word),
        ("repeat_{a}(text)", "returns the text repeated {a} times", "text * {a}", _word),
        ("without_{c}(text)", "returns the text without the letter {c}", "text.replace('{c}', '')", _word),
    ),
    "hard": (
        (
            "multiples_{a}_{b}(n)",
            "returns the sum of all multiples of {a} from {b} up to and including n",
            "sum(k for k in range({b}, n + 1) if k % {a} == 0)",
            _integer,
        ),
        (
            "digits_{a}(n)",
            "returns {a} times the sum of the digits of n",
            "{a} * sum(int(d) for d in str(n))",
            _integer,
        ),
        (
            "squares_{a}_{b}(numbers)",
            "returns a list of the squares, each plus {b}, of the numbers that {a} does not divide",
            "[n * n + {b} for n in numbers if n % {a}]",
            _numbers,
        ),
        (
            "steps_{a}(n)",
            "returns how often n can be divided by {a} without remainder (0 for n = 0)",
            "next(k for k in range(99) if n == 0 or n % {a} ** (k + 1))",
            _integer,
        ),
        (
            "longest_{c}(text)",
            "returns the length of the longest part of the text without the letter {c}",
            "max(map(len, text.split('{c}')))",
            _word,
        ),
    ),
}
"""Exercises by level, with {a}, {b} (numbers) and {c} (a letter) to draw."""


def drawn(level: str, rng: random.Random) -> Exercise:
    """An exercise of that level."""
    heading, what, body, draw = rng.choice(FORMS[level])
    values = {"a": rng.randint(2, 40), "b": rng.randint(1, 40), "c": rng.choice("abcdeiou")}
    name, _, arguments = heading.format(**values).rstrip(")").partition("(")
    return Exercise(name, arguments, what.format(**values), body.format(**values), draw)


class ExerciseOptions(TaskOptions):
    """level: how much a function does. size: training problems; heldout: most held-out ones. seconds: a test may take."""

    level: Literal["easy", "medium", "hard", "mixed"] = "mixed"
    seed: int = Field(0, ge=0)
    size: int = Field(10_000, ge=1)
    heldout: int = Field(128, ge=1, le=128)
    seconds: float = Field(2.0, gt=0.0)


@dataclass(frozen=True)
class Exercises:
    """Where the problems come from (`anypo.tasks.text.onestep.Source`). The text of a question decides on its side."""

    options: ExerciseOptions

    def __len__(self) -> int:
        return self.options.size

    @property
    def n_heldout(self) -> int:
        return self.options.heldout

    def train(self, index: int) -> Problem:
        return self._problem("train", index, side=0)

    def heldout(self, index: int) -> Problem:
        return self._problem("heldout", index, side=1)

    def describe(self) -> dict[str, Any]:
        return {"exercises": NAME, **self.options.model_dump(include={"level", "seed", "size", "heldout"})}

    def _problem(self, name: str, index: int, side: int) -> Problem:
        rng = random.Random(f"{self.options.seed}:{name}:{index}")
        while True:
            level = self.options.level if self.options.level != "mixed" else rng.choice(sorted(FORMS))
            found = drawn(level, rng)
            asked = f"Write a Python function {found.name}({found.arguments}) that {found.what}."
            text = f"{asked}\n{INSTRUCTIONS['code']}"
            if prompt_id(text) % 5 // 4 == side and (tests := _tests(found, rng)):
                break
        messages = conversation(text, self.options.system)
        return Problem(
            identify(messages),
            messages,
            answer="\n".join(tests),
            solution=f"```python\n{_source(found)}\n```",
            metadata={"level": level},
        )


def _source(exercise: Exercise) -> str:
    return f"def {exercise.name}({exercise.arguments}):\n    return {exercise.body}"


def _tests(exercise: Exercise, rng: random.Random) -> list[str]:
    """Assertions of what the exercise's own body gives, which neither a constant nor the argument itself passes; none where such are
    not found. Of plain draws one hard exercise in five would be solved by ``return 0``."""
    names: dict[str, Any] = {}
    exec(_source(exercise), names)  # the library's own text, not a model's
    for _ in range(50):
        given = [exercise.draw(rng) for _ in range(TESTS)]
        wanted = [names[exercise.name](one) for one in given]
        if wanted != given and any(one != wanted[0] for one in wanted):
            return [f"assert {exercise.name}({one!r}) == {value!r}" for one, value in zip(given, wanted)]
    return []


def parse(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` checked (`UserError`)."""
    read(ExerciseOptions, NAME, options)
    return {"name": NAME, **options}


def load(options: Mapping[str, Any]) -> OneStepTask:
    """The task. `UserError` where programs cannot be run."""
    checked = read(ExerciseOptions, NAME, {key: value for key, value in options.items() if key != "name"})
    components = complete(checked.rewards, Program(seconds=checked.seconds))
    pool = Pool(checked.workers, (prepare, (components,)), checked.memory)
    try:
        pool.check()
    except UserError as error:
        raise UserError(f"task '{NAME}': {error}") from None
    return OneStepTask(
        NAME, Exercises(checked), Scorer(components, max(checked.timeout, TESTS * checked.seconds), pool)
    )


__all__ = ["NAME", "Exercises", "load", "parse"]
