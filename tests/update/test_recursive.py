"""Implicit gradient transport against the recursion written plainly in float64."""

from __future__ import annotations

import math

import pytest
import torch
from making_rows import make
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.exact.graph import tree
from anypo.exact.policy import EnumerablePolicy
from anypo.objective import PolicyGradient, TokenMean, Unclipped
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.update.direct.recursive import ImplicitTransport
from anypo.update.direct.vectors import vector
from anypo.update.weights import Weights

ACTIONS, STEPS = 4, 9


def built(**fields: float) -> tuple[ImplicitTransport, Weights, Memory]:
    objective = PolicyGradient(trust=Unclipped(), aggregate=TokenMean())
    algorithm = Algorithm.from_dict(Algorithm(objective=objective, update=ImplicitTransport(**fields)).dump())
    weights = Weights(algorithm, EnumerablePolicy(tree(ACTIONS, 1), 1, spread=1.0, seed=2, copying=0.0), 0)
    assert isinstance(algorithm.update, ImplicitTransport)
    return algorithm.update, weights, Memory(algorithm)


def exact(policy: EnumerablePolicy, reward: Tensor) -> Batch:
    """Every action once, its probability under the present parameters as weight: the loss is minus the expected reward's surrogate.
    What was filled as ``logp_old`` before the update is that of other parameters than sampled, and must not matter."""
    logp = policy.weight.detach()[0].log_softmax(-1)
    return make([[1] * ACTIONS]).with_rows(
        state=torch.zeros(ACTIONS, dtype=torch.int64), token=torch.arange(ACTIONS), weight=logp.exp(), advantage=reward,
        logp_old=logp - 0.3 * torch.arange(ACTIONS), log_mass=torch.zeros(ACTIONS, dtype=torch.float64),
    )  # fmt: skip


def rewards() -> list[Tensor]:
    """Another reward for every step: noisy gradients."""
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(ACTIONS, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def gradient(theta: Tensor, reward: Tensor) -> Tensor:
    """d E[reward] / d logits, by hand."""
    pi = theta.softmax(-1)
    return pi * (reward - (pi * reward).sum())


@pytest.mark.parametrize(("first", "power"), [(1.0, 0.8), (0.5, 0.8), (1.0, 0.0)])
def test_it_is_the_recursion_written_plainly(first: float, power: float) -> None:
    update, weights, memory = built(step=0.3, first=first, power=power)
    policy, theta = weights.policy, weights.policy.weight.detach()[0].clone()
    before, average = theta.clone(), torch.zeros(ACTIONS, dtype=torch.float64)
    for turn, reward in enumerate(rewards()):
        eta = first * (2 / (turn + 2)) ** power
        ahead = theta + (1 - eta) / eta * (theta - before)
        context = Context(turn, STEPS, 0, memory)
        inside = update.acting(weights, {}, context)
        assert inside is not None
        torch.testing.assert_close(inside["weight"][0], ahead, rtol=1e-12, atol=1e-13)
        with weights.swapped(inside):
            batch = exact(policy, reward)
        update.apply(batch, weights, context)
        average = (1 - eta) * average + eta * gradient(ahead, reward)
        before, theta = theta, theta + 0.3 * 2 / (turn + 2) * average / average.norm()
        torch.testing.assert_close(policy.weight.detach()[0], theta, rtol=1e-11, atol=1e-12)
    assert policy.version == STEPS


def test_on_a_quadratic_the_average_is_the_gradient_where_the_policy_is() -> None:
    """J = b theta - theta A theta / 2 with exact gradients and first = 1: d_t is the gradient at theta_t for any schedule."""
    update, weights, memory = built(step=0.5)
    size = len(vector(weights.policy))
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix, shift = root @ root.T / size, torch.randn(size, generator=generator, dtype=torch.float64)
    slope = lambda theta: shift - matrix @ theta
    for turn in range(STEPS):
        context = Context(turn, STEPS, 0, memory)
        here = vector(weights.policy)
        update._advance(slope(update.query(weights, context)), weights, context)
        torch.testing.assert_close(memory[update]["average"], slope(here), rtol=1e-9, atol=1e-10)
        assert float((vector(weights.policy) - here).norm()) == pytest.approx(0.5 * 2 / (turn + 2))


def test_with_a_constant_weight_of_one_it_is_normalised_ascent() -> None:
    update, weights, memory = built(power=0.0)
    for turn in range(3):
        context = Context(turn, STEPS, 0, memory)
        here = vector(weights.policy)
        torch.testing.assert_close(update.query(weights, context), here, rtol=0, atol=0)
        update._advance(torch.arange(len(here), dtype=torch.float64) - turn, weights, context)
        pull = torch.arange(len(here), dtype=torch.float64) - turn
        torch.testing.assert_close(vector(weights.policy) - here, 0.1 * 2 / (turn + 2) * pull / pull.norm())


def test_no_gradient_makes_no_step_and_nan_changes_nothing() -> None:
    update, weights, memory = built()
    context = Context(0, STEPS, 0, memory)
    here = vector(weights.policy)
    update.apply(exact(weights.policy, torch.full((ACTIONS,), math.nan, dtype=torch.float64)), weights, context)
    assert memory[update]["turn"] == 0 and context.metrics["update/skipped"] == 1.0
    update.apply(exact(weights.policy, torch.zeros(ACTIONS, dtype=torch.float64)), weights, context)
    assert torch.equal(vector(weights.policy), here) and weights.policy.version == 0 and memory[update]["turn"] == 1


def test_rollouts_are_drawn_ahead_and_a_resumed_run_is_exact() -> None:
    bed = Testbed(vocabulary=3, horizon=3, prompts=3, batch=3, group=8)

    def made() -> Trainer:
        method = bed.adapt(find("grpo").algorithm()).set({"update": {"part": "implicit_transport", "step": 1.0}})
        return Trainer(method, bed.world(3), 3, 6)

    run = made()
    for _ in range(3):
        run.step()
    saved, context = run.state_dict(), Context(run.number, 6, 3, run.memory)
    update = run.algorithm.update
    assert isinstance(update, ImplicitTransport)
    ahead = update.query(run.weights, context)
    assert float((ahead - vector(run.weights.policy)).norm()) > 0.01
    table = run.weights.policy.log_table().detach()
    run.producer.produce(context)
    batch = Batch.pack(run.groups, torch.float64)
    with run.weights.swapped(update.acting(run.weights, {}, context)):
        drawn = run.weights.policy.fill(batch, ["logp"], grad=False)["logp"]
    torch.testing.assert_close(drawn, batch["logp_behaviour"], rtol=0, atol=1e-6)
    assert torch.equal(run.weights.policy.log_table().detach(), table)
    whole, again = made(), made()
    for _ in range(5):
        whole.step()
    again.load_state_dict(saved)
    for _ in range(2):
        again.step()
    assert torch.equal(vector(whole.weights.policy), vector(again.weights.policy))
