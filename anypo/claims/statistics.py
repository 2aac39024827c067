"""Uncertainty of paired experiments with a handful of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def paired_bootstrap(differences: Sequence[float], draws: int = 10_000, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of paired differences, resampling pairs. (nan, nan) without pairs."""
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        return math.nan, math.nan
    index = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(values[index].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_interval(differences: Sequence[float], draws: int = 10_000, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of paired differences: the hull of the bootstrap's and Student's. With the handful of seeds a claim can
    afford the bootstrap alone is too narrow; Student's alone is wrong for skewed differences. (nan, nan) below two pairs."""
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return math.nan, math.nan
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    low, high = paired_bootstrap(differences, draws, level)
    return min(low, float(values.mean()) - half), max(high, float(values.mean()) + half)


def sign_test(differences: Sequence[float]) -> float:
    """One-sided exact p-value that positive differences are no more likely than negative ones (zeros dropped)."""
    positive = sum(d > 0 for d in differences)
    trials = sum(d != 0 for d in differences)
    return sum(math.comb(trials, k) for k in range(positive, trials + 1)) / 2**trials


def fisher_exact(base: int, base_of: int, ours: int, ours_of: int) -> float:
    """One-sided exact p-value that `ours` of `ours_of` is no rarer than `base` of `base_of` (Fisher 1934): the hypergeometric
    chance of as few or fewer events among ours."""
    events, total = base + ours, base_of + ours_of
    ways = math.comb(total, events)
    smallest = max(0, events - base_of)
    return sum(math.comb(ours_of, k) * math.comb(base_of, events - k) for k in range(smallest, ours + 1)) / ways
