"""A task without the prompts that are too long for a model, or with these cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from anypo.tasks.base import Problem, Task


@dataclass(frozen=True)
class Fitted:
    """The problems of `task` at the places `training` and `held`, each as `cut` leaves it. All else is that task's."""

    task: Task
    training: Sequence[int]
    held: Sequence[int]
    cut: Callable[[Problem], Problem]

    def __len__(self) -> int:
        return len(self.training)

    @property
    def n_heldout(self) -> int:
        return len(self.held)

    def train(self, index: int) -> Problem:
        return self.cut(self.task.train(_at(self.training, index)))

    def heldout(self, index: int) -> Problem:
        return self.cut(self.task.heldout(_at(self.held, index)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # whoever copies it asks before it has its fields
            raise AttributeError(name)
        return getattr(self.task, name)


def _at(places: Sequence[int], index: int) -> int:
    if index < 0:
        raise IndexError(index)
    return places[index]


__all__ = ["Fitted"]
