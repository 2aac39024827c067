"""The exact properties of `anypo.systems.objectives.trust_regions`, as the sources state them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from making_rows import loss_and_gradient, make
from making_systems import assign, targets

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.credit.pipeline import Pipeline
from anypo.credit.select.negatives import DropNegatives
from anypo.objective import BoundedRatio, PolicyGradient, RatioVariance, TokenRatio, Unclipped
from anypo.systems import find
from anypo.update.multipliers import DualAscent


def test_red_drop_leaves_at_most_as_many_failures_as_successes() -> None:
    batch = make([[2] * 6, [3, 3], [1, 1]], rewards=[[1, 0, 0, 0, 0, 1], [0, 0], [1, 0]])
    method = Algorithm(credit=Pipeline(select=(DropNegatives(),)))
    kept = assign(method, batch)
    counts = [int((kept.group == g).sum()) for g in range(3)]
    assert counts == [4, 2, 2]
    assert sorted(kept.sequences["reward"][kept.group == 0].tolist()) == [0, 0, 1, 1]


def braked(strength: float) -> PolicyGradient:
    variance = RatioVariance(coefficient=strength, ratio=TokenRatio(denominator="behaviour"))
    return PolicyGradient(ratio=TokenRatio(denominator="behaviour"), trust=Unclipped(), regularise=(variance,))


@pytest.mark.exact("r2vpo")
def test_the_brake_shifts_the_advantage() -> None:
    batch = make([[4, 3], [2, 5]], drift=0.5)
    ratio = (batch["logp"] - batch["logp_behaviour"]).exp()
    for strength in (0.0, 0.3, 4.0):
        found = loss_and_gradient(braked(strength), batch)[1]
        expected = -ratio * (batch["advantage"] - 2 * strength * (ratio - 1)) / len(batch)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.exact("r2vpo")
def test_a_token_moves_until_its_advantage_is_used_up() -> None:
    """The stationary ratio of a single sample is 1 + A / (2 lambda): no edge common to all."""
    one = make([[1]])
    for advantage, strength in ((0.5, 1.0), (8.0, 1.0), (-0.5, 2.0)):
        still = torch.tensor([1 + advantage / (2 * strength)], dtype=torch.float64).log()
        at = one.with_rows(logp=one["logp_behaviour"] + still, advantage=torch.tensor([advantage], dtype=torch.float64))
        assert float(loss_and_gradient(braked(strength), at)[1].abs().max()) < 1e-12


def test_the_variance_of_the_ratio_is_chi_squared_and_twice_the_kl() -> None:
    start, away = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = start.softmax(0)
    for size, slack in ((1.0, 1.0), (1e-3, 2e-3)):
        p = (start + size * away).softmax(0)
        chi = float((p**2 / b).sum() - 1)
        assert float((b * (p / b - 1) ** 2).sum()) == pytest.approx(chi, rel=1e-9)
        assert chi / (2 * float((p * (p / b).log()).sum())) == pytest.approx(1.0, abs=slack)


def test_the_multiplier_rises_linearly_and_falls_to_zero() -> None:
    algorithm = Algorithm.from_dict(find("r2vpo").algorithm().dump())
    dual = algorithm.objective.regularise[0].multiplier
    assert isinstance(dual, DualAscent)
    context = Context(0, 10, 0, Memory(algorithm))
    rising = [dual.weight(0.5, context) for _ in range(4)]
    assert rising == pytest.approx([0.04, 0.09, 0.14, 0.19])
    assert [dual.weight(-1.0, context) for _ in range(5)][-1] == 0.0


def test_a_rare_success_may_rise_further_than_under_the_clip() -> None:
    """One answer of probability 0.01 with A = 8 among others with small ones, the same overall variance of the ratio: 200 ascent
    steps on exact expectations."""
    b = torch.tensor([0.01, 0.33, 0.33, 0.33], dtype=torch.float64)
    gain = torch.tensor([8.0, 0.1, -0.1, 0.1], dtype=torch.float64)
    gain = gain - (b * gain).sum()

    def climb(surrogate) -> torch.Tensor:
        logits = b.log().clone().requires_grad_()
        for _ in range(200):
            r = logits.softmax(0) / b
            (g,) = torch.autograd.grad((b * surrogate(r)).sum(), logits)
            logits = (logits + 0.5 * g).detach().requires_grad_()
        return logits.detach().softmax(0)

    clipped = climb(lambda r: torch.minimum(r * gain, r.clamp(0.8, 1.2) * gain))
    spent = float((b * (clipped / b - 1) ** 2).sum())
    strengths = np.geomspace(0.05, 500, 60)
    ours = [climb(lambda r, s=s: r * gain - s * (r - 1) ** 2) for s in strengths]
    within = [p for p in ours if float((b * (p / b - 1) ** 2).sum()) <= spent]
    assert max(float(p[0]) for p in within) > float(clipped[0]) * 1.05


@pytest.mark.exact("gbpo")
def test_bounded_ratio_at_the_median_and_where_all_are_alike() -> None:
    trust = BoundedRatio(threshold="quantile")
    assert targets(trust, np.array([0.5, 0.5, 0.5, -1.5])).tolist() == [1.0, 1.0, 1.0, 0.8]
    assert targets(trust, np.array([1.5, -0.5, -0.5, -0.5])).tolist() == [1.2, 1.0, 1.0, 1.0]
    assert targets(trust, np.zeros(3)).tolist() == [1.0] * 3
    even = targets(trust, np.array([1.0, -1.0]))
    assert even.tolist() == [1.2, 0.8]
    long = make([[3, 7, 5]]).with_rows(logp_old=make([[3, 7, 5]])["logp"])
    third = torch.tensor([1 / 3, 1 / 3, -2 / 3], dtype=torch.float64)[long.sequence]
    assert trust.side(third, long).tolist() == [0.0] * 10 + [-1.0] * 5, "rounding in a mean is not a side"


def test_bounded_ratio_ignores_responses_that_do_not_count() -> None:
    batch = make([[1, 1, 1, 1]]).with_rows(weight=torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64))
    side = BoundedRatio(threshold="quantile").side(torch.tensor([1.0, 2.0, 3.0, 99.0], dtype=torch.float64), batch)
    assert side[:3].tolist() == [-1.0, 0.0, 1.0]
