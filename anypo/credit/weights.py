"""Group weights: how much a prompt's rollouts count, decided from the rollouts themselves. All detached."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import GroupWeight
from anypo.credit.reading import named, outcome
from anypo.credit.shaping.outcomes import length_direction
from anypo.data import segments
from anypo.data.batch import Batch


class LengthAdvantage(GroupWeight, name="length_advantage"):
    """Damps a group in which longer reasoning does not pay (ADORA, arXiv:2602.10019).

    The weight is 1 when the longest right answer is longer than the mean wrong one or nothing is right, `damping` otherwise (a
    group without failures included; its advantages are zero anyway). With `finished` only failures that were not cut
    off count, a group without such failures keeps weight 1, and one where nothing is right is damped (the released stronger variant).
    """

    damping: float = Field(0.1, ge=0.0)
    outcome: str = ""
    right: float = 1.0
    finished: bool = False

    def factor(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        right = outcome(batch, self.outcome) >= self.right - 1e-9
        longest, mean_wrong = length_direction(batch, right, self.finished)
        keep = longest > mean_wrong
        if not self.finished:
            keep |= longest == -torch.inf
        return _damped(~keep, self.damping, values.dtype)[batch.group]


class Difficulty(GroupWeight, name="difficulty"):
    """Damps groups on one side of a success rate: weight `damping` where the rate of right answers is above
    (`favour` ``hard``) or below (``easy``) `threshold`."""

    favour: Literal["hard", "easy"] = "hard"
    threshold: float = Field(0.5, ge=0.0, le=1.0)
    damping: float = Field(0.1, ge=0.0)
    outcome: str = ""
    right: float = 1.0

    def factor(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        right = (outcome(batch, self.outcome) >= self.right - 1e-9).to(values.dtype)
        rate = segments.mean(right, batch.group, batch.n_groups)
        damped = rate > self.threshold if self.favour == "hard" else rate < self.threshold
        return _damped(damped, self.damping, values.dtype)[batch.group]


class Trusted(GroupWeight, name="component"):
    """The group mean of a reward component as the weight, e.g. the agreement of the rollouts (``confidence``).

    Multiplied into the reward, such a factor cancels under standard-deviation scaling; here, after scaling, it acts. In a batch whose
    rollouts have no components at all (nobody has spoken) every group counts fully."""

    component: str = "confidence"

    def factor(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        if not named(batch):
            return torch.ones(batch.n_sequences, dtype=values.dtype)
        return segments.mean(outcome(batch, self.component), batch.group, batch.n_groups)[batch.group]


def _damped(where: Tensor, damping: float, dtype: torch.dtype) -> Tensor:
    return torch.ones(where.shape, dtype=dtype).masked_fill(where, damping)
