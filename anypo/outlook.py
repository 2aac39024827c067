"""What is known of a run before it begins, for the parts that cannot act in every run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outlook:
    """A run as it is planned.

    steps: turns of the loop. problems: how many the task can train on, None before the task is loaded or where they never end.
    task: the loaded task, None before; what it offers (tools, solutions, turns) is asked with `offers`.
    """

    steps: int
    problems: int | None = None
    task: Any = None

    def offers(self, attribute: str) -> bool | None:
        """Whether the task has something under this attribute; None where it is not loaded yet."""
        return None if self.task is None else bool(getattr(self.task, attribute, None))


def moment(when: float, steps: int) -> int:
    """The step that `when` means in a run of `steps`: from 1 on a number of steps, below 1 a share of the run, rounded up. A run that
    is continued to more steps has other moments: a schedule stretches, and what happens once has to remember that it did."""
    return round(when) if when >= 1 else math.ceil(round(when * steps, 9))


def part_of(amount: float, whole: int) -> int:
    """How many of `whole` an amount means: from 1 on a number, below 1 a share, at least one of them (0 stays none)."""
    return round(amount) if amount >= 1 else max(1, round(amount * whole)) if amount > 0 else 0


def said_of(when: float) -> str:
    """A moment in words: "step 50", "14 % of the run"."""
    return f"step {when:g}" if when >= 1 else length(when)


def length(steps: float) -> str:
    """A stretch of a run in words: "200 steps", "14 % of the run"."""
    return f"{steps:g} steps" if steps >= 1 else f"{100 * steps:.2g} % of the run"


def unreached(when: float, steps: int, path: str) -> str | None:
    """A sentence where a run of `steps` ends before the moment `when` that the field `path` names."""
    if moment(when, steps) < steps:
        return None
    advice = f"set {path} to a share of the run, such as 0.25, or plan more steps" if when >= 1 else "plan more steps"
    return f"{said_of(when)} is not reached in {steps} steps; {advice}"


__all__ = ["Outlook", "length", "moment", "part_of", "said_of", "unreached"]
