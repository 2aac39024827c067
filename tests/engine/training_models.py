"""Small random models, and the naive computation that the training forward must agree with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from anypo.engine.training import Sample

VOCABULARY = 61
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 3,
}
GPT2: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512}
CONFIGS = {
    "llama-tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama-biased": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "llama-gelu": LlamaConfig(**SMALL, hidden_act="gelu"),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, tie_word_embeddings=True),
    # dropout that must stay off
    "gpt2": GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0),
    # logits that are not linear in the state, and a window that hides early tokens
    "gemma2": Gemma2Config(**SMALL, final_logit_softcapping=3.0, sliding_window=16),
}
PADDED = ("gpt2", "gemma2")


def wide_norm(self: Any, x: Tensor) -> Tensor:
    """transformers computes these norms in float32 even in a float64 model; this one keeps the precision of its input."""
    return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


def wide_gemma_norm(self: Any, x: Tensor) -> Tensor:
    return (1 + self.weight) * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


NORMS = {LlamaRMSNorm: wide_norm, Qwen2RMSNorm: wide_norm, Qwen3RMSNorm: wide_norm, Gemma2RMSNorm: wide_gemma_norm}


def build(name: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    with torch.no_grad():  # biases and norms start at 0 and 1, which would hide mistakes
        for parameter in model.parameters():
            parameter.add_((0.3 if parameter.dim() == 1 else 0.1) * torch.randn_like(parameter))
    return model.to(dtype)


def answers(prompt: np.ndarray, *lengths: int, rng: np.random.Generator, of: int = VOCABULARY) -> list[Sample]:
    """A group: random answers of the given lengths to one prompt."""
    out = []
    for length in lengths:
        tokens = np.concatenate([prompt, rng.integers(0, of, length)])
        out.append(Sample(tokens, np.arange(len(prompt), len(tokens))))
    return out


def mixed(seed: int = 0) -> list[Sample]:
    """Groups, forks of forks, a group of one, repeated and nested sequences, one-token and empty answers, several turns, several
    temperatures, shuffled."""
    rng = np.random.default_rng(seed)
    header, prompt = rng.integers(0, VOCABULARY, 70), rng.integers(0, VOCABULARY, 9)
    samples = answers(np.concatenate([header, prompt]), 12, 5, 1, 7, rng=rng)
    # of two symbols only: answers share beginnings
    samples += answers(np.concatenate([header, prompt[:4]]), 6, 6, 0, rng=rng, of=2)
    samples += answers(rng.integers(0, VOCABULARY, 1), 80, rng=rng)
    trunk = samples[0].tokens
    fork = np.concatenate([trunk[:84], rng.integers(0, VOCABULARY, 5)])
    twig = np.concatenate([fork[:87], rng.integers(0, VOCABULARY, 3)])
    samples += [Sample(t, np.arange(79, len(t))) for t in (fork, twig)]
    samples += [samples[1], Sample(trunk[:83], np.arange(79, 83)), Sample(trunk, np.arange(79, 91), temperature=0.6)]
    turns = np.concatenate([header[:30], rng.integers(0, VOCABULARY, 20)])
    samples.append(Sample(turns, np.array([31, 32, 33, 40, 41, 46]), temperature=1.7))
    return [samples[i] for i in rng.permutation(len(samples))]


def naive(model: Any, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """One sequence at a time through transformers, all logits."""
    logps, entropies = [], []
    for sample in samples:
        logits = model(torch.as_tensor(sample.tokens)[None]).logits[0, sample.actions - 1]
        table = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / sample.temperature).log_softmax(-1)
        logps.append(table.gather(1, torch.as_tensor(sample.tokens[sample.actions])[:, None])[:, 0])
        entropies.append(-(table.exp() * table).sum(-1))
    return {"logp": torch.cat(logps), "entropy": torch.cat(entropies)}


def coefficients(samples: Sequence[Sample], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    torch.manual_seed(1)
    count = sum(len(sample.actions) for sample in samples)
    return {name: torch.randn(count, dtype=dtype) for name in ("logp", "entropy")}


def gradients(model: nn.Module, push: Callable[[], Any]) -> dict[str, Tensor]:
    """What `push` adds to the parameters' gradients."""
    model.zero_grad()
    push()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def weighted(columns: dict[str, Tensor], weights: dict[str, Tensor]) -> Tensor:
    return sum(((columns[name] * weight).sum() for name, weight in weights.items()), torch.zeros(()))


def _differences(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Per parameter, the largest error of any entry over the largest entry."""
    assert found.keys() == wanted.keys()
    return {
        name: float((found[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-300))
        for name, gradient in wanted.items()
    }


def worst_difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    return max(_differences(found, wanted).values())


def assert_same_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor], relative: float) -> None:
    for name, worst in _differences(found, wanted).items():
        assert worst < relative, f"{name}: {worst:.1e}"
