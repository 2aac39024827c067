"""Token processes small enough to sum over: states, and where every token leads.

A state is what a policy may condition on besides the prompt. In a `tree` the state is the whole prefix, so a policy over it is
an arbitrary autoregressive policy and every sequence can be enumerated; in a `chain` it is the position and the previous token,
so that long horizons stay exact by dynamic programming. Token 0 ends the sequence (EOS), as does the horizon.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

EOS = 0
END = -1
"""The successor of a state after a token that ends the sequence."""


@dataclass(frozen=True)
class StateGraph:
    """`child` [n, V] (int64): the state after token v in state s, or END. States are numbered in order of depth, state 0 is the
    start; `first` [horizon + 1]: the first state of every depth, and n."""

    child: Tensor
    first: tuple[int, ...]

    @property
    def states(self) -> int:
        return len(self.child)

    @property
    def vocabulary(self) -> int:
        return self.child.shape[1]

    @property
    def horizon(self) -> int:
        """Most decisions of a sequence."""
        return len(self.first) - 1

    def layers(self) -> list[slice]:
        """The states of every depth."""
        return [slice(a, b) for a, b in zip(self.first, self.first[1:])]

    def depth(self) -> Tensor:
        """Decisions taken before each state, [n]."""
        sizes = torch.tensor([b - a for a, b in zip(self.first, self.first[1:])])
        return torch.repeat_interleave(torch.arange(self.horizon), sizes)

    def walk(self, tokens: np.ndarray) -> np.ndarray:
        """States before each token of the sequences `tokens` [S, L] from the start; END behind the end of a sequence, [S, L].

        Entries of `tokens` outside the vocabulary count as the end.
        """
        child = np.concatenate([self.child.numpy(), np.full((1, self.vocabulary), END)])  # row END stays at END
        states = np.full(tokens.shape, END, dtype=np.int64)
        at = np.zeros(len(tokens), dtype=np.int64)
        for position in range(tokens.shape[1]):
            states[:, position] = at
            token = tokens[:, position]
            known = (token >= 0) & (token < self.vocabulary)
            at = np.where(known, child[at, np.where(known, token, 0)], END)
        return states

    def sequences(self) -> tuple[Tensor, Tensor]:
        """Every sequence: states and tokens before the end, both [M, horizon], END where the sequence is over."""
        states, tokens = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64)
        done: list[tuple[Tensor, Tensor]] = []
        while len(states):
            count = len(states)
            token = torch.arange(self.vocabulary).repeat(count)
            before = states.repeat_interleave(self.vocabulary, 0)
            tokens = torch.cat([tokens.repeat_interleave(self.vocabulary, 0), token[:, None]], 1)
            after = self.child[before[:, -1], token]
            over = after == END
            done.append((_widen(before[over], self.horizon), _widen(tokens[over], self.horizon)))
            states = torch.cat([before[~over], after[~over, None]], 1)
            tokens = tokens[~over]
        return torch.cat([s for s, _ in done]), torch.cat([t for _, t in done])


def _widen(table: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(table, (0, width - table.shape[1]), value=END)


def tree(vocabulary: int, horizon: int) -> StateGraph:
    """Every prefix without EOS of fewer than `horizon` tokens is a state: (V-1)^0 + ... + (V-1)^(horizon-1) of them."""
    letters = vocabulary - 1
    first = [0]
    for depth in range(horizon):
        first.append(first[-1] + letters**depth)
    child = torch.full((first[-1], vocabulary), END, dtype=torch.int64)
    inner = first[-2]  # states that have successors
    child[:inner, 1:] = 1 + torch.arange(inner * letters).reshape(inner, letters)
    return StateGraph(child, tuple(first))


def chain(vocabulary: int, horizon: int) -> StateGraph:
    """The state is (position, previous token): 1 + (horizon - 1) (V - 1) states."""
    letters = vocabulary - 1
    first = [0, *range(1, 2 + (horizon - 1) * letters, letters)]
    child = torch.full((first[-1], vocabulary), END, dtype=torch.int64)
    for depth in range(horizon - 1):
        child[first[depth] : first[depth + 1], 1:] = first[depth + 1] + torch.arange(letters)
    return StateGraph(child, tuple(first))


def uniforms(seeds: list[tuple[int, ...]], width: int) -> np.ndarray:
    """Counter-based uniform numbers in [0, 1): entry [i, t] depends on seeds[i] and t only, [len(seeds), width]."""
    longest = max((len(seed) for seed in seeds), default=0)
    state = np.full(len(seeds), 0x243F6A8885A308D3, dtype=np.uint64)
    for column in range(longest):
        word = np.array([seed[column] & (2**64 - 1) if column < len(seed) else 0x5BF03635 for seed in seeds], np.uint64)
        state = _mix(state ^ (word + np.uint64(0x9E3779B97F4A7C15)))
    table = _mix(state[:, None] + np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (table >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
