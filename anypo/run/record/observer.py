"""What a run tells whoever watches it: the terminal display, a notebook, a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.scoring import Evaluation


@dataclass(frozen=True)
class Moment:
    """A run just after a step. Nothing in it is to be changed, but for a reason.

    groups: the rollouts that the step produced, in groups of one prompt. batch: what it learned from last, None where nothing was.
    stop: called with a reason, ends the run as if it were at its last step: it is evaluated, saved and reported.
    """

    step: int
    metrics: Mapping[str, Any]
    groups: Sequence[Group]
    batch: Batch | None
    policy: Any
    task: Any
    stop: Callable[[str], None]


Callback = Callable[[Moment], Any]
"""What `anypo.train(callbacks=[...])` takes: called after every step that was recorded."""


class Observer:
    """Every method may be overridden; none needs to be."""

    def phase(self, name: str, total: int) -> None:
        """A stretch of work begins (`total` units; 0 when unknown)."""

    def plan(self, total: int) -> None:
        """The current phase is expected to have so many units by now."""

    def advance(self, done: int) -> None:
        """`done` units of the current phase are complete."""

    def step(self, metrics: Mapping[str, float]) -> None:
        """A training step is complete."""

    def moment(self, moment: Moment) -> None:
        """A training step is recorded: its rollouts and the policy can be looked at, and the run can be stopped."""

    def evaluation(self, label: str, result: Evaluation) -> None:
        """A held-out evaluation is complete (label 'before', 'after' or 'step N')."""

    def note(self, message: str) -> None:
        """Something worth a line."""
