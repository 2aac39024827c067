"""Where claims are tried: the exact bed, its settings that several claims share, and readings of its curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, Premise, compare, learns
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


# -- comparisons of reward --------------------------------------------------------------------------------------------------------

Reading = Literal["final", "area"]
"""Exact reward at the end of a run, or over training."""

LEAST = 0.01
"""The smallest difference in exact reward that matters, for all claims that name no other."""


def learning(base: Sequence[Curves], reading: Reading = "final", ceiling: float = 0.95, by: float = 0.05) -> Premise:
    """The base learns and stays below its ceiling: `reading` of its curves against the reward before the first step."""
    return learns([c.value[0] for c in base], [getattr(c, reading) for c in base], ceiling, by)


def by_reward(
    base: Sequence[Curves],
    ours: Sequence[Curves],
    run: ClaimRun,
    reading: Reading = "area",
    least: float = LEAST,
    controls: Mapping[str, Sequence[Curves]] | None = None,
    premise: Premise | None = None,
) -> Outcome:
    """`compare` of exact rewards, which the base must learn without being at its ceiling (or another premise)."""
    of = lambda curves: [getattr(c, reading) for c in curves]
    others = {name: of(curves) for name, curves in (controls or {}).items()}
    metric = {"area": "mean exact reward over training", "final": "exact reward after training"}[reading]
    premise = premise or learning(base, reading)
    return compare(of(base), of(ours), metric, run, least=least, controls=others, premise=premise)


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


def drop(curves: Curves) -> float:
    """The largest fall of the exact reward below the best so far."""
    return float((np.maximum.accumulate(curves.value) - curves.value).max())


def entropy_when(curves: Curves, reward: float) -> float:
    """Entropy at the first step that reaches `reward`; at the last step where none does."""
    step = curves.steps_to(reward)
    return float(curves.entropy[int(step) if np.isfinite(step) else -1])


def shown(values: Iterable[float]) -> str:
    """The mean as it is noted."""
    return f"{mean(values):.3f}"


__all__ = [
    "LEAST", "SCORES", "STALE", "TOY", "Curves", "Reading", "Testbed", "by_reward", "drop", "entropy_when", "finals",
    "learning", "mean", "mean_area", "mean_entropy", "mean_final", "mean_steps", "pair", "shown", "train",
]  # fmt: skip
