"""Weights in a model's files that its configuration does not name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from anypo.errors import UserError

SCALE = re.compile(r"(_|\.)(scales?(_inv)?|qweight|qzeros|g_idx|absmax|quant_map|quant_state\..*|SCB|zero_points?)$")
LAYER = re.compile(r"^(.*?\.)(\d+)(\..*)$")


def surplus(name: str, model: Any, keys: Iterable[str]) -> list[str]:
    """What to say about weights of the files of `name` that `model` has no place for: parts of a larger model that are left out.

    Raises `UserError` where the model would compute something else with them: adapters, the scales of quantised weights, layers
    behind its own, biases of its own layers.
    """
    extra = sorted(keys)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(f"{name} comes with an adapter that is not merged; load the adapter from a folder of its own")
    for key in extra:
        wrong = _wrong(key, {own for own, _ in model.named_parameters()})
        if wrong:
            raise UserError(
                f"the weights of {name} do not fit its configuration: {len(extra)} of them have no place in the model, '{key}' among "
                f"them, {wrong}"
            )
    if not extra:
        return []
    kinds = sorted({key.split(".")[0] if "." in key else key for key in extra})
    return [
        f"{len(extra)} weights in the files of {name} are no part of the text model and are left out ({', '.join(kinds[:4])})"
    ]


def _wrong(key: str, own: set[str]) -> str:
    """Why the model would compute something else with the weight `key`, and what to do; empty where it would not."""
    if "lora_" in key:
        return "which belongs to an adapter that is not merged; merge it, or save the adapter in a folder of its own"
    if SCALE.search(key):
        return (
            "which scales quantised weights, without which they mean nothing; restore quantization_config in its config.json, or "
            "export the model in full precision"
        )
    if key.endswith(".bias") and _among(f"{key.removesuffix('bias')}weight", own):
        return (
            "the bias of a layer that is configured without; set the bias in its config.json, or export the model again"
        )
    found = LAYER.match(key)
    if found is not None and _among(f"{found[1]}0{found[3]}", own) and not _among(key, own):
        return "a layer behind the last that is configured; set the number of layers in its config.json, or export the model again"
    return ""


def _among(key: str, own: set[str]) -> bool:
    """Whether the model has the parameter, under this name or (files of a bare body) behind a prefix."""
    return key in own or any(name.endswith(f".{key}") for name in own)
