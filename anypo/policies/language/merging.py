"""Weights as others are given them: adapters added into what they stand beside, output embeddings apart from the input's."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

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


def untie(folder: Path, model: Any) -> None:
    """Give the model saved in `folder` an output embedding of its own where `model` shares its input embedding: one more file of
    weights, an index of all of them, and a configuration that says so. What is computed stays the same."""
    head, inner = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not inner.weight:
        return
    name = next(name for name, module in model.named_modules() if module is head) + ".weight"
    own = "model-head.safetensors"
    save_file({name: head.weight.detach().cpu().clone()}, folder / own, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        places = json.loads(index.read_text())["weight_map"]
    else:
        body = (folder / "model.safetensors").rename(
            folder / "model-body.safetensors"
        )  # its first name is read without an index
        with safe_open(body, "pt") as kept:
            places = dict.fromkeys(kept.keys(), body.name)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    index.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": places | {name: own}}, indent=1))
    config = folder / "config.json"
    told = json.loads(config.read_text())
    for part in (told, told.get("text_config") or {}):
        part["tie_word_embeddings"] = False
    config.write_text(json.dumps(told, indent=2))
