"""How large tensors are, all together."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def size(parameters: Iterable[nn.Parameter]) -> float:
    """Root mean square of all numbers in `parameters`; 0 for none, infinite or NaN where one of them is (or its square)."""
    found = list(parameters)
    count = sum(parameter.numel() for parameter in found)
    return float(total_norm(found)) / math.sqrt(count) if count else 0.0


@torch.no_grad()
def total_norm(tensors: list[Tensor] | list[nn.Parameter]) -> Tensor:
    """The Euclidean norm of all numbers in `tensors`, as `torch.nn.utils.get_total_norm` computes it; where they are of one type on
    the CPU without its sorting by device, which takes longer than small norms."""
    if tensors and all(t.device.type == "cpu" and t.dtype == tensors[0].dtype for t in tensors):
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
    return nn.utils.get_total_norm(tensors)


__all__ = ["size", "total_norm"]
