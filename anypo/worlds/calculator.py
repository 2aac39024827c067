"""Products that are hard in the head and easy with a tool: the policy may call a calculator inside its own turn.

What stands between ``<calc>`` and ``</calc>`` is worked out and appended as ``<result>...</result>``, and the policy goes on; a
text that does not end in a call is the answer, its last integer. The closing tag must be a stop string (``generate.stop``), or else
nothing is ever asked in time. Every call counts in the component ``tool_calls``, which has no weight of its own.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from anypo.data.content import Message
from anypo.data.records import prompt_id
from anypo.tasks.base import Problem, Reply
from anypo.tasks.text.extract import last_integer
from anypo.tasks.text.onestep import conversation
from anypo.tasks.text.options import read
from anypo.worlds.drawn import Drawn, DrawnOptions, parsed

NAME = "calculator"
STOP = "</calc>"
CALL = re.compile(r"<calc>([^<]{1,60})</calc>\s*$")


class CalculatorOptions(DrawnOptions):
    """Two factors of `digits` digits each; an answer has up to `turns` stretches, all but the last of which end in a call. `worked`:
    the solutions, which a warm start imitates, call the calculator, at once or after the question said again; otherwise they are the
    product."""

    digits: int = Field(3, ge=1, le=9)
    turns: int = Field(4, ge=1)
    worked: bool = False


def parse(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options (`UserError`)."""
    return parsed(CalculatorOptions, NAME, options)


def load(options: Mapping[str, Any]) -> Drawn:
    """The task. The first factor decides the side: even ones train, odd ones are held out."""
    checked = read(CalculatorOptions, NAME, options)
    return Drawn(
        NAME,
        checked,
        draw=lambda rng, side: _product(rng, side, checked),
        play=lambda problem: Calculator(problem, checked.turns),
        split="by the first factor: even trains, odd is held out",
        reward="correct",
        verifier={"part": "product", "extract": "last_integer"},
        turns=checked.turns,
        tools=("calc",),
    )


def _product(rng: random.Random, side: int, options: CalculatorOptions) -> Problem:
    low, high = 10 ** (options.digits - 1), 10**options.digits
    first, second = rng.randrange(low + (low + side) % 2, high, 2), rng.randrange(low, high)
    content = (
        f"What is {first} * {second}? You may use a calculator: write <calc>2*3</calc> and the result follows. "
        "End with the product."
    )
    answer = str(first * second)
    call = f"<calc>{first}*{second}</calc><result>{answer}</result>{answer}"
    worked = rng.choice(("", f"{first} * {second} = ")) + call if options.worked else answer
    return Problem(prompt_id(content), conversation(content), answer, worked)


class Calculator:
    """One question."""

    def __init__(self, problem: Problem, turns: int) -> None:
        self.problem, self.turns, self.taken = problem, turns, 0

    def reset(self) -> tuple[Message, ...]:
        self.taken = 0
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        """A call is answered while turns are left; anything else is judged by its last integer."""
        self.taken += 1
        call = CALL.search(text)
        if call is not None and self.taken < self.turns:
            found = value(call.group(1))
            result = "error" if found is None else str(found)
            return Reply({"tool_calls": 1.0}, done=False, append=f"<result>{result}</result>")
        return Reply({"correct": float(call is None and last_integer(text) == self.problem.answer)})


OPERATIONS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def value(expression: str) -> int | None:
    """Sums, differences and products of integers; None for anything else, and for more than 60 digits."""

    def worked(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -worked(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            return OPERATIONS[type(node.op)](worked(node.left), worked(node.right))
        raise ValueError

    try:
        found = worked(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return found if abs(found) < 10**60 else None


__all__ = ["NAME", "STOP", "Calculator", "load", "parse", "value"]
