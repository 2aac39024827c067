"""Models that take more than text: the language model inside them is the policy, and computes what the whole computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anypo import policies
from anypo.errors import UserError
from anypo.policies.language import tiny

TEXT: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
SIGHT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
}  # fmt: skip
LLAMA4 = {"intermediate_size_mlp": 48, "num_local_experts": 2, "interleave_moe_layer_step": 2}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 2, "linear_num_key_heads": 1,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gemma3": ({}, {}, {"mm_tokens_per_image": 4, "image_token_index": 5}),
    "mistral3": ({"model_type": "mistral"}, {"model_type": "pixtral", "head_dim": 16}, {"image_token_index": 5}),
    "llama4": (LLAMA4, {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}, {}),
    "llava": ({"model_type": "llama"}, {"model_type": "clip_vision_model"}, {"image_token_index": 5}),
    "smolvlm": ({"model_type": "llama"}, {}, {"image_token_id": 5}),
    "qwen3_5": (LINEAR, {"depth": 1, "num_heads": 2, "out_hidden_size": 32}, {}),
}  # fmt: skip


def whole(kind: str) -> Any:
    text, sight, own = KINDS[kind]
    config = transformers.CONFIG_MAPPING[kind](text_config={**TEXT, **text}, vision_config={**SIGHT, **sight}, **own)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    model.generation_config.eos_token_id = 2
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_part_is_loaded_computes_the_same_and_is_saved_as_a_text_model(kind: str, tmp_path: Path) -> None:
    model = whole(kind)
    model.save_pretrained(tmp_path / "whole")
    tiny.tokenizer(128).save_pretrained(tmp_path / "whole")
    policy = policies.load(tmp_path / "whole")
    assert type(policy.causal) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING.values()
    assert "its text part" in policy.notes[-1]
    ids = torch.randint(6, 90, (1, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        torch.testing.assert_close(policy.causal(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
        policy.save(tmp_path / "text")
        again = policies.load(tmp_path / "text")
        assert type(again.causal) is type(policy.causal) and not again.notes
        torch.testing.assert_close(again.causal(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_model_whose_language_part_has_no_class_of_its_own_is_refused(tmp_path: Path) -> None:
    config = transformers.Qwen2VLConfig(
        text_config=TEXT, vision_config={"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 32}
    )
    transformers.Qwen2VLForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny.tokenizer(128).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"Qwen2VLConfig, for which .* has no causal language model"):
        policies.load(tmp_path)
