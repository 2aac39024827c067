"""Low-rank adapters on a causal LM."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from anypo.errors import UserError

EVERYWHERE = "all-linear"
"""Every linear layer but the head."""


def attached(model: Any, rank: int, alpha: float, targets: str | list[str], seed: int) -> Any:
    """The model with adapters inside its layers, drawn from `seed`; it is the same object underneath. `UserError` for unknown
    layers."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise UserError(f"lora: {' '.join(str(error).split())}") from None


def sharing(model: Any) -> Any:
    """A copy of the model around the same weights."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


@torch.no_grad()
def products(model: Any) -> dict[str, Tensor]:
    """What the adapters of a peft model add to the weights they stand on, by the names of these in the model without adapters."""
    return {
        f"{name}.weight": module.get_delta_weight("default").detach().clone()
        for name, module in model.get_base_model().named_modules()
        if hasattr(module, "get_delta_weight")
    }


__all__ = ["EVERYWHERE", "attached", "products", "sharing"]
