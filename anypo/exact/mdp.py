"""Finite Markov decision processes: values, occupancies and policy gradients by linear algebra."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """transitions P(s' | s, a) [S, A, S], rewards r(s, a) [S, A], start distribution [S], discount in [0, 1); float64.

    Policies are tables pi(a | s) [S, A], rows summing to 1; every quantity is differentiable in them.
    """

    transitions: Tensor
    rewards: Tensor
    start: Tensor
    discount: float

    def __post_init__(self) -> None:
        states, actions = self.rewards.shape
        if self.transitions.shape != (states, actions, states) or self.start.shape != (states,):
            raise ValueError("transitions [S, A, S], rewards [S, A] and start [S] do not fit together")
        if not 0.0 <= self.discount < 1.0:
            raise ValueError(f"the discount must be in [0, 1), not {self.discount}")

    @property
    def states(self) -> int:
        return self.rewards.shape[0]

    @property
    def actions(self) -> int:
        return self.rewards.shape[1]

    def values(self, pi: Tensor) -> tuple[Tensor, Tensor]:
        """V [S] and Q [S, A], from V = (I - gamma P_pi)^-1 r_pi."""
        flow = torch.einsum("sa,sat->st", pi, self.transitions)
        eye = torch.eye(self.states, dtype=pi.dtype)
        v = torch.linalg.solve(eye - self.discount * flow, (pi * self.rewards).sum(1))
        return v, self.rewards + self.discount * self.transitions @ v

    def value(self, pi: Tensor) -> Tensor:
        """Expected discounted return from the start distribution, scalar."""
        return self.start @ self.values(pi)[0]

    def occupancy(self, pi: Tensor) -> Tensor:
        """Discounted visits d(s) = sum_t gamma^t P(s_t = s), [S]; they sum to 1 / (1 - gamma)."""
        flow = torch.einsum("sa,sat->st", pi, self.transitions)
        eye = torch.eye(self.states, dtype=pi.dtype)
        return torch.linalg.solve(eye - self.discount * flow.T, self.start)

    def policy_gradient(self, logits: Tensor) -> Tensor:
        """d J / d logits of the softmax policy, [S, A]: d(s) pi(a|s) (Q(s, a) - V(s)) (Sutton et al. 1999)."""
        pi = logits.softmax(1)
        v, q = self.values(pi)
        return self.occupancy(pi)[:, None] * pi * (q - v[:, None])

    def advantage(self, pi: Tensor) -> Tensor:
        """Q - V, [S, A]."""
        v, q = self.values(pi)
        return q - v[:, None]

    def optimal(self, sweeps: int = 10_000, tolerance: float = 1e-12) -> tuple[Tensor, Tensor]:
        """V* [S] and Q* [S, A], by value iteration to `tolerance`."""
        v = torch.zeros(self.states, dtype=self.rewards.dtype)
        for _ in range(sweeps):
            q = self.rewards + self.discount * self.transitions @ v
            v, before = q.max(1).values, v
            if float((v - before).abs().max()) < tolerance:
                break
        return v, self.rewards + self.discount * self.transitions @ v


def random_mdp(states: int, actions: int, discount: float = 0.9, branching: int = 3, seed: int = 0) -> TabularMDP:
    """A Garnet-like process (Archibald et al. 1995): each state and action leads to `branching` random states; rewards are uniform in
    [0, 1]; the start is uniform."""
    generator = torch.Generator().manual_seed(seed)
    transitions = torch.zeros(states, actions, states, dtype=torch.float64)
    for s in range(states):
        for a in range(actions):
            reached = torch.randperm(states, generator=generator)[: min(branching, states)]
            weights = torch.rand(len(reached), generator=generator, dtype=torch.float64) + 1e-3
            transitions[s, a, reached] = weights / weights.sum()
    rewards = torch.rand(states, actions, generator=generator, dtype=torch.float64)
    return TabularMDP(transitions, rewards, torch.full((states,), 1.0 / states, dtype=torch.float64), discount)
