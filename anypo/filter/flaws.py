"""Finding wrong steps in right answers, and paying a judge for finding them."""

from __future__ import annotations

import re

from anypo.context import Context
from anypo.data.records import Group
from anypo.filter.base import Signal

_EQUATION = re.compile(r"(?<![\d.+*/-])(-?\d+(?:\s*[-+*]\s*-?\d+)+)\s*=\s*(-?\d+)(?![\d.]|\s*[-+*])")
_TERM = re.compile(r"\s*([-+*])?\s*(-?\d+)")


class EquationCheck(Signal, name="equation_check"):
    """Component ``flawed``: 1 for a right answer whose text contains a false equation between integers (sums, differences,
    products), 0 otherwise (the flaw detector of FAPO, arXiv:2510.22543, where steps can be checked by calculation).

    Only right answers are examined (component `outcome`, or the scalar reward); what cannot be read is not flawed.
    """

    outcome: str = "correct"

    def score(self, groups: list[Group], context: Context) -> list[Group]:
        out = []
        for group in groups:
            done = []
            for trajectory in group.trajectories:
                flawed = float(trajectory.is_right(self.outcome) and first_false_equation(trajectory.text) >= 0)
                done.append(trajectory.replace(rewards={**trajectory.rewards, "flawed": flawed}))
            out.append(group.replace(trajectories=tuple(done)))
        marks = [t.rewards["flawed"] for g in out for t in g.trajectories]
        context.log("filter/flawed", sum(marks) / max(1, len(marks)))
        return out


def first_false_equation(text: str) -> int:
    """Index of the first equation of a text that is false, or -1."""
    for index, match in enumerate(_EQUATION.finditer(text)):
        if _value(match.group(1)) != int(match.group(2)):
            return index
    return -1


def _value(expression: str) -> int:
    """A chain of integers joined by + - *, products first."""
    total, product, sign = 0, None, 1
    for operator, number in _TERM.findall(expression):
        if operator == "*" and product is not None:
            product *= int(number)
            continue
        if product is not None:
            total += sign * product
        sign = -1 if operator == "-" else 1
        product = int(number)
    return total + sign * (product or 0)


def judge_reward(found: int | None, wrong: int, steps: int) -> float:
    """What a judge earns for naming the first wrong step (FAPO's generative reward model): +1 or -1 for the verdict, minus the
    distance from the true step.

    found: the named step 0..steps-1, -1 for "no error", None when unreadable. wrong: the true one, -1 for none.
    """
    if found is None or not -1 <= found < steps:
        return -1.0
    if wrong == -1:
        return 1.0 if found == -1 else -1.0
    return -1.0 if found == -1 else 1.0 - abs(found - wrong) / steps
