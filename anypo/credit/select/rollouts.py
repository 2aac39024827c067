"""Selection: which rollouts and which decisions are trained on, given their advantages."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Select
from anypo.credit.centres.groups import median
from anypo.credit.reading import row_order, sequence_order
from anypo.data import segments
from anypo.data.batch import Batch


def blend(first: float, last: float, context: Context) -> float:
    """Linear schedule from `first` at step 0 to `last` at the final step."""
    progress = context.step / max(1, context.total - 1)
    return first + (last - first) * min(1.0, max(0.0, progress))


class Live(Select, name="live"):
    """Drop rollouts whose advantage is zero."""

    def select(self, batch: Batch, context: Context) -> Batch:
        return batch.select(batch.sequences["advantage"] != 0)


class AdvantageVariance(Select, name="advantage_variance"):
    """Keep the rollouts whose advantages vary most (D3S, arXiv:2509.22115; PODS chooses by reward, arXiv:2504.13818).

    The share kept goes linearly from `first` to `last` over the run; `scope`: out of the whole batch, or out of each group. The
    subset of a given size with the largest variance is always the k largest and the rest smallest; every k is tried.
    """

    first: float = Field(0.25, gt=0.0, le=1.0)
    last: float = Field(0.5, gt=0.0, le=1.0)
    scope: Literal["batch", "group"] = "batch"

    def select(self, batch: Batch, context: Context) -> Batch:
        share = blend(self.first, self.last, context)
        advantages = batch.sequences["advantage"].double()
        order = sequence_order(batch, advantages)
        keep = torch.zeros(batch.n_sequences, dtype=torch.bool)
        ids = torch.zeros_like(batch.group) if self.scope == "batch" else batch.group
        for group in torch.unique(ids).tolist():
            members = order[ids[order] == group]
            size = max(1, round(share * len(members)))
            keep[members[widest(advantages[members], size)]] = True
        context.log("credit/kept_rollouts", keep.float().mean() if len(keep) else 0.0)
        return batch.select(keep)


def widest(descending: Tensor, size: int) -> Tensor:
    """Indices of the `size` entries of a descending [n] with the largest variance: some of both ends, [size]."""
    n = len(descending)
    if size >= n:
        return torch.arange(n)
    zero = descending.new_zeros(1)
    total = torch.cat([zero, descending.cumsum(0)])
    square = torch.cat([zero, (descending**2).cumsum(0)])
    k = torch.arange(size + 1)
    low = n - (size - k)  # the last size - k entries begin here
    first = total[k] + total[n] - total[low]
    second = square[k] + square[n] - square[low]
    best = int((second / size - (first / size) ** 2).argmax())
    return torch.cat([torch.arange(best), torch.arange(n - (size - best), n)])


class UncertainTokens(Select, name="uncertain_tokens"):
    """Keep the decisions with the largest |advantage| times policy entropy, over the whole batch (D3S, arXiv:2509.22115). The
    share kept goes linearly from `first` to `last`."""

    first: float = Field(0.2, gt=0.0, le=1.0)
    last: float = Field(0.5, gt=0.0, le=1.0)
    reads = frozenset({"entropy_old"})

    def select(self, batch: Batch, context: Context) -> Batch:
        counted = batch.weight > 0
        key = batch["advantage"].abs() * batch["entropy_old"].to(batch["advantage"].dtype)
        order = row_order(batch, torch.where(counted, key, -torch.inf))
        size = round(blend(self.first, self.last, context) * int(counted.sum()))
        keep = torch.zeros_like(counted)
        keep[order[: max(1, size)]] = True
        return batch.with_rows(weight=batch.weight * (keep & counted))


class UnlikelyTokens(Select, name="unlikely_tokens"):
    """Keep the decisions whose probability when the step began was below `below` (the probability mask of SPO,
    arXiv:2505.23564): credit goes to the places where the text could have gone elsewhere."""

    below: float = Field(0.9, gt=0.0)
    reads = frozenset({"logp_old"})

    def select(self, batch: Batch, context: Context) -> Batch:
        cutpoints = batch["logp_old"].exp() < self.below
        return batch.with_rows(weight=batch.weight * cutpoints)


class Window(Select, name="window"):
    """Keep the first `size` decisions of every trajectory, counted from where it left its parent."""

    size: int = Field(5, ge=1)

    def select(self, batch: Batch, context: Context) -> Batch:
        own = batch["position"] - batch.spread(batch.sequences["fork"].clamp(min=0))
        return batch.with_rows(weight=batch.weight * (own < self.size))


class OwnDecisions(Select, name="own_decisions"):
    """Train the decisions that a forked rollout shares with its parent in the parent only."""

    def select(self, batch: Batch, context: Context) -> Batch:
        copied = batch["position"] < batch.spread(batch.sequences["fork"])
        return batch.with_rows(weight=batch.weight * ~copied)


class DropPivot(Select, name="drop_pivot"):
    """Drop from every group one rollout whose reward is the group's (lower) median: its advantage is zero, and with one rollout
    more than the budget the backward cost is that of the budget (MC-GRPO, arXiv:2601.22582)."""

    def select(self, batch: Batch, context: Context) -> Batch:
        reward = batch.sequences["reward"]
        at_median = reward == median(reward, batch, lower=True)[batch.group]
        size = segments.count(batch.group, batch.n_groups)[batch.group]
        first = (
            segments.rank((~at_median).long() * (1 << 40) + batch.sequences["sample"], batch.group, batch.n_groups) == 0
        )
        return batch.select(~(first & at_median & (size > 1)))


class Counted(Select, name="counted"):
    """Weigh every decision by how often its trajectory was drawn (`extra` ``count``; 1 where absent)."""

    def select(self, batch: Batch, context: Context) -> Batch:
        counts = [float(t.extra.get("count", 1)) for t in batch.trajectories] or [1.0] * batch.n_sequences
        return batch.with_rows(weight=batch.weight * batch.spread(torch.tensor(counts, dtype=batch.weight.dtype)))
