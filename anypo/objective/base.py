"""The objective room's interface: from advantages to a scalar loss, a pure function of the batch's columns.

Live columns (``logp``, ``entropy``, ``value``...) are leaves with a gradient; the trainer turns d loss / d column, taken over
the whole update batch, into parameter gradients by any micro-batching it likes. So an objective may couple rows, sequences
and groups freely, and its gradient never depends on how the work is cut.
"""

from __future__ import annotations

from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.parts import Part


class Objective(Part, slot="objective"):
    """A scalar to minimise."""

    def loss(self, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError


class Ratio(Part, slot="ratio"):
    """Log importance ratio per row, differentiable through ``logp``: `log_ratio(batch) -> [N]`."""

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError


class Trust(Part, slot="trust"):
    """What is maximised per row, given the log ratio and the advantage, both [N] -> [N]."""

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError


class Aggregate(Part, slot="aggregate"):
    """From values per row [N] to one scalar; respects ``weight`` and divides exactly once, over the whole update batch."""

    def reduce(self, values: Tensor, batch: Batch) -> Tensor:
        raise NotImplementedError


class Regulariser(Part, slot="regulariser"):
    """A further scalar to minimise. `aggregate` is the objective's own reduction, for those that follow it."""

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        raise NotImplementedError


class Correction(Part, slot="correction"):
    """A detached weight per row that repairs who sampled the data (engine mismatch, staleness): [N]. Works under every
    objective, because it multiplies the surrogate."""

    def factor(self, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError
