"""Keeps what the reference would not have produced by itself: positive advantages only, the larger the likelier (A-LoL)."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from anypo.context import Context
from anypo.credit.base import Select
from anypo.data.batch import Batch
from anypo.data.numerics import keyed_uniform


class Leftover(Select, name="leftover"):
    """Drops trajectories with an advantage below zero and keeps `share` of the others, drawn without replacement with
    probability proportional to the advantage (A-LoL, arXiv:2305.14718: the filter and its good_priority sampling). An advantage
    of zero carries no gradient and is dropped too. share = 1 keeps all of them.

    The draw takes the largest u^(1/A) of uniform numbers u (Efraimidis and Spirakis, 2006), keyed by prompt and sample.
    """

    share: float = Field(1.0, gt=0.0, le=1.0)

    def select(self, batch: Batch, context: Context) -> Batch:
        advantage = batch.sequences["advantage"].double()
        keep = advantage > 0
        context.log("credit/positive_share", keep.double().mean() if len(keep) else 0.0)
        if self.share < 1 and bool(keep.any()):
            noise = keyed_uniform((batch.sequences["prompt"], batch.sequences["sample"]), context, 47)
            key = torch.where(keep, noise.clamp(min=1e-300).log() / advantage.clamp(min=1e-300), -torch.inf)
            chosen = key.argsort(descending=True, stable=True)[: math.ceil(self.share * int(keep.sum()))]
            keep = torch.zeros_like(keep).index_fill(0, chosen, True)
        return batch.select(keep)
