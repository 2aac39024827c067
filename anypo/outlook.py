"""What is known of a run before it begins, for the parts that cannot act in every run."""

from __future__ import annotations

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


__all__ = ["Outlook"]
