"""Models that see or hear more than text: their text part is the policy.

Gemma 3, Llama 4, Mistral 3, LLaVA and their like are a language model behind a tower for images or sound, and their files name its
weights in many ways. Transformers knows all of these, so the whole is loaded by its own class, and the language model, which has a
class of its own, is taken out of it. Nothing is copied.
"""

from __future__ import annotations

from typing import Any

import torch

from anypo.errors import UserError


def wrapper(config: Any) -> Any:
    """The transformers class for models of `config` that hold a language model which can stand alone; None for any other kind."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MULTIMODAL_LM_MAPPING,
    )

    text = config.get_text_config()
    if text is config or MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), None) is None:
        return None
    kinds = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING)
    return next((kind for known in kinds if (kind := known.get(type(config), None)) is not None), None)


def text_part(name: str, whole: Any) -> Any:
    """The causal language model inside `whole`, sharing its weights. Raises `UserError` where it is not kept as such."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = whole.config.get_text_config()
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    causal = _only(whole, kind)
    if causal is None:
        with torch.device("meta"):
            causal = kind(config)
        body, head = _only(whole, type(causal.base_model)), whole.get_output_embeddings()
        if body is None or type(head) is not type(causal.get_output_embeddings()):
            raise UserError(
                f"{name} is a {type(whole).__name__}, whose language part does not stand alone; export that part into a folder of its "
                "own, or choose a text model"
            )
        setattr(causal, causal.base_model_prefix, body)
        causal.set_output_embeddings(head)
    config.tie_word_embeddings = causal.get_output_embeddings().weight is causal.get_input_embeddings().weight
    config.architectures = [kind.__name__]
    causal.generation_config = whole.generation_config
    return causal


def _only(whole: Any, kind: type) -> Any:
    found = [module for module in whole.modules() if type(module) is kind]
    return found[0] if len(found) == 1 else None
