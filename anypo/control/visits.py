"""How often this run has asked for each problem: with the seed, the prompt and the sample, the key of a rollout's randomness.

Counting happens in one place outside the parts, so that a rollout does not depend on the step that asked for it, on the other asks
of that step, or on how many steps a method takes between two asks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anypo.control.base import Ask
from anypo.tasks.base import Problem


class Visits:
    """Counts of asks by prompt. By prompt, not by index: two training problems of a task may be one and the same."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def stamp(self, asks: Sequence[Ask], problem: Callable[[Ask], Problem]) -> list[Ask]:
        """The asks with their `visit` filled in; asks of one prompt get consecutive numbers. `problem`: what an ask asks for."""
        return [dataclasses.replace(ask, visit=self._next(problem(ask).prompt)) for ask in asks]

    def _next(self, prompt: int) -> int:
        visit = self.counts.get(prompt, 0)
        self.counts[prompt] = visit + 1
        return visit

    def state_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counts = dict(state["counts"])
