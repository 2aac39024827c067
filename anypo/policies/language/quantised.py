"""Weights in four bits under adapters: QLoRA (Dettmers et al., arXiv:2305.14314), by bitsandbytes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

LACKING = "bitsandbytes is not installed; install it with: pip install 'anypo[low-bit]'"


def lacking() -> str:
    """Why nothing can be stored in four bits here, as a sentence; '' where it can."""
    return LACKING if importlib.util.find_spec("bitsandbytes") is None else ""


@torch.no_grad()
def quantise(model: Any) -> None:
    """Store every linear layer but the head in NF4, its scales in 8 bits; products are taken in the type that the weights had."""
    from bitsandbytes import nn as narrow

    head = model.get_output_embeddings()
    for parent, name, layer in list(_linear(model)):
        if layer is head:
            continue
        weight = layer.weight
        thin = narrow.Linear4bit(
            layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=weight.dtype, quant_type="nf4"
        )
        thin.weight = narrow.Params4bit(weight.data, requires_grad=False, quant_type="nf4")
        if layer.bias is not None:
            thin.bias = layer.bias
        setattr(parent, name, thin.to(weight.device))  # it is quantised as it is moved


@torch.no_grad()
def widened(model: Any) -> Any:
    """A plain copy of a peft model on a base in four bits: what these stand for, in the type of its products, adapters added."""
    import copy

    from bitsandbytes import nn as narrow
    from peft.tuners.lora import LoraLayer

    twin = copy.deepcopy(model).get_base_model()
    for parent, name, layer in list(_all(twin)):
        adapted = isinstance(layer, LoraLayer)
        base = layer.get_base_layer() if adapted else layer
        if not isinstance(base, narrow.Linear4bit):
            continue
        wide = nn.Linear(base.in_features, base.out_features, base.bias is not None)
        value = _value(base)
        for adapter in layer.active_adapters if adapted else ():
            value = value + layer.get_delta_weight(adapter).to(value)
        wide.weight = nn.Parameter(value.to(base.compute_dtype), requires_grad=False)
        if base.bias is not None:
            wide.bias = base.bias
        setattr(parent, name, wide)
    return twin


def is_narrow(model: Any) -> bool:
    """Whether some layer is stored in four bits."""
    return any(type(module).__name__ == "Linear4bit" for module in model.modules())


def _value(layer: Any) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit

    found: torch.Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return found.float()


def _linear(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Every plain linear layer with its parent and its name there."""
    for parent, name, child in _all(model):
        if type(child) is nn.Linear:
            yield parent, name, child


def _all(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            yield parent, name, child
