"""Regularisers, constraints, supervised terms and contrast, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from making_rows import built, loss_and_gradient, make

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.errors import UserError
from anypo.objective import (
    KL,
    Annealed,
    Blend,
    Clip,
    Contrastive,
    Controlled,
    Entropy,
    KLConvex,
    Likelihood,
    Mask,
    PolicyGradient,
    RatioVariance,
    ScoreFunction,
    SequenceMean,
    Summed,
    Supervised,
    TokenMean,
    Unclipped,
)
from anypo.objective.preference.contrastive import contrast
from anypo.update import FrozenReference, GradientUpdate
from anypo.update.multipliers import PID, DualAscent, Fixed, LogDual

ZERO = {"advantage": torch.zeros(10, dtype=torch.float64)}


def penalty_gradient(regulariser, batch, column="logp"):
    """Loss and gradient of the regulariser alone, times the number of rows."""
    alone = batch.with_rows(advantage=torch.zeros(len(batch), dtype=torch.float64))
    loss, gradient = loss_and_gradient(PolicyGradient(regularise=(regulariser,)), alone, column)
    return float(loss), gradient * len(batch)


def test_kl_gradients_by_estimator() -> None:
    batch = make([[4, 6]], seed=1)
    d = batch["logp"] - batch["logp_ref"]
    r = (batch["logp"] - batch["logp_old"]).exp()
    for kl, expected in [
        (KL(coefficient=0.5, estimator="k2"), d),
        (KL(coefficient=0.5, estimator="k3"), 1 - (-d).exp()),
        (KL(coefficient=0.5, estimator="k1", gradient="unbiased"), r * (d + 1)),
        (KL(coefficient=0.5, estimator="k3", gradient="unbiased"), r * ((-d).exp() - 1 + d) + r * (1 - (-d).exp())),
        (KL(coefficient=0.5, estimator="k2", to="old"), batch["logp"] - batch["logp_old"]),
        (KL(coefficient=0.5, estimator="k2", to="behaviour"), batch["logp"] - batch["logp_behaviour"]),
    ]:
        torch.testing.assert_close(penalty_gradient(kl, batch)[1], 0.5 * expected)


def test_k1_differentiated_directly_is_refused_and_a_reference_is_demanded() -> None:
    update = GradientUpdate(reference=FrozenReference())
    bad = PolicyGradient(regularise=(KL(estimator="k1"),))
    with pytest.raises(UserError, match="expectation zero"):
        Algorithm(objective=bad, update=update).check()
    with pytest.raises(UserError, match="reference"):
        Algorithm(objective=PolicyGradient(regularise=(KL(),))).check()
    Algorithm(objective=PolicyGradient(regularise=(KL(to="old"),))).check()


@pytest.mark.exact("remix")
def test_convex_kl_schedule_of_the_card() -> None:
    kl = KLConvex()
    assert [kl.share(t, 2000) for t in (0, 50, 51, 60, 61, 100, 1000)] == pytest.approx([1, 1, 0.9, 0.9, 0.8, 0.5, 0.5])
    shares = KLConvex(hold=50 / 350, every=10 / 350)
    assert [shares.share(t, 350) for t in (0, 50, 51, 60, 61, 100, 349)] == pytest.approx(
        [1, 1, 0.9, 0.9, 0.8, 0.5, 0.5]
    )
    assert [round(shares.share(t, 20), 9) for t in (0, 3, 4, 6, 19)] == [1.0, 1.0, 0.8, 0.5, 0.5], "and in a short run"
    batch = make([[4, 6]], seed=2)
    to_ref, to_old = batch["logp"] - batch["logp_ref"], batch["logp"] - batch["logp_old"]
    objective = PolicyGradient(regularise=(KLConvex(coefficient=1.0),))
    flat = batch.with_rows(**ZERO)
    gradient = loss_and_gradient(objective, flat, step=75)[1] * 10
    torch.testing.assert_close(gradient, 0.7 * (1 - (-to_ref).exp()) + 0.3 * (1 - (-to_old).exp()))


def test_entropy_bonus_follows_the_aggregate() -> None:
    batch = make([[2, 6]], seed=3)
    objective = PolicyGradient(aggregate=SequenceMean(), regularise=(Entropy(coefficient=0.1),))
    gradient = loss_and_gradient(objective, batch, "entropy")[1]
    assert gradient.tolist() == pytest.approx([-0.1 / 4] * 2 + [-0.1 / 12] * 6)


@pytest.mark.exact("r2vpo")
def test_ratio_variance_is_a_brake_on_the_advantage() -> None:
    batch = make([[4, 6]], seed=4)
    r = (batch["logp"] - batch["logp_old"]).exp()
    objective = PolicyGradient(trust=Unclipped(), regularise=(RatioVariance(coefficient=0.3),))
    gradient = loss_and_gradient(objective, batch)[1] * 10
    torch.testing.assert_close(gradient, -r * (batch["advantage"] - 2 * 0.3 * (r - 1)))


def test_likelihood_is_a_lowered_baseline() -> None:
    batch = make([[4, 6]], seed=5)
    base = PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), regularise=(Likelihood(coefficient=0.25),))
    lifted = PolicyGradient(ratio=ScoreFunction(), trust=Unclipped())
    raised = batch.with_rows(advantage=batch["advantage"] + 0.25)
    torch.testing.assert_close(loss_and_gradient(base, batch)[1], loss_and_gradient(lifted, raised)[1])


# -- constraints -----------------------------------------------------------------------------------------------------


def run(multiplier, violations: list[float]) -> list[float]:
    objective, ctx = built(PolicyGradient(regularise=(Controlled(multiplier=multiplier),)))
    part = objective.regularise[0].multiplier  # type: ignore[attr-defined]
    return [part.weight(v, ctx) for v in violations]


def test_multipliers_by_hand() -> None:
    assert run(Fixed(value=2.0), [1.0, -1.0]) == [2.0, 2.0]
    assert run(DualAscent(initial=0.0, rate=0.1), [0.5, 0.5, 0.5]) == pytest.approx([0.0, 0.05, 0.10])
    assert run(DualAscent(initial=0.1, rate=1.0), [-0.5, 0.2, math.nan, 0.0]) == pytest.approx([0.1, 0.0, 0.2, 0.2])
    assert run(DualAscent(initial=0.0, rate=1.0, most=0.3), [9.0, 9.0]) == pytest.approx([0.0, 0.3])
    grown = run(LogDual(initial=0.1, rate=0.5, bound=0.2), [5.0, -5.0, -5.0])
    assert grown == pytest.approx([0.1, 0.1 * math.exp(0.1), 0.1])
    pid = run(PID(kp=0.3, ki=0.01, kd=0.05, windup=1.0), [1.0, 0.5, -2.0])
    assert pid == pytest.approx([0.3 + 0.01 + 0.05, 0.15 + 0.01 - 0.025, 0.0])


def test_controlled_regulariser_weighs_with_the_multiplier_and_remembers() -> None:
    batch = make([[4, 6]], seed=6)
    variance = float(((batch["logp"] - batch["logp_old"]).exp() - 1).square().mean())
    objective, ctx = built(
        PolicyGradient(
            trust=Unclipped(), regularise=(Controlled(limit=0.01, multiplier=DualAscent(initial=0.5, rate=1.0)),)
        )
    )
    bare = float(PolicyGradient(trust=Unclipped()).loss(batch, ctx))
    first = float(objective.loss(batch, ctx)) - bare
    second = float(objective.loss(batch, ctx)) - bare
    assert first == pytest.approx(0.5 * variance)
    assert second == pytest.approx((0.5 + variance - 0.01) * variance)
    saved = ctx.memory.state_dict()
    again = Algorithm.from_dict(Algorithm(objective=objective).dump())
    restored = Context(0, 1, 0, Memory(again))
    restored.memory.load_state_dict(saved)
    third = float(again.objective.loss(batch, restored)) - bare
    assert third == pytest.approx((0.5 + 2 * (variance - 0.01)) * variance)


def test_entropy_above_a_level_is_a_constraint_like_any_other() -> None:
    batch = make([[4, 6]], seed=7)
    level = float(batch["entropy"].mean())
    for target, grows in ((level + 1.0, True), (level - 1.0, False)):
        part = Controlled(of=Entropy(coefficient=1.0), limit=-target, multiplier=DualAscent(initial=0.2, rate=0.1))
        objective, ctx = built(PolicyGradient(regularise=(part,)))
        objective.loss(batch, ctx)
        value = ctx.memory[objective.regularise[0].multiplier]["value"]  # type: ignore[attr-defined]
        assert (value > 0.2) == grows


# -- experts ------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("chord-phi", "sft")
def test_supervised_weights_in_closed_form() -> None:
    batch = make([[4, 6]], seed=8)
    p = batch["logp"].exp()
    gradient = lambda **kw: loss_and_gradient(Supervised(**kw), batch)[1] * 10
    torch.testing.assert_close(gradient(), -torch.ones(10, dtype=torch.float64))
    torch.testing.assert_close(gradient(weight="probability"), -p)
    torch.testing.assert_close(gradient(weight="phi"), -p * (1 - p))
    torch.testing.assert_close(gradient(cutoff=0.3), -(p <= 0.3).double())
    loss, _ = loss_and_gradient(Supervised(), batch)
    assert float(loss) == pytest.approx(-float(batch["logp"].mean()))


@pytest.mark.exact("chord-phi")
def test_phi_gradient_in_the_logit_vanishes_in_both_limits() -> None:
    """d loss / d z of the expert token is -p (1 - p) (1 - p)."""
    for p in (1e-6, 0.2, 0.5, 1 - 1e-6):
        z = torch.tensor(math.log(p / (1 - p)), dtype=torch.float64, requires_grad=True)
        logp = torch.nn.functional.logsigmoid(z)
        batch = make([[1]]).with_rows(logp=logp.reshape(1))
        part, ctx = built(Supervised(weight="phi"))
        (gradient,) = torch.autograd.grad(part.loss(batch, ctx), z)
        assert float(gradient) == pytest.approx(-p * (1 - p) * (1 - p), rel=1e-6)


@pytest.mark.exact("chord")
def test_mu_schedule() -> None:
    mu = Annealed(peak=0.9, valley=0.05, warmup=4, decay=10)
    values = [mu.mu(k, 100) for k in (0, 2, 4, 9, 14, 99)]
    assert values == pytest.approx([0.0, 0.45, 0.9, (0.9 + 0.05) / 2, 0.05, 0.05], abs=1e-9)
    assert Annealed(peak=0.1, valley=0.1, warmup=0, decay=0).mu(0, 10) == 0.1


def demos(batch, which: list[int]):
    flag = torch.zeros(batch.n_sequences, dtype=torch.bool)
    flag[which] = True
    return batch.with_sequences(demo=flag)


def test_blend_weighs_means_over_their_own_samples() -> None:
    batch = demos(make([[3, 4], [5], [2]], seed=9), [2, 3])
    rollouts, experts = batch.select(torch.tensor([0, 1])), batch.select(torch.tensor([2, 3]))
    rl = PolicyGradient(aggregate=SequenceMean())
    for mixing, (a, b) in [(Annealed(peak=0.7, valley=0.7), (0.3, 0.7)), (Summed(coefficient=0.5), (1.0, 0.5))]:
        loss, gradient = loss_and_gradient(Blend(rollouts=rl, mixing=mixing), batch)
        first, second = loss_and_gradient(rl, rollouts), loss_and_gradient(Supervised(), experts)
        assert float(loss) == pytest.approx(a * float(first[0]) + b * float(second[0]))
        torch.testing.assert_close(gradient[:7], a * first[1])
        torch.testing.assert_close(gradient[7:], b * second[1])


@pytest.mark.exact("chord", "hpt")
def test_blend_in_its_limits() -> None:
    """mu = 0 is the reinforcement objective, mu = 1 the supervised one; a missing side contributes nothing."""
    batch = demos(make([[3, 4], [5]], seed=10), [2])
    rl = PolicyGradient()
    only_rl = loss_and_gradient(Blend(rollouts=rl, mixing=Annealed(peak=0.0, valley=0.0)), batch)[1]
    torch.testing.assert_close(only_rl[:7], loss_and_gradient(rl, batch.select(torch.tensor([0, 1])))[1])
    assert bool((only_rl[7:] == 0).all())
    only_sft = loss_and_gradient(Blend(rollouts=rl, mixing=Annealed(peak=1.0, valley=1.0)), batch)[1]
    assert bool((only_sft[:7] == 0).all()) and bool((only_sft[7:] == -1 / 5).all())
    none = demos(batch, [])
    torch.testing.assert_close(loss_and_gradient(Blend(rollouts=rl), none)[1], loss_and_gradient(rl, none)[1])
    everything = demos(batch, [0, 1, 2])
    torch.testing.assert_close(
        loss_and_gradient(Blend(rollouts=rl), everything)[1], loss_and_gradient(Supervised(), everything)[1]
    )


# -- contrast -----------------------------------------------------------------------------------------------------------


@pytest.mark.exact("copg")
def test_contrast_is_the_mean_over_ordered_pairs() -> None:
    batch = make([[3, 2, 4], [2, 2]], seed=11)
    beta = 0.3
    s = batch.sequence_sum(batch["logp"] - batch["logp_ref"]).tolist()
    reward, group = batch.sequences["reward"].tolist(), batch.group.tolist()
    pairs = {0: [], 1: []}
    for i in range(5):
        for j in range(5):
            if i != j and group[i] == group[j]:
                dr, ds = reward[i] - reward[j], s[i] - s[j]
                pairs[group[i]].append(-(dr * ds - beta / 2 * ds**2))
    expected = sum(sum(p) / len(p) for p in pairs.values()) / 2
    loss, _ = loss_and_gradient(Contrastive(beta=beta), batch)
    assert float(loss) == pytest.approx(expected)


def test_contrast_and_the_squared_form_have_the_same_gradient() -> None:
    s = torch.randn(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    reward, ids, beta = torch.tensor([0.7, -0.2], dtype=torch.float64), torch.zeros(2, dtype=torch.int64), 0.4
    (ours,) = torch.autograd.grad(contrast(reward, s, beta, ids, 1), s)
    squared = (reward[0] - reward[1] - beta * (s[0] - s[1])) ** 2 / (2 * beta)
    torch.testing.assert_close(ours, torch.autograd.grad(squared, s)[0], rtol=1e-7, atol=1e-12)
    ipo = (s[0] - s[1] - 1 / (2 * beta)) ** 2
    half = torch.tensor([0.25, -0.25], dtype=torch.float64)
    (contrasted,) = torch.autograd.grad(contrast(half, s, beta, ids, 1), s)
    torch.testing.assert_close(contrasted, torch.autograd.grad(ipo, s)[0] * beta / 2, rtol=1e-7, atol=1e-12)


def test_contrast_ignores_an_offset_of_the_prompt_and_lone_responses() -> None:
    batch = make([[3, 2, 4], [2]], seed=12)
    shifted = batch.with_sequences(reward=batch.sequences["reward"] + torch.tensor([5.0, -3.0])[batch.group])
    torch.testing.assert_close(loss_and_gradient(Contrastive(), batch)[1], loss_and_gradient(Contrastive(), shifted)[1])
    assert bool((loss_and_gradient(Contrastive(), batch)[1][9:] == 0).all())


def enumerated(reward: torch.Tensor, reference: torch.Tensor, logits: torch.Tensor, chance: torch.Tensor, beta: float):
    """Gradient in the logits of the expected pairwise loss with both responses drawn from `chance` (one-token responses)."""
    s = logits.log_softmax(0) - reference.log_softmax(0)
    dr, ds = reward[:, None] - reward, s[:, None] - s
    return torch.autograd.grad((chance[:, None] * chance * -(dr * ds - beta / 2 * ds**2)).sum(), logits)[0]


@pytest.mark.exact("copg")
def test_on_policy_contrast_is_twice_the_gradient_of_the_regularised_return() -> None:
    g = torch.Generator().manual_seed(3)
    reward, reference = (torch.randn(5, generator=g, dtype=torch.float64) for _ in range(2))
    logits = torch.randn(5, generator=g, dtype=torch.float64, requires_grad=True)
    p = logits.softmax(0)
    value = (p * reward).sum() - 0.3 * (p * (p.log() - reference.log_softmax(0))).sum()
    (true,) = torch.autograd.grad(value, logits, retain_graph=True)
    torch.testing.assert_close(-enumerated(reward, reference, logits, p.detach(), 0.3), 2 * true)


@pytest.mark.exact("copg")
@pytest.mark.parametrize("sampler", ["uniform", "bad"])
def test_contrast_converges_to_the_tilted_reference_from_any_data(sampler: str) -> None:
    """Expected gradient descent on a bandit; REINFORCE with a mean baseline and KL, unweighted, ends elsewhere."""
    g = torch.Generator().manual_seed(4)
    reward, reference = (torch.randn(10, generator=g, dtype=torch.float64) for _ in range(2))
    beta = 0.5
    target = (reference.log_softmax(0) + reward / beta).softmax(0)
    data = torch.full((10,), 0.1, dtype=torch.float64) if sampler == "uniform" else (-2 * reward).softmax(0)
    ours = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    other = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    ours_step, other_step = torch.optim.Adam([ours], lr=0.1), torch.optim.Adam([other], lr=0.1)
    for _ in range(1200):
        ours.grad = enumerated(reward, reference, ours, data, beta)
        ours_step.step()
        s = other.log_softmax(0) - reference.log_softmax(0)
        regularised = (reward - beta * s).detach()
        naive = -(data * (regularised - (data * reward).sum()) * other.log_softmax(0)).sum()
        (other.grad,) = torch.autograd.grad(naive, other)
        other_step.step()
    assert (ours.softmax(0) - target).abs().max().item() < 1e-3
    assert (other.softmax(0) - target).abs().max().item() > 1e-2


# -- the derivation behind REC ---------------------------------------------------------------------------------------------


@pytest.mark.exact("p3o-pairwise")
def test_pairwise_surrogate_has_the_gradient_of_group_reinforce_whoever_sampled() -> None:
    """(1 / 2 tau K^2) sum_{i<j} (a_i - a_j)^2 with a = R - tau (log pi - log pi_t), at pi = pi_t."""
    g = torch.Generator().manual_seed(5)
    tau, reward = 0.7, torch.randn(6, generator=g, dtype=torch.float64)
    start = torch.randn(6, generator=g, dtype=torch.float64)
    logp = start.clone().requires_grad_()
    a = reward - tau * (logp - start)
    pairs = (a[:, None] - a).square().triu().sum() / (2 * tau * 36)
    (gradient,) = torch.autograd.grad(pairs, logp)
    torch.testing.assert_close(gradient, -(reward - reward.mean()) / 6)
    batch = make([[1] * 6]).with_rows(
        logp=start, logp_old=start, advantage=reward - reward.mean(), logp_behaviour=torch.full((6,), -2.0).double()
    )
    torch.testing.assert_close(loss_and_gradient(PolicyGradient(trust=Mask()), batch)[1], gradient)


def test_k2_to_the_old_policy_has_no_gradient_at_it() -> None:
    batch = make([[4, 6]], drift=0.0)
    assert bool((penalty_gradient(KL(coefficient=1.0, estimator="k2", to="old"), batch)[1] == 0).all())


def test_defaults_of_parts_are_what_their_names_say() -> None:
    assert PolicyGradient() == PolicyGradient(trust=Clip(low=0.2, high=0.2), aggregate=TokenMean())
