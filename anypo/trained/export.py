"""What was trained, written for others: a model folder, an adapter, a GGUF file, a hub repository."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anypo import policies
from anypo.errors import UserError, unknown
from anypo.last import latest
from anypo.policies.control.saved import DESCRIPTION
from anypo.policies.language.base import Base
from anypo.policies.language.causal import LanguagePolicy
from anypo.policies.language.folders import replace_folder
from anypo.policies.language.quiet import quiet
from anypo.run.disk.folder import RunFolder
from anypo.run.settings.config import RunConfig
from anypo.trained import gguf as converter
from anypo.trained import hub
from anypo.trained.opening import MODEL, acts, recorded

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Exported:
    """What `export` left: the folder, what it is, where it was pushed (''), and what is to be said about it, in sentences."""

    path: Path
    what: str
    pushed: str = ""
    notes: tuple[str, ...] = ()


def export(
    source: str | Path,
    out: Path | str,
    *,
    adapter: bool = False,
    dtype: str = "",
    untied: bool = False,
    gguf: bool = False,
    push: str = "",
    trust: bool = False,
) -> Exported:
    """Write the policy of a run folder, a model name, a folder or a hub id as the new folder `out`, whole or not at all.

    A language model becomes a folder that `AutoModelForCausalLM` and `AutoTokenizer` load, adapters merged; with `adapter` the adapter
    of a LoRA run alone, in peft's format, on its base as `Base` names it. dtype: that of the weights (default: as they are stored).
    untied: an output embedding that is the input embedding's twin gets weights of its own, as servers want it that load new weights
    while they run. gguf: a GGUF file in it, too, by llama.cpp's converter. push: a repository of the Hugging Face hub to upload it
    to. trust: use what a folder from elsewhere names. A policy that takes actions becomes ``policy.safetensors`` with the
    configuration of its run in ``policy.json``. Raises `UserError` where `out` holds anything, where an option does not go with the
    policy, or where a tool or the hub is missing, before anything is loaded.
    """
    path = Path(out).expanduser()
    if dtype and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if adapter and (gguf or dtype or untied):
        raise UserError(
            "an adapter is float32 whatever its base is, has no embeddings and is no GGUF file: --adapter goes without --dtype, "
            "--untied and --gguf"
        )
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"{path} is there already and is not empty; choose another folder")
    source = latest(source)
    config = recorded(source, trust)
    if acts(config) and (adapter or dtype or untied or gguf):
        raise UserError(
            f"the policy of {source} takes actions: it has no adapter, no other dtype, no embeddings and no GGUF form"
        )
    if adapter and not (config and config.lora):
        raise UserError(
            f"{source} is no run with adapters (--lora), so there is no adapter to export; leave out --adapter"
        )
    tool = converter.find() if gguf else []
    if push:
        hub.check(push)
    with replace_folder(path) as folder:
        notes: list[str] = []
        if config is not None and acts(config):
            what = _control(Path(source), config, folder)
        else:
            what, notes = _language(Path(source), config, folder, path, adapter, dtype, untied)
        if tool:
            converter.convert(tool, folder, _stored(folder))
            what += " with a GGUF file"
    return Exported(path, what, hub.upload(path, push) if push else "", tuple(notes))


def _control(run: Path, config: RunConfig, folder: Path) -> str:
    shutil.copytree(run / MODEL, folder, dirs_exist_ok=True)
    (folder / DESCRIPTION).write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    return "a policy that takes actions"


def _language(
    source: Path, config: RunConfig | None, folder: Path, path: Path, adapter: bool, dtype: str, untied: bool
) -> tuple[str, list[str]]:
    notes = _left(source, config)
    weights = str(source) if config is None else str(source / MODEL)
    kind = dtype or (_stored(Path(weights).expanduser()) if Path(weights).expanduser().is_dir() else "float32")
    if config is not None and config.lora:
        try:
            lora, base = _adapted(source, config, kind if kind != "float16" else "float32")
        except UserError as error:
            if adapter:
                raise
            notes.append(
                f"the base could not be read ({error}), so these are the merged weights as the run stored them"
            )
        else:
            lost = lora.save(folder, merge=not adapter, untied=untied and kind != "float16")
            shutil.rmtree(folder / "adapter", ignore_errors=True)
            if adapter:
                base.write(folder, path)
                return f"an adapter on {base.model}", notes
            notes += [lost] if lost else []
            if kind != "float16":
                return f"a {kind} model, the adapters merged", notes
            weights = str(folder)
    policy = policies.load(weights)
    notes += policy.notes
    notes += _rounded(policy.model, kind)
    policy.save(folder, untied=untied)
    return f"a {kind} model", notes


def _adapted(run: Path, config: RunConfig, dtype: str) -> tuple[LanguagePolicy, Base]:
    """A LoRA run's policy as it was trained: its adapters on the base they were trained on, in `dtype`."""
    from peft import PeftModel

    model = config.begun_from or config.model
    policy = policies.load(model, dtype, seed=config.seed)
    base = Base.of(model, config.seed, policy)
    with quiet():
        adapted = PeftModel.from_pretrained(policy.model, str(run / MODEL / "adapter"))
    return LanguagePolicy(adapted, policy.chat, source=model), base


@torch.no_grad()
def _rounded(model: Any, kind: str) -> list[str]:
    """Cast `model` to a type; what that loses, in a sentence, where it is anything."""
    lost = size = 0.0
    for name, parameter in model.named_parameters():
        exact, low = parameter.data, parameter.data.to(DTYPES[kind])
        if not bool(torch.isfinite(low).all()):
            raise UserError(f"'{name}' holds numbers that {kind} cannot hold; choose bfloat16 or float32")
        lost += float((low.float() - exact).double().square().sum())
        size += float(exact.double().square().sum())
        parameter.data = low
    model.config.dtype = DTYPES[kind]
    share = (lost / size) ** 0.5 if size else 0.0
    return [f"rounding to {kind} changes the weights by {share:.2%} of their size"] if share else []


def _stored(folder: Path) -> str:
    """The type of the weights in a model folder."""
    try:
        config: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "float32"
    kind = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return kind if kind in DTYPES else "float32"


def _left(source: Path, config: RunConfig | None) -> list[str]:
    """What a run knows beside its weights, which a model folder cannot hold."""
    notes = []
    if config is not None and config.chat_args:
        told = " ".join(f"--chat-arg {name}={json.dumps(value)}" for name, value in config.chat_args.items())
        notes.append(f"the chat template was given arguments, which whoever uses the model must give again: {told}")
    if config is not None and any((RunFolder.read(source).path / "shelf").glob("*.txt")):
        notes.append(f"what the run learned in words stays in {os.path.join(source, 'shelf')}")
    return notes
