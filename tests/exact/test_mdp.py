"""Tabular processes: linear algebra against simulation, autograd and Bellman's equations; the bandit as the one-step case."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from anypo.claims.beds.exact import Testbed, train
from anypo.exact import EnumerablePolicy, bandit, truth
from anypo.exact.mdp import TabularMDP, random_mdp


def policy(mdp, seed=0):
    return torch.randn(mdp.states, mdp.actions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gradient_is_autograds_and_values_satisfy_bellman():
    mdp = random_mdp(6, 3, 0.8, seed=1)
    logits = policy(mdp).requires_grad_()
    (found,) = torch.autograd.grad(mdp.value(logits.softmax(1)), [logits])
    assert torch.allclose(mdp.policy_gradient(logits.detach()), found, atol=1e-12)
    pi = logits.detach().softmax(1)
    v, q = mdp.values(pi)
    assert torch.allclose((pi * q).sum(1), v, atol=1e-12)
    assert torch.allclose(q, mdp.rewards + 0.8 * torch.einsum("sat,t->sa", mdp.transitions, v), atol=1e-12)
    assert float(mdp.occupancy(pi).sum()) == pytest.approx(1 / 0.2)
    assert float((mdp.occupancy(pi)[:, None] * pi * mdp.rewards).sum()) == pytest.approx(float(mdp.value(pi)))


def test_optimal_values_are_reached_by_the_greedy_policy_and_by_no_other():
    mdp = random_mdp(5, 3, 0.9, seed=2)
    v, q = mdp.optimal()
    greedy = torch.nn.functional.one_hot(q.argmax(1), 3).double()
    assert torch.allclose(mdp.values(greedy)[0], v, atol=1e-9)
    for seed in range(20):
        assert bool((mdp.values(policy(mdp, seed).softmax(1))[0] <= v + 1e-9).all())


def test_the_environment_is_the_process():
    mdp = random_mdp(4, 2, 0.7, seed=3)
    pi = policy(mdp).softmax(1).numpy()
    environment = gymnasium.make("anypo.exact.environment:anypo/TabularMDP-v0", mdp=mdp)
    generator = np.random.default_rng(0)
    returns = []
    for episode in range(400):
        observation, _ = environment.reset(seed=episode)
        total = 0.0
        for t in range(25):
            action = int(generator.choice(2, p=pi[observation.argmax()]))
            observation, reward, terminated, _, _ = environment.step(action)
            total += 0.7**t * reward
            assert not terminated and observation.sum() == 1.0
        returns.append(total)
    exact = float(mdp.value(torch.as_tensor(pi)))
    assert np.mean(returns) == pytest.approx(exact, abs=4 * np.std(returns) / 20)


def test_nonsense_is_refused():
    mdp = random_mdp(3, 2)
    with pytest.raises(ValueError, match="fit together"):
        TabularMDP(mdp.transitions, mdp.rewards[:2], mdp.start, 0.9)
    with pytest.raises(ValueError, match="discount"):
        TabularMDP(mdp.transitions, mdp.rewards, mdp.start, 1.0)


def test_bandits_are_the_one_step_case():
    rewards = torch.tensor([[0.0, 1.0, 0.2], [0.5, 0.1, 0.9]])
    task = bandit(rewards)
    assert task.targets == ("a", "b") and task.score(0, "a") == 1.0 and task.score(1, "") == 0.5
    arms = EnumerablePolicy(task.graph, 2, seed=4)
    pi = arms.log_table().detach().exp()[:, 0]
    assert torch.allclose(truth.value(arms.log_table().detach(), task.reward, task.graph), (pi * rewards).sum(1))
    advantage = pi * (rewards - (pi * rewards).sum(1, keepdim=True)) / 2  # softmax bandit gradient, mean over prompts
    assert torch.allclose(truth.policy_gradient(arms, task.reward, task.graph), advantage.flatten(), atol=1e-12)
    curves = train("grpo", Testbed(vocabulary=3, horizon=1, task=lambda graph: task, lr=0.2), 40, 0)
    assert curves.values[-1].tolist() == pytest.approx([1.0, 0.9], abs=0.08)
