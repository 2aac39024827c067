"""From the derivative of a loss with respect to columns to gradients of parameters, in micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from anypo.data.batch import Batch


@dataclass(frozen=True)
class Pull:
    """What the loss of one update batch says: its derivative with respect to every live column (rows of `batch`), and the
    factor on the learning rate of the step."""

    batch: Batch
    loss: Tensor
    gradients: Mapping[str, Tensor]
    rate: float = 1.0

    @cached_property
    def finite(self) -> bool:
        """Whether the loss and its derivative are numbers."""
        return bool(torch.isfinite(self.loss)) and all(bool(torch.isfinite(g).all()) for g in self.gradients.values())


def gradients(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """d loss / d leaf by name; zeros where the loss does not depend on it."""
    if not loss.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(leaf) if g is None else g for (n, leaf), g in zip(leaves.items(), found)}


def push(learner: Any, batch: Batch, gradients: Mapping[str, Tensor], token_budget: int) -> None:
    """Add the gradient of sum over rows and columns of gradient * column to the learner's parameters, in micro-batches.

    A learner with a method ``backward(batch, gradients, token_budget)`` cuts the work itself.
    """
    if hasattr(type(learner), "backward"):
        learner.backward(batch, gradients, token_budget)
        return
    names = sorted(gradients)
    pieces = cut(batch, token_budget)
    for index in pieces:
        part = batch.select(index)
        rows = torch.isin(batch.sequence, index) if len(pieces) > 1 else slice(None)
        columns = learner.fill(part, names, grad=True)
        torch.autograd.backward([columns[n] for n in names], [gradients[n][rows].to(columns[n].dtype) for n in names])


def score_norms(policy: Any, batch: Batch, token_budget: int) -> Tensor:
    """|grad of the mean log-probability of its counted decisions|^2 of every sequence, [S] float64: one backward pass each.

    Gradients that the parameters hold are lost.
    """
    parameters = list(policy.parameters())
    found = torch.zeros(batch.n_sequences, dtype=torch.float64)
    for index in range(batch.n_sequences):
        one = batch.select(torch.tensor([index]))
        total = one.weight.sum()
        if total <= 0:
            continue
        push(policy, one, {"logp": one.weight / total}, token_budget)
        found[index] = sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None)
        for p in parameters:
            p.grad = None
    return found


def cut(batch: Batch, budget: int) -> list[Tensor]:
    """Consecutive sequences in pieces of at most `budget` rows (at least one sequence each), as index tensors."""
    if len(batch) <= budget:
        return [torch.arange(batch.n_sequences)] if batch.n_sequences else []
    pieces: list[list[int]] = [[]]
    used = 0
    for index, length in enumerate(batch.sequences["length"].tolist()):
        if pieces[-1] and used + length > budget:
            pieces.append([])
            used = 0
        pieces[-1].append(index)
        used += length
    return [torch.tensor(piece) for piece in pieces if piece]


__all__ = ["Pull", "cut", "gradients", "push", "score_norms"]
