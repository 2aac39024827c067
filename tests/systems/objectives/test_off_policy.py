"""The exact properties of `anypo.systems.objectives.off_policy`, as the sources state them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from making_rows import built, loss_and_gradient, make
from making_systems import ASYNCHRONOUS, ascent, method, trainer, weights

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.credit.centres.optimal import OptimalBaseline, relative, weighted_mean
from anypo.data.numerics import effective_sample_size
from anypo.exact import EnumerablePolicy, tree, truth
from anypo.exact.bench import Setting
from anypo.exact.check import Case, case, library_gradient
from anypo.exact.graph import END
from anypo.objective import KL, Clip, PolicyGradient
from anypo.systems import find
from anypo.update.pulls import score_norms


@pytest.mark.exact("remix")
def test_remix_without_reuse_is_grpo_with_a_kl_to_the_base() -> None:
    """p = 0, one pass, lambda = 1."""
    plain = find("grpo").algorithm()
    plain = plain.set({"objective.regularise": [KL(coefficient=0.001).dump()], "update.reference": "frozen"})
    off = {"replay.fraction": 0.0, "update.epochs": 1, "update.reference.at": 999}
    assert torch.equal(weights(trainer("remix", off), 4), weights(trainer(plain), 4))


def test_remix_hands_over_to_on_policy_training_and_a_new_base() -> None:
    changes = {"replay.until": 3, "update.reference.at": 3}
    run = trainer("remix", changes)
    shares, states = [], []
    for _ in range(5):
        shares.append(run.step().get("replay/share", 0.0))
        states.append(run.weights.policy.weight.detach().clone())
    assert shares[0] == 0 and shares[1] == pytest.approx(2 / 5) and shares[3:] == [0.0, 0.0]
    assert torch.equal(run.weights.reference.weight, states[2]), "the base is the policy after step 3, bit for bit"


@pytest.mark.exact("minirl")
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


@pytest.mark.exact("minirl")
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


def per_sequence(c: Case) -> torch.Tensor:
    """Gradient of every sequence's mean log-probability, [S, D]."""
    means = (c.logp * c.mask).sum(1) / c.length
    return torch.stack([torch.autograd.grad(m, c.policy.weight, retain_graph=True)[0].flatten() for m in means])


@pytest.mark.exact("vcpo")
@pytest.mark.parametrize("score", ["sum", "mean"])
def test_vcpo_written_again_in_two_passes_and_with_accumulators(score: str) -> None:
    """Two passes: the baseline first, then the update. Accumulators: sum w R g / s, minus b times sum w g / s."""
    given = case(ASYNCHRONOUS)
    g = per_sequence(given)
    log_w = ((given.logp - given.behaviour) * given.mask).sum(1).detach()
    w, capped = log_w.exp(), log_w.exp().clamp(max=8.0)
    length = given.mask.sum(1).to(g.dtype) if score == "sum" else torch.ones_like(w)
    strength = w**2 * (g**2).sum(1) * length**2
    two_pass, accumulated = torch.zeros_like(g[0]), torch.zeros_like(g[0])
    for k in range(given.n_groups):
        mine = given.group == k
        r, s = given.reward[mine], given.reward[mine].std(correction=0)
        s = s if s > 1e-8 else torch.ones_like(s)
        b = (strength[mine] * r).sum() / strength[mine].sum()
        two_pass -= (capped[mine] * (r - b) / s) @ g[mine] / len(g)
        ours, sums = (capped[mine] * r / s) @ g[mine], (capped[mine] / s) @ g[mine]
        accumulated -= (ours - b * sums) / len(g)
    found = library_gradient(method("vcpo", **{"credit.centre.score": score}), given)
    torch.testing.assert_close(accumulated, two_pass, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found, two_pass, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize(("score", "expected"), [("sum", 1 / 11), ("mean", 10 / 11)])
def test_long_answers_weigh_more_in_the_released_baseline_and_less_in_the_papers(score: str, expected: float) -> None:
    """A right answer of one token and a wrong one of ten, orthogonal token gradients of length 1: |mean of ten|^2 = 1/10."""
    batch = make([[1, 10]], rewards=[[1, 0]], drift=0.0)
    same = {"logp_behaviour": batch["logp_old"], "logp_old": batch["logp_old"]}
    batch = batch.with_rows(**same).with_sequences(score_norm=torch.tensor([1.0, 0.1], dtype=torch.float64))
    centre = OptimalBaseline(score=score)
    found = centre.baseline(batch.sequences["reward"].unsqueeze(1), batch, built(PolicyGradient())[1])
    assert found.flatten().tolist() == pytest.approx([expected] * 2)


def test_score_norms_have_their_closed_form() -> None:
    """Of a linear policy: |sum_t h_t (e_y - p_t)|^2 / T^2 by inner products."""
    given = case(Setting(kind="linear", reward="graded", group=3, prompts=2))
    policy = given.policy
    where, token = policy.rows(given.batch)
    p = policy.logits().detach().reshape(-1, policy.graph.vocabulary)[where].softmax(1)
    push = torch.nn.functional.one_hot(token, policy.graph.vocabulary) - p
    hidden = policy.inputs[where]
    expected = []
    for i in range(given.batch.n_sequences):
        own = given.batch.sequence == i
        gram = (hidden[own] @ hidden[own].T) * (push[own] @ push[own].T)
        expected.append(gram.sum() / int(own.sum()) ** 2)
    torch.testing.assert_close(score_norms(policy, given.batch, 7), torch.stack(expected))


@pytest.mark.exact("vcpo")
def test_the_optimal_baseline_minimises_the_weighted_spread() -> None:
    rng = np.random.default_rng(0)
    weight, reward = rng.exponential(1.0, 6) ** 3, rng.normal(size=6)
    grid = np.linspace(-3, 3, 600_001)
    best = grid[(weight[:, None] * (reward[:, None] - grid) ** 2).sum(0).argmin()]
    ids = torch.zeros(6, dtype=torch.int64)
    relatives = relative(torch.from_numpy(np.log(weight)) + 800.0, ids, 1)
    found = weighted_mean(torch.from_numpy(reward)[:, None], relatives, ids, 1)
    assert float(found) == pytest.approx(best, abs=1e-5)
    equal = weighted_mean(torch.from_numpy(reward)[:, None], torch.full((6,), 0.3).double(), ids, 1)
    assert float(equal) == pytest.approx(reward.mean())
    assert relative(torch.full((6,), -torch.inf), ids, 1).tolist() == [1.0] * 6


def test_equal_rewards_give_exactly_no_update() -> None:
    given = case(ASYNCHRONOUS, 1)
    same = given.batch.with_sequences(reward=torch.full_like(given.reward, 0.1))
    found = library_gradient(method("vcpo"), Case(**{**vars(given), "batch": same}))
    assert not found.any()


def test_the_optimal_baseline_has_the_least_variance_off_policy() -> None:
    """A softmax bandit drawn from a policy with other logits: the variance of sum w (R - b) g over 4000 batches of 8, with the
    optimal baseline, the mean, and none. On policy, where it is estimated from the same few draws, it may lose a little."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, generator=generator, dtype=torch.float64)
    reward = 1 + torch.rand(6, generator=generator, dtype=torch.float64)
    p = logits.softmax(0)
    score = torch.eye(6, dtype=torch.float64) - p
    gains = []
    for sigma in (0.0, 1.0):
        other = (logits + sigma * torch.randn(6, generator=generator, dtype=torch.float64)).softmax(0)
        arms = torch.multinomial(other, 4000 * 8, replacement=True, generator=generator).reshape(4000, 8)
        w, r, g = (p / other)[arms], reward[arms], score[arms]
        ids = torch.arange(4000).repeat_interleave(8)
        log_weight = (w**2 * (g**2).sum(-1)).log().flatten()
        best = weighted_mean(r.reshape(-1, 1), relative(log_weight, ids, 4000), ids, 4000)
        found = [
            float((w[..., None] * (r - b)[..., None] * g).mean(1).var(0).sum())
            for b in (best, r.mean(1, keepdim=True), torch.zeros_like(r))
        ]
        assert found[1] < found[2]
        gains.append(found[1] / found[0])
    assert gains[0] > 0.95 and gains[1] > 1.05


@pytest.mark.exact("vcpo")
def test_the_step_follows_the_effective_sample_size() -> None:
    rule = built_rule("vcpo")
    even = make([[2, 2, 2, 2]], drift=0.0)
    even = even.with_rows(logp_behaviour=even["logp"])
    assert rule.learning_rate(even, blank()) == pytest.approx(1.0)
    skew = torch.where(even.sequence == 0, 20.0, 0.0).double()
    assert rule.learning_rate(even.with_rows(logp=even["logp"] + skew), blank()) == pytest.approx(0.5)


def built_rule(name: str):
    return find(name).algorithm().update.rules[0]


def blank() -> Context:
    return Context(0, 1, 0, Memory(Algorithm()))


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
    found = ascent(find("p3o-ess").algorithm().objective, batch) * n
    expected = w.clamp(max=ess) * batch["advantage"] - (1 - ess) * (1 - 1 / w)
    torch.testing.assert_close(found, expected)
    assert bool((found.abs() <= ess * batch["advantage"].abs() + (1 - ess) * (1 - 1 / w).abs() + 1e-12).all())
