"""Whether a model and its tokenizer fit together, and what must not depend on the length of a text."""

from __future__ import annotations

from typing import Any

from anypo.errors import UserError, note
from anypo.policies.language.chat import Chat


def check_tokens(model: Any, chat: Chat, source: str) -> None:
    """Refuse a tokenizer that needs more embeddings than `model` has; a note where only tokens are without one that were added to
    the tokenizer and that no conversation contains by itself (texts that contain them are refused when they are read)."""
    tokenizer, size = chat.tokenizer, model.get_input_embeddings().num_embeddings
    more = {token: name for name, token in tokenizer.get_vocab().items() if token >= size}
    if not more:
        return
    added = set(tokenizer.get_added_vocab().values())
    said = {
        tokenizer.eos_token_id,
        *chat.encode([{"role": "user", "content": "1"}]).tolist(),
        *chat.answer("1").tolist(),
    }
    if more.keys() <= added and not said & more.keys():
        names = ", ".join(f"'{more[token]}'" for token in sorted(more)[:3]) + (", ..." if len(more) > 3 else "")
        note(
            f"the tokenizer of {source or 'the model'} has tokens without an embedding, which no text may contain: {names}"
        )
        return
    raise UserError(
        f"the tokenizer of {source or 'the model'} has {len(tokenizer)} tokens but the model only {size} "
        "embeddings; they do not belong together"
    )


def fix_frequencies(model: Any, context: int) -> None:
    """Give rotary embeddings of the kind longrope (arXiv:2402.13753) one set of frequencies for texts of every length.

    transformers takes the long set as soon as one sequence of a batch exceeds the original length, so that a token's probability
    depended on its neighbours, and keys remembered from before did not fit those that came after. As in vLLM the context
    decides once: the long set where it exceeds the original length, else the short one.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for layer, kind in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
            if kind != "longrope":
                continue
            prefix, more = ("", {}) if layer is None else (f"{layer}_", {"layer_type": layer})
            parameters = module.config.rope_parameters if layer is None else module.config.rope_parameters[layer]
            original = int(parameters["original_max_position_embeddings"])
            short = getattr(module, f"{prefix}original_inv_freq")
            if context > original:
                long, _ = ROPE_INIT_FUNCTIONS["longrope"](module.config, short.device, seq_len=original + 1, **more)
                short.copy_(long)
            getattr(module, f"{prefix}inv_freq").copy_(short)
            setattr(module, f"{prefix}long_inv_freq", short)
