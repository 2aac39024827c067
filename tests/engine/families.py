"""A small model of every family of decoders that transformers builds from a few numbers: two layers, 32 wide, 96 tokens."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

TOKENS = 96
SIZES: dict[str, Any] = {
    "vocab_size": TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = {**SIZES, "num_key_value_heads": 4}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "shared_expert_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "first_k_dense_replace": 1,
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
SEQ2SEQ = {
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "ffn_dim": 48,
    "attention_heads": 4,
    "num_layers": 2,
}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
SCAN = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 8}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 64,
    "factor": 2.0,
    "rope_theta": 1e4,
}

FAMILIES: dict[str, dict[str, Any]] = {
    # the fast path's own
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    # with windows, caps, scales, norms and biases of their own
    "mistral:window": {"model_type": "mistral", "sliding_window": 4},
    "llama:longrope": {"model_type": "llama", "rope_parameters": LONGROPE},
    "llama:dynamic": {"model_type": "llama", "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}},
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 30.0, "sliding_window": 4},
    "gemma3_text": {"final_logit_softcapping": 30.0, "sliding_window": 4},
    "granite": {"logits_scaling": 1.005},
    "cohere": {},
    "cohere2": {"sliding_window": 4},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 4},
    "phi": HEADS,
    "stablelm": {},
    "starcoder2": {},
    "smollm3": {},
    "glm": {},
    "glm4": {},
    "nemotron": {},
    "persimmon": HEADS,
    "helium": {},
    "ernie4_5": {},
    "exaone4": {"sliding_window": 4},
    "seed_oss": {},
    "arcee": {},
    "apertus": {},
    "hunyuan_v1_dense": {},
    "diffllama": {},
    "nanochat": HEADS,
    "doge": {},
    "vaultgemma": {"sliding_window": 4},
    "modernbert-decoder": {"local_attention": 8},
    "ministral": {"sliding_window": 4},
    "bitnet": {},
    "minicpm3": {**HEADS, **LATENT},
    # with experts
    "mixtral": EXPERTS,
    "qwen2_moe": EXPERTS,
    "qwen3_moe": EXPERTS,
    "olmoe": EXPERTS,
    "granitemoe": {**EXPERTS, "logits_scaling": 8.0},
    "phimoe": EXPERTS,
    "gpt_oss": {**EXPERTS, "sliding_window": 4},
    "deepseek_v2": {**HEADS, **EXPERTS, **LATENT},
    "deepseek_v3": {**HEADS, **EXPERTS, **LATENT},
    "glm4_moe": EXPERTS,
    "dots1": EXPERTS,
    "ernie4_5_moe": {**EXPERTS, "moe_num_experts": 4, "moe_k": 2},
    # older ones
    "gpt2": GPT,
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gpt_neox": HEADS,
    "gptj": {**GPT, "rotary_dim": 4},
    "codegen": {**GPT, "rotary_dim": 4, "n_ctx": 128},
    "gpt_bigcode": GPT,
    "openai-gpt": GPT,
    "opt": {**SEQ2SEQ, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "falcon": {"without": ["head_dim"], "num_kv_heads": 2, "new_decoder_architecture": True},
    "falcon:alibi": {"model_type": "falcon", "without": ["head_dim"], "alibi": True, "new_decoder_architecture": False},
    "xglm": SEQ2SEQ,
    "biogpt": HEADS,
    "ctrl": {**GPT, "dff": 48},
    "bart": SEQ2SEQ,
    "bert": {**HEADS, "is_decoder": True},
    # with states instead of, or beside, keys and values
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    "falcon_mamba": {"state_size": 4},
    "rwkv": {"attention_hidden_size": 32, "context_length": 128},
    "xlstm": {"num_heads": 4, "num_blocks": 2, "chunk_size": 16, "embedding_dim": 32},
    "recurrent_gemma": {
        "lru_width": 32,
        "attention_window_size": 16,
        "block_types": ["recurrent", "attention"],
        "logits_soft_cap": 30.0,
    },
    "jamba": {**EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "use_mamba_kernels": False},
    "bamba": {**SCAN, "attn_layer_indices": [1]},
    "granitemoehybrid": {**EXPERTS, **SCAN, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    "falcon_h1": {**SCAN, "mamba_d_ssm": 64, "lm_head_multiplier": 1.01},
    "qwen3_next": {**EXPERTS, **LINEAR},
    "qwen3_5_text": LINEAR,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}  # fmt: skip

ALWAYS = (
    "llama", "mistral:window", "llama:longrope", "gemma2", "granite", "cohere", "phi", "mixtral", "qwen2_moe", "gpt2", "gpt_neox",
    "opt", "bloom", "mpt", "xglm", "bert", "mamba", "mamba2", "rwkv", "recurrent_gemma", "bamba", "qwen3_next", "lfm2",
)  # fmt: skip
"""Families of the suite: one of every kind that was ever wrong; `--all` runs the others too."""


NEVER_DROP = ("diffllama",)
"""Families that refuse a configuration with dropout."""


def build(name: str, dtype: torch.dtype = torch.float32, lora: bool = False, dropout: float = 0.0) -> Any:
    """The model, with weights drawn from a fixed seed; `lora` with adapters that do something; `dropout` wherever the
    configuration knows a rate of dropping."""
    options = {**SIZES, **FAMILIES[name]}
    kind = options.pop("model_type", name)
    for key in options.pop("without", ()):
        del options[key]
    config = CONFIG_MAPPING[kind](**options)
    for key, rate in config.to_dict().items() if dropout and name not in NEVER_DROP else ():
        if "drop" in key and isinstance(rate, float):
            setattr(config, key, dropout)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # what starts small hides mistakes
                parameter.add_(0.05 * torch.randn_like(parameter))
            parameter.data = parameter.data.to(dtype)
    model.generation_config.eos_token_id = None
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()
    return model
