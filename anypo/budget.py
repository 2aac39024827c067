"""How much a run, or a cell of a comparison, may spend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from anypo.errors import UserError, unknown

METRICS = {
    "tokens": "tokens/generated",
    "trained": "tokens/trained",
    "seconds": "time/step",
    "updates": "update/steps",
    "rollouts": "rollout/count",
}
"""The metric of a step that says what it spent of each measure."""

MEASURES = tuple(METRICS)
"""Generated tokens, trained tokens, seconds spent in training steps, optimiser steps of the policy, rollouts."""

PATIENCE = 50
"""Steps in a row that may spend nothing of a budget before a run, or a cell, gives up."""

SUFFIX = {"k": 1e3, "m": 1e6, "g": 1e9}

SECONDS = {"minutes": 60.0, "hours": 3600.0}
"""Other words for seconds, and how many one of them is."""


@dataclass(frozen=True)
class Budget:
    """`amount` of one measure; what it is of stops after the first step at or beyond it."""

    measure: str
    amount: float

    @staticmethod
    def parse(text: str) -> Budget:
        """``tokens=2M``, ``seconds=300``, ``minutes=5``, ``updates=50``, ``rollouts=5000``; `UserError` otherwise."""
        measure, _, amount = (piece.strip() for piece in str(text).partition("="))
        if measure not in (*MEASURES, *SECONDS):
            raise unknown("budget", measure, (*MEASURES, *SECONDS), "Write it as measure=amount, e.g. tokens=2M.")
        scale = SUFFIX.get(amount[-1:].lower(), 1.0)
        try:
            number = float(amount[:-1] if amount[-1:].lower() in SUFFIX else amount) * scale
        except ValueError:
            raise UserError(
                f"--budget {text}: '{amount}' is not a number; write e.g. tokens=2M or seconds=300"
            ) from None
        if not 0 < number < float("inf"):
            raise UserError(f"--budget {text}: the amount must be above 0 and finite")
        return Budget("seconds", number * SECONDS[measure]) if measure in SECONDS else Budget(measure, number)

    def __str__(self) -> str:
        for suffix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if self.amount >= size:
                return f"{self.measure}={self.amount / size:.15g}{suffix}"
        return f"{self.measure}={self.amount:.15g}"

    def share(self, rows: Iterable[Mapping[str, Any]]) -> float:
        """How much of it steps with these metrics have spent, 1 for all."""
        return sum(map(self.spent, rows)) / self.amount

    def spent(self, row: Mapping[str, Any]) -> float:
        """What one step spent."""
        return float(row.get(METRICS[self.measure]) or 0.0)


def planned(steps: int, share: float) -> int:
    """Steps that a run takes in all, as far as can be told of one that has spent `share` of its budget in `steps` of them."""
    return steps if share >= 1 else max(steps + 1, round(steps / share) if share > 0 else 0)


__all__ = ["MEASURES", "METRICS", "PATIENCE", "Budget", "planned"]
