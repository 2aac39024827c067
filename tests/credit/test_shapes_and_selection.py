"""Per-token shaping and selection: bounds, identities, brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from credit_making import batch_of, context_for

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.select.rollouts import (
    AdvantageVariance,
    Live,
    OwnDecisions,
    UncertainTokens,
    UnlikelyTokens,
    Window,
    blend,
    widest,
)
from anypo.credit.shape.tokens import Bounded, EntropyBonus, EntropyResponse, Novelty, Uncertainty
from anypo.data.batch import Batch
from anypo.errors import UserError

GRPO = Pipeline(scale=StandardDeviation())


def filled(seed: int = 0, groups: int = 3, size: int = 4, longest: int = 5) -> Batch:
    """A batch with advantages, entropies and log-probabilities."""
    rng = np.random.default_rng(seed)
    rewards = rng.integers(0, 2, (groups, size)).astype(float).tolist()
    batch = batch_of(rewards, rng.integers(1, longest + 1, (groups, size)).tolist())
    n = len(batch)
    batch = batch.with_rows(
        entropy_old=torch.tensor(rng.exponential(1.0, n)), logp_old=torch.tensor(-rng.exponential(1.0, n))
    )
    return GRPO.assign(batch, context_for(GRPO))


@pytest.mark.exact("mssr")
def test_entropy_bonus_is_bounded_keeps_signs_and_is_constant_to_autograd() -> None:
    batch = filled()
    entropy = batch["entropy_old"].clone().requires_grad_()
    a = batch["advantage"]
    part = EntropyBonus()
    shaped = part.shape(a, batch.with_rows(entropy_old=entropy.detach()), context_for(part))
    psi = shaped - a
    assert bool((psi >= 0).all()) and bool((psi <= a.abs() / 2 + 1e-12).all())
    assert bool((shaped.sign() == a.sign()).all())
    torch.testing.assert_close(psi, torch.minimum(a.abs() / 2, 0.4 * batch["entropy_old"]))
    none = EntropyBonus(weight=0.0).shape(a, batch, context_for(part))
    assert torch.equal(none, a)
    assert "entropy_old" in part.needs() and "entropy" not in part.needs()  # the live entropy is never read


def test_novelty_lifts_unlikely_right_answers_only() -> None:
    batch, part = filled(2), Novelty(weight=2.0, cap=0.5)
    a = batch["advantage"]
    shaped = part.shape(a, batch, context_for(part))
    right = batch.spread(batch.sequences["reward"]) == 1
    assert torch.equal(shaped[~right], a[~right])
    assert bool((shaped >= a).all()) and bool((shaped <= a + 0.5 * a.clamp(min=0)).all())
    assert bool((shaped > a).any())
    flat = batch.with_rows(logp_old=torch.full_like(a, -0.7))
    assert torch.equal(part.shape(a, flat, context_for(part)), a)  # eta = 1


def test_entropy_response_averages_to_one_and_its_floor_repairs_flipped_signs() -> None:
    batch = filled(3)
    ones = torch.ones_like(batch["advantage"])
    factor = EntropyResponse().shape(ones, batch, context_for(GRPO))[batch["position"] == 0]
    torch.testing.assert_close(factor.reshape(3, 4).mean(1), torch.ones(3, dtype=torch.float64))
    equal = batch.with_rows(entropy_old=torch.full_like(ones, 0.3))
    assert torch.equal(EntropyResponse().shape(ones, equal, context_for(GRPO)), ones)
    certain = batch.with_rows(entropy_old=torch.zeros_like(ones))
    assert torch.equal(EntropyResponse().shape(ones, certain, context_for(GRPO)), ones)
    one = batch_of([[1.0, 0, 0]]).with_rows(entropy_old=torch.tensor([3.0, 0.1, 0.1], dtype=torch.float64))
    a = torch.tensor([1.0, -0.5, -0.5], dtype=torch.float64)
    assert float(EntropyResponse().shape(a, one, context_for(GRPO))[0]) < 0
    assert float(EntropyResponse(floor=0.0).shape(a, one, context_for(GRPO))[0]) == 0.0


def test_bounded() -> None:
    assert Bounded(bound=0.5).shape(
        torch.tensor([-2.0, 0.2, 2.0]), filled(), context_for(GRPO)
    ).tolist() == pytest.approx([-0.5, 0.2, 0.5])


def test_uncertainty_is_off_by_default_and_its_additive_part_sums_to_zero() -> None:
    batch = filled(4)
    a = batch["advantage"]
    assert torch.equal(Uncertainty().shape(a, batch, context_for(GRPO)), a)
    added = Uncertainty(add=0.3).shape(a, batch, context_for(GRPO)) - a
    for group in range(3):
        assert float(added[batch.row_group == group].sum()) == pytest.approx(0.0, abs=1e-12)
    times = Uncertainty(multiply=0.2).shape(a, batch, context_for(GRPO))
    assert bool((times.sign() == a.sign()).all()) and not torch.equal(times, a)
    with pytest.raises(UserError, match="flip the sign"):
        Algorithm(credit=Pipeline(shape=(Uncertainty(multiply=0.6),))).check()


@pytest.mark.exact("d3s")
@pytest.mark.parametrize("seed", range(6))
def test_widest_subset_is_the_brute_force_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.sort(np.round(rng.normal(size=9), 1))[::-1].copy()
    for size in range(1, 10):
        best = max(np.var(values[list(c)]) for c in itertools.combinations(range(9), size))
        chosen = widest(torch.tensor(values), size)
        assert len(set(chosen.tolist())) == size
        assert np.var(values[chosen.numpy()]) == pytest.approx(best, abs=1e-12)


def test_advantage_variance_prefers_live_rollouts_and_raises_the_variance() -> None:
    rewards = [[1.0, 1, 1, 1], [0.0, 0, 0, 0], [1.0, 0, 0, 1], [1.0, 1, 1, 0]]
    batch = GRPO.assign(batch_of(rewards), context_for(GRPO))
    chosen = AdvantageVariance(first=0.5, last=0.5).select(batch, context_for(GRPO))
    assert chosen.n_sequences == 8 and bool((chosen.sequences["advantage"] != 0).all())
    assert float(chosen.sequences["advantage"].var()) >= float(batch.sequences["advantage"].var())
    whole = AdvantageVariance(first=1.0, last=1.0).select(batch, context_for(GRPO))
    assert torch.equal(whole["advantage"], batch["advantage"])
    grouped = AdvantageVariance(first=0.5, last=0.5, scope="group").select(batch, context_for(GRPO))
    assert torch.bincount(grouped.group).tolist() == [2, 2, 2, 2]
    mixed = Live().select(batch, context_for(GRPO))
    assert mixed.group.unique().tolist() == [2, 3]


def test_selection_does_not_depend_on_packing() -> None:
    batch = filled(5)
    order = torch.tensor(np.random.default_rng(1).permutation(12))
    parts = [AdvantageVariance(first=0.5, last=0.5), UncertainTokens(first=0.4, last=0.4)]
    for part in parts:
        plain, shuffled = (part.select(b, context_for(GRPO)) for b in (batch, batch.select(order)))

        def key(b: Batch) -> set:
            live = b.weight > 0
            names = b.group[b.sequence], b.spread(b.sequences["sample"]), b["position"]
            return set(zip(*(n[live].tolist() for n in names)))

        assert key(plain) == key(shuffled)


def test_uncertain_tokens_keeps_the_largest_products() -> None:
    batch = filled(6)
    kept = UncertainTokens(first=0.3, last=0.3).select(batch, context_for(GRPO))
    product = batch["advantage"].abs() * batch["entropy_old"]
    live = kept.weight > 0
    assert int(live.sum()) == round(0.3 * len(batch))
    assert float(product[live].min()) >= float(product[~live].max())
    everything = UncertainTokens(first=1.0, last=1.0).select(batch, context_for(GRPO))
    assert torch.equal(everything.weight, batch.weight)


def test_schedule_endpoints() -> None:
    assert blend(0.2, 0.6, context_for(GRPO, step=0, total=11)) == 0.2
    assert blend(0.2, 0.6, context_for(GRPO, step=5, total=11)) == pytest.approx(0.4)
    assert blend(0.2, 0.6, context_for(GRPO, step=10, total=11)) == pytest.approx(0.6)
    assert blend(0.2, 0.6, context_for(GRPO, step=0, total=1)) == 0.2


def test_unlikely_tokens_window_and_own_decisions() -> None:
    batch = batch_of([[1.0, 0]], [[3, 2]], parent=[[-1, 0]], fork=[[-1, 1]])
    batch = batch.with_rows(
        logp_old=torch.tensor([0.5, 0.95, 0.2, 0.91, 0.89], dtype=torch.float64).log(), advantage=torch.zeros(5)
    )
    assert UnlikelyTokens().select(batch, context_for(GRPO)).weight.tolist() == [1, 0, 1, 0, 1]
    assert Window(size=2).select(batch, context_for(GRPO)).weight.tolist() == [1, 1, 0, 1, 1]
    assert OwnDecisions().select(batch, context_for(GRPO)).weight.tolist() == [1, 1, 1, 0, 1]
