"""Statistics of a comparison: interquartile means with stratified-bootstrap intervals, probability of improvement, ranks that
admit ties, and whether the runs suffice for the difference seen.

Follows Agarwal et al., "Deep RL at the edge of the statistical precipice" (arXiv:2108.13264). A *stratum* holds the scores of
one contender's runs on one task; a comparison on one task has one stratum.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

DRAWS = 5000
Z = 1.959964
"""Two-sided 95 % point of the standard normal distribution."""

MOST_RUNS = 10_000
"""`runs_needed` looks no further."""

Strata = Sequence[Sequence[float] | np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A point estimate with a 95 % interval; nan ends where the data give none."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def overlaps(self, other: Interval) -> bool:
        """Whether the two could be equal; an unknown interval excludes nothing."""
        return not (self.known and other.known) or (self.low <= other.high and other.low <= self.high)


def interquartile_mean(scores: Sequence[float] | np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of the middle half: the lowest and the highest quarter (rounded down) are left out."""
    return np.asarray(stats.trim_mean(np.asarray(scores, dtype=np.float64), 0.25, axis=axis))


def bootstrap(strata: Strata, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Interquartile mean over the runs of all strata; runs are resampled inside every stratum (percentile interval).

    Its coverage, simulated for normal scores, is 75 % with 3 runs, 90 % with 5, 93 % with 10 and 95 % with 20. Fewer than two
    runs in some stratum give no interval.
    """
    columns = [np.asarray(stratum, dtype=np.float64) for stratum in strata]
    value = float(interquartile_mean(np.concatenate(columns)))
    if min(len(column) for column in columns) < 2:
        return Interval(value, math.nan, math.nan)
    found = stats.bootstrap(
        columns,
        lambda *samples, axis: interquartile_mean(np.concatenate(samples, axis=axis), axis),
        n_resamples=draws,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def probability_of_improvement(ours: Strata, base: Strata) -> Interval:
    """P(a run of ours beats a run of the base on the same task), ties counting one half, averaged over tasks.

    The interval of one task is Newcombe's (Stat. Med. 25, 559, 2006, method 5), which stays honest when every run beats every
    run of the base, where resampling would claim certainty; tasks are combined by their squared distances (MOVER).
    """
    found = [_beats(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)) for x, y in zip(ours, base)]
    value, n = float(np.mean([one.value for one in found])), len(found)
    down = math.sqrt(sum((one.value - one.low) ** 2 for one in found)) / n
    up = math.sqrt(sum((one.high - one.value) ** 2 for one in found)) / n
    return Interval(value, max(0.0, value - down), min(1.0, value + up))


def _beats(x: np.ndarray, y: np.ndarray) -> Interval:
    """Solutions of (share - p)^2 = z^2 V(p), V the variance of the Mann-Whitney share under exponential scores."""
    if not len(x) or not len(y):
        return Interval(math.nan, math.nan, math.nan)
    share = float(np.mean((x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])))
    star = (len(x) + len(y)) / 2 - 1

    def gap(p: float) -> float:
        variance = p * (1 - p) * (1 + star * (1 - p) / (2 - p) + star * p / (1 + p)) / (len(x) * len(y))
        return (share - p) ** 2 - Z * Z * variance

    edge = 1e-12  # 0 and 1 are solutions of their own when the share is 0 or 1; the interval ends at the other one
    low = float(optimize.brentq(gap, 0.0, min(share, 1 - edge))) if share > 0 else 0.0
    high = float(optimize.brentq(gap, max(share, edge), 1.0)) if share < 1 else 1.0
    return Interval(share, low, high)


def ranks(intervals: Sequence[Interval]) -> list[tuple[int, int]]:
    """Best and worst rank (from 1) each contender may have: those whose interval lies wholly above its own come before it,
    those whose interval lies wholly below come after it, and the order of the others is open."""
    out = []
    for own in intervals:
        apart = [other for other in intervals if not own.overlaps(other)]
        above = sum(other.low > own.high for other in apart)
        below = sum(other.high < own.low for other in apart)
        out.append((1 + above, len(intervals) - below))
    return out


def power(effect: float, runs: int, level: float = 0.05) -> float:
    """Power of a two-sided two-sample t test with `runs` a side; `effect`: difference of the means in standard deviations."""
    freedom = 2 * runs - 2
    critical = stats.t.ppf(1 - level / 2, freedom)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = float(stats.nct.sf(critical, freedom, effect * math.sqrt(runs / 2)))
    return 1.0 if math.isnan(found) else found  # scipy gives nan for effects so large that the test cannot miss them


def runs_needed(ours: Sequence[float], base: Sequence[float], wanted: float = 0.8) -> int | None:
    """Runs per side to see the observed difference with power `wanted`; None without a difference or with fewer than two
    runs a side, at most `MOST_RUNS`."""
    x, y = np.asarray(ours, dtype=np.float64), np.asarray(base, dtype=np.float64)
    if len(x) < 2 or len(y) < 2 or x.mean() == y.mean():
        return None
    spread = math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    if spread == 0:
        return 2
    effect = abs(float(x.mean() - y.mean())) / spread
    if power(effect, MOST_RUNS) < wanted:
        return MOST_RUNS
    low, high = 1, MOST_RUNS  # the power rises with the number of runs
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle) >= wanted else (middle, high)
    return high


def detectable(spread: float, runs: int, wanted: float = 0.8) -> float:
    """The smallest difference of two means that `runs` a side show with power `wanted`; `spread`: standard deviation between
    runs of one contender; nan with fewer than two runs."""
    if runs < 2 or math.isnan(spread):
        return math.nan
    if spread == 0:
        return 0.0
    return spread * float(optimize.brentq(lambda effect: power(effect, runs) - wanted, 1e-6, 1e3))


def pooled_spread(strata: Strata) -> float:
    """Standard deviation between runs, pooled over strata; nan when no stratum has two runs."""
    columns = [np.asarray(stratum, dtype=np.float64) for stratum in strata if len(stratum) > 1]
    freedom = sum(len(column) - 1 for column in columns)
    if not freedom:
        return math.nan
    return math.sqrt(sum(float(column.var(ddof=1)) * (len(column) - 1) for column in columns) / freedom)
