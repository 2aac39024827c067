"""Depth for hard prompts: the published tables, summed advantages by enumeration, and a budget that holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from making_systems import assert_same_gradient

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed, train
from anypo.generate.groups.deepened import Deepened, granted
from anypo.outlook import Outlook
from anypo.systems import find


@pytest.mark.exact("dars")
def test_the_totals_of_the_scripts() -> None:
    """n = N 0.25 / (u (1 - u)) and n = N 0.5 / u, rounded up, capped, nothing from one half on."""
    hard, equal = Deepened(), Deepened(schedule="equal", most=32)
    totals = lambda part: [8 + part.wish(k / 8, 8) for k in range(9)]
    assert totals(hard) == [64, 32, 16, 11, 8, 8, 8, 8, 8]
    assert totals(equal) == [32, 19, 11, 9, 8, 8, 8, 8, 8]
    assert 8 + Deepened(most=20).wish(0.0, 8) == 20


@pytest.mark.exact("dars")
@pytest.mark.parametrize("deviation", [False, True])
def test_equal_groups_have_the_summed_advantage_of_one_half_solved(deviation: bool) -> None:
    """The sum of |A| over a group of n with k right, by enumerating it; the group grown to the wish reaches that of 1/2, and without
    the last rollout it would not."""

    def summed(k: float, n: float) -> float:
        u = k / n
        spread = np.sqrt(u * (1 - u)) if deviation else 1.0
        return (k * (1 - u) + (n - k) * u) / spread

    for n, k in itertools.product(range(2, 17), range(1, 8)):
        if 2 * k >= n:
            continue
        rewards = np.array([1.0] * k + [0.0] * (n - k))
        centred = rewards - rewards.mean()
        assert summed(k, n) == pytest.approx(np.abs(centred / (rewards.std() if deviation else 1.0)).sum())
        grown = n + Deepened(schedule="equal", most=10_000, deviation=deviation).wish(k / n, n)
        peak, u = summed(n / 2, n), k / n
        assert summed(grown * u, grown) >= peak - 1e-9 > summed((grown - 1) * u, grown - 1) - 2e-9


@pytest.mark.exact("dars")
def test_wishes_beyond_the_budget_are_cut_alike() -> None:
    assert granted([5, 0, 3], 8) == [5, 0, 3] and granted([5, 0, 3], 100) == [5, 0, 3]
    cut = granted([56, 56, 24, 8, 0], 40)
    assert sum(cut) == 40 and cut[4] == 0 and abs(cut[0] - cut[1]) <= 1 and cut[0] < 40 / 2
    assert granted([56] * 4, 2) == [1, 1, 0, 0] and granted([], 3) == []


@pytest.mark.exact("dars")
def test_no_step_spends_more_than_its_asks_and_says_what_is_left() -> None:
    for samples in (12, 64):
        bed = Testbed(prompts=6, batch=6, group=samples)
        curves = train(find("dars").algorithm(), bed, 3, 0)
        for wished, unspent, tokens in zip(*(curves.metric(f"generate/{m}") for m in ("wished", "unspent")), range(3)):
            assert unspent == max(0, 6 * (samples - 8) - wished), tokens
        groups = curves.trainer.producer.fresh
        sizes = [len(g.trajectories) for g in groups]
        assert (
            sum(sizes) == 6 * samples - curves.metric("generate/unspent")[-1] and min(sizes) >= 8 and max(sizes) <= 64
        )
        for group in groups:  # one pool of different rollouts
            assert [t.sample for t in group.trajectories] == list(range(len(group.trajectories)))
            first = [t.reward for t in group.trajectories[:8]]
            assert np.mean(first) < 0.5 or len(first) == len(group.trajectories)


@pytest.mark.exact("dars")
def test_the_first_stage_alone_is_plain_sampling() -> None:
    bed = Testbed(prompts=4, batch=4, group=8)
    deep = train(find("dars").algorithm(), bed, 3, 1)
    plain = train(find("dars").algorithm().set({"generate": "independent"}), bed, 3, 1)
    np.testing.assert_array_equal(deep.values, plain.values)
    said = " ".join(find("dars").algorithm().set({"control.samples": 8}).sleepers(Outlook(20, 10_000)))
    assert "base 8 rollouts are all 8 that a prompt has; set control.samples=16" in said


@pytest.mark.exact("dars")
def test_the_gradient_counts_every_rollout_alike() -> None:
    def loss(case):
        advantage = (case.reward - case.group_mean(case.reward))[:, None]
        ratio = (case.logp - case.old).exp()
        kept = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        return -(kept * case.mask).sum() / case.mask.sum()

    assert_same_gradient("dars", loss)
    update = find("dars").algorithm().update
    assert (update.epochs, update.minibatches_per_epoch) == (2, 1)
    assert isinstance(find("dars").algorithm(), Algorithm)
