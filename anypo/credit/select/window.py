"""Selections that know how a batch was generated: this step's window of a longer answer, and imitation targets."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Select
from anypo.data.batch import Batch
from anypo.data.records import TARGET


class CurrentWindow(Select, name="current_window"):
    """Only decisions of this step's window count (those of earlier windows were trained on when they were fresh; T-PPO,
    arXiv:2506.15050)."""

    requires = frozenset({"windows"})

    def select(self, batch: Batch, context: Context) -> Batch:
        begun = torch.tensor([int(t.extra.get("window", 0)) for t in batch.trajectories], dtype=torch.int64)
        fresh = batch["position"] >= batch.spread(begun)
        context.log("credit/window_share", batch.row_mean(fresh.to(batch.weight.dtype)))
        return batch.with_rows(weight=batch.weight * fresh)


class ReplaceByTargets(Select, name="replace_by_targets"):
    """Imitation targets get the advantage `value` and take the places of the first rollouts of the batch (by group and
    sample), whose number stays what it was (AEPO, arXiv:2510.08141)."""

    requires = frozenset({"targets"})
    value: float = Field(1.0, gt=0.0)

    def select(self, batch: Batch, context: Context) -> Batch:
        target = targets(batch)
        own = (~target).nonzero().flatten()
        key = batch.group[own] * (int(batch.sequences["sample"].max()) + 1 if len(target) else 1)
        order = own[(key + batch.sequences["sample"][own]).argsort(stable=True)]
        keep = torch.ones_like(target)
        keep[order[: int(target.sum())]] = False
        fixed = torch.where(target, self.value, batch.sequences["advantage"])
        rows = torch.where(batch.spread(target), self.value, batch["advantage"])
        context.log("credit/target_share", target.float().mean() if len(target) else 0.0)
        return batch.with_rows(advantage=rows).with_sequences(advantage=fixed).select(keep)


def targets(batch: Batch) -> Tensor:
    """Which sequences are imitation targets, bool [S]."""
    return torch.tensor([t.guidance == TARGET for t in batch.trajectories], dtype=torch.bool)
