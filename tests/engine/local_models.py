"""Small random-weight models of every family, and a tokenizer of letters, for the tests of the embedded engine."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "llama3-rope": LlamaConfig(
        **SMALL,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, tie_word_embeddings=True),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
}


def build(name_or_config) -> nn.Module:
    torch.manual_seed(0)
    config = CONFIGS[name_or_config] if isinstance(name_or_config, str) else name_or_config
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = None  # the tokenizer says what ends a text
    with torch.no_grad():  # biases and norms start at 0 and 1, which would hide mistakes
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


GPT2 = GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=2, n_positions=128, bos_token_id=0, eos_token_id=0)


class Letters:
    """Token i is a letter; token 1 ends the text."""

    eos_token_id = 1

    def decode(self, tokens) -> str:
        return "".join(chr(ord("a") + int(token) % 26) for token in tokens)


class Endless(Letters):
    """Nothing ends the text."""

    eos_token_id = None
