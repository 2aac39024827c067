"""Gradient descent on the objective: the standard member of the update room."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.update.base import Optimiser, Reference, Schedule, StepRule, Update
from anypo.update.references import NoReference


class AdamW(Optimiser, name="adamw"):
    """AdamW with decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101), fused where torch can."""

    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.999, ge=0.0, lt=1.0)
    eps: float = Field(1e-8, gt=0.0)
    weight_decay: float = Field(0.0, ge=0.0)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            list(parameters),
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )


class SGD(Optimiser, name="sgd"):
    """Plain stochastic gradient descent with optional momentum."""

    momentum: float = Field(0.0, ge=0.0, lt=1.0)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(parameters), lr=self.lr, momentum=self.momentum)


class Constant(Schedule, name="constant"):
    """Linear warm-up over `warmup` steps, then constant."""

    warmup: int = Field(0, ge=0)

    def factor(self, step: int, total: int) -> float:
        return min(1.0, (step + 1) / (self.warmup + 1))


class Linear(Schedule, name="linear"):
    """Linear warm-up over `warmup` steps, then linear decay to `floor` at the last step."""

    warmup: int = Field(0, ge=0)
    floor: float = Field(0.0, ge=0.0, le=1.0)

    def factor(self, step: int, total: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(1, total - self.warmup)
        return 1.0 - (1.0 - self.floor) * min(1.0, done)


class GradientUpdate(Update, name="gradient"):
    """`epochs` passes over the step's batch in `minibatches` optimiser steps each.

    Groups are never split between minibatches (objectives may couple them). Gradients are clipped to `max_grad_norm` over all
    policy parameters. A non-finite loss or gradient skips the optimiser step; `patience` such steps in a row stop the run.
    """

    optimiser: Optimiser = AdamW()
    schedule: Schedule = Constant()
    epochs: int = Field(1, ge=1)
    minibatches_per_epoch: int = Field(1, ge=1)
    shuffle: bool = True
    max_grad_norm: float = Field(1.0, gt=0.0)
    reference: Reference = NoReference()
    rules: tuple[StepRule, ...] = ()
    patience: int = Field(5, ge=1)

    def minibatches(self, batch: Batch, context: Context) -> Iterator[Tensor]:
        for epoch in range(self.epochs):
            context.epoch = epoch
            present = torch.unique(batch.group)
            if self.minibatches_per_epoch == 1:
                context.minibatch = 0
                yield torch.arange(batch.n_sequences)
                continue
            if self.shuffle:
                present = present[torch.randperm(len(present), generator=context.generator(17, epoch))]
            for number, groups in enumerate(present.chunk(self.minibatches_per_epoch)):
                context.minibatch = number
                yield torch.isin(batch.group, groups).nonzero().flatten()
