"""Columns against the plainest computation, copies, blends and states of language policies."""

import copy

import numpy as np
import pytest
import torch
from policies_making import batch_of, naive, rollout
from transformers import GPT2Config, GPT2LMHeadModel

from anypo import policies
from anypo.data.records import Steps
from anypo.errors import UserError
from anypo.policies import LanguagePolicy
from anypo.policies.base import Learner
from anypo.policies.language import tiny

SMALL = {"model": "tiny", "layers": 2, "hidden": 64, "intermediate": 96}
SHAPES = [[5, 4], [3, 1], [7, 3, 2, 5], [1, 6], [4, 2, 1, 1, 3, 2]]


def small(dtype="float64", **options) -> LanguagePolicy:
    return policies.load(SMALL, dtype=dtype, seed=1, **options)


def gpt2() -> LanguagePolicy:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=98, n_embd=32, n_layer=2, n_head=2, n_positions=64, eos_token_id=96, bos_token_id=96)
    return LanguagePolicy(GPT2LMHeadModel(config).double(), tiny.tokenizer(64), "gpt2")


def mixed(vocabulary=98, seed=0):
    rng = np.random.default_rng(seed)
    return batch_of([rollout(rng, shape, vocabulary, heat) for shape, heat in zip(SHAPES, [1.0, 0.7, 1.3, 1.0, 2.0])])


def scatter_weights(policy, scale=0.3):
    """Norms start at one and adapters at zero, which would hide mistakes."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(scale * torch.randn_like(parameter) * (1.0 if parameter.dim() == 1 else 0.1))
    return policy


@pytest.mark.parametrize("make", [small, gpt2, lambda: small(lora=4)], ids=["packed", "padded", "lora"])
def test_columns_and_gradients_equal_the_naive_ones(make):
    policy = scatter_weights(make())
    tolerance = 1e-10 if make is gpt2 else 1e-6  # transformers takes the norms of Llama-like models in float32
    assert isinstance(policy, Learner)
    batch = mixed()
    wanted = naive(policy.model, batch)
    torch.manual_seed(3)
    pull = {name: torch.randn(len(batch), dtype=torch.float64) for name in wanted}
    sum((pull[n] * wanted[n]).sum() for n in wanted).backward()
    naive_gradients = [p.grad.clone() for p in policy.parameters()]

    policy.model.zero_grad()
    columns = policy.fill(batch, {"logp", "entropy"}, grad=True)
    for name, column in columns.items():
        torch.testing.assert_close(column, wanted[name], atol=tolerance, rtol=tolerance)
    sum((pull[n] * columns[n]).sum() for n in columns).backward()
    for parameter, gradient in zip(policy.parameters(), naive_gradients):
        torch.testing.assert_close(parameter.grad, gradient, atol=10 * tolerance, rtol=10 * tolerance)

    policy.model.zero_grad()
    met = policy.backward(batch, pull, token_budget=12)
    torch.testing.assert_close(met["logp"], wanted["logp"].detach(), atol=tolerance, rtol=tolerance)
    for parameter, gradient in zip(policy.parameters(), naive_gradients):
        torch.testing.assert_close(parameter.grad, gradient, atol=10 * tolerance, rtol=10 * tolerance)


def test_gradient_equals_finite_differences():
    policy = scatter_weights(gpt2())
    batch = mixed()

    def value() -> torch.Tensor:
        columns = policy.fill(batch, {"logp", "entropy"}, grad=True)
        return columns["logp"].sum() - 0.3 * columns["entropy"].square().sum()

    value().backward()
    torch.manual_seed(4)
    for parameter in policy.parameters()[::3]:
        direction = torch.randn_like(parameter) / parameter.numel() ** 0.5
        slope = float((parameter.grad * direction).sum())
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * 1e-5)
                ends.append(float(value()))
                parameter.add_(direction, alpha=-sign * 1e-5)
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=2e-4, abs=1e-6)


def test_rows_may_come_in_any_order_and_without_gradient():
    policy = small()
    batch = mixed()
    whole = policy.fill(batch, {"logp", "hidden"}, grad=False)
    assert not whole["logp"].requires_grad and whole["hidden"].shape == (len(batch), 64)
    picked = batch.select(torch.tensor([3, 0, 2]))
    rows = torch.cat([(batch.sequence == s).nonzero().flatten() for s in (3, 0, 2)])
    for name, column in policy.fill(picked, {"logp", "hidden"}, grad=False).items():
        torch.testing.assert_close(column, whole[name][rows])
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    shuffled = batch.__class__({n: c[order] for n, c in batch.rows.items()}, batch.sequences, 1, batch.trajectories)
    torch.testing.assert_close(policy.fill(shuffled, {"logp"}, grad=False)["logp"], whole["logp"][order])


def test_the_hidden_column_is_what_the_head_reads():
    policy = small("float32")
    batch = mixed()
    rows = policy.fill(batch, {"hidden", "logp"}, grad=False)
    heat = batch.spread(batch.sequences["temperature"]).float()
    logits = policy.causal.lm_head(rows["hidden"]) / heat[:, None]
    tokens = torch.cat([torch.from_numpy(t.content.tokens[t.content.actions]).long() for t in batch.trajectories])
    logp = torch.log_softmax(logits, -1).gather(1, tokens[:, None]).squeeze(1) - batch["log_mass"]
    torch.testing.assert_close(logp.float(), rows["logp"].float(), atol=1e-5, rtol=1e-5)


def test_edges_of_fill():
    policy = small("float32")
    none = batch_of([])
    assert {n: tuple(c.shape) for n, c in policy.fill(none, {"logp", "hidden"}, False).items()} == {
        "logp": (0,),
        "hidden": (0, 64),
    }
    rng = np.random.default_rng(0)
    silent = batch_of([rollout(rng, [3], 90), rollout(rng, [3, 1], 90)])  # a trajectory without decisions
    assert torch.isfinite(policy.fill(silent, {"logp", "entropy"}, grad=True)["logp"]).all()
    greedy = batch_of([rollout(rng, [3, 2], 90, temperature=0.0)])
    plain = greedy.with_sequences(temperature=torch.ones(1))
    for name, column in policy.fill(greedy, {"logp", "entropy"}, False).items():
        torch.testing.assert_close(column, policy.fill(plain, {name}, False)[name])
    with pytest.raises(KeyError, match="value"):
        policy.fill(greedy, {"value"}, grad=False)
    with pytest.raises(KeyError, match="hidden"):
        policy.fill(greedy, {"hidden"}, grad=True)
    steps = rollout(rng, [3, 2], 90).replace(content=Steps(np.zeros((2, 1)), np.zeros(2), np.zeros(1)))
    with pytest.raises(TypeError, match="tokens"):
        policy.fill(batch_of([steps]), {"logp"}, grad=False)


def test_dropout_never_enters_a_log_probability():
    policy = gpt2()
    assert policy.causal.config.resid_pdrop > 0
    policy.model.train()
    policy = LanguagePolicy(policy.model, policy.tokenizer)
    batch = mixed()
    first, second = (policy.fill(batch, {"logp"}, grad=True)["logp"] for _ in range(2))
    assert torch.equal(first, second)


def test_bfloat16_is_close_and_accumulates_gradients_in_float32():
    exact, low = small("float32"), small("bfloat16")
    batch = mixed()
    a, b = (p.fill(batch, {"logp"}, grad=False)["logp"] for p in (exact, low))
    assert b.dtype == torch.float64 or b.dtype == torch.float32
    assert (a - b).abs().max() < 0.1
    low.backward(batch, {"logp": torch.ones(len(batch))}, 8)
    exact.backward(batch, {"logp": torch.ones(len(batch))}, 8)
    grad, wanted = low.parameters()[0].grad, exact.parameters()[0].grad
    if hasattr(grad, "grad_dtype"):
        assert grad.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(grad.float().flatten(), wanted.flatten(), 0) > 0.99


# -- copies, blends, states ------------------------------------------------------------------------------------------------


def logp(policy, batch):
    return policy.fill(batch, {"logp"}, grad=False)["logp"]


@pytest.mark.parametrize("rank", [0, 4])
def test_a_frozen_copy_stays_as_the_policy_was(rank):
    policy = small(lora=rank)
    batch = mixed()
    if rank:
        scatter_weights(policy)
    reference, before = policy.frozen(), logp(policy, batch)
    assert reference.parameters() == [] and reference.version == policy.version
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05)
    assert (logp(policy, batch) - before).abs().max() > 1e-3
    assert torch.equal(logp(reference, batch), before)


def test_a_frozen_lora_copy_shares_the_base_and_starts_as_the_base():
    policy, base = small(lora=4), small()
    batch = mixed()
    assert torch.equal(logp(policy, batch), logp(base, batch))  # B = 0 at first
    reference = policy.frozen()
    mine, theirs = dict(policy.model.named_parameters()), dict(reference.model.named_parameters())
    assert all((mine[n] is theirs[n]) == (".lora_" not in n) for n in mine)
    assert {n for n, p in mine.items() if p.requires_grad} == {n for n in mine if ".lora_" in n} == set(policy.own())
    assert all("lora" in name for name in reference.state_dict())
    with policy.model.disable_adapter():
        scatter_free = logp(policy, batch)
    assert torch.equal(scatter_free, logp(reference, batch))


@pytest.mark.parametrize("rank", [0, 4])
def test_blend_is_the_moving_average(rank):
    policy = small(lora=rank)
    average = policy.frozen()
    start = average.state_dict()
    scatter_weights(policy)
    average.blend(policy, 0.75)
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * policy.state_dict()[name])
    average.blend(policy, 0.0)
    assert all(torch.equal(v, policy.state_dict()[n]) for n, v in average.state_dict().items())
    with pytest.raises(UserError, match="averaged"):
        average.blend(policies.load({**SMALL, "hidden": 96}, dtype="float64"), 0.5)


@pytest.mark.parametrize("rank", [0, 4])
def test_states_restore_exactly_and_refuse_strangers(rank):
    policy = scatter_weights(small(lora=rank))
    batch = mixed()
    state, before = policy.state_dict(), logp(policy, batch)
    other = small(lora=rank)
    if rank:  # the base is not part of a LoRA policy's state
        other.model.load_state_dict(copy.deepcopy(policy.model.state_dict()))
        scatter_lora = [p for n, p in other.model.named_parameters() if ".lora_" in n]
        torch.nn.init.ones_(scatter_lora[0])
    other.load_state_dict(state)
    assert torch.equal(logp(other, batch), before)
    policy.parameters()[0].data.zero_()
    assert not torch.equal(state[next(iter(state))], policy.state_dict()[next(iter(state))])  # a copy, not a view
    with pytest.raises(UserError, match="another model"):
        small(lora=0 if rank else 4).load_state_dict(state)
    with pytest.raises(UserError, match="another model"):
        policies.load({**SMALL, "intermediate": 128}, dtype="float64", lora=rank).load_state_dict(state)
