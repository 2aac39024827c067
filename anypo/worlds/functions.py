"""Requests that are met by calling functions: the answer is a list of calls, compared as syntax trees with what was asked for.

An answer thinks between ``<think>`` and ``</think>`` and ends in a list of calls as Python spells them, ``[timer(minutes=5)]``. One
criterion pays: form and calls both right. The order of calls and of arguments, quotes and white space make no difference.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from anypo.data.content import Message
from anypo.data.records import prompt_id
from anypo.tasks.base import Problem, Reply
from anypo.tasks.text.onestep import conversation
from anypo.tasks.text.options import read
from anypo.worlds.drawn import Drawn, DrawnOptions, parsed

NAME = "function_calls"
FORM = re.compile(r"\s*<think>.*?</think>\s*(\[.*\])\s*", re.DOTALL)
LONGEST = 2_000
"""Letters of a list of calls that are read."""

ROOMS = ("hall", "bath", "attic", "study")
SIGNATURES = "light(room: str, on: bool), heat(room: str, degrees: int), timer(minutes: int)"

Call = tuple[str, frozenset[tuple[str, str, Any]]]
"""A function's name and its arguments: names, types and values."""


class FunctionOptions(DrawnOptions):
    """`calls`: most calls that a request takes."""

    calls: int = Field(2, ge=1, le=4)


def parse(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options (`UserError`)."""
    return parsed(FunctionOptions, NAME, options)


def load(options: Mapping[str, Any]) -> Drawn:
    """The task. The numbers of a request decide the side: even ones train, odd ones are held out."""
    checked = read(FunctionOptions, NAME, options)
    return Drawn(
        NAME,
        checked,
        draw=lambda rng, side: _request(rng, side, checked.calls),
        play=Functions,
        split="by the numbers of a request: even trains, odd is held out",
        reward="correct",
        verifier={"part": "calls as syntax trees", "extract": "the list after </think>"},
    )


def _request(rng: random.Random, side: int, most: int) -> Problem:
    """Up to `most` wishes, each for another function or room; the first has a number, which decides the side."""
    wishes = [_timed(rng, side)]
    while len(wishes) < rng.randint(1, most):
        wish = rng.choice((_timed, _warm, _lit))(rng, side)
        wishes += [wish] if wish[0] not in [one for one, _ in wishes] else []
    rng.shuffle(wishes)
    asked, calls = zip(*wishes)
    content = (
        f"Functions: {SIGNATURES}. Think between <think> and </think>, then write the calls as a list. "
        f"Request: {', '.join(asked)}."
    )
    answer = f"[{', '.join(calls)}]"
    thought = f"<think>{len(calls)} call{'s' if len(calls) > 1 else ''}</think>"
    return Problem(prompt_id(content), conversation(content), answer, thought + answer)


def _timed(rng: random.Random, side: int) -> tuple[str, str]:
    minutes = rng.randrange(2 + side, 60, 2)
    return f"remind me in {minutes} minutes", f"timer(minutes={minutes})"


def _warm(rng: random.Random, side: int) -> tuple[str, str]:
    room, degrees = rng.choice(ROOMS), rng.randrange(14 + side, 26, 2)
    return f"{degrees} degrees in the {room}", f'heat(room="{room}", degrees={degrees})'


def _lit(rng: random.Random, side: int) -> tuple[str, str]:
    room, on = rng.choice(ROOMS), rng.random() < 0.5
    return f"lights {'on' if on else 'off'} in the {room}", f'light(room="{room}", on={on})'


class Functions:
    """One request."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def reset(self) -> tuple[Message, ...]:
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        """Right where the whole answer has the form and its calls are those of the problem."""
        opened = "" if text.lstrip().startswith("<think>") else self.problem.opened or ""
        form = FORM.fullmatch(opened + text)
        said = calls(form.group(1)) if form else None
        right = said is not None and said == calls(self.problem.answer)
        return Reply({"correct": float(right), "format": float(said is not None)})


def calls(text: str) -> list[Call] | None:
    """The calls that a list in Python's spelling makes, in an order of their own; None where it is no list of calls with named
    literal arguments, names each once. An integer is no truth value, and no text."""
    if len(text) > LONGEST:
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if not isinstance(tree, ast.List):
            return None
        return sorted((_call(node) for node in tree.elts), key=lambda call: (call[0], sorted(map(repr, call[1]))))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _call(node: ast.expr) -> Call:
    """`ValueError` for what is no call of a plain name with named literals, `TypeError` for a literal that has no hash."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError("not a call with named arguments")
    given = [(word.arg or "", ast.literal_eval(word.value)) for word in node.keywords]
    names = {name for name, _ in given}
    if "" in names or len(names) < len(given):
        raise ValueError("arguments without names of their own")
    return node.func.id, frozenset((name, type(value).__name__, value) for name, value in given)


__all__ = ["NAME", "Functions", "calls", "load", "parse"]
