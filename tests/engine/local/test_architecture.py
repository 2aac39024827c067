"""The layer view of Llama-like models: it must see the trainer's own weights and refuse what it does not know."""

import copy

import pytest
import torch
from local_models import CONFIGS, SMALL, build
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

from anypo.engine.architecture import Architecture, rotate


def logits_by_view(arch: Architecture, tokens: torch.Tensor) -> torch.Tensor:
    """The equations of the module docstring for one sequence, in the plainest form."""
    cos, sin = arch.rotary(torch.arange(len(tokens)))
    x = arch.embedding[tokens]
    causal = torch.full((len(tokens), len(tokens)), -torch.inf).triu(1)
    for layer in arch.layers:
        q, k, v = arch.qkv(layer, arch.rms_norm(x, layer.input_norm))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeat = arch.heads // arch.kv_heads
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) * arch.head_dim**-0.5 + causal
        x = x + layer.o(torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1))
        x = x + arch.mlp(layer, arch.rms_norm(x, layer.post_norm))
    return arch.rms_norm(x, arch.norm) @ arch.head.T


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_the_view_computes_what_the_model_computes(name):
    model = build(name)
    tokens = torch.randint(0, 61, (40,))
    wanted = model(tokens[None]).logits[0]
    for fuse in (False, True):
        arch = Architecture.of(model)
        assert arch is not None
        if fuse:
            assert arch.fuse()
        torch.testing.assert_close(logits_by_view(arch, tokens), wanted, atol=2e-5, rtol=1e-5)
    assert arch.layers[0].q.weight is model.model.layers[0].self_attn.q_proj.weight


def test_unknown_models_are_refused():
    plain = build("llama")
    assert Architecture.of(plain) is not None
    assert Architecture.of(build(GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=2))) is None
    assert Architecture.of(build(MistralConfig(**SMALL, sliding_window=16))) is None
    assert Architecture.of(build(MistralConfig(**SMALL, sliding_window=4096))) is not None
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert Architecture.of(build(LlamaConfig(**SMALL, rope_parameters=dynamic))) is None
    sliding = Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert Architecture.of(build(sliding)) is None

    class Odd(nn.Linear):
        pass

    replaced = build("llama")
    replaced.model.layers[1].mlp.up_proj = Odd(32, 48)
    assert Architecture.of(replaced) is None
    plain.model.layers[0].register_forward_hook(lambda *_: None)
    assert Architecture.of(plain) is None


def test_fused_storage_follows_updates_copies_saving_and_loading(tmp_path):
    model = build("qwen2")
    tokens = torch.randint(0, 61, (12,))
    arch = Architecture.of(model)
    before = copy.deepcopy(model.state_dict())
    arch.fuse()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(tokens[None], labels=tokens[None]).loss.backward()
    optimiser.step()
    layer = arch.layers[0]
    q, k, v = (p.weight for p in (layer.q, layer.k, layer.v))
    assert not torch.equal(q, before["model.layers.0.self_attn.q_proj.weight"])
    torch.testing.assert_close(layer.qkv, torch.cat([q, k, v]), atol=0, rtol=0)
    torch.testing.assert_close(layer.gate_up, torch.cat([layer.gate.weight, layer.up.weight]), atol=0, rtol=0)

    twin = copy.deepcopy(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for other in (twin, loaded):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        twin.model.layers[0].self_attn.q_proj.weight.zero_()
    assert q.abs().sum() > 0

    model.load_state_dict(before)
    assert torch.equal(layer.qkv[: q.shape[0]], before["model.layers.0.self_attn.q_proj.weight"])
    q.data = q.data.clone() + 1.0  # somebody replaces the storage
    arch.fuse()
    torch.testing.assert_close(layer.qkv, torch.cat([q, k, v]), atol=0, rtol=0)


@torch.no_grad()
def test_lora_adapters_are_seen():
    from peft import LoraConfig, get_peft_model

    model = build("llama")
    lora = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    arch = Architecture.of(lora)
    tokens = torch.randint(0, 61, (20,))
    assert arch is not None and not arch.plain and not arch.fuse()
    torch.testing.assert_close(logits_by_view(arch, tokens), lora(tokens[None]).logits[0], atol=2e-5, rtol=1e-5)
    with lora.disable_adapter():
        torch.testing.assert_close(logits_by_view(arch, tokens), lora(tokens[None]).logits[0], atol=2e-5, rtol=1e-5)
