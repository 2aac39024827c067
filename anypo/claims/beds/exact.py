"""Where claims are tried: the exact bed, its settings that several claims share, and readings of its curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun
from anypo.exact.bed import Curves, Testbed, train


def finals(system: Algorithm | str, bed: Testbed, steps: int, seeds: Sequence[int]) -> list[Curves]:
    """One run per seed."""
    return [train(system, bed, steps, seed) for seed in seeds]


def pair(run: ClaimRun, base: str, ours: str, bed: Testbed, steps: int) -> tuple[list[Curves], list[Curves]]:
    """The runs of two systems on the same seeds."""
    count = run.steps(steps)
    return finals(base, bed, count, run.seeds), finals(ours, bed, count, run.seeds)


# -- beds of several claims -------------------------------------------------------------------------------------------------------

TOY = "an enumerable policy (4 prompts, 4 tokens) for the language model"

SCORES = Testbed(reward="graded", lr=0.02)
"""Rewards away from zero, as reward models give them: where baselines matter."""

STALE = Testbed(kind="linear", batch=8, lr=0.02, lag=8, old="sampler")
"""Every rollout eight updates behind, and its sampler's log-probabilities taken as the old ones, as asynchronous runs do."""


# -- readings ---------------------------------------------------------------------------------------------------------------------


def mean(values: Iterable[float]) -> float:
    """The mean as a plain number."""
    return float(np.mean(list(values)))


def mean_final(curves: Iterable[Curves]) -> float:
    """Exact reward at the end."""
    return mean(c.final for c in curves)


def mean_area(curves: Iterable[Curves]) -> float:
    """Exact reward over training."""
    return mean(c.area for c in curves)


def mean_entropy(curves: Iterable[Curves]) -> float:
    """Entropy per decision at the end."""
    return mean(c.entropy[-1] for c in curves)


def mean_steps(curves: Iterable[Curves], threshold: float) -> float:
    """Steps until the exact reward reaches `threshold` (inf where one run never does)."""
    return mean(c.steps_to(threshold) for c in curves)


def shown(values: Iterable[float]) -> str:
    """The mean as it is noted."""
    return f"{mean(values):.3f}"


__all__ = [
    "SCORES", "STALE", "TOY", "Curves", "Testbed", "finals", "mean", "mean_area", "mean_entropy", "mean_final", "mean_steps", "pair",
    "shown", "train",
]  # fmt: skip
