"""Conflict tokens: what right and wrong answers of one prompt share at the same place should not be pushed both ways (GTPO)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Shape
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.tokens import decided_tokens


class EntropyFilter(Shape, name="entropy_filter"):
    """A <- 0 for trajectories whose mean token entropy exceeds `most` nats, A <- A - scale * mean entropy for the others (GTPO,
    arXiv:2508.03772; most = 0.7 is about ln 2: beyond it the mean next-token distribution is flatter than a fair coin)."""

    most: float = Field(0.7, gt=0.0)
    scale: float = Field(0.1, ge=0.0)
    reads = frozenset({"entropy_old"})

    def shape(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        entropy = batch.sequence_mean(batch["entropy_old"].to(advantages.dtype))
        flat = entropy > self.most
        context.log("credit/entropy_filtered", flat.float().mean() if len(flat) else 0.0)
        shaped = advantages - self.scale * batch.spread(entropy)
        return torch.where(batch.spread(flat), torch.zeros_like(advantages), shaped)


class ConflictTokens(Shape, name="conflict_tokens"):
    """Advantages of conflict tokens are multiplied by `positive` in trajectories with A > 0 and by `negative` in those
    with A < 0 (GTPO, arXiv:2508.03772).

    A token at a position is in conflict when it stands there in a positive and in a negative trajectory of the group. Only runs
    count: from the first decision on, and, with trajectories aligned at their last decision, from the end backwards; a token
    inside both gets the factor twice. `normalise` divides a trajectory by its number of conflict tokens (at least 1), as
    the released code does, which shrinks heavily conflicting trajectories a lot. Signs are those of the trajectory's advantage
    before any shaping.
    """

    positive: float = Field(2.0, ge=0.0)
    negative: float = Field(0.0, ge=0.0)
    normalise: bool = True

    def shape(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        sign = torch.sign(batch.sequences["advantage"])
        token = decided_tokens(batch)
        forward = run(batch, token, batch["position"], sign, reverse=False)
        behind = batch.spread(batch.sequences["length"]) - 1 - batch["position"]
        backward = run(batch, token, behind, sign, reverse=True)
        factor = batch.spread(torch.where(sign > 0, self.positive, self.negative)).to(advantages.dtype)
        weight = torch.where(forward, factor, 1.0) * torch.where(backward, factor, 1.0)
        conflict = (forward | backward).to(advantages.dtype)
        context.log("credit/conflict_tokens", batch.row_mean(conflict))
        if self.normalise:
            weight = weight / batch.spread(batch.sequence_sum(conflict).clamp(min=1))
        return advantages * weight


def run(batch: Batch, token: Tensor, place: Tensor, sign: Tensor, reverse: bool) -> Tensor:
    """Rows in the unbroken run of conflicts that begins at the first decision (the last one with `reverse`), bool [N]. `place`:
    where each row stands in the alignment; `sign` [S] of the trajectories."""
    key = torch.stack([batch.row_group, place, token], 1)
    distinct, ids = torch.unique(key, dim=0, return_inverse=True)
    side = batch.spread(sign)
    seen = lambda which: segments.sum((side == which).double(), ids, len(distinct))[ids] > 0
    conflict = (seen(1) & seen(-1) & (side != 0)).double()
    broken = segments.cumsum(1 - conflict, batch.sequence, batch.n_sequences, reverse=reverse)
    return broken == 0
