"""The credit pipeline: every step a part, the order explicit."""

from __future__ import annotations

import torch

from anypo.context import Context
from anypo.credit.base import (
    Centre,
    Combine,
    Components,
    Credit,
    Granularity,
    GroupWeight,
    Normalise,
    Scale,
    Select,
    Shape,
    Shaping,
)
from anypo.credit.centres.groups import GroupMean
from anypo.credit.plain import Scalar, Summed, Unnormalised, Unscaled, Unweighted, Whole
from anypo.credit.reading import EARNED
from anypo.data.batch import Batch


class Pipeline(Credit, name="pipeline"):
    """shaping -> components -> centre -> scale -> group weight -> combine -> normalise -> granularity -> select -> shape.

    With all defaults: reward minus group mean, the same for every decision of a trajectory.
    """

    shaping: tuple[Shaping, ...] = ()
    components: Components = Scalar()
    centre: Centre = GroupMean()
    scale: Scale = Unscaled()
    group_weight: GroupWeight = Unweighted()
    combine: Combine = Summed()
    normalise: Normalise = Unnormalised()
    granularity: Granularity = Whole()
    select: tuple[Select, ...] = ()
    shape: tuple[Shape, ...] = ()

    def assign(self, batch: Batch, context: Context) -> Batch:
        batch = batch.with_sequences(**{EARNED: batch.sequences["reward"]})
        for shaping in self.shaping:
            batch = shaping.shape(batch, context)
        values = self.components.matrix(batch)
        centred = values - self.centre.baseline(values, batch, context)
        scaled = centred / self.scale.divisor(values, centred, batch, context)
        weighted = scaled * self.group_weight.factor(values, batch, context).unsqueeze(1)
        combined = self.combine.combine(weighted, self.components.worth(batch), batch, context)
        advantages = self.normalise.normalise(combined, batch, context)
        batch = batch.with_sequences(advantage=advantages)
        batch = batch.with_rows(advantage=self.granularity.spread(advantages, batch, context))
        for select in self.select:
            batch = select.select(batch, context)
        rows = batch["advantage"]
        for shape in self.shape:
            rows = shape.shape(rows, batch, context)
        _log(rows, batch, context)
        return batch.with_rows(advantage=rows)


def _log(rows: torch.Tensor, batch: Batch, context: Context) -> None:
    live = (rows != 0) & (batch.weight > 0)
    context.log("credit/advantage_abs", batch.row_mean(rows.abs()))
    context.log("credit/live_share", live.float().mean() if len(rows) else 0.0)
