"""`tiny`: a Qwen3-architecture model of about one million parameters with one token per character, built from a config."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

CHARACTERS = "".join(chr(code) for code in range(32, 127)) + "\n"
"""Printable ASCII and newline. Any other character is read as '?'."""

EOS, PAD = "<eos>", "<pad>"

TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '\n' }}{% endfor %}"
)
"""Every message ends its line; the policy's own turns end with EOS."""


class TinyConfig(BaseModel):
    """Shape of the model. Head size is 32; queries share keys and values in pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(3, ge=1, le=64)
    hidden: int = Field(160, ge=32, le=4096, multiple_of=32)
    intermediate: int = Field(480, ge=8, le=16384)
    context: int = Field(512, ge=8, le=1_048_576)


def model(config: TinyConfig, seed: int) -> Any:
    """A randomly initialised float32 model, the same for the same seed."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    heads = config.hidden // 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(CHARACTERS) + 2,
                hidden_size=config.hidden,
                intermediate_size=config.intermediate,
                num_hidden_layers=config.layers,
                num_attention_heads=heads,
                num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
                head_dim=32,
                max_position_embeddings=config.context,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=len(CHARACTERS),
                pad_token_id=len(CHARACTERS) + 1,
            )
        )


def tokenizer(context: int) -> Any:
    """One token per character: `CHARACTERS` in order, then EOS and PAD."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: number for number, character in enumerate(CHARACTERS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(EOS, special=True), AddedToken(PAD, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=context,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
