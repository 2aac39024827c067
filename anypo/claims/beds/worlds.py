"""Small exact worlds of another kind than patterns: rewards given by rules over whole answers, several components, costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun
from anypo.claims.beds.exact import Curves, Testbed, finals
from anypo.exact import EnumerablePolicy, StateGraph, truth
from anypo.exact.graph import END, EOS
from anypo.exact.policy import LETTERS
from anypo.exact.task import beginnings
from anypo.tasks.base import Environment, Problem, Reply

Rule = Callable[[int, str], float]
"""Reward component of an answer (letters without EOS) to a prompt."""


@dataclass(eq=False)
class RuleTask:
    """A task over the states of a tree whose components are `rules` over the finished answer; the scalar reward is their
    weighted sum, `reward` [prompts, states, V] its table. Satisfies `anypo.tasks.base.Task`."""

    graph: StateGraph
    reward: Tensor
    targets: tuple[str, ...]
    weights: Mapping[str, float]
    rules: Mapping[str, Rule]
    name: str = "rules"
    outcome: str = "correct"

    def __len__(self) -> int:
        return len(self.targets)

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
        return RuleAnswer(self, problem)

    def describe(self) -> dict[str, Any]:
        return {"source": "anypo.claims", "components": sorted(self.rules), "targets": list(self.targets)}

    def table(self, component: str) -> Tensor:
        """What each token adds to one component, [prompts, states, V]."""
        return tabulate(self.graph, len(self), self.rules[component])


@dataclass
class RuleAnswer:
    """One question of a `RuleTask`."""

    task: RuleTask
    problem: Problem

    def reset(self) -> tuple[Mapping[str, str], ...]:
        return self.problem.messages

    def step(self, text: str, *size: int) -> Reply:
        return Reply({name: rule(self.problem.prompt, text) for name, rule in self.task.rules.items()})


def rule_task(
    graph: StateGraph, prompts: int, rules: Mapping[str, Rule], targets: Callable[[int], str], **worth: float
) -> Any:
    """A `RuleTask` of `prompts` questions over a tree of states. `worth`: a component's weight (all 1 by default)."""
    weights = worth or dict.fromkeys(rules, 1.0)
    total = tabulate(graph, prompts, lambda p, text: sum(weights[name] * rules[name](p, text) for name in weights))
    return RuleTask(graph, total, tuple(targets(p) for p in range(prompts)), weights, rules)


def tabulate(graph: StateGraph, prompts: int, rule: Rule) -> Tensor:
    """The rule's value on the token that ends an answer, for every state, [prompts, states, V]."""
    texts = prefixes(graph)
    table = torch.zeros(prompts, graph.states, graph.vocabulary, dtype=torch.float64)
    for state, token in (graph.child == END).nonzero().tolist():
        text = texts[state] + ("" if token == EOS else LETTERS[token - 1])
        for prompt in range(prompts):
            table[prompt, state, token] = rule(prompt, text)
    return table


def prefixes(graph: StateGraph) -> list[str]:
    """The letters that lead to every state of a tree."""
    texts = [""] * graph.states
    for state in range(graph.states):
        for token, child in enumerate(graph.child[state].tolist()):
            if child != END:
                texts[child] = texts[state] + LETTERS[token - 1]
    return texts


def expected(policy: EnumerablePolicy, table: Tensor) -> float:
    """Exact expectation of a component under the policy, mean over prompts."""
    with torch.no_grad():
        return float(truth.value(policy.log_table(), table, policy.graph).mean())


def expected_length(policy: EnumerablePolicy) -> float:
    """Exact number of decisions per answer, mean over prompts."""
    with torch.no_grad():
        return float(truth.visits(policy.log_table(), policy.graph).sum(1).mean())


def final_policy(curves: Curves) -> EnumerablePolicy:
    """The policy at the end of a run."""
    policy = curves.trainer.world.policy
    assert isinstance(policy, EnumerablePolicy)
    return policy


def generated(curves: Curves) -> float:
    """Tokens sampled per step, mean over the run: estimation rollouts included, tokens that leaves share counted once."""
    return float(curves.metric("tokens/generated").mean())


# -- worlds of several claims, and what they stand in for ---------------------------------------------------------------------


def hard_and_easy(graph: StateGraph) -> Any:
    """Sixteen prompts that want one to four particular letters: initial success from about a quarter to a few in a thousand."""
    targets = ["a", "b", "c", "a", "ab", "bc", "ca", "cb", "abc", "bca", "cab", "acb", "abca", "bcab", "cabc", "acba"]
    rule = lambda p, text: float(text.startswith(targets[p]))
    return rule_task(graph, 16, {"correct": rule}, lambda p: targets[p])


SHARED = Testbed(kind="linear", task=hard_and_easy, prompts=16, batch=8, lr=0.05)
"""Prompts of initial success from a quarter to a few in a thousand, whose answers share parameters."""

SHARED_STALE = SHARED.replace(old="sampler", lr=0.1)
"""Rollouts of older policies, which every importance ratio divides by."""

SHARED_TOY = "an enumerable policy with shared features (16 prompts, answers of 4 tokens) for the language model"

SIXTEEN_TOY = "an enumerable policy (16 prompts, 4 tokens) for the language model"


def decisive(graph: StateGraph) -> Any:
    """The third letter decides, whatever the others are."""
    letters = ["a", "b", "c", "a"]
    return rule_task(graph, 4, {"correct": lambda p, text: float(text[2:3] == letters[p])}, lambda p: "aa" + letters[p])


LONG = Testbed(vocabulary=4, horizon=6, prompts=4, lr=0.03)

LONG_TOY = "an enumerable policy with answers of up to 6 tokens"


def affordable(run: ClaimRun, ours: list[Curves], base: Algorithm, bed: Testbed) -> int:
    """Prompts per step of the base that cost as many sampled tokens as a step of ours, estimates included."""
    spent = float(np.mean([generated(c) for c in ours]))
    one = generated(finals(base, bed, 2, run.seeds[:1])[0]) / bed.batch
    more = max(1, round(spent / one))
    run.note(
        f"tokens sampled per step: {spent:.0f}, for which the base has {more} prompts per step instead of {bed.batch}."
    )
    return more
