"""Precision: float32 values behind parameters that are stored in less.

bfloat16 keeps 8 bits, so a step or an average that changes a weight by less than 1/256 of itself would be rounded away. What adds
up small changes therefore keeps the float32 value, the *master* (Micikevicius et al., arXiv:1710.03740), beside the parameter, and
the parameter is the master rounded. Parameters of 32 bits and more are their own masters; nothing is copied for them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def low(parameter: Tensor) -> bool:
    """Stored in fewer than 32 bits."""
    return parameter.is_floating_point() and parameter.element_size() < 4


def master(parameter: Any) -> Tensor | None:
    """The float32 value behind a parameter, where one is kept."""
    return getattr(parameter, "master", None)


@torch.no_grad()
def wide(parameter: Tensor) -> Tensor:
    """The value in float32 or wider: the master's, or the parameter's own where somebody has written another since."""
    if not low(parameter):
        return parameter.detach()
    behind = master(parameter)
    if behind is None:
        return parameter.detach().float()
    return torch.where(parameter == behind.to(parameter.dtype), behind, parameter.float())


@torch.no_grad()
def write(parameter: Any, value: Tensor) -> None:
    """Give a parameter a value, all of whose bits are kept behind it."""
    if low(parameter):
        behind = master(parameter)
        if behind is None:
            parameter.master = behind = torch.empty_like(parameter, dtype=torch.float32, requires_grad=False)
        behind.copy_(value)
    parameter.copy_(value)
