"""Shaping the data distribution of group-relative REINFORCE: dropping failures that outnumber successes (RED-Drop)."""

from __future__ import annotations

import torch
from pydantic import Field

from anypo.context import Context
from anypo.credit.base import Select
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.numerics import keyed_uniform


class DropNegatives(Select, name="drop_negatives"):
    """In every group, drop random trajectories with negative advantage until they are at most `ratio` times as many as
    those with positive advantage (RED-Drop, arXiv:2509.24203). Groups without positives keep all; advantages are not
    recomputed."""

    ratio: float = Field(1.0, gt=0.0)

    def select(self, batch: Batch, context: Context) -> Batch:
        advantage, group, n = batch.sequences["advantage"], batch.group, batch.n_groups
        positives = segments.sum((advantage > 0).double(), group, n)[group]
        noise = keyed_uniform((batch.sequences["prompt"], batch.sequences["sample"]), context, 43)
        place = segments.rank(torch.where(advantage < 0, noise, 2.0), group, n)
        drop = (advantage < 0) & (positives > 0) & (place >= self.ratio * positives)
        context.log("credit/dropped_negatives", drop.float().mean() if len(drop) else 0.0)
        return batch.select(~drop)
