"""What is to be tapped next? A screen in words, a goal of several operations, and how many of them are done: the answer is one action.

A small stand-in for operating a telephone from its screen. A problem is one step of a task, and says how many operations the whole
task needs (metadata ``operations``): the longer it is, the more of the goal has to be kept apart. Questions about the screen
come beside operations; they count as one operation more than the longest task.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from anypo.data.content import Message
from anypo.data.records import prompt_id
from anypo.tasks.base import Problem, Reply
from anypo.tasks.text.onestep import conversation
from anypo.tasks.text.options import read
from anypo.worlds.drawn import Drawn, DrawnOptions, parsed

NAME = "screens"

LABELS = ("Save", "Send", "Mail", "Maps", "Home", "Edit", "Play", "Stop", "Next", "Help", "Date", "Call")
WORDS = ("red", "tea", "sun", "box", "key", "map", "ice", "owl")
SIDES = ("up", "down", "left", "right")
WEIGHTS = {"format": 0.1, "action": 0.9}
ACTION = re.compile(r"<action>\s*(\w+)\s*(.*?)\s*</action>", re.DOTALL)
FORMS = "click X Y | type WORD | scroll SIDE | back | finish | answer LABEL"
VERBS = frozenset({"click", "type", "scroll", "back", "finish", "answer"})


class ScreenOptions(DrawnOptions):
    """`widgets` on a screen; tasks of 1 to `longest` operations; `questions`: share of questions about the screen."""

    widgets: int = Field(4, ge=2, le=len(LABELS))
    longest: int = Field(10, ge=1, le=20)
    questions: float = Field(0.1, ge=0.0, le=1.0)


@dataclass(frozen=True)
class Widget:
    """A button: its label, and its box in percent of the screen, edges included."""

    label: str
    left: int
    top: int
    right: int
    bottom: int

    def holds(self, x: int, y: int) -> bool:
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    @property
    def middle(self) -> tuple[int, int]:
        return (self.left + self.right) // 2, (self.top + self.bottom) // 2

    def __str__(self) -> str:
        return f"{self.label} {self.left} {self.top} {self.right} {self.bottom}"


def parse(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options (`UserError`)."""
    return parsed(ScreenOptions, NAME, options)


def load(options: Mapping[str, Any]) -> Drawn:
    """The task. Questions of even identity train, odd ones are held out."""
    checked = read(ScreenOptions, NAME, options)
    return Drawn(
        NAME,
        checked,
        draw=lambda rng, side: _drawn(rng, side, checked),
        play=Screen,
        split="by the question's identity: even trains, odd is held out",
        reward="action",
        verifier={"part": "type of the action, times its argument", "extract": "the last <action>"},
        paid=WEIGHTS,
    )


def _drawn(rng: random.Random, side: int, options: ScreenOptions) -> Problem:
    while True:
        problem = _step(rng, options)
        if problem.prompt % 2 == side:
            return problem


def _step(rng: random.Random, options: ScreenOptions) -> Problem:
    widgets = [
        _widget(row, label, options.widgets, rng) for row, label in enumerate(rng.sample(LABELS, options.widgets))
    ]
    screen = f"Screen (label, left, top, right, bottom): {'; '.join(map(str, widgets))}."
    if rng.random() < options.questions:
        target = rng.choice(widgets)
        x, y = target.middle
        asked, done, answer, size = f"What stands at {x} {y}?", "", f"answer {target.label}", options.longest + 1
        metadata: dict[str, Any] = {"box": ()}
    else:
        size = rng.randint(1, options.longest)
        goal = [_operation(rng, widgets) for _ in range(size)]
        at = rng.randint(0, size)
        asked = f"Goal: {', '.join(said for said, _, _ in goal)}, finish."
        done = f" Done: {at}."
        answer, box = ("finish", ()) if at == size else goal[at][1:]
        metadata = {"box": box}
    text = f"{screen} {asked}{done} What comes next? <action>{FORMS}</action>"
    metadata["operations"] = float(size)
    solution = f"<action>{answer}</action>"
    return Problem(prompt_id(text), conversation(text), answer, solution, metadata)


def _widget(row: int, label: str, rows: int, rng: random.Random) -> Widget:
    height = 96 // rows
    left, top = rng.randint(0, 60), row * height + rng.randint(0, max(0, height // 3))
    return Widget(label, left, top, left + rng.randint(15, 38), top + max(2, height // 2))


def _operation(rng: random.Random, widgets: list[Widget]) -> tuple[str, str, tuple[int, ...]]:
    """How an operation is said, the action that does it, and the box that a click has to hit."""
    kind = rng.choice(("click", "click", "type", "scroll", "back"))
    if kind == "click":
        target = rng.choice(widgets)
        box = (target.left, target.top, target.right, target.bottom)
        return f"tap {target.label}", "click {} {}".format(*target.middle), box
    if kind == "type":
        word = rng.choice(WORDS)
        return f"type {word}", f"type {word}", ()
    side = rng.choice(SIDES)
    return (f"scroll {side}", f"scroll {side}", ()) if kind == "scroll" else ("go back", "back", ())


@dataclass(frozen=True)
class Screen:
    """One step of a task."""

    problem: Problem

    def reset(self) -> tuple[Message, ...]:
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        """`format`: an action stands there that can be read. `action`: its type is right, times how right its argument is."""
        read_ = said(text)
        score = 0.0 if read_ is None else graded(*read_, self.problem)
        return Reply({"format": float(read_ is not None), "action": score, "correct": float(score >= 1 - 1e-9)})


def said(text: str) -> tuple[str, str] | None:
    """Type and argument of the last action in a text; None where there is none, or none of a known form."""
    found = ACTION.findall(text)
    if not found or found[-1][0] not in VERBS:
        return None
    verb, rest = found[-1]
    numbers = re.fullmatch(r"-?\d+[ ,]+-?\d+", rest) is not None
    fits = {"click": numbers, "scroll": rest in SIDES, "back": not rest, "finish": not rest}.get(verb, bool(rest))
    return (verb, rest) if fits else None


def graded(verb: str, rest: str, problem: Problem) -> float:
    """1 for what does it: a click anywhere in the box, a direction, a word; words by the F1 of their parts; 0 for another type."""
    right, _, wanted = problem.answer.partition(" ")
    if verb != right:
        return 0.0
    if verb == "click":
        x, y = map(int, re.findall(r"-?\d+", rest))
        left, top, far, bottom = problem.metadata["box"]
        return float(left <= x <= far and top <= y <= bottom)
    return overlap(rest, wanted) if verb in ("type", "answer") else float(rest == wanted)


def overlap(text: str, truth: str) -> float:
    """F1 of the words of two texts, whatever their case."""
    one, two = Counter(text.lower().split()), Counter(truth.lower().split())
    shared = sum((one & two).values())
    return 2 * shared / (sum(one.values()) + sum(two.values())) if shared else 0.0


__all__ = ["NAME", "WEIGHTS", "Screen", "graded", "load", "overlap", "parse", "said"]
