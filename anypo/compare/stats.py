"""Statistics of a comparison: interquartile means with stratified-bootstrap intervals, probability of improvement, ranks that
admit ties, and whether the seeds suffice for the difference seen.

Follows the recommendations of Agarwal et al., "Deep RL at the edge of the statistical precipice" (arXiv:2108.13264). Scores
are [runs] or [runs, tasks]; with one task the strata are the single column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 5000


@dataclass(frozen=True)
class Interval:
    """A point estimate with a 95 % interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all scores (25 % trimmed on each side)."""
    flat = np.asarray(scores, dtype=np.float64).ravel()
    return float(stats.trim_mean(flat, 0.25)) if len(flat) else math.nan


def bootstrap(
    scores: np.ndarray, statistic: Callable[[np.ndarray], float] = interquartile_mean, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Stratified bootstrap: runs are resampled with replacement inside every task (percentile interval)."""
    table = np.asarray(scores, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    runs, tasks = table.shape
    value = statistic(table)
    if runs < 2:
        return Interval(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, runs, size=(draws, runs, tasks))
    samples = np.array([statistic(table[row, np.arange(tasks)]) for row in rows])
    return Interval(value, float(np.quantile(samples, 0.025)), float(np.quantile(samples, 0.975)))


def probability_of_improvement(
    ours: Sequence[float], base: Sequence[float], seed: int = 0, draws: int = DRAWS
) -> Interval:
    """P(a run of ours beats a run of the base), ties counting one half (Mann-Whitney), bootstrap over both sides' runs."""
    x, y = np.asarray(ours, dtype=np.float64), np.asarray(base, dtype=np.float64)

    def share(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean((a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])))

    if len(x) < 2 or len(y) < 2:
        return Interval(share(x, y) if len(x) and len(y) else math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    samples = [share(rng.choice(x, len(x)), rng.choice(y, len(y))) for _ in range(draws // 5)]
    return Interval(share(x, y), float(np.quantile(samples, 0.025)), float(np.quantile(samples, 0.975)))


def ranks(intervals: Sequence[Interval]) -> list[int]:
    """1-based ranks by value; a contender shares the rank of the best one above whose interval overlaps its own."""
    order = sorted(range(len(intervals)), key=lambda i: -intervals[i].value)
    out = [0] * len(intervals)
    leader, rank = order[0] if order else 0, 1
    for place, index in enumerate(order):
        if place and not _overlap(intervals[index], intervals[leader]):
            leader, rank = index, place + 1
        out[index] = rank
    return out


def _overlap(a: Interval, b: Interval) -> bool:
    if any(math.isnan(v) for v in (a.low, a.high, b.low, b.high)):
        return True  # one run says nothing about a difference
    return a.low <= b.high and b.low <= a.high


def seeds_needed(ours: Sequence[float], base: Sequence[float], power: float = 0.8, level: float = 0.05) -> int | None:
    """Seeds per side for a two-sided two-sample t test to see the observed difference with `power`; None when there is none
    or fewer than two runs a side."""
    x, y = np.asarray(ours, dtype=np.float64), np.asarray(base, dtype=np.float64)
    if len(x) < 2 or len(y) < 2:
        return None
    gap = abs(float(x.mean() - y.mean()))
    spread = math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    if gap == 0:
        return None
    if spread == 0:
        return 2
    effect = gap / spread
    for n in range(2, 10_001):
        critical = stats.t.ppf(1 - level / 2, 2 * n - 2)
        if stats.nct.sf(critical, 2 * n - 2, effect * math.sqrt(n / 2)) >= power:
            return n
    return 10_001


def main_effects(scores: Sequence[float], factors: Sequence[dict[str, str]]) -> dict[str, dict[str, Interval]]:
    """For every factor and level: mean score at that level minus the grand mean, with a 95 % t interval over runs."""
    y = np.asarray(scores, dtype=np.float64)
    grand = float(y.mean())
    out: dict[str, dict[str, Interval]] = {}
    for name in factors[0] if factors else ():
        out[name] = {}
        for level in sorted({f[name] for f in factors}):
            chosen = y[[f[name] == level for f in factors]]
            out[name][level] = _shifted(chosen, grand)
    return out


def interactions(scores: Sequence[float], factors: Sequence[dict[str, str]]) -> dict[str, dict[str, Interval]]:
    """For every pair of factors and levels: cell mean minus what the two main effects predict, with a 95 % t interval."""
    y = np.asarray(scores, dtype=np.float64)
    grand, effects = float(y.mean()), main_effects(scores, factors)
    names = list(factors[0]) if factors else []
    out: dict[str, dict[str, Interval]] = {}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            table = out.setdefault(f"{a} x {b}", {})
            for la in effects[a]:
                for lb in effects[b]:
                    chosen = y[[f[a] == la and f[b] == lb for f in factors]]
                    expected = grand + effects[a][la].value + effects[b][lb].value
                    table[f"{la} x {lb}"] = _shifted(chosen, expected)
    return out


def _shifted(values: np.ndarray, origin: float) -> Interval:
    value = float(values.mean() - origin) if len(values) else math.nan
    if len(values) < 2:
        return Interval(value, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Interval(value, value - half, value + half)
