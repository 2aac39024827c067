"""The objective room's interface: from advantages to a scalar loss, a pure function of the batch's columns.

Live columns (``logp``, ``entropy``, ``value``...) are leaves with a gradient; the trainer turns d loss / d column, taken over
the whole update batch, into parameter gradients by any micro-batching it likes. So an objective may couple rows, sequences
and groups freely, and its gradient never depends on how the work is cut.

Every slot works in log space and on flat columns: N rows (decisions), S sequences. Rows with ``weight`` 0 must not influence
the loss. Statistics over the batch are taken here, over all rows, never per micro-batch.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.fits import POLICY, Fit
from anypo.freshness import idle
from anypo.outlook import Outlook
from anypo.parts import Part


class Objective(Part, slot="objective"):
    """A scalar to minimise, by default in one joint step of the policy and every other learner."""

    def loss(self, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError

    def fits(self) -> tuple[Fit, ...]:
        return (Fit(self.loss, POLICY),)


class Lossless(Objective, name="none"):
    """No loss: for updates that learn from the fitness of whole episodes."""

    requires = frozenset({"fitness"})

    def fits(self) -> tuple[Fit, ...]:
        return ()


class Ratio(Part, slot="ratio"):
    """Log importance ratio per row: `log_ratio(batch, context) -> [N]`. A row's value may depend on other rows of its sequence;
    what a row's gradient reaches (its own ``logp`` or the whole sequence's) is part of the ratio's definition."""

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError

    def certain(self, algorithm: Any) -> str | None:
        """Why it is exactly 1 in every loss of `algorithm`, with the setting that would change that; None where it may differ."""
        return None


class Trust(Part, slot="trust"):
    """What is maximised per row, given the log ratio and the advantage, both [N] -> [N].

    needs_ratio: at a ratio of exactly 1 its gradient is A times that of log pi, up to a constant factor: it then does nothing."""

    needs_ratio: ClassVar[bool] = True

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return idle(self, algorithm) if self.needs_ratio else None

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
