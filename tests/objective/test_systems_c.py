"""The exact properties of the systems in `anypo.systems.objectives_c`, as their sources state them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making_rows import built, loss_and_gradient, make
from scipy.optimize import linprog
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.credit.granularity.turns import TurnDiscount
from anypo.credit.select.leftover import Leftover
from anypo.data.batch import Batch
from anypo.data.numerics import effective_sample_size
from anypo.errors import UserError
from anypo.exact import truth
from anypo.exact.bench import Setting, scene
from anypo.exact.estimators import Estimator
from anypo.objective import (
    BoundedRatio,
    Clip,
    MirrorDescent,
    PolicyGradient,
    ScoreFunction,
    SequenceMean,
    SequenceRatio,
    SequenceSum,
    SoftClip,
    Tapered,
    TokenMean,
    TokenRatio,
    Unclipped,
)
from anypo.run.disk import checkpoint
from anypo.run.trainer import Trainer
from anypo.systems import find

BED = Testbed(vocabulary=3, horizon=4, prompts=3, batch=3, group=4)
MINE = [
    "clip-cov",
    "kl-cov",
    "mdpo",
    "bpo-bounded-ratio",
    "gbpo",
    "ipa-chunk",
    "a-lol",
    "p3o-ess",
    "missing-old-logits",
]
QUICK: dict[str, dict[str, Any]] = {"a-lol": {"replay.collect": 2, "replay.groups": 2}}


def trainer(system: str | Algorithm, changes: dict | None = None, bed: Testbed = BED, seed: int = 3) -> Trainer:
    return Trainer(bed.adapt(system).set(changes or {}), bed.world(seed), seed, 20)


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    assert all(math.isfinite(value) for value in metrics.values())
    return {name: value for name, value in metrics.items() if not name.startswith(("time/", "rollout/tokens_per"))}


def pull(objective: PolicyGradient, batch: Batch) -> Tensor:
    """Coefficient of every log-probability in the ascent direction."""
    return -loss_and_gradient(objective, batch)[1]


def rows(logp: list[float], old: list[float], advantage: list[float], lengths: list[list[int]] | None = None) -> Batch:
    """Token rows with given columns; one sequence unless `lengths` say otherwise."""
    tensor = lambda values: torch.tensor(values, dtype=torch.float64)
    batch = make(lengths or [[len(logp)]])
    return batch.with_rows(logp=tensor(logp), logp_old=tensor(old), advantage=tensor(advantage))


@pytest.mark.parametrize("system", MINE)
def test_it_trains_and_a_resumed_run_continues_exactly(system: str, tmp_path: Path) -> None:
    bed = BED.replace(lag=2, versions="partial", noise=0.1, group=16) if system == "missing-old-logits" else BED
    run = trainer(system, QUICK.get(system), bed)
    start = run.weights.policy.weight.detach().clone()
    for _ in range(3):
        run.step()
    if bed.lag:  # a resumed run has no stale samplers: the state itself is what must come back
        again = trainer(system, QUICK.get(system), bed)
        again.load_state_dict(run.state_dict())
        batch = run.batch
        assert batch is not None
        mine, theirs = (r.weights.reference.fill(batch, ["logp"], grad=False)["logp"] for r in (run, again))
        assert torch.equal(mine, theirs) and len(again.weights.reference.kept) == 4
        return
    checkpoint.save(tmp_path / "state", 3, run.state_dict())
    rest = [numbers(run.step()) for _ in range(3)]
    assert not torch.equal(run.weights.policy.weight, start)
    again = trainer(system, QUICK.get(system))
    again.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert [numbers(again.step()) for _ in range(3)] == rest


# -- clip-cov and kl-cov -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("natural", [False, True])
def test_entropy_falls_as_the_covariance_says(natural: bool) -> None:
    """dH = -Cov(log pi, dz) for a softmax, exact to first order: the error falls with the square of the step."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        logits, advantage = torch.tensor(rng.standard_normal(5)), torch.tensor(rng.standard_normal(5))
        pi = logits.softmax(0)
        advantage = advantage - (pi * advantage).sum()
        step = advantage if natural else pi * advantage
        centred = step - (pi * step).sum()
        slope = float((pi * pi.log() * centred).sum())
        entropy = lambda z: float(-(z.softmax(0) * z.log_softmax(0)).sum())
        gaps = [entropy(logits + eta * step) - entropy(logits) + eta * slope for eta in (1e-2, 5e-3)]
        if abs(slope) > 0.1:
            assert abs(gaps[0]) < 0.05 * abs(1e-2 * slope)
        assert abs(gaps[1] - gaps[0] / 4) < 0.02 * abs(gaps[0]) + 1e-7


def test_covariance_systems_without_candidates_are_the_clip_and_the_plain_surrogate() -> None:
    batch = make([[9, 7], [8, 6]], seed=3)
    clip, kl = find("clip-cov").algorithm(), find("kl-cov").algorithm()
    none = clip.set({"objective.trust.lower": 1e9, "objective.trust.upper": 2e9}).objective
    assert torch.equal(pull(none, batch), pull(PolicyGradient(trust=Clip()), batch))
    assert torch.equal(
        pull(kl.set({"objective.trust.rate": 0.0}).objective, batch), pull(PolicyGradient(trust=Unclipped()), batch)
    )


# -- mdpo --------------------------------------------------------------------------------------------------------------------

OLD = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)


def sampled(advantage: Tensor) -> tuple[Batch, Tensor]:
    """One-token responses that hold every action as often as `OLD` says, and the action of each."""
    action = torch.tensor([0, 0, 1, 2])
    batch = make([[1] * 4]).with_rows(logp_old=OLD.log()[action], advantage=advantage[action])
    return batch, action


def test_mirror_descent_has_the_exponentiated_advantage_as_its_optimum() -> None:
    advantage = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
    batch, action = sampled(advantage)
    for first in (1.0, 0.3):
        objective, context = built(
            PolicyGradient(trust=Unclipped(), regularise=(MirrorDescent(first=first, last=first),))
        )
        logits = OLD.log().clone().requires_grad_()
        optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

        def closure(objective=objective, context=context, logits=logits, optimiser=optimiser) -> Tensor:
            optimiser.zero_grad()
            loss = objective.loss(batch.with_rows(logp=logits.log_softmax(0)[action]), context)
            loss.backward()
            return loss

        optimiser.step(closure)
        best = (OLD * (first * advantage).exp()) / (OLD * (first * advantage).exp()).sum()
        torch.testing.assert_close(logits.detach().softmax(0), best, rtol=0, atol=1e-6)


def test_mirror_descents_penalty_is_the_divergence_and_flat_at_the_start() -> None:
    batch, action = sampled(torch.zeros(3, dtype=torch.float64))
    new = torch.tensor([0.2, 0.7, 0.1], dtype=torch.float64)
    part = MirrorDescent(first=0.5, last=0.5)
    context = Context(0, 10, 0, Memory(Algorithm()))
    value = part.penalty(batch.with_rows(logp=new.log()[action]), TokenMean(), context)
    assert float(value) == pytest.approx(float((new * (new / OLD).log()).sum()) / 0.5, rel=1e-12)
    still = batch.with_rows(logp=batch["logp_old"])
    mdpo = find("mdpo").algorithm().objective
    on = still.with_rows(advantage=torch.tensor([1.0, -2.0, 0.5, 0.1], dtype=torch.float64))
    torch.testing.assert_close(pull(mdpo, on), on["advantage"] / 4)


def test_mirror_descents_step_size_closes() -> None:
    part = MirrorDescent()
    assert [part.size(step, 4) for step in (0, 2, 3, 99)] == [1.0, 0.5, 0.25, 0.25]


# -- bounded ratios ---------------------------------------------------------------------------------------------------------


def targets(trust: BoundedRatio, values: np.ndarray) -> np.ndarray:
    """The target ratios of one-token responses with these advantages."""
    advantage = torch.tensor(values, dtype=torch.float64)
    side = trust.side(advantage, make([[1] * len(values)]))
    return (1 + trust.high * side.clamp(min=0) + trust.low * side.clamp(max=0)).numpy()


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.3), (1.0, 4.0)])
def test_the_target_is_the_solution_of_the_linear_programme(low: float, high: float) -> None:
    """Uniform old policy over ten responses; (1, 4) is the elite selection of the cross-entropy method (the best fifth)."""
    trust = BoundedRatio(low=low, high=high, threshold="quantile")
    for seed in range(5):
        q = np.random.default_rng(seed).standard_normal(10)
        best = linprog(-q / 10, A_eq=np.full((1, 10), 0.1), b_eq=[1.0], bounds=[(1 - low, 1 + high)] * 10)
        found = targets(trust, q)
        np.testing.assert_allclose(found, best.x, atol=1e-8)
        if low == high:
            gain = float(found @ q / 10 - q.mean())
            assert gain == pytest.approx(low * np.abs(q - np.median(q)).mean())


def test_bounded_ratio_has_ppos_gradient_up_to_the_target_and_its_opposite_beyond() -> None:
    ratios = [0.5, 0.9, 1.1, 1.5]
    for sign in (1.0, -1.0):
        batch = rows([-1.0] * 4, [-1.0 - math.log(r) for r in ratios], [2.0 * sign] * 4)
        clip, ours = pull(PolicyGradient(trust=Clip()), batch), pull(PolicyGradient(trust=BoundedRatio()), batch)
        gone = clip == 0
        torch.testing.assert_close(ours[~gone], clip[~gone])
        free = pull(PolicyGradient(trust=Unclipped()), batch)
        assert int(gone.sum()) == 1
        torch.testing.assert_close(ours[gone], -free[gone])


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


def test_bounded_ratios_that_could_not_learn_are_refused() -> None:
    gbpo = find("gbpo").algorithm()
    with pytest.raises(UserError, match="cannot both be 0"):
        gbpo.set({"objective.trust.low": 0.0, "objective.trust.high": 0.0}).check()
    with pytest.raises(UserError, match="group of its own"):
        gbpo.set({"credit.select": [{"part": "scatter"}]}).check()


def test_bounded_ratio_ignores_responses_that_do_not_count() -> None:
    batch = make([[1, 1, 1, 1]]).with_rows(weight=torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64))
    side = BoundedRatio(threshold="quantile").side(torch.tensor([1.0, 2.0, 3.0, 99.0], dtype=torch.float64), batch)
    assert side[:3].tolist() == [-1.0, 0.0, 1.0]


def test_a_huber_width_fades_the_pull_and_keeps_it_far_away() -> None:
    batch = rows([-1.0] * 3, [-1.0 - math.log(r) for r in (1.0, 1.15, 1.2)], [1.0] * 3)
    soft = pull(PolicyGradient(trust=BoundedRatio(huber=0.1)), batch) * 3
    torch.testing.assert_close(soft, torch.tensor([1.0, 1.15 * 0.5, 0.0], dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_many_epochs_overshoot_less_than_with_the_clip() -> None:
    """Actions with overlapping features, where pulling one moves others: full-batch steps on exact expectations. The target is no
    hard bound either (an action with a small |A| can be dragged along), but the pull back acts in every case."""
    clip, bounded = ([_largest_ratio(trust, seed) for seed in range(4)] for trust in (Clip(), BoundedRatio()))
    assert all(ours < theirs + 0.02 for ours, theirs in zip(bounded, clip))
    assert np.median(bounded) < 1.22 and max(clip) > max(bounded) + 0.1, (clip, bounded)


def _largest_ratio(trust: Clip | BoundedRatio, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    advantage = torch.randn(6, generator=generator, dtype=torch.float64)
    old = torch.full((6,), -math.log(6), dtype=torch.float64)
    batch = make([[1] * 6]).with_rows(logp_old=old, advantage=advantage - advantage.mean())
    objective, context = built(PolicyGradient(trust=trust))
    weight = torch.zeros(3, dtype=torch.float64)
    for _ in range(200):
        weight.requires_grad_()
        logp = (features @ weight).log_softmax(0)
        (gradient,) = torch.autograd.grad(objective.loss(batch.with_rows(logp=logp), context), weight)
        weight = (weight - 0.015 * gradient).detach()
    return float(((features @ weight).log_softmax(0) - old).exp().max())


# -- ipa-chunk ----------------------------------------------------------------------------------------------------------------


def chunks(ratios: list[float], turns: list[int], advantage: float) -> Batch:
    n = len(ratios)
    batch = rows([-1.0] * n, [-1.0 - math.log(r) for r in ratios], [advantage] * n)
    return batch.with_rows(turn=torch.tensor(turns), logp_behaviour=batch["logp_old"])


def test_a_chunks_return_counts_the_chunks_after_it() -> None:
    batch = make([[15, 4]]).with_rows(turn=torch.tensor([*range(15), 0, 0, 1, 1]))
    value = torch.tensor([1.0, -1.0], dtype=torch.float64)
    context = Context(0, 1, 0, Memory(Algorithm()))
    spread = TurnDiscount(gamma=0.95).spread(value, batch, context)
    assert float(spread[0]) == pytest.approx(0.95**14) and float(spread[14]) == 1.0
    assert spread[15:].tolist() == pytest.approx([-0.95, -0.95, -1.0, -1.0])
    assert torch.equal(TurnDiscount(gamma=1.0).spread(value, batch, context), batch.spread(value))
    assert TurnDiscount(gamma=0.0).spread(value, batch, context)[13:15].tolist() == [0.0, 1.0]


def test_chunk_ratios_weigh_failures_only_and_at_most_by_one() -> None:
    ipa = find("ipa-chunk").algorithm().objective
    turns = [0, 0, 1, 1, 1]
    ratios = [0.5, 0.8, 2.0, 1.5, 3.0]
    bad = pull(ipa, chunks(ratios, turns, -1.0))
    low = math.sqrt(0.5 * 0.8)
    assert bad.tolist() == pytest.approx([-low, -low, -1.0, -1.0, -1.0])
    swapped = pull(ipa, chunks([0.8, 0.5, 3.0, 2.0, 1.5], turns, -1.0))
    torch.testing.assert_close(swapped, bad)
    assert pull(ipa, chunks(ratios, turns, 1.0)).tolist() == [1.0] * 5, "imitation, whatever the old policy"
    single = pull(ipa, chunks([0.5, 0.8, 2.0], [0, 1, 2], -1.0))
    assert single.tolist() == pytest.approx([-0.5, -0.8, -1.0]), "chunks of one token: token ratios"
    whole = PolicyGradient(ratio=SequenceRatio(), trust=Tapered(), aggregate=SequenceSum())
    one = chunks(ratios, [0] * 5, -1.0)
    torch.testing.assert_close(pull(ipa, one), pull(whole, one))


def test_a_chunk_far_from_its_sampler_is_left_out_whole() -> None:
    ipa = find("ipa-chunk").algorithm().objective
    batch = chunks([1.0] * 4, [0, 0, 1, 1], 1.0)
    gap = torch.tensor([4.0, 9.0, 2.0, 9.0], dtype=torch.float64).log()
    batch = batch.with_rows(logp_behaviour=batch["logp_old"] - gap)
    assert pull(ipa, batch).tolist() == [0.0, 0.0, 1.0, 1.0], "sqrt(36) > 5, sqrt(18) < 5"


def test_rollback_learns_what_chance_would_never_find() -> None:
    """One answer in 6^4 is right: from the solution's end backwards it is learned, from the prompt it is not."""
    bed = BED.replace(vocabulary=6, horizon=5, prompts=2, batch=2, group=8, reward="sparse", lr=0.3)
    end = {"generate": {"part": "rollback", "delimiter": "", "max_new": 5}}
    final = {}
    for name, changes in {"rollback": end, "prompt": {}}.items():
        run = trainer("ipa-chunk", changes, bed)
        given = [run.step().get("generate/given_chunks", 0.0) for _ in range(60)]
        policy, task = run.world.policy, run.world.task
        final[name] = float(truth.value(policy.log_table(), task.reward, policy.graph).mean().detach())
        if changes:
            assert given[0] == 4 and given[-1] == 0 and given == sorted(given, reverse=True)
            assert all(t.guidance == "" for group in run.groups for t in group.trajectories)
    assert final["rollback"] > 0.5 > 0.02 > final["prompt"], final


def test_a_geometric_mean_has_the_smaller_variance() -> None:
    """Var of exp(mean of n normal log ratios) / mean^2 is exp(sigma^2 / n) - 1; of the product exp(n sigma^2) - 1."""
    sigma, length, count = 0.3, 6, 20_000
    noise = sigma * torch.randn(count * length, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = make([[length] * count])
    batch = batch.with_rows(logp=batch["logp_old"] + noise)
    context = Context(0, 1, 0, Memory(Algorithm()))
    for normalise, expected in ((True, math.expm1(sigma**2 / length)), (False, math.expm1(sigma**2 * length))):
        weight = SequenceRatio(normalise=normalise).log_ratio(batch, context)[::length].exp()
        assert float(weight.var() / weight.mean() ** 2) == pytest.approx(expected, rel=0.1)


# -- a-lol --------------------------------------------------------------------------------------------------------------------


def a_lol(ratio: Any, width: float = 0.9) -> PolicyGradient:
    return PolicyGradient(ratio=ratio, trust=SoftClip(low=width, high=width), aggregate=SequenceSum())


def test_a_lol_variants_agree_at_the_reference() -> None:
    batch = make([[3, 5, 2]], seed=2)
    batch = batch.with_rows(logp=batch["logp_ref"], advantage=batch.spread(torch.rand(3, dtype=torch.float64)))
    cloned = batch["advantage"] / 3  # behaviour cloning weighted by the advantage
    ours = find("a-lol").algorithm().objective
    for objective in (ours, a_lol(TokenRatio(denominator="ref")), a_lol(ScoreFunction())):
        torch.testing.assert_close(pull(objective, batch), cloned)


def test_a_lols_weight_is_the_product_of_token_ratios_clipped() -> None:
    batch = make([[3, 2]], seed=5, drift=0.4)
    batch = batch.with_rows(advantage=batch.spread(torch.tensor([0.5, 1.0], dtype=torch.float64)))
    product = torch.stack([part.sum() for part in (batch["logp"] - batch["logp_ref"]).split([3, 2])]).exp()
    weight = product.clamp(0.1, 1.9)
    expected = batch.spread(weight * torch.tensor([0.5, 1.0], dtype=torch.float64)) / 2
    torch.testing.assert_close(pull(find("a-lol").algorithm().objective, batch), expected)
    narrow = a_lol(TokenRatio(denominator="ref"), width=0.0)
    torch.testing.assert_close(pull(narrow, batch), pull(a_lol(ScoreFunction()), batch))


def test_without_filter_and_clip_a_lol_is_the_policy_gradient() -> None:
    """Enumerated over two-token responses of the reference: E_ref[ A w grad log pi ] is the gradient of E_pi[R]."""
    world = Testbed(vocabulary=3, horizon=2, prompts=1, reward="graded").world(5)
    policy, graph, reward = world.policy, world.policy.graph, world.task.reward
    reference = policy.frozen()
    with torch.no_grad():
        policy.weight.add_(0.3 * torch.randn(policy.weight.shape, generator=torch.Generator().manual_seed(2)).double())
    logp = truth.sequence_logp(policy.log_table(), graph)[0]
    score = truth.sequence_reward(reward, graph)[0]
    chance = truth.sequence_logp(reference.log_table(), graph)[0].detach().exp()
    weight = (logp.detach().exp() / chance) * (score - (chance * score).sum())
    (found,) = torch.autograd.grad((chance * weight * logp).sum(), policy.weight)
    (true,) = torch.autograd.grad(truth.value(policy.log_table(), reward, graph).sum(), policy.weight)
    torch.testing.assert_close(found, true)


def test_only_positive_advantages_are_left_drawn_in_proportion() -> None:
    batch = make([[2, 1, 3, 1]]).with_sequences(advantage=torch.tensor([-1.0, 3.0, 0.0, 1.0], dtype=torch.float64))
    context = lambda step: Context(step, 10, 0, Memory(Algorithm()))
    assert Leftover().select(batch, context(0)).sequences["sample"].tolist() == [1, 3]
    drawn = [Leftover(share=0.5).select(batch, context(k)).sequences["sample"].tolist() for k in range(2000)]
    assert all(len(one) == 1 for one in drawn)
    assert np.mean([one == [1] for one in drawn]) == pytest.approx(0.75, abs=0.04)
    nothing = batch.with_sequences(advantage=-torch.ones(4, dtype=torch.float64))
    assert Leftover(share=0.5).select(nothing, context(0)).n_sequences == 0


def test_offline_training_uses_the_collected_rollouts_and_no_others() -> None:
    run = trainer("a-lol", {"replay.collect": 2, "replay.groups": 3})
    start = run.weights.policy.weight.detach().clone()
    collected = []
    for _ in range(2):
        run.step()
        collected += [group.rewards.tolist() for group in run.groups]
        assert torch.equal(run.weights.policy.weight, start)
    context = Context(2, 20, 3, run.memory)
    drawn = [group for step in (2, 3) for group in _drawn(run, context, step)]
    assert sorted(group.rewards.tolist() for group in drawn) == sorted(collected), "one pass is every group once"
    run.step()
    assert not torch.equal(run.weights.policy.weight, start)
    for _ in range(2):
        run.step()
        assert all(int(t.version.max()) == 0 for t in run.batch.trajectories)  # type: ignore[union-attr]


def _drawn(run: Trainer, context: Context, step: int) -> list[Any]:
    context.step = step
    return run.algorithm.replay.select([], 0, context)


# -- p3o-ess -------------------------------------------------------------------------------------------------------------------


def test_the_effective_sample_size_knows_scale_concentration_and_noise() -> None:
    log_w = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    every = torch.ones(50, dtype=torch.bool)
    one = float(effective_sample_size(log_w, every))
    assert float(effective_sample_size(log_w + 300.0, every)) == pytest.approx(one, rel=1e-9)
    lonely = torch.full((50,), -200.0, dtype=torch.float64)
    lonely[7] = 0.0
    assert float(effective_sample_size(lonely, every)) == pytest.approx(1 / 50)
    for sigma in (0.25, 0.5, 1.0):
        noise = sigma * torch.randn(200_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        found = float(effective_sample_size(noise, torch.ones(len(noise), dtype=torch.bool)))
        assert found == pytest.approx(math.exp(-(sigma**2)), rel=0.05)


def test_p3o_bounds_every_tokens_gradient() -> None:
    batch = make([[6, 5], [7]], seed=4, drift=1.0)
    n = len(batch)
    w = (batch["logp"] - batch["logp_behaviour"]).exp()
    ess = float(w.sum() ** 2 / (n * (w**2).sum()))
    found = pull(find("p3o-ess").algorithm().objective, batch) * n
    expected = w.clamp(max=ess) * batch["advantage"] - (1 - ess) * (1 - 1 / w)
    torch.testing.assert_close(found, expected)
    assert bool((found.abs() <= ess * batch["advantage"].abs() + (1 - ess) * (1 - 1 / w).abs() + 1e-12).all())


# -- missing-old-logits --------------------------------------------------------------------------------------------------------

SHORTCUT = {
    "objective.ratio": "token",
    "objective.corrections.0.ratio.numerator": "old",
    "update.reference": "none",
}


def stale(changes: dict | None = None, noise: float = 0.0, lag: int = 3, steps: int = 6) -> Batch:
    """The last batch of a run whose responses were written by several versions."""
    bed = BED.replace(lag=lag, versions="partial", noise=noise, lr=0.3, group=16)
    run = trainer("missing-old-logits", changes, bed)
    for _ in range(steps):
        run.step()
    assert run.batch is not None
    return run.batch


def test_snapshots_split_the_total_ratio_exactly() -> None:
    batch = stale(noise=0.3)
    assert len(torch.unique(batch["version"])) > 2
    discrepancy = batch["logp_ref"] - batch["logp_behaviour"]
    staleness = batch["logp_old"] - batch["logp_ref"]
    torch.testing.assert_close(discrepancy + staleness, batch["logp_old"] - batch["logp_behaviour"])
    assert float(discrepancy.abs().max()) > 0.05 and float(staleness.abs().max()) > 0.05
    quiet = stale(noise=0.0)
    torch.testing.assert_close(quiet["logp_ref"].float(), quiet["logp_behaviour"], rtol=0, atol=1e-5)
    false = (quiet["logp_old"].float() - quiet["logp_behaviour"]).abs()
    assert float(false.max()) > 0.05, "without snapshots staleness passes for a discrepancy"


def test_no_staleness_leaves_only_the_engines_error_and_averaging_without_memory_is_the_shortcut() -> None:
    fresh = stale(noise=0.3, lag=0)
    torch.testing.assert_close(fresh["logp_ref"], fresh["logp_old"], rtol=0, atol=1e-7)
    ema = stale({"update.reference": {"part": "ema", "decay": 0.0}}, noise=0.3)
    torch.testing.assert_close(ema["logp_ref"], ema["logp_old"], rtol=0, atol=1e-7)
    bed = BED.replace(lag=3, versions="partial", noise=0.3)
    averaged = {"update.reference": {"part": "ema", "decay": 0.0}}
    runs = [trainer("missing-old-logits", changes, bed) for changes in (averaged, SHORTCUT)]
    for _ in range(5):
        for run in runs:
            run.step()
    torch.testing.assert_close(runs[0].weights.policy.weight, runs[1].weights.policy.weight, rtol=1e-5, atol=1e-6)


def test_a_version_that_is_gone_is_replaced_by_the_closest_one() -> None:
    bed = BED.replace(lag=5, lr=0.3)
    run = trainer("missing-old-logits", {"update.reference.keep": 2}, bed)
    for _ in range(6):
        run.step()
    shelf, last = run.weights.reference, run.weights.policy.version
    assert sorted(shelf.kept) == [last - 1, last]
    assert run.batch is not None and int(run.batch["version"].max()) < last - 1
    found = shelf.fill(run.batch, ["logp"], grad=False)["logp"]
    torch.testing.assert_close(found, shelf.kept[last - 1].fill(run.batch, ["logp"], grad=False)["logp"])
    empty = run.batch.select(torch.zeros(0, dtype=torch.int64))
    assert len(shelf.fill(empty, ["logp"], grad=False)["logp"]) == 0


def test_the_estimator_table_compares_with_the_version_that_sampled() -> None:
    """On the bench's path of policies, without engine noise, the reference is the sampler itself."""
    setting = Setting(staleness=16, versions="mixed", old="trainer")
    estimator = Estimator(find("missing-old-logits").algorithm(), scene(setting), seed=1)
    batch = next(estimator._batches(1))(estimator.context(0))
    assert len(torch.unique(batch["version"])) > 3
    torch.testing.assert_close(batch["logp_ref"], batch["logp_behaviour"].double(), rtol=0, atol=1e-6)


def test_the_shortcut_needs_no_reference_and_trains() -> None:
    run = trainer("missing-old-logits", SHORTCUT, BED.replace(lag=2))
    assert run.weights.reference is None
    assert all(math.isfinite(value) for value in run.step().values())
    assert isinstance(find("gbpo").algorithm().objective.aggregate, SequenceMean)  # type: ignore[attr-defined]
