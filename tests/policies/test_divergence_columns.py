"""Divergence columns of a language model: against a full-vocabulary log-softmax in float64, however the work is cut."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.control import Uniform
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.engine.training import head
from anypo.objective.distil.divergences import Distil
from anypo.policies.divergences import Generalised
from anypo.policies.language.causal import LanguagePolicy
from anypo.policies.language.tiny import TinyConfig, model, tokenizer
from anypo.policies.views import Privileged, Shown, behind, look
from anypo.tasks.base import Problem
from anypo.update import GradientUpdate
from anypo.update.optimisers import AdamW
from anypo.update.references import FrozenReference
from anypo.update.weights import Weights

PROBLEMS = (Problem.ask("1+2", answer="3", solution="1+2=3"), Problem.ask("40+2", answer="42"))
SMALL = TinyConfig(layers=2, hidden=32, intermediate=64, context=256)


def tiny(lora: int = 0, seed: int = 0) -> LanguagePolicy:
    net = model(SMALL, seed).double()
    torch.manual_seed(seed)  # adapters are drawn
    if lora:
        from peft import LoraConfig, get_peft_model

        net = get_peft_model(net, LoraConfig(r=lora, target_modules=["q_proj", "v_proj"])).double()
    return LanguagePolicy(net, tokenizer(SMALL.context))


def rollouts(policy: LanguagePolicy, answers: tuple[tuple[str, ...], ...] = (("3", "12"), ("", "42 or so"))) -> Batch:
    """Answers to both problems; an empty one is its end alone. Temperatures differ."""

    def one(problem: Problem, text: str, number: int) -> Trajectory:
        prompt, answer = policy.encode(problem.messages), policy.answer(text)
        roles = np.array([CONTEXT] * len(prompt) + [ACTION] * len(answer), dtype=np.int8)
        content = Tokens(np.concatenate([prompt, answer]), roles)
        zeros = np.zeros(len(answer))
        heat = (1.0, 0.7, 0.0, 1.6)[number % 4]
        return Trajectory(
            problem.prompt, content, zeros, zeros.astype(np.int64), temperature=heat, log_mass=zeros - 0.1
        )

    groups = [
        Group(p.prompt, tuple(one(p, text, 2 * g + i) for i, text in enumerate(texts)), p)
        for g, (p, texts) in enumerate(zip(PROBLEMS, answers))
    ]
    return Batch.pack(groups, torch.float64)


def weights(policy: LanguagePolicy, budget: int = 8192, **objective) -> Weights:
    algorithm = Algorithm(
        control=Uniform(samples=2),
        objective=Distil(**objective),
        update=GradientUpdate(reference=FrozenReference(), optimiser=AdamW(lr=1e-3)),
    ).set({"engine.token_budget": budget})
    return Weights(algorithm.check(), policy, 0)


def context(made: Weights) -> Context:
    return Context(0, 10, 0, Memory(made.algorithm))


def logits(policy: LanguagePolicy, trajectory: Trajectory, seen: Tokens) -> Tensor:
    """At every decision, by the model itself, one sequence at a time, [T, V]."""
    found = policy.model(torch.as_tensor(seen.tokens[None].astype(np.int64))).logits[0]
    return found[torch.as_tensor(seen.actions) - 1] / (trajectory.temperature or 1.0)


def privileged(policy: LanguagePolicy, batch: Batch) -> list[Tokens]:
    """The contexts a teacher sees, by hand."""
    out = []
    for sequence, trajectory in enumerate(batch.trajectories):
        problem = PROBLEMS[int(batch.group[sequence])]
        shown = problem.solution or problem.answer
        text = f"{problem.messages[0]['content']}\n\nA correct solution:\n{shown}\n\nNow solve the problem yourself."
        out.append(behind(policy.encode(({"role": "user", "content": text},)), trajectory.content))
    return out


def by_hand(policy: LanguagePolicy, teacher: LanguagePolicy, batch: Batch, beta: float) -> Tensor:
    """The divergence of every decision, [N], connected to the policy."""
    rows = []
    for trajectory, seen in zip(batch.trajectories, privileged(policy, batch)):
        p = logits(policy, trajectory, trajectory.content).softmax(-1)
        with torch.no_grad():
            q = logits(teacher, trajectory, seen).softmax(-1)
        if beta == 0:
            rows.append((q * (q / p).log()).sum(-1))
        elif beta == 1:
            rows.append((p * (p / q).log()).sum(-1))
        else:
            m = (1 - beta) * p + beta * q
            rows.append(beta * (q * (q / m).log()).sum(-1) + (1 - beta) * (p * (p / m).log()).sum(-1))
    return torch.cat(rows)


@pytest.fixture(autouse=True)
def _wide_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference in float64 throughout: transformers rounds its norms to float32, the library does not."""

    def forward(self: Qwen3RMSNorm, hidden: Tensor) -> Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(Qwen3RMSNorm, "forward", forward)


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def gradients(policy: LanguagePolicy) -> list[Tensor]:
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in policy.parameters()]
    for p in policy.parameters():
        p.grad = None
    return found


def flat(pieces: list[Tensor]) -> Tensor:
    return torch.cat([piece.flatten() for piece in pieces])


def move(policy: LanguagePolicy, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("source", ["ref", "old"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_value_and_gradient_are_those_of_the_whole_softmax(beta: float, source: str, lora: int) -> None:
    """After the weights have moved, before the batch and within it: ``ref`` is the first policy, ``old`` the one that met it."""
    policy = tiny(lora)
    first = policy.frozen()
    made = weights(policy, source=source, divergence=Generalised(beta=beta))
    move(policy)
    name = f"jsd@privileged_{source}"
    batch = made.prepare(rollouts(policy), context(made))
    teacher = first if source == "ref" else policy.frozen()
    assert close(batch[f"{name}_old"], by_hand(policy, teacher, batch, beta).detach())
    move(policy, 2)
    d = torch.randn(len(batch), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = by_hand(policy, teacher, batch, beta)
    assert float(expected.detach().min()) > 1e-6
    (expected * d).sum().backward()
    by_autograd = gradients(policy)
    assert close(policy.fill(batch, [name], grad=False)[name], expected.detach())
    for budget in (10_000, 1):
        met = policy.backward(batch, {name: d}, budget)[name]
        assert close(met, expected.detach())
        assert close(flat(gradients(policy)), flat(by_autograd))


def test_the_size_of_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny()
    made = weights(policy)
    move(policy)
    batch = made.prepare(rollouts(policy), context(made))
    name, found = "jsd@privileged_ref", []
    for size in (1 << 27, 8 * 97):  # all rows at a time, one row at a time
        monkeypatch.setattr(head, "CHUNK_BYTES", size)
        met = policy.backward(batch, {name: torch.ones(len(batch))}, 10_000)[name]
        found.append([met, *gradients(policy)])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_both_columns_of_one_loss_are_pushed_together() -> None:
    """A divergence beside the log-probability: the gradient is the sum of both."""
    policy = tiny()
    made = weights(policy)
    move(policy)
    batch = made.prepare(rollouts(policy), context(made))
    d = {name: torch.ones(len(batch)) for name in ("jsd@privileged_ref", "logp")}
    policy.backward(batch, d, 64)
    both = gradients(policy)
    apart = []
    for name in d:
        policy.backward(batch, {name: d[name]}, 64)
        apart.append(gradients(policy))
    for whole, a, b in zip(both, *apart):
        torch.testing.assert_close(whole, a + b)


def test_the_plain_context_teaches_nothing() -> None:
    """With nothing shown and the weights it began with, the teacher is the policy: loss and gradient are zero."""
    policy = tiny()
    made = weights(policy, view=Privileged(template="{prompt}"))
    batch = made.prepare(rollouts(policy), context(made))
    pull = made.algorithm.update.pull(batch, made, True, context(made))
    assert abs(float(pull.loss.detach())) < 1e-12
    made.push("policy", pull)
    assert max(float(g.abs().max()) for g in gradients(policy)) < 1e-12


@pytest.mark.parametrize("budget", [8192, 1])
def test_masked_rows_and_answers_of_one_token(budget: int) -> None:
    policy = tiny()
    made = weights(policy, budget)
    move(policy)
    batch = rollouts(policy, (("",), ("",)))
    assert len(batch) == 2, "one token each"
    for weight, moves in ((torch.zeros(2), False), (torch.tensor([0.0, 1.0]), True)):
        filled = made.prepare(batch.with_rows(weight=weight.double()), context(made))
        pull = made.algorithm.update.pull(filled, made, True, context(made))
        assert pull.finite and made.push("policy", pull) == moves
        assert not moves or pull.gradients["jsd@privileged_ref"].tolist() == [0.0, 1.0]
        gradients(policy)
    none = made.prepare(batch.select(torch.zeros(0, dtype=torch.int64)), context(made))
    assert none["jsd@privileged_ref_old"].shape == (0,)


def test_old_is_the_start_of_the_update_however_many_steps_it_takes() -> None:
    """Two optimiser steps on one batch against the same teacher: its states and its head are those before the first."""
    policy = tiny()
    made = weights(policy, source="old")
    made = Weights(made.algorithm.set({"update.epochs": 2}), policy, 0)
    start = policy.frozen()
    batch = made.prepare(rollouts(policy), context(made))
    losses: list[Tensor] = []
    pull = GradientUpdate.pull

    def watch(self: GradientUpdate, batch: Batch, made: Weights, current: bool, at: Context):
        found = pull(self, batch, made, current, at)
        losses.append(found.loss.detach())
        expected = made.algorithm.objective.aggregate.reduce(by_hand(policy, start, batch, 0.5), batch)
        assert close(losses[-1], expected.detach())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientUpdate, "pull", watch)
        made.algorithm.update.apply(batch, made, context(made))
    assert len(losses) == 2 and losses[1] < losses[0]


def test_what_the_sampler_left_out_is_known_in_the_context_it_saw() -> None:
    policy = tiny()
    batch = rollouts(policy)
    shown = policy.encode(({"role": "user", "content": "hint"},))
    hinted = [
        dataclasses.replace(t, content=dataclasses.replace(t.content, shown=shown if i else None))
        for i, t in enumerate(batch.trajectories)
    ]
    batch = look(dataclasses.replace(batch, trajectories=tuple(hinted)), (Shown(), Privileged()), policy)
    assert torch.equal(batch.seen("shown")["log_mass"], batch["log_mass"])
    assert bool((batch.seen("privileged")["log_mass"] == 0).all())
