"""Supervised fine-tuning: the loss, its independence of micro-batching, the order of examples, bad input."""

import numpy as np
import pytest
import torch

from anypo import policies
from anypo.errors import UserError
from anypo.update import sft
from anypo.update.precision import MasterWeights

SMALL = {"model": "tiny", "layers": 1, "hidden": 64, "intermediate": 96, "context": 32}


def small(dtype="float32", seed=0, **options):
    return policies.load(SMALL, dtype=dtype, seed=seed, **options)


def examples(policy, n=24):
    """Continue the alphabet: after 'a' comes 'b', after 'bcd' comes 'efg'. Lengths differ."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    out = []
    for i in range(n):
        size = 1 + i % 3
        text, target = letters[i % 20 : i % 20 + size], letters[i % 20 + size : i % 20 + 2 * size]
        out.append((policy.encode([{"role": "user", "content": text}]), policy.answer(target)))
    return out


def test_the_loss_is_the_mean_over_target_tokens():
    policy = small("float64")
    pairs = examples(policy)
    total, count = 0.0, 0
    for prompt, target in pairs:
        tokens = torch.from_numpy(np.concatenate([prompt, target])).long()
        logp = torch.log_softmax(policy.model(tokens[None]).logits[0], -1)[:-1].gather(1, tokens[1:, None]).squeeze(1)
        total, count = total - logp[len(prompt) - 1 :].sum(), count + len(target)
    (total / count).backward()
    loss = float((total / count).detach())
    wanted = [p.grad.clone() for p in policy.parameters()]
    trajectories = [sft.trajectory(*pair) for pair in pairs]
    for budget in (10**6, 40, 1):
        policy.model.zero_grad()
        assert sft.accumulate(policy, trajectories, budget) == pytest.approx(loss, abs=1e-6)
        for parameter, gradient in zip(policy.parameters(), wanted):
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-5)


def test_training_learns_repeats_exactly_and_reports():
    settings = sft.SFT(steps=60, examples=8, lr=5e-3, seed=3)
    runs, seen = [], []
    for _ in range(2):
        policy = small()
        losses = sft.train(policy, examples(policy), settings, lambda done, loss: seen.append((done, loss)))
        runs.append((losses, policy.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())
    assert runs[0][0][-1] < 0.2 * runs[0][0][0]
    assert [done for done, _ in seen[:60]] == list(range(1, 61)) and [loss for _, loss in seen[:60]] == runs[0][0]
    other = small()
    assert sft.train(other, examples(other), settings.model_copy(update={"seed": 4})) != runs[0][0]
    assert other.version == 60


def test_lora_trains_only_its_adapters():
    policy = small(lora=4)
    base = {n: p.detach().clone() for n, p in policy.model.named_parameters() if not p.requires_grad}
    losses = sft.train(policy, examples(policy), sft.SFT(steps=30, examples=8, lr=1e-2))
    assert losses[-1] < losses[0]
    assert all(torch.equal(base[n], p) for n, p in policy.model.named_parameters() if n in base)


def test_every_example_is_used_once_before_any_is_used_again():
    blocks = sft._order(10, 4, seed=0)
    drawn = [index for _ in range(5) for index in next(blocks)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10)) and drawn[:10] != drawn[10:]
    assert len(next(sft._order(3, 8, seed=0))) == 8  # fewer examples than a step takes


def test_rate():
    settings = sft.SFT(steps=10, warmup=3)
    rates = [sft.rate(step, settings) for step in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4:] == pytest.approx(
        [6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]
    )
    assert all(0 < sft.rate(s, sft.SFT(steps=2, warmup=10)) <= 1 for s in range(2))


def test_bad_input():
    policy = small()
    prompt, target = examples(policy)[0]
    settings = sft.SFT(steps=1)
    with pytest.raises(UserError, match="no examples"):
        sft.train(policy, [], settings)
    with pytest.raises(UserError, match="example 1 has an empty target"):
        sft.train(policy, [(prompt, target), (prompt, target[:0])], settings)
    with pytest.raises(UserError, match="example 0 has an empty prompt"):
        sft.train(policy, [(prompt[:0], target)], settings)
    with pytest.raises(UserError, match="example 0 has 42 tokens but the model's context is 32"):
        sft.train(policy, [(np.repeat(prompt[:1], 40), target)], settings)
    with torch.no_grad():
        policy.parameters()[0].fill_(torch.nan)
    with pytest.raises(UserError, match="not finite at supervised step 1; lower the learning rate"):
        sft.train(policy, [(prompt, target)], settings)


def test_a_task_without_solutions():
    class Task:
        name = "riddles"

        def __len__(self):
            return 3

        def train(self, index):
            from anypo.tasks.base import Problem

            return Problem(index, ({"role": "user", "content": "?"},))

    with pytest.raises(UserError, match="'riddles' has no worked solutions"):
        sft.warm_start(small(), Task(), steps=1, lr=1e-3, seed=0)


# -- master weights -----------------------------------------------------------------------------------------------------------


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)


def test_steps_too_small_for_bfloat16_add_up_in_the_masters():
    exact = torch.nn.Parameter(torch.ones(64))
    low = torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    naive = torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    optimisers = [adamw([exact]), MasterWeights([low], adamw), adamw([naive])]
    for _ in range(100):
        for parameter, optimiser in zip((exact, low, naive), optimisers):
            parameter.grad = torch.ones_like(parameter)
            optimiser.step()
            optimiser.zero_grad()
    assert torch.equal(naive, torch.ones_like(naive))  # every step was rounded away
    torch.testing.assert_close(low.float(), exact, atol=1 / 256, rtol=0)
    torch.testing.assert_close(optimisers[1].masters[0], exact, atol=1e-6, rtol=0)


def test_master_weights_resume_exactly():
    def steps(parameter, optimiser, n):
        for i in range(n):
            parameter.grad = torch.full_like(parameter, 1.0 + i)
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * (i + 1)
            optimiser.step()
            optimiser.zero_grad()

    a, b = (torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16)) for _ in range(2))
    first, second = MasterWeights([a], adamw), MasterWeights([b], adamw)
    steps(a, first, 3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(a, b)
    steps(a, first, 3)
    steps(b, second, 3)
    assert torch.equal(a, b) and torch.equal(first.masters[0], second.masters[0])
    assert a.grad is None
