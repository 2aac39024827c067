"""The exact properties of MHPO, VCPO and SAFE, as their sources state them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from making_rows import built, loss_and_gradient, make

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.credit.centres.optimal import relative, weighted_mean
from anypo.credit.critics.pessimistic import soft_minimum
from anypo.data.batch import Batch
from anypo.exact.bench import Setting
from anypo.exact.check import Case, case, library_gradient
from anypo.objective import Hazard, KLControl, PolicyGradient, SequenceMean, TanhRatio, Unclipped
from anypo.objective.regularisers.kl_control import phase
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.update.weights import score_norms

BED = Testbed(vocabulary=3, horizon=4, prompts=3, batch=3, group=4)
STALE = Setting(staleness=16, reward="graded", group=4, prompts=3, old="trainer")


def method(name: str, **changes) -> Algorithm:
    return find(name).algorithm().set(changes)


# -- mhpo -------------------------------------------------------------------------------------------------------------------


def multiplier(log_ratio: torch.Tensor) -> torch.Tensor:
    """M(r) by finite arithmetic on its closed form."""
    psi = 1.5 * torch.tanh(log_ratio / 1.5)
    zeta = torch.log1p(psi.exp()) ** 1.5 + (torch.log1p((-psi).exp()) / 0.8) ** 2
    return (psi - zeta).exp() / torch.cosh(log_ratio / 1.5) ** 2


def test_the_damped_multiplier_has_its_closed_form() -> None:
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)
    batch = make([[len(grid)]], drift=0.0)
    batch = batch.with_rows(logp=batch["logp_old"] + grid, advantage=torch.ones(len(grid), dtype=torch.float64))
    objective = find("mhpo").algorithm().objective
    found = -loss_and_gradient(objective, batch)[1] * len(grid)
    torch.testing.assert_close(found, multiplier(grid), rtol=1e-9, atol=1e-15)
    assert float(found[120]) == pytest.approx(math.exp(-(math.log(2) ** 1.5) - (math.log(2) / 0.8) ** 2))
    assert float(found[120]) == pytest.approx(0.2651, abs=1e-4)
    assert float(found.min()) > 0 and float(found.max()) <= math.exp(1.5)
    assert bool((found[121:] > found[:120].flip(0)).all()), "falling is damped harder than rising"


def test_without_hazards_and_bound_it_is_the_plain_surrogate() -> None:
    batch = make([[4, 3]], drift=0.5)
    off = Hazard(up=1e9, down=1e9)
    wide = PolicyGradient(ratio=TanhRatio(bound=1e6), trust=off)
    plain = PolicyGradient(trust=Unclipped())
    torch.testing.assert_close(loss_and_gradient(wide, batch)[1], loss_and_gradient(plain, batch)[1], rtol=1e-6, atol=0)


def test_a_hazard_with_a_gradient_would_turn_updates_round() -> None:
    """Why zeta is detached: differentiated, it makes some good tokens less likely."""
    x = torch.linspace(-6, 6, 241, dtype=torch.float64, requires_grad=True)
    psi = 1.5 * torch.tanh(x / 1.5)
    (slope,) = torch.autograd.grad((psi - Hazard().hazard(psi)).exp().sum(), x)
    assert bool((slope < 0).any()) and bool((multiplier(x.detach()) > 0).all())


def test_heavy_tails_move_the_gradient_least() -> None:
    generator = torch.Generator().manual_seed(3)
    norms: dict[str, list[float]] = {"mhpo": [], "clip": [], "none": []}
    objectives = {
        "mhpo": find("mhpo").algorithm().objective,
        "clip": PolicyGradient(aggregate=SequenceMean()),
        "none": PolicyGradient(trust=Unclipped(), aggregate=SequenceMean()),
    }
    batch = make([[8] * 4], drift=0.0)
    for _ in range(150):
        noise = 1.5 * torch.randn(len(batch), generator=generator, dtype=torch.float64)
        advantage = torch.randn(len(batch), generator=generator, dtype=torch.float64)
        drawn = batch.with_rows(logp=batch["logp_old"] + noise, advantage=advantage)
        for name, objective in objectives.items():
            norms[name].append(float(loss_and_gradient(objective, drawn)[1].norm()))
    peak = {name: max(values) / float(np.median(values)) for name, values in norms.items()}
    assert peak["mhpo"] < peak["clip"] and peak["mhpo"] < peak["none"]


# -- vcpo -------------------------------------------------------------------------------------------------------------------


def per_sequence(c: Case) -> torch.Tensor:
    """Gradient of every sequence's mean log-probability, [S, D]."""
    means = (c.logp * c.mask).sum(1) / c.length
    return torch.stack([torch.autograd.grad(m, c.policy.weight, retain_graph=True)[0].flatten() for m in means])


def test_vcpo_written_again_in_two_passes_and_with_accumulators() -> None:
    """Two passes: the baseline first, then the update. Accumulators: sum w R g / s, minus b times sum w g / s."""
    given = case(STALE)
    g = per_sequence(given)
    log_w = ((given.logp - given.behaviour) * given.mask).sum(1).detach()
    w, capped = log_w.exp(), log_w.exp().clamp(max=8.0)
    strength = w**2 * (g**2).sum(1)
    two_pass, accumulated = torch.zeros_like(g[0]), torch.zeros_like(g[0])
    for k in range(given.n_groups):
        mine = given.group == k
        r, s = given.reward[mine], given.reward[mine].std(correction=0)
        s = s if s > 1e-8 else torch.ones_like(s)
        b = (strength[mine] * r).sum() / strength[mine].sum()
        two_pass -= (capped[mine] * (r - b) / s) @ g[mine] / len(g)
        ours, sums = (capped[mine] * r / s) @ g[mine], (capped[mine] / s) @ g[mine]
        accumulated -= (ours - b * sums) / len(g)
    found = library_gradient(method("vcpo"), given)
    torch.testing.assert_close(accumulated, two_pass, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found, two_pass, rtol=1e-7, atol=1e-11)


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
    given = case(STALE, 1)
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


# -- safe -------------------------------------------------------------------------------------------------------------------


def test_the_soft_minimum_lies_between_the_minimum_and_the_mean() -> None:
    a, b = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    soft = soft_minimum(a, b, 0.3)
    assert bool((soft >= torch.minimum(a, b)).all()) and bool((soft <= (a + b) / 2 + 1e-12).all())
    torch.testing.assert_close(soft_minimum(a, b, 1e-3), torch.minimum(a, b), rtol=0, atol=1e-3)
    torch.testing.assert_close(soft_minimum(a, b, 1e4), (a + b) / 2, rtol=0, atol=1e-3)


def replayed(kls: list[float], rewards: list[float]) -> list[float]:
    """The thresholds of the released controller, written again from its description."""
    ema, integral, last, seen, out = None, 0.0, 0.0, [], []
    for reward in rewards:
        seen.append(reward)
        recent = seen[-50:]
        old = seen[-100:-50] if len(seen) >= 100 else recent
        if len(seen) < 50:
            factor = 1.5
        elif np.mean(recent) > np.mean(old) + 0.01:
            factor = 1.2
        else:
            factor = 1.0 if np.std(recent) < 0.02 and np.mean(recent) > 0.7 else 0.8
        u = 0.0
        if ema is None:
            ema = reward
        else:
            before, ema = ema, 0.95 * ema + 0.05 * reward
            e = ema - before - 0.001
            integral = max(-1.0, min(1.0, integral + e))
            u = 0.3 * e + 0.01 * integral + 0.05 * (e - last)
            last = e
        out.append(max(0.1, min(0.6, (0.3 + u) * factor)))
    assert len(out) == len(kls)
    return out


def test_the_threshold_follows_a_recorded_trace() -> None:
    rng = np.random.default_rng(2)
    rewards = [0.1] * 30 + np.linspace(0.1, 0.9, 120).tolist() + [0.9] * 130 + rng.uniform(-3, 3, 60).tolist()
    kls = rng.exponential(0.3, len(rewards)).tolist()
    control, memory = KLControl(), KLControl().start()
    found = [control.advance(memory, kl, reward) for kl, reward in zip(kls, rewards)]
    assert found == pytest.approx(replayed(kls, rewards), abs=1e-12)
    assert min(found) >= 0.1 and max(found) <= 0.6
    phases = {phase(rewards[:n]) for n in range(1, len(rewards))}
    assert phases == {1.5, 1.2, 1.0, 0.8}


def controlled(mode: str, batch: Batch, times: int = 8) -> list[tuple[float, torch.Tensor, float, float]]:
    """(penalty, gradient in logp, smoothed KL, threshold) of consecutive optimiser steps on the same batch."""
    part, context = built(PolicyGradient(regularise=(KLControl(mode=mode),)))
    rule = part.regularise[0]
    out = []
    for _ in range(times):
        leaf = batch["logp"].clone().requires_grad_()
        value = rule.penalty(batch.with_rows(logp=leaf), part.aggregate, context)
        (gradient,) = torch.autograd.grad(value, leaf)
        step = context.metrics
        out.append((float(value.detach()), gradient, context.memory[rule]["kl"], step["objective/kl_threshold"]))
    return out


@pytest.mark.parametrize("entropy", [0.01, 10.0])
def test_the_penalty_acts_beyond_the_threshold_only(entropy: float) -> None:
    batch = make([[4, 3]], [[1, 0]], drift=0.0)
    gap = torch.full((7,), 1.5, dtype=torch.float64)
    batch = batch.with_rows(logp_ref=batch["logp"] - gap, entropy=torch.full((7,), entropy, dtype=torch.float64))
    gate = max(0.5, 2.0 / (entropy + 0.1))
    steps = controlled("gradient", batch)
    assert not steps[0][1].any() and steps[-1][1].any()
    for _, gradient, kl, _ in steps:
        limit = 0.45  # 0.3 x 1.5 warming up, the reward standing still: u is within 1e-3
        expected = 0.2 * max(0.0, kl - limit) * gate * gap / len(batch)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-3 * gate)
    for value, gradient, kl, _ in controlled("inert", batch):
        assert not gradient.any()
        assert value == pytest.approx(0.1 * max(0.0, kl - 0.45) ** 2 * gate, abs=2e-3 * gate)


def test_an_inert_penalty_leaves_ppo_as_it_is() -> None:
    given = case(STALE)
    inert = library_gradient(method("safe-rlhf-pid", **{"objective.regularise.1.mode": "inert"}), given)
    without = method("safe-rlhf-pid", **{"objective.regularise": [{"part": "entropy", "coefficient": 0.01}]})
    torch.testing.assert_close(inert, library_gradient(without, given), rtol=1e-12, atol=1e-15)


def test_the_double_critic_learns_the_normalised_reward() -> None:
    run = Trainer(BED.adapt("safe-rlhf-pid").set({"credit.optimiser.lr": 0.05}), BED.world(0), 0, 40)
    seen: list[float] = []
    losses = []
    for _ in range(40):
        losses.append(run.step()["critic/loss"])
        seen += [t.reward for g in run.groups for t in g.trajectories]
    assert np.mean(losses[-10:]) < 0.7 * losses[0]
    memory = run.memory.states["credit"]
    assert memory["mean"] == pytest.approx(np.mean(seen))
    assert memory["square"] / memory["count"] == pytest.approx(np.var(seen))
    twins = run.weights.learners["credit"].heads
    assert not torch.equal(twins[0].weight, twins[1].weight)
