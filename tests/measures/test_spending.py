"""What was sampled for what was trained on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anypo.errors import UserError
from anypo.measures.spending import bill, ratio
from anypo.run.disk.folder import RunFolder
from anypo.run.session import train
from anypo.systems import find


@pytest.mark.exact("gfcr")
@given(st.lists(st.floats(1, 1000), min_size=2, max_size=20))
def test_over_a_constant_the_interval_is_that_of_a_mean(above: list[float]) -> None:
    value, low, high = ratio(np.array(above), np.full(len(above), 2.0))
    error = np.std(above, ddof=1) / math.sqrt(len(above)) / 2
    assert value == pytest.approx(np.mean(above) / 2)
    assert (low, high) == pytest.approx((max(0.0, value - 1.96 * error), value + 1.96 * error), rel=1e-6, abs=1e-6)


@pytest.mark.exact("gfcr")
def test_the_interval_covers_the_ratio_of_the_means() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        trained = rng.uniform(50, 150, 40)
        _, low, high = ratio(trained * rng.gamma(4.0, 0.75, 40), trained)  # true ratio 3
        inside += low <= 3.0 <= high
    assert 0.9 <= inside / 400 <= 0.98


def test_one_step_says_nothing_of_its_spread_and_no_training_costs_infinitely_much() -> None:
    assert ratio(np.array([6.0]), np.array([2.0])) == (3.0, 0.0, math.inf)
    assert ratio(np.array([6.0, 1.0]), np.zeros(2))[0] == math.inf
    assert ratio(np.array([6.0, 1.0]), np.array([0.0, 2.0])) == (3.5, 0.0, math.inf)
    with pytest.raises(UserError, match="sampled nothing"):
        bill([{"tokens/trained": 3.0}])


def test_steps_that_log_less_do_not_count_for_it() -> None:
    rows = [
        {"tokens/generated": 10.0, "tokens/trained": 5.0, "filter/kept_share": 0.5, "time/generate": 1.0, "time/step": 2.0},
        {"tokens/generated": 6.0, "tokens/trained": 3.0, "filter/kept_share": None, "reward/mean": float("nan")},
    ]  # fmt: skip
    found = bill(rows)
    assert found.value == 2.0 == found.low == found.high and found.n == 2
    assert found.details == {"sampled": 16.0, "trained on": 8.0, "time spent sampling": 0.5, "kept": 0.5}


def test_a_run_that_drops_half_of_what_it_samples_says_so(tmp_path: Path) -> None:
    small = {"control.prompts": 4, "control.samples": 4, "generate.max_new": 4}
    plain = {"steps": 2, "sft_steps": 0, "eval_size": 0}
    train("grpo", "tiny", "chain_sum", set=small, out=tmp_path / "all", **plain)
    kept = find("gfcr").build().of(RunFolder.read(tmp_path / "all"))
    assert kept.value == kept.low == kept.high == 1.0 and kept.details["kept"] == 1.0
    half = small | {"filter.survival": [{"part": "first_share", "share": 0.5}]}
    train("grpo", "tiny", "chain_sum", set=half, out=tmp_path / "half", **plain)
    assert find("gfcr").build().of(RunFolder.read(tmp_path / "half")).value > 1.5
