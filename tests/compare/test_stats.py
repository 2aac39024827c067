"""Interquartile means, intervals, probabilities of improvement, ranks and power against independent derivations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as reference

from anypo.compare import stats
from anypo.compare.stats import Interval

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11, 20])
def test_interquartile_mean_drops_a_quarter_on_each_side(n: int) -> None:
    scores = RANDOM.normal(size=n)
    kept = sorted(scores)[n // 4 : n - n // 4]
    assert float(stats.interquartile_mean(scores)) == pytest.approx(sum(kept) / len(kept))


def test_the_bootstrap_interval_is_that_of_all_resamples() -> None:
    """With four runs, all 4^4 resamples can be listed."""
    scores = [0.1, 0.35, 0.4, 0.9]
    every = sorted(np.mean(sorted(rows)[1:3]) for rows in itertools.product(scores, repeat=4))
    found = stats.bootstrap([scores], draws=20_000)
    assert found.value == pytest.approx(0.375)
    assert found.low == pytest.approx(np.quantile(every, 0.025), abs=0.03)
    assert found.high == pytest.approx(np.quantile(every, 0.975), abs=0.03)


def test_the_bootstrap_resamples_inside_each_stratum() -> None:
    """Two tasks whose runs do not vary: nothing is uncertain, although the tasks differ."""
    found = stats.bootstrap([[0.2] * 4, [0.8] * 4])
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_one_run_gives_no_interval() -> None:
    assert not stats.bootstrap([[0.3]]).known
    assert stats.bootstrap([[0.3]]).value == pytest.approx(0.3)


def test_the_bootstrap_covers_about_as_often_as_documented() -> None:
    random = np.random.default_rng(1)
    hits = [(i := stats.bootstrap([random.normal(size=5)], seed=k, draws=600)).low <= 0 <= i.high for k in range(300)]
    assert 0.86 < np.mean(hits) < 0.95


def test_probability_of_improvement_is_the_mann_whitney_share() -> None:
    x, y = RANDOM.integers(0, 6, 9) / 5, RANDOM.integers(0, 6, 7) / 5
    wins = sum((a > b) + 0.5 * (a == b) for a in x for b in y) / 63
    found = stats.probability_of_improvement([x], [y])
    assert found.value == pytest.approx(wins)
    assert found.value == pytest.approx(reference.mannwhitneyu(x, y).statistic / 63)
    assert found.low < wins < found.high


def test_probability_of_improvement_admits_doubt_when_every_run_wins() -> None:
    few = stats.probability_of_improvement([[0.8, 0.9, 0.85]], [[0.1, 0.2, 0.3]])
    many = stats.probability_of_improvement([np.linspace(0.8, 0.9, 20)], [np.linspace(0.1, 0.2, 20)])
    assert few.value == few.high == many.value == 1.0
    assert 0.4 < few.low < 0.6 < 0.85 < many.low < 1.0


def test_probability_of_improvement_is_antisymmetric() -> None:
    x, y = RANDOM.normal(size=6), RANDOM.normal(size=4) + 0.4
    there, back = stats.probability_of_improvement([x], [y]), stats.probability_of_improvement([y], [x])
    assert (there.value, there.low, there.high) == pytest.approx((1 - back.value, 1 - back.high, 1 - back.low))


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_the_interval_of_the_probability_of_improvement_covers(shift: float) -> None:
    truth, random = reference.norm.cdf(shift / math.sqrt(2)), np.random.default_rng(2)
    hits = []
    for _ in range(400):
        found = stats.probability_of_improvement([random.normal(size=5) + shift], [random.normal(size=5)])
        hits.append(found.low <= truth <= found.high)
    assert 0.91 < np.mean(hits) < 0.99


def test_several_tasks_are_averaged() -> None:
    one = stats.probability_of_improvement([[1, 2, 3]], [[0, 2, 5]])
    two = stats.probability_of_improvement([[1, 2, 3]] * 4, [[0, 2, 5]] * 4)
    assert two.value == pytest.approx(one.value)
    assert two.high - two.low == pytest.approx((one.high - one.low) / 2)  # four independent tasks


def test_ranks_are_ranges_where_intervals_overlap() -> None:
    best, tied, wide, last = Interval(9, 8, 10), Interval(8, 7, 9), Interval(6, 3, 8.5), Interval(1, 0, 2)
    assert stats.ranks([best, tied, wide, last]) == [(1, 3), (1, 3), (1, 3), (4, 4)]
    assert stats.ranks([last, best]) == [(2, 2), (1, 1)]
    assert stats.ranks([Interval(1, 1, 1), Interval(1, 1, 1)]) == [(1, 2), (1, 2)]
    assert stats.ranks([]) == []


def test_ranks_are_not_a_chain() -> None:
    """c overlaps b and b overlaps a, but a lies above c."""
    a, b, c = Interval(9, 8, 10), Interval(7, 5, 9), Interval(4, 3, 6)
    assert stats.ranks([a, b, c]) == [(1, 2), (1, 3), (2, 3)]


def test_an_unknown_interval_ties_with_all() -> None:
    unknown = Interval(5, math.nan, math.nan)
    assert stats.ranks([unknown, Interval(9, 8, 10), Interval(1, 0, 2)]) == [(1, 3), (1, 2), (2, 3)]


def test_power_against_simulation() -> None:
    random, n, effect = np.random.default_rng(3), 6, 1.5
    x, y = random.normal(size=(4000, n)) + effect, random.normal(size=(4000, n))
    seen = np.mean(reference.ttest_ind(x, y, axis=1).pvalue < 0.05)
    assert stats.power(effect, n) == pytest.approx(seen, abs=0.025)


def test_runs_needed_is_the_smallest_sufficient_number() -> None:
    x, y = [0.5, 0.6, 0.7, 0.55], [0.45, 0.5, 0.62, 0.52]
    needed = stats.runs_needed(x, y)
    effect = (np.mean(x) - np.mean(y)) / math.sqrt((np.var(x, ddof=1) + np.var(y, ddof=1)) / 2)
    assert needed is not None
    assert stats.power(effect, needed) >= 0.8 > stats.power(effect, needed - 1)


def test_runs_needed_at_the_edges() -> None:
    assert stats.runs_needed([1, 1, 1], [0, 0, 0]) == 2
    assert stats.runs_needed([1, 2], [1, 2]) is None
    assert stats.runs_needed([1], [0]) is None
    assert stats.runs_needed([1e-9, 1], [0, 1]) == stats.MOST_RUNS


def test_the_detectable_difference_has_the_power_it_claims() -> None:
    least = stats.detectable(0.03, 5)
    assert stats.power(least / 0.03, 5) == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(stats.detectable(0.03, 1))
    assert stats.detectable(0.0, 5) == 0.0


def test_the_pooled_spread_is_within_contenders() -> None:
    assert stats.pooled_spread([[1, 3], [10, 12], [5]]) == pytest.approx(math.sqrt(2))
    assert math.isnan(stats.pooled_spread([[1], [2]]))
