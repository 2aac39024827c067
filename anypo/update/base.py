"""The update room's interface: what happens to the weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.parts import Part
from anypo.update.precision import exact

if TYPE_CHECKING:
    from anypo.update.weights import Weights


class Optimiser(Part, slot="optimiser"):
    """Builds a torch optimiser over parameters."""

    lr: float = Field(1e-6, ge=0.0, description="peak learning rate")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        raise NotImplementedError

    def over(
        self, parameters: Iterable[nn.Parameter], matrices: Collection[nn.Parameter] = ()
    ) -> torch.optim.Optimizer:
        """What a run steps: `build`, over float32 masters of the parameters that are stored in less. matrices: those among them
        that are matrices inside of the network (`anypo.policies.base.Learner`), which some optimisers step in a way of their own."""
        return exact(parameters, self.build)


class Schedule(Part, slot="schedule"):
    """Learning-rate factor as a function of progress."""

    def factor(self, step: int, total: int) -> float:
        raise NotImplementedError


class Reference(Part, slot="reference"):
    """Keeps frozen weights that fill columns under the source `name`; owns when and how they change. `of`: whose weights, the
    policy's or those of the learner of the part at this path (a target critic: ``credit``).

    remembers: what it fills for a decision is of the weights that sampled it. begins_apart: its first weights are others than those of
    what it is kept of."""

    remembers: ClassVar[bool] = False
    begins_apart: ClassVar[bool] = False
    name: str = Field("ref", pattern=r"^[a-z][a-z0-9]*$", description="source of the columns it fills")
    of: str = Field("policy", description="the policy, or the path of the part whose learner is kept")

    def begin(self, policy: Any) -> Any:
        """The first reference (a frozen learner), or None when there is none."""
        raise NotImplementedError

    def after(self, reference: Any, policy: Any, context: Context) -> Any:
        """The reference to use from here on (called after every update)."""
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
    """What happens to the weights: it drives `anypo.update.weights.Weights`, which decides nothing itself."""

    def apply(self, batch: Batch, weights: Weights, context: Context) -> Batch:
        """Every change of weights for this batch. Returns it with what was learned on the way."""
        raise NotImplementedError

    def suits(self, task: Any) -> str | None:
        """A sentence saying why this update cannot work on `task`, or None (asked before anything heavy is loaded)."""
        return None

    def keepers(self) -> tuple[Reference, ...]:
        """The references that are kept."""
        return ()

    def turns(self) -> int | None:
        """Optimiser steps that move the policy on one batch, one after another; None where that is not known beforehand."""
        return None

    def acting(
        self, weights: Weights, plan: Mapping[str, int | float | str], context: Context
    ) -> Mapping[str, Tensor] | None:
        """Parameters of the policy that sample for asks with this plan until the next update, by name of its ``state_dict``; None
        for the trained ones."""
        return None


class Frozen(Update, name="frozen"):
    """Changes no weights: methods that learn in words, in memories, or not at all."""

    def apply(self, batch: Batch, weights: Weights, context: Context) -> Batch:
        return batch
