"""The update room's interface: what happens to the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.parts import Part


class Optimiser(Part, slot="optimiser"):
    """Builds a torch optimiser over parameters."""

    lr: float = Field(1e-6, ge=0.0, description="peak learning rate")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        raise NotImplementedError


class Schedule(Part, slot="schedule"):
    """Learning-rate factor as a function of progress."""

    def factor(self, step: int, total: int) -> float:
        raise NotImplementedError


class Reference(Part, slot="reference"):
    """Keeps the policy that fills ``logp_ref``; owns when and how it changes."""

    def begin(self, policy: Any) -> Any:
        """The first reference (a frozen policy), or None when there is none."""
        raise NotImplementedError

    def after(self, reference: Any, policy: Any, context: Context) -> Any:
        """The reference to use from the next step on (called after every step's updates)."""
        return reference


class StepRule(Part, slot="step_rule"):
    """A hook of the optimiser step: may scale its learning rate or mask rows, from the whole update batch."""

    def learning_rate(self, batch: Batch, context: Context) -> float:
        """Factor on the learning rate of this optimiser step."""
        return 1.0

    def weigh(self, batch: Batch, context: Context) -> Tensor:
        """New row weights [N] (before the loss is taken)."""
        return batch.weight


class Update(Part, slot="update"):
    """Optimiser, schedule, epochs, minibatches, clipping, reference management."""

    def minibatches(self, batch: Batch, context: Context) -> Iterator[Tensor]:
        """Sequence indices of every optimiser step of this update, in order."""
        raise NotImplementedError
