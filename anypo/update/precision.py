"""Master weights: optimise in float32 what is stored in less."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from anypo.policies.precision import low, wide

Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def exact(parameters: Iterable[nn.Parameter], build: Build) -> torch.optim.Optimizer:
    """The optimiser that `build` makes of parameters, over float32 masters of those that are stored in less (where there are any)."""
    found = list(parameters)
    return MasterWeights(found, build) if any(map(low, found)) else build(found)


class MasterWeights(torch.optim.Optimizer):
    """An optimiser over float32 masters of low-precision parameters (see `anypo.policies.precision`).

    Every step takes the gradients of `parameters` (whatever their type), lets the inner optimiser change the masters, and rounds
    these back into `parameters`; a weight that somebody else wrote since the last step begins from what was written. Learning
    rates are read from `param_groups`, as with any optimiser; the masters are part of the state. Parameters of 32 bits and more
    are optimised as they are.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], build: Build) -> None:
        self.parameters = list(parameters)
        self.masters = [nn.Parameter(wide(p).clone()) if low(p) else p for p in self.parameters]
        self.low = [(p, m) for p, m in zip(self.parameters, self.masters) if p is not m]
        for parameter, master in self.low:
            parameter.master = master.detach()  # type: ignore[attr-defined]  # whoever averages these weights reads it
        self.inner = build(self.masters)
        super().__init__(self.parameters, {})
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("master weights take no closure")
        for parameter, master in self.low:
            master.copy_(wide(parameter))
            master.grad = None if parameter.grad is None else parameter.grad.to(master)
        self.inner.step()
        for parameter, master in self.low:
            parameter.copy_(master)
            master.grad = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.parameters:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "masters": [master.detach().clone() for _, master in self.low]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(copy.deepcopy(state["inner"]))  # torch would share the tensors
        self.param_groups, self.state = self.inner.param_groups, self.inner.state
        for (parameter, master), saved in zip(self.low, state["masters"], strict=True):
            master.copy_(saved)
            parameter.copy_(master)
