"""Two lists of problems that share no prompt: what a task trains on, and what it holds out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from anypo.data.records import prompt_id
from anypo.errors import UserError
from anypo.tasks.base import Problem


@dataclass(frozen=True)
class Sides:
    """The problems of both sides, in their order. `overlap`: training problems left out because their prompt is held out."""

    training: Sequence[Problem]
    held: Sequence[Problem]
    overlap: int = 0

    def __len__(self) -> int:
        return len(self.training)

    @property
    def n_heldout(self) -> int:
        return len(self.held)

    def train(self, index: int) -> Problem:
        return self.training[index]

    def heldout(self, index: int) -> Problem:
        return self.held[index]

    @classmethod
    def apart(cls, problems: Sequence[Problem], held: Sequence[Problem], names: tuple[str, str]) -> Self:
        """From two sources; `names` of both, for the refusal."""
        asked = {problem.prompt for problem in held}
        training = [problem for problem in problems if problem.prompt not in asked]
        if not training:
            raise UserError(f"every prompt of '{names[0]}' is also in the held-out file '{names[1]}'")
        return cls(training, held, len(problems) - len(training))

    @classmethod
    def split(cls, problems: Sequence[Problem], fraction: float, name: str) -> Self:
        """From one source: by a hash of the prompt, so that added rows move no other row. A fraction of 0 holds out nothing."""
        if not fraction:
            return cls(problems, [])
        places = {problem.prompt: prompt_id(f"heldout:{problem.prompt}") / 2**63 for problem in problems}
        if len(places) < 2:
            raise UserError(
                f"'{name}' has only one different prompt; a train and a held-out side need at least two (--task-set heldout=0 holds "
                f"nothing out, --task-set heldout={name} asks what is trained on)"
            )
        chosen = {prompt for prompt, place in places.items() if place < fraction}
        ranked = sorted(places, key=lambda prompt: places[prompt])
        chosen = (chosen or {ranked[0]}) - ({ranked[-1]} if len(chosen) == len(ranked) else set())
        return cls([p for p in problems if p.prompt not in chosen], [p for p in problems if p.prompt in chosen])
