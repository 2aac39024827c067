"""What tells weights apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def sha256(state: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of every tensor of a state dictionary, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor):
            digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(flat.numpy().data if flat.numel() else b"")
        elif isinstance(value, Mapping):
            digest.update(f"{name}:{sha256(value)};".encode())
        else:
            digest.update(f"{name}={value!r};".encode())
    return digest.hexdigest()
