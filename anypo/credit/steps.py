"""The plain members of every pipeline step: identities, sums, standard deviations."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Combine, Components, GroupWeight, Normalise, Scale
from anypo.data import segments
from anypo.data.batch import Batch


class Scalar(Components, name="scalar"):
    """The task's scalar reward, [S, 1]."""

    def matrix(self, batch: Batch) -> Tensor:
        return batch.sequences["reward"].unsqueeze(1)


class Unscaled(Scale, name="none"):
    """No scaling."""

    def divisor(self, values: Tensor, centred: Tensor, batch: Batch, context: Context) -> Tensor:
        return torch.ones_like(values)


class StandardDeviation(Scale, name="std"):
    """Standard deviation of the rewards over the group or the batch, plus `eps`.

    `ddof`: 1 for the sample standard deviation (GRPO's reference implementations), 0 for the population one. Fewer than
    ddof + 1 samples divide by 1 (their centred reward is 0 or undefined otherwise).
    """

    scope: Literal["group", "batch"] = "group"
    ddof: int = Field(1, ge=0, le=1)
    eps: float = Field(1e-6, ge=0.0)
    of: Literal["values", "centred"] = "values"

    def divisor(self, values: Tensor, centred: Tensor, batch: Batch, context: Context) -> Tensor:
        source = values if self.of == "values" else centred
        ids = batch.group if self.scope == "group" else torch.zeros_like(batch.group)
        n = batch.n_groups if self.scope == "group" else 1
        spread = segments.std(source, ids, n, self.ddof) + self.eps
        enough = segments.count(ids, n, values.dtype).unsqueeze(1) > self.ddof
        return torch.where(enough & (spread > 0), spread, torch.ones_like(spread))[ids]


class Unweighted(GroupWeight, name="none"):
    """Every group counts alike."""

    def factor(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return torch.ones_like(values[:, 0])


class Summed(Combine, name="sum"):
    """Sum over components."""

    def combine(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        return advantages.sum(1)


class Unnormalised(Normalise, name="none"):
    """No batch normalisation."""

    def normalise(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        return advantages


class Whiten(Normalise, name="whiten"):
    """Subtract the batch mean (unless `centre` is false) and divide by the batch standard deviation plus `eps`."""

    centre: bool = True
    eps: float = Field(1e-8, ge=0.0)

    def normalise(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        if len(advantages) < 2:
            return advantages
        mean = advantages.mean() if self.centre else advantages.new_zeros(())
        spread = advantages.std()
        return (advantages - mean) / (spread + self.eps) if spread > 0 else advantages - mean
