"""`anypo.scoring.stability`: the bounds of the reward-policy map on random processes, and its cliffs where optima tie."""

from __future__ import annotations

import math

import pytest
import torch

from anypo.errors import UserError
from anypo.exact.mdp import random_mdp
from anypo.scoring.stability import distance, effective_reward, gap, greedy, lipschitz, soft_optimal, stress

GAMMA = 0.9


def nudge(shape: tuple[int, ...], size: float, seed: int) -> torch.Tensor:
    return size * (2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1)


def worst_change(transitions: torch.Tensor, rewards: torch.Tensor, beta: float) -> float:
    """Largest policy change per reward change over a few perturbations, one of them along the advantage of one action."""
    states, actions = rewards.shape
    _, base = soft_optimal(transitions, rewards, GAMMA, beta)
    found = 0.0
    push = torch.where(torch.arange(actions) == base[0].argmax(), 1.0, -1.0).expand(states, actions).double() * 1e-3
    for change in (nudge((states, actions), 0.01, 1), nudge((states, actions), 0.2, 2), push):
        _, moved = soft_optimal(transitions, rewards + change, GAMMA, beta)
        found = max(found, distance(base, moved) / float(change.abs().max()))
    return found


def test_entropy_bounds_the_change_of_the_policy() -> None:
    shares = []
    for seed in range(8):
        mdp = random_mdp(5, 3, GAMMA, seed=seed)
        for beta in (0.03, 0.3, 3.0):
            shares.append(worst_change(mdp.transitions, mdp.rewards, beta) / lipschitz(beta, GAMMA))
    assert max(shares) <= 1.0
    bandit = torch.ones(1, 2, 1, dtype=torch.float64)
    tie, away = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.01, -0.01]], dtype=torch.float64)
    move = distance(soft_optimal(bandit, tie, 0.0, 0.3)[1], soft_optimal(bandit, tie + away, 0.0, 0.3)[1]) / 0.01
    assert 0.9 * lipschitz(0.3) < move <= lipschitz(0.3), "the bound is tight where two answers tie"


def test_values_are_lipschitz_in_the_reward() -> None:
    for seed in range(5):
        mdp = random_mdp(6, 3, GAMMA, seed=seed)
        change = nudge((6, 3), 0.3, seed)
        for beta in (0.0, 0.5):
            q, _ = soft_optimal(mdp.transitions, mdp.rewards, GAMMA, beta)
            other, _ = soft_optimal(mdp.transitions, mdp.rewards + change, GAMMA, beta)
            assert float((q - other).abs().max()) <= float(change.abs().max()) / (1 - GAMMA) + 1e-9


def test_soft_optimum_agrees_with_the_plain_one_and_costs_what_entropy_costs() -> None:
    mdp = random_mdp(6, 4, GAMMA, seed=3)
    v, q = mdp.optimal()
    found, policy = soft_optimal(mdp.transitions, mdp.rewards, GAMMA, 0.0)
    torch.testing.assert_close(found, q, rtol=0, atol=1e-9)
    torch.testing.assert_close(mdp.values(policy)[0], v, rtol=0, atol=1e-8)
    for beta in (0.01, 0.1, 1.0):
        soft_q, pi = soft_optimal(mdp.transitions, mdp.rewards, GAMMA, beta)
        entropy = -(pi * pi.log()).sum(1)
        evaluated = type(mdp)(mdp.transitions, mdp.rewards + beta * entropy[:, None], mdp.start, GAMMA).values(pi)[1]
        torch.testing.assert_close(evaluated - beta * entropy[:, None], soft_q, rtol=0, atol=1e-8)
        loss = v - mdp.values(pi)[0]
        assert float(loss.min()) > -1e-9 and float(loss.max()) <= beta * math.log(4) / (1 - GAMMA)


def test_the_greedy_policy_stands_still_below_its_gap() -> None:
    for seed in range(10):
        mdp = random_mdp(5, 3, GAMMA, seed=seed)
        q, best = soft_optimal(mdp.transitions, mdp.rewards, GAMMA, 0.0)
        size = 0.99 * (1 - GAMMA) * float(gap(q).min()) / 2
        for draw in range(5):
            change = nudge((5, 3), size, draw)
            assert distance(best, soft_optimal(mdp.transitions, mdp.rewards + change, GAMMA, 0.0)[1]) == 0.0


def test_a_tie_is_a_cliff() -> None:
    tied = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    tiny = torch.tensor([[0.0, 1e-9, 0.0]], dtype=torch.float64)
    assert distance(greedy(tied), greedy(tied + tiny)) == 2.0
    assert float(gap(tied)) == 0.0
    assert float(gap(torch.tensor([3.0]))) == math.inf


def test_weights_of_several_rewards_cross_a_cliff() -> None:
    rewards = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)  # two rewards, one state, two actions
    even, tilted = (
        effective_reward(rewards, torch.tensor(w, dtype=torch.float64)) for w in ((0.51, 0.49), (0.49, 0.51))
    )
    assert distance(greedy(even), greedy(tilted)) == 2.0
    by_state = effective_reward(rewards.expand(2, 3, 2), torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]).double())
    assert by_state.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]


def test_stress_tells_ties_from_gaps() -> None:
    tied = stress([torch.tensor([1.0, 1.0, 0.0, 0.0])], eps=0.01)
    clear = stress([torch.tensor([1.0, 0.5, 0.0, 0.0])], eps=0.01)
    assert (tied.gap, tied.tie_mass, clear.gap, clear.tie_mass) == (0.0, 0.5, 0.5, 0.25)
    assert tied.on_a_cliff and not clear.on_a_cliff
    assert clear.flips == 0.0 and clear.sensitivity[0.0] == 0.0
    assert tied.sensitivity[0.0] == pytest.approx(2 / 0.01)
    for report in (tied, clear):
        assert all(report.sensitivity[beta] <= report.bound[beta] * (1 + 1e-9) for beta in (0.001, 0.01, 0.1, 1.0))
    steep = [tied.sensitivity[beta] for beta in (0.1, 1.0)]
    assert steep[0] / steep[1] == pytest.approx(10, rel=0.2), "sensitivity falls as 1 / beta"


def test_stress_tries_a_secondary_reward_and_weighs_by_the_prior() -> None:
    answers, lengths = torch.tensor([1.0, 0.99, 0.0]), torch.tensor([5.0, 1.0, 3.0])
    pulled = stress([answers], eps=0.006, draws=0, directions=[lengths])
    assert pulled.flips == 0.5, "preferring short answers changes which is best, preferring long ones does not"
    sure = stress([torch.tensor([1.0, 1.0, 0.0])], eps=0.01, priors=[torch.tensor([0.98, 0.01, 0.01])])
    assert sure.tie_mass == pytest.approx(0.99)
    assert sure.sensitivity[0.1] < stress([torch.tensor([1.0, 1.0, 0.0])], eps=0.01).sensitivity[0.1]


@pytest.mark.parametrize(
    ("rewards", "options", "words"),
    [
        ([], {}, "at least one answer"),
        ([torch.zeros(0)], {}, "at least one answer"),
        ([torch.ones(2)], {"eps": 0.0}, "positive"),
        ([torch.ones(2)], {"betas": (0.0,)}, "positive"),
        ([torch.ones(2)], {"priors": [torch.ones(3)]}, "one prior per answer"),
        ([torch.ones(2)], {"directions": [torch.ones(3)]}, "one direction per answer"),
    ],
)
def test_stress_refuses_what_it_cannot_read(rewards: list, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        stress(rewards, **{"eps": 0.01, **options})


def test_stress_of_single_answers_is_calm() -> None:
    report = stress([torch.ones(1), torch.zeros(1)], eps=0.1)
    assert report.flips == 0.0 and report.gap == math.inf and report.tie_mass == 1.0
