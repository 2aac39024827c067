"""Main effects and interactions against ordinary least squares and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as reference

from anypo.compare.effects import effects, missing

LEVELS = {"trust": ["clip", "none"], "centre": ["mean", "median", "loo"]}


def design(runs: int, noise: float, seed: int = 0) -> tuple[list[float], list[dict[str, str]]]:
    """A made-up truth: trust is worth 0.1, centre 0.02 a step, and the last pair 0.06 more."""
    random = np.random.default_rng(seed)
    scores, factors = [], []
    for (i, t), (j, c) in itertools.product(enumerate(LEVELS["trust"]), enumerate(LEVELS["centre"])):
        for _ in range(runs):
            scores.append(0.5 + 0.1 * i + 0.02 * j + 0.06 * (i == 1 and j == 2) + noise * random.normal())
            factors.append({"trust": t, "centre": c})
    return scores, factors


def test_effects_without_noise_are_the_truth() -> None:
    trust, centre, both = effects(*design(2, 0.0))
    assert trust.levels[("none",)].value == pytest.approx(0.1 / 2 + 0.06 / 6)
    assert centre.levels[("loo",)].value == pytest.approx(0.02 + 0.06 / 2 - 0.06 / 6)
    assert both.levels[("none", "loo")].value == pytest.approx(0.06 * (1 - 1 / 2) * (1 - 1 / 3))
    for effect in (trust, centre, both):
        assert sum(level.value for level in effect.levels.values()) == pytest.approx(0, abs=1e-12)


def test_the_f_test_of_a_balanced_one_factor_design_is_anova() -> None:
    scores, factors = design(6, 0.05)
    only = [{"centre": f["centre"]} for f in factors]
    groups = [[s for s, f in zip(scores, only) if f["centre"] == level] for level in LEVELS["centre"]]
    (found,) = effects(scores, only)
    assert found.p == pytest.approx(reference.f_oneway(*groups).pvalue)


def test_unbalanced_effects_and_intervals_are_those_of_least_squares() -> None:
    scores, factors = design(4, 0.03, seed=1)
    keep = [i for i in range(len(scores)) if i not in (0, 1, 2, 9)]
    scores, factors = [scores[i] for i in keep], [factors[i] for i in keep]
    code = {"trust": np.array([[1.0], [-1.0]]), "centre": np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])}
    rows = []
    for f in factors:
        t, c = (code[name][LEVELS[name].index(f[name])] for name in LEVELS)
        rows.append(np.concatenate([[1.0], t, c, np.outer(t, c).ravel()]))
    x, y = np.array(rows), np.array(scores)
    solution = np.linalg.lstsq(x, y, rcond=None)[0]
    freedom = len(y) - x.shape[1]
    variance = float(((y - x @ solution) ** 2).sum()) / freedom
    covariance = variance * np.linalg.inv(x.T @ x)
    trust, centre, both = effects(scores, factors)
    assert trust.levels[("clip",)].value == pytest.approx(solution[1])
    half = reference.t.ppf(0.975, freedom) * math.sqrt(covariance[1, 1])
    assert trust.levels[("clip",)].high == pytest.approx(solution[1] + half)
    assert centre.levels[("median",)].value == pytest.approx(solution[3])
    assert both.levels[("clip", "mean")].value == pytest.approx(solution[4])
    chosen = solution[2:4]
    statistic = chosen @ np.linalg.inv(covariance[2:4, 2:4]) @ chosen / 2
    assert centre.p == pytest.approx(reference.f.sf(statistic, 2, freedom))


def test_the_intervals_cover() -> None:
    hits = []
    for seed in range(200):
        trust = effects(*design(2, 0.05, seed=seed))[0]
        level = trust.levels[("none",)]
        hits.append(level.low <= 0.06 <= level.high)
    assert 0.9 < np.mean(hits) < 0.99


def test_one_run_per_combination_gives_values_without_intervals() -> None:
    trust, *_ = effects(*design(1, 0.0))
    assert math.isnan(trust.p) and not trust.levels[("clip",)].known
    assert trust.levels[("none",)].value == pytest.approx(0.06)


def test_a_design_with_a_hole_gives_no_effects() -> None:
    scores, factors = design(2, 0.1)
    keep = [i for i, f in enumerate(factors) if f != {"trust": "none", "centre": "loo"}]
    assert missing([factors[i] for i in keep]) == ["none loo"]
    assert effects([scores[i] for i in keep], [factors[i] for i in keep]) == []
    assert effects([], []) == []


def test_a_factor_with_one_level_is_left_out() -> None:
    scores, factors = design(2, 0.0)
    found = effects(scores, [{**f, "system": "grpo"} for f in factors])
    assert [effect.factors for effect in found] == [("trust",), ("centre",), ("trust", "centre")]
