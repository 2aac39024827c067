"""Master weights: optimise in float32 what is stored in less."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class MasterWeights(torch.optim.Optimizer):
    """An optimiser over float32 copies of low-precision parameters (Micikevicius et al., arXiv:1710.03740).

    bfloat16 keeps 8 bits: a step smaller than 1/256 of a weight would be rounded away. Every step takes the gradients of
    `parameters` (whatever their type), lets the inner optimiser change the float32 copies, and rounds these back into
    `parameters`. Learning rates are read from `param_groups`, as with any optimiser; the copies are part of the state.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], build: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    ) -> None:
        self.parameters = list(parameters)
        self.masters = [nn.Parameter(p.detach().float().clone()) for p in self.parameters]
        self.inner = build(self.masters)
        super().__init__(self.parameters, {})
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("master weights take no closure")
        for parameter, master in zip(self.parameters, self.masters):
            master.grad = None if parameter.grad is None else parameter.grad.to(master)
        self.inner.step()
        for parameter, master in zip(self.parameters, self.masters):
            parameter.copy_(master)
            master.grad = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.parameters:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "masters": [master.detach().clone() for master in self.masters]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(copy.deepcopy(state["inner"]))  # torch would share the tensors
        self.param_groups, self.state = self.inner.param_groups, self.inner.state
        for parameter, master, saved in zip(self.parameters, self.masters, state["masters"]):
            master.copy_(saved)
            parameter.copy_(master)
