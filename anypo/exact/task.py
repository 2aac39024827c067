"""Tasks over the enumerable policy: rewards that add up along the states of a graph, so that every expectation is a sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from anypo.errors import UserError, unknown
from anypo.exact.graph import END, EOS, StateGraph, tree
from anypo.exact.policy import LETTERS
from anypo.tasks.base import Environment, Problem, Reply

Reward = Literal["binary", "graded", "sparse"]


@dataclass(frozen=True, eq=False)
class ExactTask:
    """`reward` [prompts, states, V]: what each token adds to the reward in each state.

    `targets`: one best answer per prompt (the solution text). Satisfies `anypo.tasks.base.Task`; the held-out problems are
    the training problems, for nothing is estimated that could overfit to a sample of prompts.
    """

    graph: StateGraph
    reward: Tensor
    targets: tuple[str, ...]
    kind: str = "custom"
    name: str = "exact"
    outcome: str = "correct"
    weights: Mapping[str, float] = field(default_factory=lambda: {"correct": 1.0})

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def n_heldout(self) -> int:
        return len(self)

    def train(self, index: int) -> Problem:
        target = self.targets[index]
        messages = ({"role": "user", "content": f"p{index}"},)
        return Problem(index, messages, answer=target, solution=target, hints=beginnings(target))

    def heldout(self, index: int) -> Problem:
        return self.train(index)

    def environment(self, problem: Problem) -> Environment:
        return Answer(self, problem)

    def score(self, prompt: int, text: str) -> float:
        """The reward of an answer."""
        rewards, child = self._lists
        state, total = 0, 0.0
        for token in [*(LETTERS.find(letter) + 1 for letter in text), EOS]:
            if state == END:
                break
            total += rewards[prompt][state][token]
            state = child[state][token]
        return total

    @cached_property
    def _lists(self) -> tuple[list[list[list[float]]], list[list[int]]]:
        """Plain lists: scoring one short answer must not cost a dozen tensor look-ups."""
        return self.reward.tolist(), self.graph.child.tolist()

    def describe(self) -> dict[str, Any]:
        sizes = {"vocabulary": self.graph.vocabulary, "horizon": self.graph.horizon, "prompts": len(self)}
        return {"source": "anypo.exact", "reward": self.kind, "targets": list(self.targets), **sizes}


@dataclass
class Answer:
    """One question: the text is the answer."""

    task: ExactTask
    problem: Problem

    def reset(self) -> tuple[Mapping[str, str], ...]:
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        return Reply({self.task.outcome: self.task.score(self.problem.prompt, text)})


def beginnings(target: str) -> tuple[str, ...]:
    """Every true beginning of an answer, the shortest first: hints."""
    return tuple(target[:n] for n in range(1, len(target)))


def patterns(graph: StateGraph, prompts: int, kind: Reward = "binary", seed: int = 0) -> ExactTask:
    """Prompt j allows a set of tokens at each of its first positions, smaller and more of them the higher j.

    binary: 1 when every constrained position is satisfied, so the success of the uniform policy falls from prompt to prompt
    (with V = 4 from 1/2 to 1/16). graded: the share of satisfied positions. sparse: 1 for one single string of horizon - 1
    letters, else 0. Raises `UserError` for an unknown kind, or for a graph that forgets its prefix where the reward needs it
    (binary and sparse need a `tree`).
    """
    if kind not in get_args(Reward):
        raise unknown("reward", kind, get_args(Reward))
    if kind != "graded" and len(set(graph.child[graph.child >= 0].tolist())) != int((graph.child >= 0).sum()):
        raise UserError(f"a {kind} reward depends on the whole answer; use a tree of states, or reward 'graded'")
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.stack([_allowed(graph, j, prompts, kind, generator) for j in range(prompts)])
    target = [[int(row.float().argmax()) for row in table] for table in allowed[:, :, 1:]]
    targets = tuple("".join(LETTERS[t] for t in letters) for letters in target)
    hit = allowed[:, graph.depth()]  # [P, n, V]
    constrained = ~allowed.all(2)
    if kind == "graded":
        share = constrained.double() / constrained.sum(1, keepdim=True)
        return ExactTask(graph, hit.double() * share[:, graph.depth()][:, :, None], targets, kind)
    last = constrained.double().cumsum(1).argmax(1)  # the last constrained position of each prompt
    return ExactTask(graph, _conjunction(graph, hit, last), targets, kind)


def bandit(rewards: Tensor) -> ExactTask:
    """One decision per prompt: `rewards` [prompts, arms] of arms 0 (the silent EOS), a, b, ...; over `tree(arms, 1)`."""
    graph = tree(rewards.shape[1], 1)
    best = tuple(LETTERS[arm - 1] if arm else "" for arm in rewards.argmax(1).tolist())
    return ExactTask(graph, rewards.double()[:, None, :], best, "bandit", name="bandit")


def _allowed(graph: StateGraph, index: int, prompts: int, kind: str, generator: torch.Generator) -> Tensor:
    """Tokens allowed at each position [horizon, V]; all of them where the position is free. EOS is allowed only there."""
    vocabulary, horizon = graph.vocabulary, graph.horizon
    table = torch.ones(horizon, vocabulary, dtype=torch.bool)
    difficulty = (index + 1) / prompts
    positions = max(1, horizon - 1) if kind == "sparse" else 1 + int(difficulty * min(2, horizon - 1))
    for position in range(positions):
        size = 1 if kind == "sparse" or (position == 0 and difficulty > 0.5) else max(1, (vocabulary - 1) * 2 // 3)
        chosen = 1 + torch.randperm(vocabulary - 1, generator=generator)[:size]
        table[position] = False
        table[position, chosen] = True
    return table


def _conjunction(graph: StateGraph, hit: Tensor, last: Tensor) -> Tensor:
    """1 on the token that completes the conjunction of `hit` over the positions up to `last` [P], [P, n, V]."""
    alive = torch.zeros(hit.shape[:2], dtype=torch.bool)
    alive[:, 0] = True
    for layer in graph.layers():
        for state in range(layer.start, layer.stop):
            inner = (graph.child[state] != END).nonzero().flatten()
            alive[:, graph.child[state, inner]] = alive[:, state, None] & hit[:, state, inner]
    final = graph.depth()[None, :] == last[:, None]
    return (alive[:, :, None] & hit & final[:, :, None]).double()
