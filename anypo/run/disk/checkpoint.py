"""Checkpoints: a folder with every tensor as safetensors, everything else as plain data, and a checksum of both.

    tensors.safetensors   every tensor and array of the state; the key is its path in the state
    state.pt              the state with a reference in the place of each tensor (loads with ``weights_only=True``)
    checkpoint.json       step, sizes and SHA-256 of the two

Nothing in a checkpoint is executed when it is loaded. The folder appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anypo.files import because, sha256, sync, writing

TENSORS, STATE, SUMMARY = "tensors.safetensors", "state.pt", "checkpoint.json"
FILES = (TENSORS, STATE)
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype)


def save(path: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write `state` as the checkpoint folder `path`, complete or not at all.

    `state` is nested dictionaries, lists, tuples and sets of plain values, tensors and arrays; anything else raises
    `TypeError` with its path. Raises `UserError` when the disk is full or not writable.
    """
    tensors: dict[str, Tensor] = {}
    plain = _strip(state, "", tensors, {})
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            _write_tensors(tensors, temporary / TENSORS)
            with open(temporary / STATE, "wb") as file:
                torch.save(plain, file)
            shutil.copymode(
                temporary / STATE, temporary / TENSORS
            )  # safetensors makes files that only their owner reads
            files = {name: describe(temporary / name) for name in FILES}
            (temporary / SUMMARY).write_text(json.dumps({"step": step, "files": files}, indent=2))
            for name in (TENSORS, STATE, SUMMARY):
                sync(temporary / name)
            if path.exists():  # of the same step: it stays until the new one is in its place
                shutil.rmtree(_aside(path), ignore_errors=True)
                os.replace(path, _aside(path))
            os.replace(temporary, path)
            sync(path.parent)
            shutil.rmtree(_aside(path), ignore_errors=True)
        except BaseException:
            with suppress(OSError):
                shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove(path: Path) -> None:
    """Delete a checkpoint; a kill on the way leaves no half of it under its name."""
    gone = path.with_name(f".{path.name}.gone.tmp")
    with suppress(OSError):
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def repair(folder: Path) -> None:
    """Finish, among the checkpoints in `folder`, what a kill interrupted: one that was put aside for a new one that never came is
    put back."""
    for aside in folder.glob(f".*{ASIDE}"):
        path = aside.with_name(aside.name.removeprefix(".").removesuffix(ASIDE))
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(aside, path)


ASIDE = ".old"


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{ASIDE}")


def load(path: Path) -> dict[str, Any]:
    """The state that `save` wrote. Raises `ValueError` with the reason when the folder is damaged."""
    problem = damage(path)
    if problem:
        raise ValueError(problem)
    try:
        plain = torch.load(path / STATE, weights_only=True)
    except Exception:  # whatever a crafted or a damaged pickle raises
        raise ValueError(f"{STATE} holds something other than plain data") from None
    try:
        state = _restore(plain, load_file(path / TENSORS))
    except Exception as error:
        raise ValueError(f"{TENSORS} does not hold what {STATE} names ({type(error).__name__})") from None
    if not isinstance(state, dict):
        raise ValueError(f"{STATE} holds a {type(state).__name__}, not a state")
    return state


def damage(path: Path) -> str:
    """What is wrong with the checkpoint folder, or an empty string: every file must have its recorded size and checksum."""
    try:
        files = json.loads((path / SUMMARY).read_text())["files"]
        expected = {name: {"bytes": int(files[name]["bytes"]), "sha256": str(files[name]["sha256"])} for name in FILES}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{SUMMARY} is missing or unreadable"
    for name, told in expected.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        try:
            found = describe(path / name)
        except OSError as error:
            return f"{name} cannot be read: {because(error)}"
        if found["bytes"] != told["bytes"]:
            return f"{name} has {found['bytes']} bytes, not {told['bytes']}"
        if found != told:
            return f"the checksum of {name} does not match"
    return ""


def describe(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # an operating-system error arrives as text: "... (os error 28)"
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error


def _strip(value: Any, path: str, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """`value` with every tensor and array moved to `tensors` under its path; tied tensors are stored once."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        copied = torch.from_numpy(np.ascontiguousarray(value).copy()).reshape(value.shape)
        return {"__array__": _store(copied, path, tensors)}
    if isinstance(value, Tensor):
        same = (value.data_ptr() or path, value.dtype, tuple(value.shape), value.stride())
        if same not in seen:
            seen[same] = _store(_own(value), path, tensors)
        return {"__tensor__": seen[same]}
    if isinstance(value, Mapping):
        return {key: _strip(item, f"{path}.{key}" if path else str(key), tensors, seen) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_strip(item, f"{path}.{index}", tensors, seen) for index, item in enumerate(value))
    if type(value) in PLAIN:
        return value
    raise TypeError(f"'{path}' is a {type(value).__name__}, which a checkpoint cannot hold")


def _store(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    """Keep the tensor under its path (keys 1 and "1", or "a.b" and a/b, would share one: the later gets a prime)."""
    while path in tensors:
        path += "'"
    tensors[path] = tensor
    return path


def _own(tensor: Tensor) -> Tensor:
    """The tensor in CPU memory that no other tensor shares (a view of a larger buffer is copied)."""
    tensor = tensor.detach().cpu().contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"__tensor__"}:
            return tensors[value["__tensor__"]]
        if value.keys() == {"__array__"}:
            return tensors[value["__array__"]].numpy()
        return {key: _restore(item, tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_restore(item, tensors) for item in value)
    return value
