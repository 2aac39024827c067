"""Worked solutions and pairs as batches: the order and the loss of the warm start, tags, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anypo import policies, tasks
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.generate.base import check_task
from anypo.replay.solutions import Pairs, Solutions
from anypo.systems import find
from anypo.update import sft
from anypo.update.weights import Weights


def file(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def sums(path):
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b), "worked": str(a + b)} for a in range(6) for b in range(6)]
    return tasks.load(file(path, rows), {"solution": "worked"})


def context(method, task, policy, step):
    return Context(step, 10, 3, Memory(method), world=SimpleNamespace(task=task, policy=policy))


def test_batches_and_losses_are_those_of_the_warm_start(tmp_path):
    policy = policies.load(
        {"model": "tiny", "layers": 1, "hidden": 64, "intermediate": 96, "context": 32}, dtype="float64", seed=0
    )
    task, method = sums(tmp_path / "data.jsonl"), find("sft").algorithm().set({"replay.examples": 10})
    wanted = sft.solutions(policy, task, len(task))
    order = sft._order(len(task), 10, 3)
    for step in range(8):  # more than two passes
        groups = method.replay.select([], 0, context(method, task, policy, step))
        examples = [sft.trajectory(*wanted[index]) for index in next(order)]
        assert [g.trajectories[0].content.tokens.tolist() for g in groups] == [
            e.content.tokens.tolist() for e in examples
        ]
        assert all(t.guidance == "demo" and (t.version == -1).all() for g in groups for t in g.trajectories)
        batch = Batch.pack(groups)
        loss = sft.accumulate(policy, examples, 10**6)
        gradient = [p.grad.clone() for p in policy.parameters()]
        leaf = policy.fill(batch, ["logp"], False)["logp"].requires_grad_()
        ours = method.objective.loss(batch.with_rows(logp=leaf), context(method, task, policy, step))
        assert ours.item() == pytest.approx(loss, abs=1e-6)
        ours.backward()
        for budget in (10**6, 20):
            policy.model.zero_grad()
            policy.backward(batch, {"logp": leaf.grad}, budget)
            for parameter, right in zip(policy.parameters(), gradient):
                torch.testing.assert_close(parameter.grad, right, atol=1e-6, rtol=1e-5)
        policy.model.zero_grad()


def test_pairs_come_from_texts_and_messages(tmp_path):
    rows = [
        {"prompt": f"{n}", "chosen": "yes", "rejected": [{"role": "assistant", "content": "no"}]} for n in range(20)
    ]
    task = tasks.load(file(tmp_path / "pairs.jsonl", rows))
    policy = policies.load({"model": "tiny"}, seed=0)
    method = find("dpo").algorithm().set({"replay.examples": 4})
    check_task(method.replay, task)
    batch = Batch.pack(method.replay.select([], 0, context(method, task, policy, 0)))
    assert batch.sequences["tag/chosen"].tolist() == [True, False] * 4
    assert batch.sequences["tag/rejected"].tolist() == [False, True] * 4
    assert [t.text for t in batch.trajectories] == ["yes", "no"] * 4 and batch.group.tolist() == list(
        np.repeat(range(4), 2)
    )


def test_dpo_moves_from_the_policy_it_began_with_and_only_by_answers(tmp_path):
    """After weight changes, too, the reference is the first policy; prompts have no coefficient, the answers' ends have; the chosen
    answer gains on the rejected one."""
    rows = [{"prompt": f"{n}", "chosen": "yes", "rejected": "no"} for n in range(4)]
    task = tasks.load(file(tmp_path / "pairs.jsonl", rows))
    small = {"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 48, "context": 32}
    policy, first = (policies.load(small, dtype="float64", seed=0) for _ in range(2))
    method = find("dpo").algorithm().set({"replay.examples": 4, "update.optimiser.lr": 1e-3})
    weights, memory, margins = Weights(method, policy, 0), Memory(method), []
    for step in range(3):
        now = Context(step, 10, 3, memory, world=SimpleNamespace(task=task, policy=policy))
        batch = weights.prepare(Batch.pack(method.replay.select([], 0, now)), now)
        torch.testing.assert_close(batch["logp_ref"], first.fill(batch, ["logp"], False)["logp"])
        lengths = [len(policy.answer(text)) for text in ("yes", "no")]
        assert batch.sequences["length"].tolist() == lengths * 4
        ended = [int(t.content.tokens[-1]) for t in batch.trajectories]
        assert set(ended) == {int(policy.answer("yes")[-1])} == {int(policy.answer("")[-1])}
        method.update.apply(batch, weights, now)
        margins.append(now.metrics["objective/margin"])
    assert margins[0] == pytest.approx(0.0, abs=1e-9) and margins[2] > margins[1] > 0


def test_published_constants_of_dpo_and_sft():
    """DPO, appendix B and the release's configuration; InstructGPT, appendix C.1."""
    dpo, sft_ = find("dpo").algorithm(), find("sft").algorithm()
    assert (dpo.objective.beta, dpo.objective.label_smoothing, dpo.replay.examples) == (0.1, 0.0, 64)
    assert (dpo.update.optimiser.lr, dpo.update.max_grad_norm, dpo.update.epochs) == (1e-6, 10.0, 1)
    assert sft_.update.optimiser.lr == 9.65e-6 and sft_.objective.aggregate.part == "token_mean"


@pytest.mark.parametrize("chosen, rejected, reason", [
    ("a", "a", "are the same"), ("", "a", "chosen answer is empty"), ("a", " ", "rejected answer is empty"),
    ("a", 3, "must be a text or a list"), ("a", [{"role": "assistant", "content": "a"}] * 2, "2 messages"),
])  # fmt: skip
def test_bad_pairs_are_named_by_their_row(tmp_path, chosen, rejected, reason):
    good = {"prompt": "q", "chosen": "x", "rejected": "y"}
    path = file(tmp_path / "pairs.jsonl", [good, good | {"prompt": "r", "chosen": chosen, "rejected": rejected}])
    with pytest.raises(UserError, match=f"line 2.*{reason}"):
        tasks.load(path)


def test_tasks_that_do_not_suit_are_refused(tmp_path):
    task = tasks.load(file(tmp_path / "data.jsonl", [{"prompt": str(n), "answer": "1"} for n in range(9)]))
    with pytest.raises(UserError, match=r"replay \(solutions\) .* no worked solutions"):
        check_task(Solutions(), task)
    with pytest.raises(UserError, match=r"replay \(pairs\) .* no preferences"):
        check_task(Pairs(), task)
