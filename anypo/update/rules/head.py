"""The policy's last layer as its optimiser sees it: what a step on one token's gradient would do to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """weight [V, d] of logits = hidden @ weight.T, and the state of its optimiser: first and second moments [V, d] (or a
    momentum buffer, without a second), steps done, learning rate of the coming step, decay rates, eps and weight decay."""

    weight: Tensor
    first: Tensor
    second: Tensor | None
    steps: int
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay: float = 0.0

    @staticmethod
    def of(policy: Any, optimiser: torch.optim.Optimizer, rate: float) -> Head | None:
        """The last layer of `policy` under `optimiser` with learning-rate factor `rate`; None where there is no such layer.
        `policy.last_layer()` gives the parameter and whether it is stored as [d, V]; a language policy has output embeddings."""
        if hasattr(policy, "last_layer"):
            parameter, flipped = policy.last_layer()
        elif hasattr(policy, "causal"):
            parameter, flipped = policy.causal.get_output_embeddings().weight, False
        else:
            return None
        turn = (lambda tensor: tensor.T) if flipped else (lambda tensor: tensor)
        masters = dict(zip(map(id, getattr(optimiser, "parameters", [])), getattr(optimiser, "masters", [])))
        stepped = masters.get(id(parameter), parameter)
        groups = optimiser.param_groups
        group = next((g for g in groups if any(p is stepped for p in g["params"])), groups[0])
        state = optimiser.state.get(stepped, {})
        adam = "betas" in group

        def moment(name: str) -> Tensor:
            found = state.get(name)
            return turn(torch.zeros_like(parameter) if found is None else found)

        return Head(
            turn(parameter.detach()),
            moment("exp_avg" if adam else "momentum_buffer"),
            moment("exp_avg_sq") if adam else None,
            int(state.get("step", 0)),
            group.get("peak_lr", group["lr"]) * rate,
            tuple(group["betas"]) if adam else (float(group.get("momentum", 0.0)), 0.0),
            group.get("eps", 0.0),
            group.get("weight_decay", 0.0) if adam else 0.0,
        )

    def step_of(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """The change of the weights at `rows` [n, k] that the optimiser would make for each of n loss gradients [n, k, d] taken
        alone (AdamW, or SGD with momentum), [n, k, d]."""
        first = self.first[rows].to(gradient.dtype)
        if self.second is None:
            return -self.lr * (self.betas[0] * first + gradient)
        b1, b2 = self.betas
        count = self.steps + 1
        mean = (b1 * first + (1 - b1) * gradient) / (1 - b1**count)
        square = (b2 * self.second[rows].to(gradient.dtype) + (1 - b2) * gradient**2) / (1 - b2**count)
        pull = self.lr * self.decay * self.weight[rows].to(gradient.dtype) if self.decay else 0.0
        return -self.lr * mean / (square.sqrt() + self.eps) - pull
