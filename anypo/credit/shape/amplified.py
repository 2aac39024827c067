"""Advantages in which what goes well weighs more than what does not."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Shape
from anypo.data.batch import Batch


class Amplified(Shape, name="amplified"):
    """A success has the advantage 1, whatever the rest of its group did; below it a positive advantage counts `alpha` times, and a
    negative one once (positive amplification of R3L, shiweijiezero/R3L d503f6c). Success is a reward of at least `success`.

    With rewards of 0 and 1 only the first rule acts. A group that has k successes among n then has advantages that add up to k^2 / n:
    what succeeds always is made likelier without end, unless something else holds it.
    """

    excuses = dict.fromkeys(("reward offset", "common offset"), "success is a reward of a certain height")
    alpha: float = Field(3.0, ge=0.0)
    success: float = 1.0

    def shape(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        right = batch.spread(batch.sequences["reward"] >= self.success - 1e-9)
        positive = torch.where(advantages > 0, self.alpha * advantages, advantages)
        return torch.where(right, torch.ones_like(advantages), positive)


__all__ = ["Amplified"]
