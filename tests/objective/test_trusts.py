"""Trust regions: gradients against closed forms, region by region."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from making_rows import loss_and_gradient, make
from torch import Tensor

from anypo.data.batch import Batch
from anypo.data.numerics import effective_sample_size
from anypo.objective import (
    BalancedClip,
    Clip,
    ClipCov,
    EssCap,
    HeterogeneousClip,
    KLCov,
    Mask,
    OneSide,
    PolicyGradient,
    RecentredClip,
    Ring,
    ScoreFunction,
    SequenceRatio,
    SigmoidGate,
    SoftClip,
    TokenRatio,
    TwoSide,
    Unclipped,
)
from anypo.objective.trusts.entropy import entropy_level


def with_ratios(ratios: list[float], advantages: list[float]) -> Batch:
    """One sequence whose token ratios and advantages are given."""
    batch = make([[len(ratios)]])
    logp = torch.full((len(ratios),), -3.0, dtype=torch.float64)
    return batch.with_rows(
        logp=logp,
        logp_old=logp - torch.tensor(ratios, dtype=torch.float64).log(),
        advantage=torch.tensor(advantages, dtype=torch.float64),
    )


def pull(trust, batch: Batch, ratio=None) -> Tensor:
    """Coefficient of every log-probability in the ascent direction, times the number of rows."""
    return -loss_and_gradient(PolicyGradient(trust=trust, ratio=ratio or TokenRatio()), batch)[1] * len(batch)


def test_clip_has_ppos_four_regions() -> None:
    ratios = [0.5, 0.9, 1.1, 1.5]
    for sign in (1.0, -1.0):
        batch = with_ratios(ratios, [2.0 * sign] * 4)
        keep = [True, True, True, False] if sign > 0 else [False, True, True, True]
        expected = [2.0 * sign * r if k else 0.0 for r, k in zip(ratios, keep)]
        assert pull(Clip(), batch).tolist() == pytest.approx(expected)


def test_asymmetric_and_dual_clip() -> None:
    batch = with_ratios([1.25, 1.3, 0.79, 5.0], [1.0, 1.0, -1.0, -1.0])
    assert pull(Clip(low=0.2, high=0.28), batch).tolist() == pytest.approx([1.25, 0.0, 0.0, -5.0])
    assert pull(Clip(low=0.2, high=0.28, dual=3.0), batch).tolist() == pytest.approx([1.25, 0.0, 0.0, 0.0])
    loss, _ = loss_and_gradient(PolicyGradient(trust=Clip(dual=3.0)), with_ratios([5.0], [-1.0]))
    assert float(loss) == pytest.approx(3.0)


def test_dual_clip_must_exceed_one() -> None:
    from anypo.errors import UserError

    with pytest.raises(UserError, match="dual"):
        Clip.make({"dual": 0.5})


def test_soft_clip_keeps_every_gradient_and_never_differentiates_its_weight() -> None:
    ratios = [0.2, 1.0, 1.2, 4.0]
    batch = with_ratios(ratios, [1.0, -1.0, 2.0, -0.5])
    assert pull(SoftClip(low=1.0, high=0.28), batch).tolist() == pytest.approx([0.2, -1.0, 2.4, -0.64])
    assert pull(SoftClip(low=0.5, high=0.28), batch)[0] == pytest.approx(0.5)


def test_soft_clip_with_a_sequence_ratio_weighs_every_token_of_a_response_alike() -> None:
    batch = make([[3, 2]], seed=8)
    got = pull(SoftClip(low=1.0, high=0.05), batch, SequenceRatio())
    weight = batch.spread(batch.sequence_mean(batch["logp"] - batch["logp_old"]).exp().clamp(max=1.05))
    torch.testing.assert_close(got, weight * batch["advantage"])


@pytest.mark.exact("remix")
def test_recentred_clip_is_inactive_at_the_step_start_and_ppo_on_fresh_data() -> None:
    batch = make([[4, 3]], seed=2, drift=1.0)
    start = batch.with_rows(logp=batch["logp_old"])
    ratio = TokenRatio(denominator="behaviour")
    weight = (batch["logp_old"] - batch["logp_behaviour"]).exp()
    torch.testing.assert_close(pull(RecentredClip(), start, ratio), weight * batch["advantage"])
    fresh = batch.with_rows(logp_behaviour=batch["logp_old"])
    torch.testing.assert_close(pull(RecentredClip(), fresh, ratio), pull(Clip(), fresh))


def test_sigmoid_gate_has_slope_one_on_policy_and_fades() -> None:
    batch = with_ratios([1.0, 1.0, 3.0, 3.0], [2.0, -2.0, 1.0, -1.0])
    got = pull(SigmoidGate(), batch).tolist()
    s = 1 / (1 + math.exp(-2.0))
    assert got[0] == pytest.approx(2.0) and got[1] == pytest.approx(-2.0)
    assert got[2] == pytest.approx(4 * s * (1 - s) * 3.0)
    assert abs(got[3]) < got[2], "negative advantages fade faster"


@pytest.mark.parametrize("seed", range(3))
def test_one_sided_mask_with_importance_weight_is_ppos_clip(seed: int) -> None:
    batch = make([[5, 6], [7]], seed=seed, drift=0.5)
    torch.testing.assert_close(pull(Mask(region=OneSide(), weight="ratio"), batch), pull(Clip(), batch))


@pytest.mark.exact("rec")
def test_regions_by_hand() -> None:
    grid = [0.3, 0.7, 1.0, 1.5, 3.5]
    logs = torch.tensor(grid, dtype=torch.float64).log()
    plus, minus = torch.ones(5, dtype=torch.float64), -torch.ones(5, dtype=torch.float64)
    assert OneSide().keep(logs, plus).tolist() == [True, True, True, False, False]
    assert OneSide().keep(logs, minus).tolist() == [False, False, True, True, True]
    assert TwoSide().keep(logs, plus).tolist() == [False, False, True, False, False]
    assert Ring().keep(logs, plus).tolist() == [True, False, True, False, False]
    assert Ring().keep(logs, minus).tolist() == [False, False, True, False, True]


def test_mask_weights() -> None:
    batch = with_ratios([0.3, 1.1, 3.5], [1.0, 1.0, -1.0])
    everywhere = lambda **kw: pull(Mask(region="everywhere", **kw), batch).tolist()  # type: ignore[arg-type]
    assert everywhere() == pytest.approx([1.0, 1.0, -1.0])
    assert everywhere(weight="ratio") == pytest.approx([0.3, 1.1, -3.5])
    assert everywhere(weight="truncated") == pytest.approx([0.4, 1.1, -3.0])
    assert everywhere(weight="advantage", temperature=0.5) == pytest.approx([math.exp(2), math.exp(2), -math.exp(-2)])


def test_mask_may_test_another_ratio_than_it_weighs_with() -> None:
    """Sequence-level rejection of token-level updates."""
    batch = make([[2, 2]], seed=1)
    shift = torch.tensor([0.5, 0.5, -0.4, 0.5], dtype=torch.float64)
    batch = batch.with_rows(logp=batch["logp_old"] + shift, advantage=torch.ones(4, dtype=torch.float64))
    got = pull(Mask(region=OneSide(), test=SequenceRatio()), batch)
    assert got.tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0]), "mean log-ratio .5 is out, .05 is in"


# -- balanced clipping ------------------------------------------------------------------------------------------------


def balance(ratio: Tensor, advantage: Tensor, low: float, high: float) -> float:
    part = torch.where(advantage >= 0, advantage * ratio.clamp(max=high), advantage * ratio.clamp(min=low))
    positive, negative = float(part[part > 0].sum()), float(-part[part < 0].sum())
    return positive / (negative + 1e-8) if negative else math.inf


def test_balanced_clip_without_a_target_is_ppo_with_fixed_bounds_and_dual_clip() -> None:
    batch = make([[6, 7], [8]], seed=1, drift=0.8)
    torch.testing.assert_close(
        pull(BalancedClip(target=0.0), batch), pull(Clip(low=0.4, high=0.2, dual=3.0), batch), rtol=1e-12, atol=1e-12
    )


@pytest.mark.exact("bapo")
def test_balanced_clip_returns_the_first_grid_point_that_meets_the_target() -> None:
    ratio = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.5, 1.0], dtype=torch.float64)
    advantage = torch.tensor([1.0, 1.0, 1.0, -1.4, -1.4, -1.4], dtype=torch.float64)
    batch = with_ratios(ratio.tolist(), advantage.tolist())
    low, high = BalancedClip().bounds(ratio, advantage, batch)
    lows = [0.6 + 0.05 * i for i in range(7)]
    highs = [1.2 + 0.1 * i for i in range(19)]
    walk = [(a, highs[0]) for a in lows] + [(lows[-1], b) for b in highs[1:]]
    first = next(((a, b) for a, b in walk if balance(ratio, advantage, a, b) >= 1.0), walk[-1])
    assert (low, high) == pytest.approx(first)
    assert high > 1.2, "the case must make it walk"
    reverse = [(lows[0], b) for b in highs] + [(a, highs[-1]) for a in lows[1:]]
    expected = next(((a, b) for a, b in reverse if balance(ratio, advantage, a, b) >= 1.0), reverse[-1])
    assert BalancedClip(order="high_first").bounds(ratio, advantage, batch) == pytest.approx(expected)


def test_balanced_clip_bounds_stay_inside_their_ranges_and_on_policy_do_not_matter() -> None:
    for seed in range(5):
        batch = make([[9, 4]], seed=seed, drift=1.5)
        ratio = (batch["logp"] - batch["logp_old"]).exp()
        low, high = BalancedClip(target=5.0).bounds(ratio, batch["advantage"], batch)
        assert 0.6 <= low <= 0.9 and 1.2 <= high <= 3.0
    on = make([[5, 5]], seed=1, drift=0.0)
    torch.testing.assert_close(pull(BalancedClip(target=9.0), on), on["advantage"])
    positive = on.with_rows(advantage=on["advantage"].abs())
    assert BalancedClip().bounds(torch.ones(10, dtype=torch.float64), positive["advantage"], positive) == (0.6, 1.2)


def test_balanced_clip_positive_part_grows_with_the_upper_bound_only() -> None:
    batch = make([[9, 4]], seed=3, drift=1.5)
    ratio = (batch["logp"] - batch["logp_old"]).exp()
    shares = [balance(ratio, batch["advantage"], 0.6, high) for high in (1.2, 1.6, 2.4, 3.0)]
    assert shares == sorted(shares)
    falling = [balance(ratio, batch["advantage"], low, 1.2) for low in (0.6, 0.7, 0.9)]
    assert falling == sorted(falling, reverse=True), "raising the lower bound never helps the value-balance"


# -- effective sample size ----------------------------------------------------------------------------------------------


@pytest.mark.exact("p3o-ess")
def test_ess_cap_is_reinforce_on_policy_and_the_closed_form_off_policy() -> None:
    on = make([[4, 3]], drift=0.0)
    torch.testing.assert_close(pull(EssCap(), on), pull(Unclipped(), on, ScoreFunction()))
    off = make([[6, 5]], seed=4, drift=0.7)
    w = (off["logp"] - off["logp_old"]).exp()
    ess = effective_sample_size(w.log(), torch.ones(len(off), dtype=torch.bool))
    expected = torch.minimum(w, ess) * off["advantage"] - (1 - ess) * (1 - 1 / w)
    torch.testing.assert_close(pull(EssCap(), off), expected)
    assert 1 / len(off) <= float(ess) < 1


# -- covariance -----------------------------------------------------------------------------------------------------------


@pytest.mark.exact("clip-cov")
def test_clip_cov_zeroes_exactly_its_quota_of_candidates() -> None:
    batch = make([[30, 30], [40]], seed=2)
    trust = ClipCov(rate=0.05, lower=0.0, upper=9.0)
    cov = (batch["advantage"] - batch["advantage"].mean()) * (batch["logp"] - batch["logp"].mean())
    plain, got = pull(Clip(), batch), pull(trust, batch)
    gone = (got == 0) & (plain != 0)
    assert int(gone.sum()) == 5
    assert bool(((cov > 0) & (cov < 9))[gone].all())
    torch.testing.assert_close(got[~gone], plain[~gone])
    for none in (ClipCov(rate=0.0), ClipCov(lower=1e9, upper=2e9)):
        assert torch.equal(pull(none, batch), plain)


def test_clip_cov_always_takes_at_least_one_and_not_always_the_same() -> None:
    batch = make([[30, 30], [40]], seed=2)
    chosen = []
    for step in range(4):
        objective = PolicyGradient(trust=ClipCov(lower=0.0, upper=9.0))
        gone = (loss_and_gradient(objective, batch, step=step)[1] == 0) & (pull(Clip(), batch) != 0)
        assert int(gone.sum()) == 1
        chosen.append(int(gone.nonzero()))
    assert len(set(chosen)) > 1


@pytest.mark.exact("kl-cov")
def test_kl_cov_penalises_the_largest_covariances() -> None:
    batch = make([[20, 20]], seed=5)
    cov = (batch["advantage"] - batch["advantage"].mean()) * (batch["logp"] - batch["logp"].mean())
    top = torch.zeros(40, dtype=torch.bool)
    top[cov.argsort(descending=True)[:4]] = True
    d = batch["logp"] - batch["logp_old"]
    expected = d.exp() * batch["advantage"] - 0.5 * top * d.sign()
    torch.testing.assert_close(pull(KLCov(rate=0.1, beta=0.5), batch), expected)
    torch.testing.assert_close(pull(KLCov(rate=0.0), batch), pull(Unclipped(), batch))


# -- entropy ----------------------------------------------------------------------------------------------------------------


def test_entropy_level_is_zero_at_the_pivot_and_one_at_the_extremes() -> None:
    entropy = torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0], dtype=torch.float64)
    level = entropy_level(entropy, torch.ones(5, dtype=torch.bool), 0.5)
    assert level[2] == 0 and level[0] == -1 and level[4] == 1
    assert bool((level.diff() > 0).all())
    assert (
        entropy_level(torch.full((4,), 0.3, dtype=torch.float64), torch.ones(4, dtype=torch.bool), 0.8).tolist()
        == [0] * 4
    )


@pytest.mark.exact("hapo-token")
def test_heterogeneous_ranges_of_the_card() -> None:
    low, high = HeterogeneousClip().ranges(torch.tensor([-1.0, 0.5, 0.0], dtype=torch.float64))
    assert low.tolist() == pytest.approx([0.4, 0.2, 0.2]) and high.tolist() == pytest.approx([0.2, 0.3, 0.2])


def test_heterogeneous_clip_without_alpha_and_beta_is_the_dual_clip() -> None:
    batch = make([[8, 5], [6]], seed=6, drift=0.6)
    plain = pull(Clip(low=0.2, high=0.2, dual=10.0), batch)
    torch.testing.assert_close(pull(HeterogeneousClip(alpha=0.0, beta=0.0), batch), plain)


def test_heterogeneous_advantages_by_zone() -> None:
    """Uncertain tokens are amplified outside the neutral zone, confident ones damped inside it."""
    entropy = torch.tensor([0.01, 0.01, 1.0, 1.0, 0.1], dtype=torch.float64)
    batch = with_ratios([1.0, 1.2, 1.0, 1.4, 1.0], [1.0] * 5).with_rows(entropy_old=entropy)
    level = entropy_level(entropy, torch.ones(5, dtype=torch.bool), 0.5)
    got = pull(HeterogeneousClip(beta=0.5, high=0.28, pivot=0.5), batch).tolist()
    damped, raised = float(1 + 0.5 * level[0]), float(1 + 0.5 * level[2])
    assert got == pytest.approx([damped, 1.2, 1.0, 1.4 * raised, 1.0])


def test_four_tokens_in_five_are_confident_and_without_the_sign_none_is_damped() -> None:
    """Log-normal entropies: with the pivot of the released recipes 80 % of tokens are damped at r = 1, with the median half of
    them."""
    rng = np.random.default_rng(1)
    entropy = torch.from_numpy(np.exp(rng.normal(size=2000)))
    keep = torch.ones(2000, dtype=torch.bool)
    assert float((entropy_level(entropy, keep, 0.8) <= 0).double().mean()) == pytest.approx(0.8, abs=1e-3)
    assert float((entropy_level(entropy, keep, 0.5) <= 0).double().mean()) == pytest.approx(0.5, abs=1e-3)
    batch = with_ratios([1.0] * 2000, [1.0] * 2000).with_rows(entropy_old=entropy)
    damped = lambda trust: float((pull(trust, batch) < 1 - 1e-9).double().mean())
    assert damped(HeterogeneousClip()) == pytest.approx(0.8, abs=2e-3)
    assert damped(HeterogeneousClip(unsigned=True)) == 0.0, "as the released code computes it"


# -- everything at once -----------------------------------------------------------------------------------------------------

TRUSTS = [
    Clip(), Clip(dual=3.0), Unclipped(), SoftClip(), RecentredClip(), SigmoidGate(), Mask(), Mask(weight="ratio"),
    BalancedClip(), EssCap(), ClipCov(lower=-9.0), KLCov(), HeterogeneousClip(alpha=0.0, beta=0.0),
]  # fmt: skip


@pytest.mark.parametrize("trust", TRUSTS, ids=lambda t: t.part)
def test_on_policy_every_trust_region_has_the_score_function_gradient(trust) -> None:
    batch = make([[4, 3], [5]], drift=0.0, seed=7)
    got = pull(trust, batch, TokenRatio(denominator="behaviour") if isinstance(trust, RecentredClip) else None)
    differs = (got - batch["advantage"]).abs() > 1e-12
    assert int(differs.sum()) <= (1 if isinstance(trust, ClipCov) else 0), "Clip-Cov drops one token by design"


@pytest.mark.parametrize("trust", TRUSTS, ids=lambda t: t.part)
def test_extreme_ratios_are_finite_in_single_precision(trust) -> None:
    batch = make([[8]])
    gaps = torch.tensor([70.0, -70.0, 700.0, -700.0, 0.0, 20.0, -20.0, 1e-30])
    for sign in (1.0, -1.0, 0.0):
        cast = {name: column.float() if column.is_floating_point() else column for name, column in batch.rows.items()}
        rows = cast | {"logp": torch.full((8,), -1.0), "logp_old": -1.0 - gaps, "logp_behaviour": -1.0 - gaps}
        extreme = batch.with_rows(**rows).with_rows(advantage=torch.full((8,), sign))
        loss, gradient = loss_and_gradient(PolicyGradient(trust=trust), extreme)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
