"""Adapters added into the weights they stand beside."""

from __future__ import annotations

import copy
from typing import Any

import torch

from anypo.policies.language.quantised import is_narrow, widened
from anypo.policies.precision import low

LOST = 0.1
"""Share of an update that rounding may lose without a word."""


@torch.no_grad()
def merged(model: Any) -> tuple[Any, str]:
    """A plain copy of a peft model with its adapters added in float32 and then stored as its base is, and what rounding lost of the
    update, in a sentence (empty where it is little)."""
    if is_narrow(model):
        return widened(model), ""
    base = {name.replace(".base_layer", ""): p for name, p in model.get_base_model().named_parameters()}
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if hasattr(module, "merge") and hasattr(module, "get_base_layer"):
            for parameter in module.get_base_layer().parameters():
                if low(parameter):
                    parameter.data = parameter.data.float()
    plain = twin.merge_and_unload()
    lost = size = 0.0
    for name, parameter in plain.named_parameters():
        before = base[name]
        if parameter.dtype != before.dtype:
            exact, old = parameter.data, before.detach().float()
            parameter.data = exact.to(before.dtype)
            lost += float((parameter.float() - exact).double().square().sum())
            size += float((exact - old).double().square().sum())
    share = (lost / size) ** 0.5 if size else 0.0
    if share <= LOST:
        return plain, ""
    kind = str(next(plain.parameters()).dtype).removeprefix("torch.")
    return plain, (
        f"merged into {kind} weights, the adapters' update changes by {share:.0%} of its size in rounding; "
        "what was trained is exact in the adapter, and in a merge into the base in float32"
    )
