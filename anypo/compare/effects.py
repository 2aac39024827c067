"""Factorial designs: how much every part contributes by itself (main effects) and together with another (interactions).

The model is one mean per combination of levels with a common variance. Every effect is a contrast of those means, each
combination counting alike however many runs it has, so unequal numbers of runs do not bias it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from anypo.compare.stats import Interval


@dataclass(frozen=True)
class Effect:
    """One factor, or a pair of them. `levels`: deviation of each level (or pair of levels) from what it would be without this
    effect, with a 95 % t interval. `p`: F test that all deviations are zero; nan without a run more than combinations."""

    factors: tuple[str, ...]
    levels: dict[tuple[str, ...], Interval]
    p: float


def effects(scores: Sequence[float], factors: Sequence[Mapping[str, str]]) -> list[Effect]:
    """Main effects of all factors, then the interactions of all pairs; none when some combination has no run.

    `factors[i]`: level of every factor in the run that scored `scores[i]`.
    """
    axes = {name: list(dict.fromkeys(f[name] for f in factors)) for name in (factors[0] if factors else ())}
    axes = {name: levels for name, levels in axes.items() if len(levels) > 1}
    if not axes or missing(factors):
        return []
    grid = Grid.of(scores, factors, axes)
    single = [(name,) for name in axes]
    return [grid.effect(names) for names in (*single, *itertools.combinations(axes, 2))]


def missing(factors: Sequence[Mapping[str, str]]) -> list[str]:
    """Combinations of the levels that occur of which there is no run."""
    names = list(factors[0]) if factors else []
    seen = {tuple(f[name] for name in names) for f in factors}
    levels = [list(dict.fromkeys(f[name] for f in factors)) for name in names]
    return [" ".join(c) for c in itertools.product(*levels) if c not in seen]


@dataclass(frozen=True)
class Grid:
    """Mean and number of runs of every combination, [levels of factor 1, levels of factor 2, ...]; the variance between runs
    of one combination and its degrees of freedom."""

    axes: Mapping[str, list[str]]
    mean: np.ndarray
    count: np.ndarray
    variance: float
    freedom: int

    @staticmethod
    def of(scores: Sequence[float], factors: Sequence[Mapping[str, str]], axes: Mapping[str, list[str]]) -> Grid:
        shape = tuple(len(levels) for levels in axes.values())
        total, square, count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        shift = float(np.mean(scores))
        for score, levels in zip(scores, factors):
            place = tuple(axes[name].index(levels[name]) for name in axes)
            total[place] += score - shift
            square[place] += (score - shift) ** 2
            count[place] += 1
        freedom = int(count.sum()) - count.size
        within = float((square - total**2 / count).sum())
        return Grid(axes, shift + total / count, count, max(0.0, within) / freedom if freedom else math.nan, freedom)

    def effect(self, names: tuple[str, ...]) -> Effect:
        """The contrast of every level (or pair of levels) of the named factors."""
        places = list(itertools.product(*(range(len(self.axes[name])) for name in names)))
        weights = np.stack([self._contrast(dict(zip(names, place))).ravel() for place in places])
        values = weights @ self.mean.ravel()
        covariance = weights @ np.diag(1 / self.count.ravel()) @ weights.T * self.variance
        half = (
            stats.t.ppf(0.975, self.freedom) * np.sqrt(np.diag(covariance))
            if self.freedom
            else np.full(len(values), np.nan)
        )
        keys = [tuple(self.axes[name][i] for name, i in zip(names, place)) for place in places]
        levels = {
            key: Interval(float(v), float(v - h), float(v + h)) for key, v, h in zip(keys, values, half, strict=True)
        }
        return Effect(names, levels, self._test(values, covariance))

    def _contrast(self, chosen: Mapping[str, int]) -> np.ndarray:
        """Weights of the combinations: indicator minus average along every chosen factor, average along the others."""
        weights = np.ones(())
        for name, levels in self.axes.items():
            n = len(levels)
            row = np.full(n, 1 / n)
            if name in chosen:
                row = np.eye(n)[chosen[name]] - row
            weights = np.multiply.outer(weights, row)
        return weights

    def _test(self, values: np.ndarray, covariance: np.ndarray) -> float:
        """Wald F test; the deviations are linearly dependent, so the covariance is inverted on its range."""
        if not self.freedom:
            return math.nan
        if self.variance == 0:
            return 1.0 if np.allclose(values, 0) else 0.0
        rank = int(np.linalg.matrix_rank(covariance, hermitian=True))
        statistic = float(values @ np.linalg.pinv(covariance, hermitian=True) @ values) / rank
        return float(stats.f.sf(statistic, rank, self.freedom))
