"""The exact properties of `anypo.systems.objectives.criteria`, as the sources state them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from making_rows import built, loss_and_gradient, make
from making_systems import SMALL, assert_same_gradient, assign, method

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.credit.risk import RiskBundles, bundles, track
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.exact import truth
from anypo.exact.bench import scene
from anypo.exact.check import Case, expectation
from anypo.objective import Clip, Controlled, Discriminative, ForwardKL, PolicyGradient, SequenceMean
from anypo.systems import find
from anypo.update.multipliers import Hinge


def test_the_tail_is_four_and_a_half_times_as_steep_as_the_middle() -> None:
    scores = torch.arange(6, dtype=torch.float64)
    found = RiskBundles().mixture(scores, 2.0, 4.0).tolist()
    assert found == pytest.approx([-6.0, -3.0, 0.0, 2 / 3, 4 / 3, 4 / 3])
    assert RiskBundles(tail=0.0).mixture(scores, 2.0, 4.0).tolist() == pytest.approx([0, 0, 0, 5 / 3, 10 / 3, 10 / 3])


def test_the_upper_tail_mirrors_the_lower_one() -> None:
    scores = torch.from_numpy(np.random.default_rng(5).normal(size=40))
    lower, upper = RiskBundles(alpha=0.3, beta=0.9), RiskBundles(alpha=0.1, beta=0.7, side="upper")
    mirrored = -lower.mixture(-scores, -0.5, 0.2)
    shift = (0.5 + 0.2) / 0.6 / 2.5  # a constant: the middle is counted from q_a on both sides
    torch.testing.assert_close(upper.mixture(scores, -0.2, 0.5), mirrored + shift)


@pytest.mark.exact("riskpo")
def test_risk_gradient_matches_finite_differences() -> None:
    """d/d theta of w times the mean of the quantile function below a plus its mean between a and b, over w + 1, for a softmax over
    distinct scores."""
    logits = torch.randn(7, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    scores = torch.tensor([0.0, 0.4, 1.0, 1.7, 2.0, 3.1, 4.0], dtype=torch.float64)
    alpha, beta, tail = 0.2, 0.8, 1.5

    def value(z: torch.Tensor) -> float:
        p = z.softmax(0)
        upto = p.cumsum(0)
        share = lambda level: (upto.clamp(max=level) - (upto - p).clamp(max=level)).clamp(min=0)
        low, middle = share(alpha) @ scores / alpha, (share(beta) - share(alpha)) @ scores / (beta - alpha)
        return float((tail * low + middle) / (tail + 1))

    p = logits.softmax(0)
    at = lambda level: float(scores[int((p.cumsum(0) < level).sum())])
    advantage = RiskBundles(alpha=alpha, beta=beta, tail=tail).mixture(scores, at(alpha), at(beta))
    gradient = p * (advantage - (p * advantage).sum())
    eps = 1e-6
    for i in range(7):
        bump = torch.zeros(7, dtype=torch.float64)
        bump[i] = eps
        assert (value(logits + bump) - value(logits - bump)) / (2 * eps) == pytest.approx(float(gradient[i]), abs=1e-6)


def risky(batch: Batch, **fields) -> Batch:
    """The batch with the advantages of bundles held against the quantiles 2 and 4."""
    algorithm = Algorithm(credit=RiskBundles(**fields))
    context = Context(0, 10, 0, Memory(algorithm))
    context.memory[algorithm.credit].update(low=2.0, high=4.0)
    return algorithm.credit.assign(batch, context)


@pytest.mark.exact("riskpo")
def test_inside_a_bundle_every_response_gets_the_credit_of_its_own_deviation() -> None:
    """Two responses to each of five prompts, one of them right: a bundle with k right answers scores k. One with three, q = (2,
    4), has the advantage 2/3 and the deviations sum to 1/2: right answers get 2/3, wrong ones -2/3."""
    seen = set()
    for seed in range(8):
        rewards = [[1, 0] if (seed >> g) & 1 else [0, 1] for g in range(5)]
        batch = make([[1] * 2] * 5, rewards=rewards)
        found, same = risky(batch, std=False), risky(batch, std=False, inside="uniform")
        ids, _, n = bundles(batch, 5, Context(0, 10, 0, Memory(Algorithm())))
        for bundle in range(n):
            mine = ids == bundle
            right = batch.sequences["reward"][mine]
            score = int(right.sum())
            whole = RiskBundles().mixture(torch.tensor([float(score)]).double(), 2.0, 4.0)
            assert same.sequences["advantage"][mine].tolist() == pytest.approx([float(whole)] * 5)
            expected = whole * (right - 0.5) / (score - 2.5)
            torch.testing.assert_close(found.sequences["advantage"][mine].double(), expected.double())
            if score == 3:
                assert sorted(found.sequences["advantage"][mine].tolist()) == pytest.approx([-2 / 3] * 2 + [2 / 3] * 3)
            seen.add(score)
    assert {2, 3} <= seen


def test_bundles_are_divided_by_the_deviation_of_their_sets_scores() -> None:
    batch = make([[1] * 3] * 5, rewards=[[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]])
    ids, _, n = bundles(batch, 5, Context(0, 10, 0, Memory(Algorithm())))
    scores = segments.sum(batch.sequences["reward"], ids, n)
    plain, divided = (risky(batch, std=std).sequences["advantage"] for std in (False, True))
    torch.testing.assert_close(divided, plain / (scores.std() + 1e-6))
    alike = make([[1] * 2] * 5, rewards=[[1, 1]] * 5)
    assert (risky(alike).sequences["advantage"] == 0).all(), (
        "right answers alone are not unlearned where a quantile has drifted"
    )
    single = make([[1]] * 5, rewards=[[1]] * 5)
    expected = torch.full((5,), 4 / 3 / 5, dtype=plain.dtype)
    torch.testing.assert_close(risky(single).sequences["advantage"], expected, rtol=1e-9, atol=0)


def test_a_last_set_of_fewer_prompts_is_scaled_and_moves_no_quantile() -> None:
    """Seven prompts in bundles of five: two are left, whose bundles score at most two of five."""
    rewards = [[1, 0, 1, 0]] * 5 + [[1, 1, 1, 1]] * 2
    found = risky(make([[1] * 4] * 7, rewards=rewards), std=False)
    rest = found.sequences["advantage"][20:]
    assert rest.tolist() == pytest.approx([4 / 3 / 2] * 8), "all right: as far above q_b as five of five"
    tracked = []
    for groups in (rewards, rewards[:5]):
        algorithm = Algorithm(credit=RiskBundles())
        context = Context(0, 10, 0, Memory(algorithm))
        algorithm.credit.assign(make([[1] * 4] * len(groups), rewards=groups), context)
        tracked.append(dict(context.memory[algorithm.credit]))
    assert tracked[0] == tracked[1]


def test_bundles_use_every_response_once_and_total_the_reward() -> None:
    batch = make([[1] * 4] * 7, rewards=np.random.default_rng(1).integers(0, 2, (7, 4)).tolist())
    ctx = built(PolicyGradient())[1]
    ids, sets, n = bundles(batch, 5, ctx)
    assert n == 8 and sets.tolist() == [0] * 4 + [1] * 4
    sizes = torch.bincount(ids).tolist()
    assert sizes == [5] * 4 + [2] * 4
    for bundle in range(n):
        assert len(set(batch.group[ids == bundle].tolist())) == sizes[bundle], "one response of each prompt"
    scores = segments.sum(batch.sequences["reward"], ids, n)
    assert float(scores.sum()) == float(batch.sequences["reward"].sum())
    shuffled = torch.from_numpy(np.random.default_rng(2).permutation(28))
    again, _, _ = bundles(batch.select(shuffled), 5, ctx)
    assert again.tolist() == ids[shuffled].tolist()


def test_quantile_tracker_converges() -> None:
    rng = np.random.default_rng(3)
    for level in (0.2, 0.8):
        q = 0.0
        for k in range(1, 5001):
            q = track(q, torch.from_numpy(rng.standard_normal(8)), level, (k + 1) ** -0.6)
        below = 0.5 * (1 + math.erf(q / math.sqrt(2)))
        assert abs(below - level) < 0.02


def test_an_all_wrong_prompt_in_a_bundle_learns_where_all_get_the_bundles_advantage() -> None:
    batch = make([[1] * 4, [1] * 4], rewards=[[0, 0, 0, 0], [1, 1, 0, 0]])
    uniform = Algorithm(credit=RiskBundles(inside="uniform"))
    assert bool((assign(uniform, batch).sequences["advantage"][:4] != 0).any())
    released = assign(find("riskpo").algorithm(), batch).sequences["advantage"]
    assert bool((released[:4] == 0).all()), "by deviations, the prompt that nobody solved gets nothing"
    assert bool((assign(find("grpo").algorithm(), batch).sequences["advantage"][:4] == 0).all())


def binary(rates: list[int], group: int = 10, drift: float = 0.0) -> Batch:
    """A group of `group` responses for every number of right answers in `rates`."""
    rewards = [[1.0] * k + [0.0] * (group - k) for k in rates]
    return make([[1 + i % 4 for i in range(group)] for _ in rates], rewards, drift=drift)


def credited(name: str, batch: Batch) -> Batch:
    algorithm = Algorithm.from_dict(find(name).algorithm().dump())
    return algorithm.credit.assign(batch, Context(0, 10, 0, Memory(algorithm)))


@pytest.mark.exact("disco")
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


@pytest.mark.exact("disco")
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


@pytest.mark.exact("disco")
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


@pytest.mark.exact("policy-cliff")
def test_entropy_in_the_return_gives_the_exact_gradient() -> None:
    """Over every batch: the gradient of E[R] + 0.3 H, H the entropy of whole answers."""
    mean, _ = expectation(method("policy-cliff", **{"credit.shaping.0.coefficient": 0.3}), SMALL)
    place = scene(SMALL)
    policy = place.policy()
    table = policy.log_table()
    goal = truth.value(table, place.task.reward, policy.graph) + 0.3 * truth.entropy(table, policy.graph)
    (expected,) = torch.autograd.grad(goal.mean(), policy.weight)
    torch.testing.assert_close(mean, expected.flatten(), rtol=1e-9, atol=1e-12)
