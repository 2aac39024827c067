"""Activation checkpointing: it is used when asked for, changes no gradient, and leaves dropout off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BioGptConfig, FalconConfig, OPTConfig, PretrainedConfig, Starcoder2Config

from anypo.claims.beds.words import SMALL
from anypo.engine.config import Local
from anypo.engine.training import Sample, TrainingForward, networks
from anypo.errors import UserError
from anypo.policies.language.critic import Critic
from anypo.policies.loading import Lora, _adapt, load
from anypo.run.session import train

TINY = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DROPPING: dict[str, PretrainedConfig] = {
    "opt": OPTConfig(
        **TINY, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64, dropout=0.5, layerdrop=0.5
    ),
    "falcon": FalconConfig(**TINY, hidden_dropout=0.5, attention_dropout=0.5),
    "biogpt": BioGptConfig(**TINY, intermediate_size=48, hidden_dropout_prob=0.5, layerdrop=0.5),
    "starcoder2": Starcoder2Config(**TINY, intermediate_size=48, num_key_value_heads=1, residual_dropout=0.5),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry a layer that is computed again."""
    made: list[int] = []
    real = networks.checkpoint
    monkeypatch.setattr(networks, "checkpoint", lambda *a, **k: (made.append(1), real(*a, **k))[1])
    return made


def samples() -> list[Sample]:
    random = np.random.default_rng(0)
    return [Sample(random.integers(5, 60, n).astype(np.int32), np.arange(2, n), 0.9) for n in (12, 7, 9)]


def gradients(model: torch.nn.Module, checkpointing: bool) -> dict[str, torch.Tensor]:
    forward = TrainingForward(model, checkpointing)
    count = sum(len(sample.actions) for sample in samples())
    weights = torch.randn(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model.zero_grad()
    forward.backward(samples(), {"logp": weights, "entropy": 0.1 * weights}, budget=20)
    assert not any(module.training for module in model.modules())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("kind", DROPPING)
def test_gradients_are_those_without_it_and_dropout_stays_off(kind: str, rank: int, calls: list[int]) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(DROPPING[kind])
    if rank:
        model = _adapt(model, Lora(rank=rank), 0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    model.double()
    plain = gradients(model, False)
    assert not calls
    again = gradients(model, True)
    assert len(calls) == 2 * 2, "two layers in two micro-batches"
    assert again.keys() == plain.keys() and any(value.any() for value in plain.values())
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-6, atol=1e-10)
    forward = TrainingForward(model, True)
    assert torch.equal(forward.statistics(samples())["logp"], forward.statistics(samples())["logp"])


@pytest.mark.parametrize("rank", [0, 2])
def test_the_engine_has_the_policy_and_its_critic_recompute(rank: int, calls: list[int]) -> None:
    policy = load(SMALL, lora=rank, seed=0)
    Local().sampler(policy)
    assert not policy.forward.checkpointing
    Local(checkpointing=True).sampler(policy)
    assert policy.forward.checkpointing and Critic(policy, "copy").trunk.forward.checkpointing  # type: ignore[union-attr]
    assert not policy.frozen().forward.checkpointing
    Local().sampler(policy)
    assert not policy.forward.checkpointing, "a later stage may do without"


def test_a_run_recomputes_when_it_is_told_to(calls: list[int], tmp_path) -> None:
    for on in (False, True):
        settings = {"engine.checkpointing": on, "control.prompts": 2, "generate.max_new": 4}
        train(model="tiny", steps=1, sft_steps=1, eval_size=0, out=tmp_path / str(on), set=settings)
        assert bool(calls) == on


def test_a_model_without_layers_to_recompute_is_refused() -> None:
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=61, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(UserError, match="no layers whose activations can be computed again"):
        TrainingForward(model, checkpointing=True)
