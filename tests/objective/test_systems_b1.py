"""The exact properties of the systems in `anypo.systems.objectives_b`, as their sources state them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from making_rows import built, loss_and_gradient, make

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.exact import EnumerablePolicy, tree, truth
from anypo.exact.bench import Setting, scene
from anypo.exact.check import Case, case, expectation, library_gradient, written_gradient
from anypo.exact.graph import END
from anypo.objective import (
    Clip,
    Controlled,
    Discriminative,
    ForwardKL,
    Pairwise,
    PolicyGradient,
    RatioVariance,
    SequenceMean,
    TokenRatio,
    Unclipped,
)
from anypo.run.disk import checkpoint
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.update.multipliers import DualAscent, Hinge

BED = Testbed(vocabulary=3, horizon=4, prompts=3, batch=3, group=4)
MINE = ["disco", "p3o-pairwise", "policy-cliff", "r2vpo", "minirl", "mhpo", "vcpo", "safe-rlhf-pid"]
SMALL = Setting(prompts=1, vocabulary=3, horizon=2, group=2, kind="tabular", reward="graded")
STALE = Setting(staleness=16, reward="graded", group=4, prompts=3)


def method(name: str, **changes) -> Algorithm:
    return find(name).algorithm().set(changes)


def assert_same_gradient(name: str, loss, setting: Setting = STALE, seed: int = 0, **changes) -> None:
    given = case(setting, seed)
    expected = written_gradient(loss, given)
    assert float(expected.norm()) > 1e-6, "a gradient of zero shows nothing"
    found = library_gradient(method(name, **changes), given)
    assert float((found - expected).norm() / expected.norm()) < 1e-7


# -- every one of them, in the real loop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("system", MINE)
def test_it_trains_and_a_resumed_run_continues_exactly(system: str, tmp_path: Path) -> None:
    def trainer() -> Trainer:
        return Trainer(BED.adapt(system), BED.world(3), 3, 20)

    run = trainer()
    start = run.weights.policy.weight.detach().clone()
    for _ in range(2):
        run.step()
    checkpoint.save(tmp_path / "state", 2, run.state_dict())
    rest = [numbers(run.step()) for _ in range(2)]
    assert not torch.equal(run.weights.policy.weight, start)
    again = trainer()
    again.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert [numbers(again.step()) for _ in range(2)] == rest


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    assert all(math.isfinite(value) for value in metrics.values())
    return {name: value for name, value in metrics.items() if not name.startswith(("time/", "rollout/tokens_per"))}


# -- disco ------------------------------------------------------------------------------------------------------------------


def binary(rates: list[int], group: int = 10, drift: float = 0.0) -> Batch:
    """A group of `group` responses for every number of right answers in `rates`."""
    rewards = [[1.0] * k + [0.0] * (group - k) for k in rates]
    return make([[1 + i % 4 for i in range(group)] for _ in rates], rewards, drift=drift)


def credited(name: str, batch: Batch) -> Batch:
    algorithm = Algorithm.from_dict(find(name).algorithm().dump())
    return algorithm.credit.assign(batch, Context(0, 10, 0, Memory(algorithm)))


@pytest.mark.parametrize("right", [1, 5, 9])
def test_grpo_is_disco_b_times_the_deviation_of_the_rewards(right: int) -> None:
    """On policy, GRPO's gradient of a prompt with success rate p is sqrt(p (1 - p)) times that of the plain ranking."""
    batch = binary([right])
    plain = loss_and_gradient(Discriminative(score="ratio", tau=torch.inf), batch)[1]
    reward = batch.sequences["reward"]
    p = right / 10
    standard = (reward - p) / math.sqrt(p * (1 - p))
    grpo = PolicyGradient(trust=Clip(), aggregate=SequenceMean())
    found = loss_and_gradient(grpo, batch.with_rows(advantage=batch.spread(standard)))[1]
    torch.testing.assert_close(found, math.sqrt(p * (1 - p)) * plain, rtol=1e-10, atol=1e-14)


def test_ranking_weighs_prompts_alike_and_grpo_does_not() -> None:
    lengths, group = [[2] * 10] * 3, torch.arange(3).repeat_interleave(20)
    batch = make(lengths, [[1.0] * k + [0.0] * (10 - k) for k in (1, 5, 9)], drift=0.0)
    by_prompt = lambda g: torch.zeros(3, dtype=g.dtype).index_add(0, group, g.abs())
    disco = by_prompt(loss_and_gradient(Discriminative(score="ratio", tau=torch.inf), batch)[1])
    torch.testing.assert_close(disco / disco[1], torch.ones(3, dtype=disco.dtype))
    grpo = by_prompt(loss_and_gradient(find("grpo").algorithm().objective, credited("grpo", batch))[1])
    torch.testing.assert_close(grpo / grpo[1], torch.tensor([0.6, 1.0, 0.6], dtype=grpo.dtype), rtol=1e-4, atol=0)


def test_the_temperature_goes_from_the_mean_to_the_hardest_negative() -> None:
    batch = binary([3, 6], drift=0.5)
    gradient = lambda tau: loss_and_gradient(Discriminative(tau=tau), batch)[1]
    torch.testing.assert_close(gradient(1e7), gradient(torch.inf), rtol=1e-5, atol=1e-9)
    hard = gradient(1e-4)
    score = batch.sequence_mean(batch["logp"])
    wrong = batch.sequences["reward"] == 0
    for g in range(2):
        mine = wrong & (batch.group == g)
        hardest = int(torch.where(mine, score, -torch.inf).argmax())
        others = batch.spread(mine) & (batch.sequence != hardest)
        assert float(hard[others].abs().max()) < 1e-12
        assert float(hard[batch.sequence == hardest].sum()) == pytest.approx(0.5, rel=1e-9)


def test_disco_written_again() -> None:
    def loss(c: Case) -> torch.Tensor:
        score = (c.logp * c.mask).sum(1) / c.length
        total = torch.zeros((), dtype=torch.float64)
        for g in range(c.n_groups):
            mine, mean = c.group == g, c.reward[c.group == g].mean()
            good, bad = score[mine & (c.reward > mean)], score[mine & (c.reward < mean)]
            if len(good) and len(bad):
                total = total + good.mean() - 10 * ((bad / 10).exp().mean()).log()
        gap = (c.logp - c.old)[c.mask > 0]
        kl = (gap.exp() - 1 - gap).mean()
        return -total / c.n_groups + 500 * (kl - 1e-4).clamp(min=0) ** 2

    assert_same_gradient("disco", loss)


def test_the_hinge_has_no_force_inside_and_that_of_its_square_outside() -> None:
    batch = binary([3], drift=0.1)
    kl = float(ForwardKL(coefficient=1.0).penalty(batch, SequenceMean(), context_of(ForwardKL())))
    row = (batch["logp"] - batch["logp_old"]).clone().requires_grad_()
    for limit in (2 * kl, 0.5 * kl):
        rule = Controlled(of=ForwardKL(coefficient=1.0), limit=limit, multiplier=Hinge(strength=1000.0))
        objective = PolicyGradient(aggregate=SequenceMean(), regularise=(rule,))
        zero = batch.with_rows(advantage=torch.zeros(len(batch), dtype=torch.float64))
        found = loss_and_gradient(objective, zero)[1]
        value = batch.sequence_mean(row.exp() - 1 - row).mean()
        (expected,) = torch.autograd.grad(500 * (value - limit).clamp(min=0) ** 2, row)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)
        assert bool((found == 0).all()) == (limit > kl)


def context_of(part) -> Context:
    return built(PolicyGradient(regularise=(part,)))[1]


def test_prompts_without_both_outcomes_count_in_the_divisor_only() -> None:
    alone = loss_and_gradient(Discriminative(), binary([4]))[1]
    joined = loss_and_gradient(Discriminative(), binary([4, 10, 0, 10]))[1]
    torch.testing.assert_close(joined[: len(alone)], alone / 4)
    assert not joined[len(alone) :].any()


# -- p3o --------------------------------------------------------------------------------------------------------------------


def pairwise_loss(c: Case, joint: bool, m: int) -> torch.Tensor:
    q = ((c.logp - c.old) * c.mask).sum(1)
    reward = c.reward - 0.05 * ((c.old - c.ref) * c.mask).sum(1)
    total = 0.0
    for g in range(c.n_groups):
        members = (c.group == g).nonzero().flatten().tolist()
        for i in members:
            for j in members:
                if i == j:
                    continue
                push = (q[i] + q[j]).detach().exp().clamp(0.8, 1.2) * (reward[i] - reward[j])
                drift = (q[i] - q[j]) / 2 if joint else q[i]
                total = total + torch.minimum(push * drift, push * drift.clamp(-0.2, 0.2)) / (m * (m - 1))
    return -total / c.n_groups


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("m", [2, 4])
def test_p3o_written_again(joint: bool, m: int) -> None:
    """Over all ordered pairs: V1 has each response's own term, V2 the pair's."""
    setting = Setting(staleness=4, reward="graded", group=m, prompts=3, old="sampler")
    clip = {"objective.clip": "joint" if joint else "separate"}
    assert_same_gradient("p3o-pairwise", lambda c: pairwise_loss(c, joint, m), setting, **clip)


def test_p3o_sees_no_offset_of_a_prompt() -> None:
    batch = make([[3, 2], [1, 4]], [[1, 0], [2, 5]], drift=0.2)
    moved = batch.with_sequences(reward=batch.sequences["reward"] + torch.tensor([64.0, -32.0])[batch.group])
    for clip in ("separate", "joint"):
        (a, ga), (b, gb) = (loss_and_gradient(Pairwise(clip=clip), x) for x in (batch, moved))
        assert torch.equal(a, b) and torch.equal(ga, gb)


def test_p3o_variants_agree_at_the_start_and_differ_in_common_drift() -> None:
    batch = make([[3, 2]], [[1, 0]], drift=0.0)
    for clip in ("separate", "joint"):
        gradient = loss_and_gradient(Pairwise(clip=clip), batch)[1]
        assert gradient.tolist() == pytest.approx([-0.5] * 3 + [0.5] * 2)
    up = torch.tensor([0.1] * 3 + [0.15] * 2, dtype=torch.float64)  # both responses' log-ratios rise by 0.3
    together = batch.with_rows(logp=batch["logp"] + up)
    joint, separate = (loss_and_gradient(Pairwise(clip=clip), together)[1] for clip in ("joint", "separate"))
    assert joint.tolist() == pytest.approx([-0.6] * 3 + [0.6] * 2), "only the weight, clipped at 1.2, has changed"
    assert separate.tolist() == pytest.approx([0.0] * 3 + [0.6] * 2), "the first response may not rise further"


def test_p3o_is_unbiased_on_policy() -> None:
    """Over every pair of responses: the gradient of E[R] - 0.05 KL(pi || ref), the reference being another policy."""
    mean, true = expectation(method("p3o-pairwise", **{"credit.shaping": []}), SMALL)
    torch.testing.assert_close(mean, true, rtol=1e-10, atol=1e-12)


def test_a_single_response_has_no_pair() -> None:
    loss, gradient = loss_and_gradient(Pairwise(), make([[3], [2]], [[1], [0]]))
    assert float(loss) == 0 and not gradient.any()


# -- policy cliff -----------------------------------------------------------------------------------------------------------


def test_entropy_in_the_return_gives_the_exact_gradient() -> None:
    """Over every batch: the gradient of E[R] + 0.3 H, H the entropy of whole answers."""
    mean, _ = expectation(method("policy-cliff", **{"credit.shaping.0.coefficient": 0.3}), SMALL)
    place = scene(SMALL)
    policy = place.policy()
    table = policy.log_table()
    goal = truth.value(table, place.task.reward, policy.graph) + 0.3 * truth.entropy(table, policy.graph)
    (expected,) = torch.autograd.grad(goal.mean(), policy.weight)
    torch.testing.assert_close(mean, expected.flatten(), rtol=1e-9, atol=1e-12)


# -- r2vpo ------------------------------------------------------------------------------------------------------------------


def braked(strength: float) -> PolicyGradient:
    variance = RatioVariance(coefficient=strength, ratio=TokenRatio(denominator="behaviour"))
    return PolicyGradient(ratio=TokenRatio(denominator="behaviour"), trust=Unclipped(), regularise=(variance,))


def test_the_brake_shifts_the_advantage() -> None:
    batch = make([[4, 3], [2, 5]], drift=0.5)
    ratio = (batch["logp"] - batch["logp_behaviour"]).exp()
    for strength in (0.0, 0.3, 4.0):
        found = loss_and_gradient(braked(strength), batch)[1]
        expected = -ratio * (batch["advantage"] - 2 * strength * (ratio - 1)) / len(batch)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


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


# -- minirl -----------------------------------------------------------------------------------------------------------------


def test_minirl_uses_one_ratio_as_weight_and_another_for_the_mask() -> None:
    batch = make([[5]], drift=0.0)
    old = torch.tensor([0.0, 0.3, 0.3, -0.3, -0.3]).double()  # current / old
    whole = torch.tensor([math.log(3), 0.0, 0.0, math.log(9), 0.0]).double()  # current / behaviour
    logp = batch["logp_old"] + old
    batch = batch.with_rows(
        logp=logp, logp_behaviour=logp - whole, advantage=torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0]).double()
    )
    gradient = loss_and_gradient(find("minirl").algorithm().objective, batch)[1]
    # kept with weight 3; above 1.27 with A > 0: out; A < 0: kept; weight cut off at 5; below 0.8 with A < 0: out
    assert gradient.tolist() == pytest.approx([-3.0, 0.0, 1.0, -5.0, 0.0])


def test_minirl_inside_the_band_is_the_unclipped_token_surrogate() -> None:
    batch = make([[4, 3], [2, 5]], drift=0.02)
    batch = batch.with_rows(logp_behaviour=batch["logp_old"])
    minirl = find("minirl").algorithm().objective
    ppo = PolicyGradient(trust=Clip(low=0.2, high=0.27), aggregate=minirl.aggregate)
    torch.testing.assert_close(loss_and_gradient(minirl, batch)[1], loss_and_gradient(ppo, batch)[1])


def test_the_token_surrogate_is_the_first_order_of_the_sequence_objective() -> None:
    """Over all sequences: the error shrinks in proportion to the drift, unless the surrogate is divided by the length."""
    graph = tree(3, 4)
    policy = EnumerablePolicy(graph, 1, spread=0.7, seed=1)
    away = EnumerablePolicy(graph, 1, spread=1.0, seed=2).weight.detach()
    reward = torch.randn(1, graph.states, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = truth.policy_gradient(policy, reward, graph)
    states, tokens = graph.sequences()
    taken = states != END
    returns = truth.sequence_reward(reward, graph)[0]

    def error(drift: float, normalise: bool) -> float:
        mu = EnumerablePolicy(graph, 1)
        with torch.no_grad():
            mu.weight.copy_(policy.weight + drift * away)
        rows = lambda p: p.log_table()[0][states.clamp(min=0), tokens.clamp(min=0)] * taken
        chance = rows(mu).sum(1).exp().detach()
        ratio = (rows(policy) - rows(mu).detach()).exp() * taken
        per = ratio.sum(1) / (taken.sum(1) if normalise else 1)
        (found,) = torch.autograd.grad((chance * per * returns).sum(), policy.weight)
        found = found.flatten() * (float((true @ true) / (true @ found.flatten())) if normalise else 1.0)
        return float((found - true).norm() / true.norm())

    errors = [error(drift, False) for drift in (0.1, 0.01, 0.001, 0.0)]
    assert errors[3] < 1e-12
    slopes = np.diff(np.log10(errors[:3]))
    assert slopes == pytest.approx([-1.0, -1.0], abs=0.1)
    assert error(0.001, True) > 0.05, "dividing by the length keeps an error, even after the best rescaling"
