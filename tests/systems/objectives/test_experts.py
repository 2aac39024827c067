"""The exact properties of `anypo.systems.objectives.experts`, as the sources state them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from making_rows import built, make
from making_systems import assign, trainer, weights

from anypo.algorithm import Algorithm
from anypo.data.records import ACTION, CONTEXT, DEMO, Group, Tokens, Trajectory
from anypo.filter import SuccessGate
from anypo.objective import Entropy, PolicyGradient, Unclipped
from anypo.objective.aggregates import ConstantLength
from anypo.systems import find
from anypo.systems.objectives.experts import chord, chord_phi
from anypo.update import GradientUpdate


@pytest.mark.exact("chord")
def test_chord_without_experts_weight_is_grpo_over_tokens() -> None:
    """mu = 0: the same rollouts, the same updates."""
    off = {"objective.mixing.peak": 0.0, "objective.mixing.valley": 0.0}
    grpo = trainer("grpo", {"objective.aggregate": "token_mean"})
    torch.testing.assert_close(weights(trainer("chord", off), 3), weights(grpo, 3), rtol=1e-4, atol=1e-6)


def test_chord_variants_have_the_published_defaults() -> None:
    mu, phi = chord().objective, chord_phi().objective
    assert [mu.mixing.mu(k, 400) for k in (0, 100, 200)] == pytest.approx([0.9, 0.475, 0.05])
    assert mu.mixing.mu(19, 20) == 0.05, "a short run comes to the end of the schedule, too"
    assert (mu.experts.weight, phi.experts.weight, phi.mixing.mu(0, 20)) == ("none", "phi", 0.1)


@pytest.mark.exact("hpt")
def test_hpt_is_plain_policy_gradient_below_its_gate_and_supervised_above() -> None:
    """Reward minus group mean, no clip, a constant divisor, a small entropy bonus, two minibatches."""
    assert find("hpt").algorithm().update.skip_norm == 80.0, "released: MAX_GRAD_NORM"
    plain = Algorithm(
        objective=PolicyGradient(
            trust=Unclipped(), aggregate=ConstantLength(), regularise=(Entropy(coefficient=0.001),)
        ),
        update=GradientUpdate(minibatches_per_epoch=2),
    )
    below = trainer("hpt", {"filter.survival.0.gate": -1.0})
    torch.testing.assert_close(weights(below, 3), weights(trainer(plain), 3), rtol=1e-6, atol=1e-9)
    run = trainer("hpt", {"filter.survival.0.gate": 1.0})
    assert run.step()["filter/expert_share"] == 1.0
    assert bool(run.batch.sequences["demo"].all())


def test_routing_by_success() -> None:
    def group(prompt: int, rewards: list[float], guidance: str = "") -> Group:
        content = Tokens(np.zeros(2, np.int32), np.array([CONTEXT, ACTION], np.int8))
        return Group(
            prompt,
            tuple(Trajectory(prompt, content, np.zeros(1), np.zeros(1), reward=r, guidance=guidance) for r in rewards),
        )

    groups = [group(1, [0, 0]), group(2, [0, 1]), group(1, [1, 1]), group(3, [0, 0])]
    demos = [group(1, [1], DEMO), group(2, [1], DEMO), group(1, [1], DEMO)]
    ctx = built(PolicyGradient())[1]
    kept = SuccessGate(gate=0.0).keep(groups + demos, ctx)
    assert [(g.prompt, g.trajectories[0].guidance) for g in kept] == [(1, DEMO), (2, ""), (1, ""), (3, "")]
    half = SuccessGate(gate=0.5).keep(groups + demos, ctx)
    assert [g.trajectories[0].guidance for g in half] == [DEMO, DEMO, "", ""]


def test_hpt_weighs_prompts_alike_so_that_imitation_falls_with_the_failures() -> None:
    """Rollouts of three prompts and the solution of a fourth: 3/4 of one mean, 1/4 of the other. It was a whole one of each, so that
    one failed prompt weighed as much as all others together."""
    batch = make([[3, 4], [5, 2], [1, 2], [6]], rewards=[[1, 0], [0, 1], [1, 0], [1]])
    batch = batch.with_sequences(demo=torch.tensor([False] * 6 + [True]))
    objective = find("hpt").algorithm().objective.replace(rollouts=PolicyGradient(trust=Unclipped()))
    batch = batch.with_rows(logp=batch["logp"].detach().requires_grad_())
    ctx = built(objective)[1]
    whole, demo = objective.loss(batch, ctx), batch.sequences["demo"]
    apart = 0.75 * objective.rollouts.loss(batch.select(~demo), ctx) + 0.25 * objective.experts.loss(
        batch.select(demo), ctx
    )
    torch.testing.assert_close(whole, apart)
    alone = objective.loss(batch.select(~demo), ctx)
    torch.testing.assert_close(alone, objective.rollouts.loss(batch.select(~demo), ctx))
    torch.testing.assert_close(objective.loss(batch.select(demo), ctx), objective.experts.loss(batch.select(demo), ctx))


def test_demonstrations_leave_the_rollouts_advantages_alone() -> None:
    batch = make([[3, 4], [5], [2]], rewards=[[1, 0], [1], [0]])
    method = find("chord").algorithm()
    both = assign(method, batch)
    alone = assign(method, batch.select(torch.tensor([0, 1])))
    torch.testing.assert_close(both["advantage"][:7], alone["advantage"])


def test_unified_estimator_is_the_gradient_of_the_common_objective() -> None:
    """J = E_pi[r] - mu KL(pi_beta || pi): E[(1 / pi_x) A grad pi] with A = r + mu pi_beta / pi, for any measure pi_x that samples."""
    g = torch.Generator().manual_seed(7)
    reward, expert, old = (torch.randn(6, generator=g, dtype=torch.float64) for _ in range(3))
    logits, mu = torch.randn(6, generator=g, dtype=torch.float64, requires_grad=True), 0.4
    pi, beta = logits.softmax(0), expert.softmax(0)
    objective = (pi * reward).sum() - mu * (beta * (beta.log() - pi.log())).sum()
    (true,) = torch.autograd.grad(objective, logits, retain_graph=True)
    advantage = (reward + mu * beta / pi).detach()
    for measure in (pi.detach(), old.softmax(0), torch.ones(6, dtype=torch.float64)):
        estimate = torch.autograd.grad((measure * advantage / measure * pi).sum(), logits, retain_graph=True)[0]
        torch.testing.assert_close(estimate, true)
