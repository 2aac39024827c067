"""The proximity term of mirror descent: a KL divergence to the step's starting policy under a falling step size."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import LIMIT
from anypo.freshness import always_one
from anypo.objective.base import Aggregate, Regulariser
from anypo.outlook import Outlook


class MirrorDescent(Regulariser, name="mirror_descent"):
    """(1 / t) KL(pi || pi_old), reduced like the surrogate, with t falling linearly from `first` at step 0 to `last` at the end of
    the run (MDPO, arXiv:2005.09814).

    With the surrogate r A the exact minimiser per state is pi_old exp(t A) / Z. The KL is taken on the decisions sampled from
    pi_old as r log r - r + 1, whose expectation under pi_old is the divergence; it is never negative, and its gradient is zero
    at pi = pi_old, so that a single optimiser step is the plain policy gradient: take several.
    """

    first: float = Field(1.0, gt=0.0)
    last: float = Field(0.0, ge=0.0)
    reads = frozenset({"logp", "logp_old"})

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return always_one("current", "old", algorithm)

    def regime(self) -> tuple[str, ...]:
        return (f"mirror descent's step falls linearly from {self.first:g} to {self.last:g} over the run",)

    def size(self, step: int, total: int) -> float:
        """The step size t of mirror descent at a step of the run; `last` = 0 is reached after the final step only."""
        done = min(step, total - 1) / max(1, total)
        return self.first + (self.last - self.first) * done

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        size = self.size(context.step, context.total)
        gap = (batch["logp"] - batch["logp_old"]).clamp(-LIMIT, LIMIT)
        value = aggregate.reduce(gap.exp() * gap - torch.expm1(gap), batch)
        context.log("objective/mirror_kl", value)
        context.log("objective/mirror_step", size)
        return value / size
