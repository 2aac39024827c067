"""What a run tells whoever watches it: the terminal display, a notebook, a test."""

from __future__ import annotations

from collections.abc import Mapping

from anypo.scoring import Evaluation


class Observer:
    """Every method may be overridden; none needs to be."""

    def phase(self, name: str, total: int) -> None:
        """A stretch of work begins (`total` units; 0 when unknown)."""

    def advance(self, done: int) -> None:
        """`done` units of the current phase are complete."""

    def step(self, metrics: Mapping[str, float]) -> None:
        """A training step is complete."""

    def evaluation(self, label: str, result: Evaluation) -> None:
        """A held-out evaluation is complete (label 'before', 'after' or 'step N')."""

    def note(self, message: str) -> None:
        """Something worth a line."""
