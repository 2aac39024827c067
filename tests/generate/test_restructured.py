"""Questions in other words: which, by whom, kept or not, as groups of their own, inside the budget; and the KL that goes with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from making_systems import STALE, assert_same_gradient

from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.data.records import prompt_id
from anypo.engine.base import Completion
from anypo.exact import EnumerablePolicy, EnumerableSampler, tree
from anypo.exact.check import case, library_gradient
from anypo.generate.base import World
from anypo.generate.groups.restructured import Restructured, asked, question_in
from anypo.systems import find
from anypo.tasks.base import Problem, Reply

REPLIES = {"p0": "Sure!\n```text\np4\n```", "p1": "```\nnonsense here\n```", "p2": "p5", "p3": "p6"}
"""What is made of each question; nobody answers p1's with a question that the policy could read."""


class Rewriter(EnumerablePolicy):
    """Answers p0 with a never, p1 once in four, p2 half of the time and p3 always; writes `REPLIES` when asked to rewrite."""

    def encode(self, messages: Any) -> np.ndarray:
        text = messages[-1]["content"]
        return np.array([9000 + int(text[-1])]) if "Question:\n" in text else super().encode(messages)

    def decode(self, tokens: np.ndarray) -> str:
        spoken = len(tokens) and int(tokens[0]) >= 9000
        return REPLIES[f"p{int(tokens[0]) - 9000}"] if spoken else super().decode(tokens)


class Scripted(EnumerableSampler):
    def generate(self, requests: Any) -> list[Completion]:
        one = np.zeros(1)
        said = lambda request: Completion(request.tokens, one, one, one, np.zeros(1, int), "stop")
        plain = iter(super().generate([r for r in requests if r.tokens[0] < 9000]))
        return [said(r) if r.tokens[0] >= 9000 else next(plain) for r in requests]


@dataclass
class Letters:
    """The answer to every question is a."""

    name: str = "letters"
    outcome: str = "correct"
    weights: dict[str, float] = field(default_factory=lambda: {"correct": 1.0})

    def __len__(self) -> int:
        return 4

    def train(self, index: int) -> Problem:
        return Problem(index, ({"role": "user", "content": f"p{index}"},), answer="a")

    def environment(self, problem: Problem) -> One:
        return One(problem)


@dataclass
class One:
    """One question."""

    problem: Problem

    def reset(self) -> tuple[Any, ...]:
        return self.problem.messages

    def step(self, text: str, *size: int) -> Reply:
        return Reply({"correct": float(text == "a")})


def rolled(samples: int = 8, **fields: Any):
    """The groups of one step of the four questions, p1 left out, and its metrics."""
    policy = Rewriter(tree(2, 1), 8)
    with torch.no_grad():
        policy.weight.copy_(torch.tensor([[0.0, z] for z in (-50.0, -50.0, 50.0, 50.0, 0.0, 50.0, 0.0, 0.0)]))
    part = Restructured(shortest=2, max_new=1, **fields)
    world, context = World(Letters(), policy, Scripted(policy)), Context(0, 10, 0, Memory(part))
    return part.rollout([Ask(i, samples) for i in (0, 2, 3)], world, context), context.metrics


@pytest.mark.exact("clpo")
def test_tags_are_functions_of_the_share_alone() -> None:
    part = Restructured()
    kinds = [part.kind([True] * k + [False] * (4 - k)) for k in range(5)]
    assert kinds == ["hard", "hard", "medium", "easy", "easy"]
    assert part.kind([True, False, False]) == "medium" and part.kind([True, False, True]) == "medium"


def test_the_question_is_the_last_block_or_all_of_it() -> None:
    assert question_in("Here:\n```text\nold\n```\nno:\n```\nWhat is 2?\n```\nbye") == "What is 2?"
    assert question_in("  What is 2?\n") == "What is 2?" and question_in("```\nopen") == "```\nopen"
    assert question_in("") == ""


@pytest.mark.exact("clpo")
def test_rewritings_are_groups_of_their_own_with_the_old_answer() -> None:
    groups, metrics = rolled()
    assert [g.index for g in groups] == [0, 2, 3, -1] and [len(g.trajectories) for g in groups] == [4] * 4
    new = groups[-1]
    assert new.problem.messages == ({"role": "user", "content": "p4"},) and new.problem.answer == "a"
    assert new.prompt == prompt_id("p4") and new.visit == groups[0].visit
    marks = [{t.rewards["hard"] for t in g.trajectories} for g in groups]
    assert marks == [{1.0}, {0.0}, {0.0}, {1.0}]
    assert [float(g.rewards.mean()) for g in groups[:3]] == [0, 1, 1]
    assert (
        metrics["generate/rewritten"] == 1
        and metrics["generate/unspent"] == 8
        and metrics["generate/rewriting_tokens"] == 1
    )
    rate = float(new.rewards.mean())
    assert metrics["generate/rescued_share"] == float(0 < rate < 1)


@pytest.mark.exact("clpo")
def test_a_step_spends_at_most_what_it_was_given() -> None:
    for samples, total in ((4, 12), (5, 12), (6, 16), (16, 16)):
        groups, metrics = rolled(samples)
        assert sum(len(g.trajectories) for g in groups) == total <= 3 * samples
        assert metrics["generate/unspent"] == max(0, 3 * (samples - 4) - 4 * metrics["generate/rewritten"])


def test_what_is_no_question_is_left_out_and_what_gives_the_answer_away_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(REPLIES, "p0", "x")
    assert rolled()[1]["generate/rewritten"] == 0
    monkeypatch.setitem(REPLIES, "p0", "p4 a")
    groups, metrics = rolled()
    assert metrics["generate/leaked_share"] == 1.0 and groups[-1].problem.messages[-1]["content"] == "p4 a"
    assert "must still be a," in asked(Letters().train(0), "hard") and asked(Letters().train(3), "medium").endswith(
        "\np3"
    )


@pytest.mark.exact("clpo")
def test_the_kl_of_hard_rollouts_is_scaled_and_nothing_else() -> None:
    def loss(hard: float):
        def written(case):
            spread = torch.stack([case.reward[case.group == g].std() for g in case.group.tolist()])
            advantage = ((case.reward - case.group_mean(case.reward)) / (spread + 1e-6))[:, None]
            ratio = (case.logp - case.old).exp()
            kept = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            gap = case.ref - case.logp
            factor = torch.where(torch.arange(len(case.reward)) % 2 == 0, hard, 1.0)[:, None]
            return ((-kept + 0.2 * factor * (gap.exp() - 1 - gap)) * case.mask).sum() / case.mask.sum()

        return written

    given = case(STALE, 0)
    marked = given.batch.with_sequences(**{"reward/hard": (torch.arange(len(given.reward)) % 2 == 0).double()})
    object.__setattr__(given, "batch", marked)
    for hard in (0.5, 0.1, 1.0):
        changes = {"objective.regularise.0.hard": hard, "objective.regularise.0.coefficient": 0.2}
        found = library_gradient(find("clpo").algorithm().set(changes), given)
        (expected,) = torch.autograd.grad(loss(hard)(given), [given.policy.weight], retain_graph=True)
        expected = expected.flatten()
        assert float((found - expected).norm() / expected.norm()) < 1e-7


@pytest.mark.exact("clpo")
def test_without_rewritings_it_is_the_base_loss() -> None:
    def base(case):
        spread = torch.stack([case.reward[case.group == g].std() for g in case.group.tolist()])
        advantage = ((case.reward - case.group_mean(case.reward)) / (spread + 1e-6))[:, None]
        ratio, gap = (case.logp - case.old).exp(), case.ref - case.logp
        kept = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        return ((-kept + 0.001 * (gap.exp() - 1 - gap)) * case.mask).sum() / case.mask.sum()

    assert_same_gradient("clpo", base)
