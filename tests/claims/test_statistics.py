"""Statistics of claims against closed forms and scipy; verdicts at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from anypo.claims.base import ClaimRun, compare, fails, fewer_events, identity, judge, learns, not_worse, sooner
from anypo.claims.statistics import fisher_exact, paired_bootstrap, paired_interval, sign_test


def run(n=8):
    return ClaimRun(tuple(range(n)))


def test_fisher_and_sign_test_agree_with_scipy():
    for base, of_base, ours, of_ours in ((4, 5, 0, 5), (3, 10, 2, 8), (0, 5, 0, 5), (5, 5, 5, 5), (1, 6, 4, 7)):
        table = [[ours, of_ours - ours], [base, of_base - base]]
        assert fisher_exact(base, of_base, ours, of_ours) == pytest.approx(stats.fisher_exact(table, "less").pvalue)
    differences = [1.0, 2.0, -1.0, 0.0, 3.0, 0.5]
    assert sign_test(differences) == pytest.approx(stats.binomtest(4, 5, alternative="greater").pvalue)
    assert sign_test([]) == 1.0 and sign_test([0.0]) == 1.0


def test_bootstrap_interval_covers_the_mean():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = paired_bootstrap(generator.normal(0.3, 1.0, 20).tolist(), draws=600)
        inside += low <= 0.3 <= high
    assert 0.86 < inside / 200 < 0.98
    assert all(math.isnan(v) for v in paired_bootstrap([]))
    assert paired_bootstrap([2.0, 2.0]) == (2.0, 2.0)


def test_intervals_hold_with_few_pairs():
    generator = np.random.default_rng(1)
    covered = {"normal": [0, 0], "skewed": [0, 0]}
    for kind, n in (("normal", 5), ("skewed", 8)):
        for _ in range(300):
            values = generator.normal(0.3, 1.0, n) if kind == "normal" else generator.exponential(1.0, n) - 0.7
            for place, interval in enumerate((paired_interval, paired_bootstrap)):
                low, high = interval(values.tolist(), draws=300)
                covered[kind][place] += low <= 0.3 <= high
    assert covered["normal"][0] > 0.92 * 300 > covered["normal"][1]  # the bootstrap alone would promise too much
    assert covered["skewed"][0] > max(0.83 * 300, covered["skewed"][1])
    assert all(math.isnan(v) for v in paired_interval([1.0]))


def test_verdicts():
    assert judge(1.0, 0.1, 2.0) == "reproduced"
    assert judge(1.0, -0.1, 2.0) == "direction_only"
    assert judge(-1.0, -2.0, 0.5) == judge(0.0, 0.0, 0.0) == "not_reproduced"


def test_compare_in_both_directions():
    base, ours = [1.0, 2.0, 3.0, 4.0], [2.0, 3.5, 4.0, 5.5]
    up = compare(base, ours, "reward", run(4))
    assert (
        up.verdict == "reproduced" and up.effect == pytest.approx(1.25) and 0.7 < up.low < 1.0 and 1.5 < up.high < 1.8
    )
    assert compare(base, ours, "spikes", run(4), larger=False).verdict == "not_reproduced"
    down = compare(ours, base, "spikes", run(4), larger=False)
    assert down.verdict == "reproduced" and down.effect == pytest.approx(-1.25) and down.high < 0
    assert compare([0, 0, 0, 0], [1, -1, 1, 0.5], "reward", run(4)).verdict == "direction_only"


def test_non_finite_runs_count_against_the_claim():
    found = compare([1.0, 1.0], [math.nan, 5.0], "reward", run(2))
    assert found.verdict == "not_reproduced" and "non-finite" in found.notes and found.plain()["effect"] is None


def test_non_inferiority():
    base, worse = [1.0, 1.1, 0.9, 1.0], [0.95, 1.06, 0.84, 0.96]
    assert compare(base, worse, "reward", run(4)).verdict == "not_reproduced"
    fine = not_worse(base, worse, 0.1, "reward", run(4))
    assert fine.verdict == "reproduced" and fine.effect == pytest.approx(-0.0475) and fine.base == pytest.approx(1.0)
    assert not_worse(base, worse, 0.01, "reward", run(4)).verdict == "not_reproduced"
    assert not_worse([1.0] * 4, [1.04, 1.05, 1.03, 1.04], 0.1, "spikes", run(4), larger=False).verdict == "reproduced"


def test_events_and_identities():
    rare = fewer_events([True] * 8, [False] * 8, "collapsed", run())
    assert rare.verdict == "reproduced" and rare.effect == -1.0 and rare.p == pytest.approx(1 / math.comb(16, 8))
    assert fewer_events([True, False], [False, False], "collapsed", run(2)).verdict == "direction_only"
    assert fewer_events([False], [False], "collapsed", run(1)).verdict == "not_reproduced"
    assert identity(1e-9, 1e-6, "error", run()).verdict == "reproduced"
    assert identity(math.nan, 1e-6, "error", run()).verdict == "not_reproduced"


# -- what earns a verdict ----------------------------------------------------------------------------------------------------------


def seeds(count: int = 6) -> ClaimRun:
    return ClaimRun(tuple(range(count)))


BASE = [0.50, 0.52, 0.48, 0.51, 0.49, 0.50]
OURS = [b + g for b, g in zip(BASE, (0.10, 0.11, 0.09, 0.10, 0.12, 0.10))]


def test_a_bed_that_shows_nothing_leaves_a_claim_untested() -> None:
    idle = fails([True, False, False, False, False, False, False, False, False, False], "collapses")
    assert not idle.holds and fails([True] * 4 + [False] * 6, "collapses").holds and not fails([], "collapses").holds
    assert compare(BASE, OURS, "reward", seeds()).verdict == "reproduced"
    found = compare(BASE, OURS, "reward", seeds(), premise=idle)
    assert found.verdict == "untested" and found.plain()["premise"]["met"] == 1


def test_a_base_at_its_ceiling_or_that_does_not_learn_shows_nothing() -> None:
    assert learns([0.1] * 5, [0.6] * 5, ceiling=0.9).holds
    assert not learns([0.1] * 5, [0.95] * 5, ceiling=0.9).holds
    assert not learns([0.1] * 5, [0.12] * 5, ceiling=0.9).holds
    assert learns([-0.9] * 5, [-0.2] * 5, ceiling=-0.1).holds, "a quantity that falls, negated"


@pytest.mark.parametrize(
    ("control", "verdict"),
    [
        (BASE, "reproduced"),
        ([o - 0.001 * (-1) ** i for i, o in enumerate(OURS)], "not_reproduced"),
        ([o + 0.01 for o in OURS], "not_reproduced"),
    ],
)
def test_what_a_control_explains_is_not_the_method_s(control: list[float], verdict: str) -> None:
    found = compare(BASE, OURS, "reward", seeds(), controls={"a constant": control})
    assert found.verdict == verdict
    assert found.plain()["controls"][0]["name"] == "a constant"
    falling = compare(
        [-b for b in BASE], [-o for o in OURS], "loss", seeds(), larger=False, controls={"c": [-c for c in control]}
    )
    assert falling.verdict == verdict and falling.effect == pytest.approx(-found.effect)


def test_an_effect_too_small_to_matter_is_a_direction() -> None:
    assert compare(BASE, OURS, "reward", seeds(), least=0.2).verdict == "direction_only"
    assert compare(BASE, OURS, "reward", seeds(), least=0.05).verdict == "reproduced"


def test_runs_that_never_arrive_are_lost() -> None:
    never = math.inf
    fast = [40.0, 41.0, 42.0, 40.0, 39.0, 41.0]
    slow = [80.0, 82.0, 81.0, 79.0, 80.0, 83.0]
    assert sooner(slow, fast, "steps", seeds(), most=100).verdict == "reproduced"
    some = sooner(slow, [*fast[:5], never], "steps", seeds(), most=100)
    assert some.verdict == "not_reproduced" and "1 (ours) of 6" in some.notes
    all_lost = sooner([never] * 6, [never] * 6, "steps", seeds(), most=100)
    assert all_lost.verdict == "not_reproduced" and all_lost.effect == 0.0
    both = sooner([never] * 6, [*fast[:5], never], "steps", seeds(), most=100)
    assert both.verdict == "reproduced" and both.base == 100.0
    random_selection = [fast[0] - 5] * 6
    beaten = sooner(slow, fast, "steps", seeds(), most=100, controls={"random": random_selection})
    assert beaten.verdict == "not_reproduced" and beaten.controls[0].effect < 0
