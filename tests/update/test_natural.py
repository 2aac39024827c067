"""Natural gradient on a tabular softmax whose every action is in the batch with its probability as weight: all expectations are
exact, and the Fisher matrix, its inverse and the divergence have closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from making_rows import make
from torch import Tensor

from anypo import tasks
from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.exact.graph import tree
from anypo.exact.policy import EnumerablePolicy
from anypo.generate.base import check_suits
from anypo.objective import PolicyGradient, TokenMean, Unclipped
from anypo.run.settings.config import resolve
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.gym import GymTask
from anypo.update.direct.natural import NaturalGradient, conjugate_gradients
from anypo.update.direct.vectors import fisher_product, vector
from anypo.update.weights import Weights


class Bandits:
    """Three states with probabilities `visit` and some advantages of their actions."""

    def __init__(self, seed: int = 0, budget: int | None = None, **fields: float) -> None:
        algorithm = Algorithm(
            objective=PolicyGradient(trust=Unclipped(), aggregate=TokenMean()), update=NaturalGradient(**fields)
        )
        if budget:
            algorithm = algorithm.set({"engine.token_budget": budget})
        self.algorithm = Algorithm.from_dict(algorithm.dump())
        self.policy = EnumerablePolicy(tree(4, 2), 1, spread=1.0, seed=seed, copying=0.0)
        self.weights = Weights(self.algorithm, self.policy, 0)
        self.context = Context(0, 10, 0, Memory(self.algorithm))
        states, actions = 3, self.policy.weight.shape[1]
        generator = torch.Generator().manual_seed(seed)
        self.visit = torch.rand(states, generator=generator, dtype=torch.float64) + 0.1
        self.visit /= self.visit.sum()
        self.advantage = torch.randn(states, actions, generator=generator, dtype=torch.float64)
        self.old = self.policy.weight.detach()[:states].log_softmax(-1)

    @property
    def update(self) -> NaturalGradient:
        assert isinstance(self.algorithm.update, NaturalGradient)
        return self.algorithm.update

    def batch(self) -> Batch:
        states, actions = self.advantage.shape
        where = torch.arange(states).repeat_interleave(actions)
        token = torch.arange(actions).repeat(states)
        weight = self.visit[:, None] * self.old.exp()
        return make([[1] * (states * actions)]).with_rows(
            state=where, token=token, weight=weight.flatten(), advantage=self.advantage.flatten(),
            logp_old=self.old.flatten(), log_mass=torch.zeros(states * actions, dtype=torch.float64),
        )  # fmt: skip

    def gradient(self) -> Tensor:
        """visit pi (A - sum pi A) at every logit, 0 in the states that are not visited; flat."""
        pi = self.old.exp()
        found = torch.zeros_like(self.policy.weight)
        found[:3] = self.visit[:, None] * pi * (self.advantage - (pi * self.advantage).sum(1, keepdim=True))
        return found.flatten()

    def fisher(self) -> Tensor:
        """visit (diag(pi) - pi pi^T) for every state, dense."""
        actions, size = self.old.shape[1], self.policy.weight.numel()
        dense = torch.zeros(size, size, dtype=torch.float64)
        for state, pi in enumerate(self.old.exp()):
            block = slice(state * actions, (state + 1) * actions)
            dense[block, block] = self.visit[state] * (pi.diag() - torch.outer(pi, pi))
        return dense

    def divergence(self) -> float:
        """The mean KL(pi_old || pi)."""
        new = self.policy.weight.detach()[:3].log_softmax(-1)
        return float((self.visit[:, None] * self.old.exp() * (self.old - new)).sum())

    def moved(self) -> Tensor:
        before = vector(self.weights.policy)
        self.update.apply(self.batch(), self.weights, self.context)
        return vector(self.weights.policy) - before


@pytest.mark.exact("trpo")
@pytest.mark.parametrize("budget", [None, 2])
def test_the_product_is_that_with_the_dense_matrix(budget: int | None) -> None:
    case = Bandits(budget=budget)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        vector = torch.randn(case.policy.weight.numel(), generator=generator, dtype=torch.float64)
        found = fisher_product(case.weights, case.batch(), vector)
        torch.testing.assert_close(found, case.fisher() @ vector, rtol=1e-12, atol=1e-14)


@pytest.mark.exact("trpo")
@pytest.mark.parametrize("damping", [0.1, 1e-3])
def test_the_direction_is_the_inverse_fisher_matrix_times_the_gradient(damping: float) -> None:
    case = Bandits(damping=damping, iterations=60)
    matrix = case.fisher() + damping * torch.eye(len(case.fisher()), dtype=torch.float64)
    expected = torch.linalg.solve(matrix, case.gradient())
    expected *= (2 * 0.01 / (expected @ matrix @ expected)).sqrt()
    found = case.update.direction(case.batch(), case.gradient(), case.weights)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_undamped_it_is_the_centred_advantage() -> None:
    """For a tabular softmax F^+ g = A minus its plain mean over actions, whatever the visits (Kakade 2001)."""
    case = Bandits(damping=0.0, iterations=60)
    found = conjugate_gradients(lambda v: fisher_product(case.weights, case.batch(), v), case.gradient(), 60)
    expected = torch.zeros_like(case.policy.weight)
    expected[:3] = case.advantage - case.advantage.mean(1, keepdim=True)
    torch.testing.assert_close(found, expected.flatten(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("radius", [1e-4, 0.01, 0.5])
def test_a_step_stays_within_the_radius_and_uses_it(radius: float) -> None:
    for seed in range(4):
        case = Bandits(seed, radius=radius, damping=1e-3, iterations=30, shrink=0.9, attempts=40)
        moved = case.moved()
        share = case.context.metrics["update/step_length"]
        full = Bandits(seed, radius=radius, damping=1e-3, iterations=30)
        direction = full.update.direction(full.batch(), full.gradient(), full.weights)
        torch.testing.assert_close(moved, share * direction, rtol=1e-9, atol=1e-12)
        assert 0.6 * radius < case.divergence() <= radius
        assert case.context.metrics["update/kl"] == pytest.approx(case.divergence(), rel=1e-9)
        assert case.policy.version == 1


def test_equal_advantages_move_nothing() -> None:
    case = Bandits()
    case.advantage = torch.zeros_like(case.advantage)
    assert not case.moved().any() and case.policy.version == 0
    assert case.context.metrics["update/skipped"] == 1.0


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    case = Bandits()
    case.advantage[0, 0] = torch.nan
    assert not case.moved().any() and case.policy.version == 0


def test_a_step_that_no_length_makes_good_is_taken_back() -> None:
    stayed = 0
    for seed in range(10):
        case = Bandits(seed, radius=0.5, attempts=1, damping=1e-3, iterations=30)
        before, moved = vector(case.weights.policy).clone(), case.moved()
        if case.policy.version == 0:
            stayed += 1
            assert torch.equal(vector(case.weights.policy), before)
        else:
            assert moved.any() and case.divergence() <= 0.5
    assert 0 < stayed < 10


def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix, target = root @ root.T + torch.eye(6), torch.randn(6, generator=generator, dtype=torch.float64)
    found = conjugate_gradients(lambda v: matrix @ v, target, 6)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target), rtol=1e-4, atol=1e-5)
    assert not conjugate_gradients(lambda v: matrix @ v, torch.zeros(6, dtype=torch.float64), 6).any()


def test_other_learners_pass_over_the_batch_in_minibatches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass holds every group once, in an order of its own; the policy's step is one, on the whole batch."""
    seen: list[tuple[str, list[int]]] = []
    differentiate = Weights.differentiate

    def noting(self, batch, fits, current, context):  # type: ignore[no-untyped-def]
        seen.append((fits[0].path, batch.sequences["prompt"].tolist()))
        return differentiate(self, batch, fits, current, context)

    monkeypatch.setattr(Weights, "differentiate", noting)
    bed = Testbed(prompts=5, batch=5, group=2)
    method = find("trpo").algorithm().set({"update.repeat": 3, "update.minibatches": 2})
    run = Trainer(bed.adapt(method), bed.world(1), 1, 9)
    before = [p.detach().clone() for p in run.weights.learners["credit"].parameters()]
    run.step()
    critic = [sorted(prompts) for path, prompts in seen if path == "credit"]
    assert len(critic) == 6 and all(len(piece) in (4, 6) for piece in critic)
    whole = next(sorted(prompts) for path, prompts in seen if path != "credit")
    passes = [sorted(critic[n] + critic[n + 1]) for n in (0, 2, 4)]
    assert passes == [whole] * 3 and len({str(piece) for piece in critic}) > 2
    for _ in range(8):  # the first rewards may all be 0, which is what the critic says at first
        run.step()
    moved = [p.detach() for p in run.weights.learners["credit"].parameters()]
    assert any(not torch.equal(old, new) for old, new in zip(before, moved))


def test_in_an_environment_the_critic_of_trpo_learns_as_in_its_releases() -> None:
    """openai/baselines and sb3-contrib fit it in minibatches, at 1e-3: 80 to 160 steps on every batch of a thousand or two."""
    method = resolve("trpo", None, task="CartPole-v1").composition()
    update, plain = method.update.dump(), find("trpo").algorithm().update.dump()
    assert (update["repeat"], update["minibatches"], update["max_grad_norm"]) == (10, 32, math.inf)
    kept = {"radius": 0.01, "iterations": 10, "damping": 0.1, "shrink": 0.5, "attempts": 10}
    assert {name: update[name] for name in kept} == {name: plain[name] for name in kept} == kept
    assert (find("trpo").algorithm().credit.gamma, find("trpo").algorithm().credit.lam) == (0.99, 0.95)  # type: ignore[attr-defined]
    credit = method.credit.dump()
    assert (credit["optimiser"]["lr"], credit["gamma"], credit["lam"]) == (1e-3, 0.99, 0.95)
    assert credit["truncated"] == "bootstrap" and credit["whiten"]
    assert resolve("ppo", None, task="CartPole-v1").composition().credit.dump()["optimiser"]["lr"] == 3e-4


def test_language_models_are_refused_in_a_sentence() -> None:
    """It was a bug that reached the user: the packed pass of a language model has one derivative."""
    with pytest.raises(
        UserError, match=r"update \(natural\) cannot work on task 'basic_arithmetic': it differentiates .* twice"
    ):
        check_suits(find("trpo").algorithm(), tasks.load("sums"))
    check_suits(resolve("trpo", None, task="CartPole-v1").composition(), GymTask("CartPole-v1"))
