"""Views: the same decisions in another context, scored and differentiated there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.errors import UserError
from anypo.policies.divergences import Comparisons
from anypo.policies.language.causal import LanguagePolicy
from anypo.policies.language.tiny import TinyConfig, model, tokenizer
from anypo.policies.views import Privileged, Shown, behind, look
from anypo.tasks.base import Problem

PROBLEM = Problem.ask("1+2", answer="3", solution="1+2=3")


def tiny() -> LanguagePolicy:
    config = TinyConfig()
    return LanguagePolicy(model(config, 0), tokenizer(config.context))


def _batch(policy: LanguagePolicy, shown: np.ndarray | None = None) -> Batch:
    prompt = policy.encode(PROBLEM.messages)

    def one(text: str) -> Trajectory:
        answer = policy.answer(text)
        roles = np.array([CONTEXT] * len(prompt) + [ACTION] * len(answer), dtype=np.int8)
        content = Tokens(np.concatenate([prompt, answer]), roles, shown)
        return Trajectory(PROBLEM.prompt, content, np.zeros(len(answer)), np.zeros(len(answer), dtype=np.int64))

    group = Group(PROBLEM.prompt, (one("3"), one("12")))
    return dataclasses.replace(Batch.pack([group]), problems=(PROBLEM,))


def test_views_are_scored_as_the_other_context() -> None:
    policy = tiny()
    batch = look(_batch(policy), (Privileged(),), policy)
    text = Privileged().template.replace("{prompt}", "1+2").replace("{solution}", "1+2=3")
    prompt = policy.encode(({"role": "user", "content": text},))
    by_hand = dataclasses.replace(
        batch,
        trajectories=tuple(dataclasses.replace(t, content=behind(prompt, t.content)) for t in batch.trajectories),
    )
    found = policy.fill(batch, ["logp", "logp@privileged"], grad=False)
    torch.testing.assert_close(found["logp@privileged"], policy.fill(by_hand, ["logp"], grad=False)["logp"])
    assert not torch.allclose(found["logp"], found["logp@privileged"])
    second = batch.select(torch.tensor([1]))
    one = policy.fill(second, ["logp@privileged"], grad=False)["logp@privileged"]
    torch.testing.assert_close(one, found["logp@privileged"][batch.sequence == 1], rtol=1e-4, atol=1e-5)
    d = torch.ones(len(batch))
    grads = []
    for asked, of in (("logp@privileged", batch), ("logp", by_hand)):
        policy.backward(of, {asked: d}, 64)
        grads.append([p.grad.clone() for p in policy.parameters()])
        for p in policy.parameters():
            p.grad = None
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


def test_a_view_nobody_defines_is_refused() -> None:
    policy = tiny()
    with pytest.raises(UserError, match="no part of the algorithm defines"):
        policy.fill(_batch(policy), ["logp@privileged"], grad=False)


def test_shown_is_what_the_sampler_saw() -> None:
    policy = tiny()
    shown = np.array([5, 6, 7])
    batch = look(_batch(policy, shown), (Shown(),), policy)
    content = batch.seen("shown").trajectories[0].content
    assert content.tokens[:3].tolist() == [5, 6, 7] and len(content.actions) == len(batch.trajectories[0])


def test_a_view_with_the_weights_of_another_is_not_live() -> None:
    policy = tiny()
    policy.compared = Comparisons(sources=frozenset({"old", "ref"}))
    assert policy.offers("logp") and policy.offers("logp@privileged") and policy.offers("entropy@shown")
    for name in (
        "logp@privileged_ref",
        "logp@privileged_old",
        "logp@shown_behaviour",
        "logp@new",
        "logp@",
        "jsd@privileged_ref",
    ):
        assert not policy.offers(name), name
