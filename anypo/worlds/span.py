"""Where does something happen? A row of readings in words, and the stretch of it in which they are high: the answer is an interval.

A small stand-in for temporal grounding (when does it happen in the film?): partial credit is the overlap with the truth, and a
prediction counts as right where that reaches a half, as usual there.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from anypo.data.content import Message
from anypo.data.records import prompt_id
from anypo.tasks.base import Problem, Reply
from anypo.tasks.text.onestep import conversation
from anypo.tasks.text.options import read
from anypo.tasks.text.spans import interval, overlap
from anypo.worlds.drawn import Drawn, DrawnOptions, parsed

NAME = "find_span"
ENOUGH = 0.5
"""The overlap from which a prediction counts as right."""


class SpanOptions(DrawnOptions):
    """`length` readings, one a second; in a stretch of `least` to `most` of them they are high. `noise`: how much they vary, of the
    difference between low and high (0.5: the two meet). The stretches are short: of those that may fill the row, one answer to all
    questions meets half, and whoever is paid for agreement finds it."""

    length: int = Field(24, ge=4, le=100)
    least: int = Field(3, ge=1)
    most: int = Field(6, ge=1)
    noise: float = Field(0.2, ge=0.0)


def parse(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options (`UserError`)."""
    return parsed(SpanOptions, NAME, options)


def load(options: Mapping[str, Any]) -> Drawn:
    """The task. An even start trains, an odd one is held out."""
    checked = read(SpanOptions, NAME, options)
    return Drawn(
        NAME,
        checked,
        draw=lambda rng, side: _readings(rng, side, checked),
        play=Span,
        split="by the first second: even trains, odd is held out",
        reward="overlap",
        verifier={"part": "intersection over union", "extract": "interval"},
    )


def _readings(rng: random.Random, side: int, options: SpanOptions) -> Problem:
    length, least = options.length, min(options.least, options.length - 2)
    start = rng.choice(range(side, length - least, 2))
    end = rng.randint(start + least, min(start + max(least, options.most), length - 1))
    level = lambda second: 70 if start <= second < end else 30
    readings = [round(level(second) + 40 * options.noise * rng.gauss(0, 1)) for second in range(length)]
    content = (
        f"Readings, one a second from second 0 on: {' '.join(map(str, readings))}. From which second to which are they high? "
        "Answer with start-end; the end is the first second that is low again."
    )
    answer = f"{start}-{end}"
    return Problem(prompt_id(content), conversation(content), answer, answer, {"length": float(length)})


class Span:
    """One question."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def reset(self) -> tuple[Message, ...]:
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        """The overlap of the last two numbers with the truth."""
        said, truth = interval(text), interval(self.problem.answer)
        shared = 0.0 if said is None or truth is None else overlap(said, truth)
        return Reply({"overlap": shared, "correct": float(shared >= ENOUGH)})


__all__ = ["NAME", "Span", "load", "parse"]
