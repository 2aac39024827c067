"""Retrospective verification: the fresh batch tells whether the last update helped, and the last batch is used once more."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Credit
from anypo.credit.pipeline import Pipeline
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.records import REPLAYED
from anypo.outlook import Outlook


class Retrospect(Credit, name="retrospect"):
    """Reinforces or takes back the previous update by what the policy earns after it (PIPO, arXiv:2604.00860).

    xi = (mean reward now - mean of the last `window` step means) / their standard deviation. A replayed rollout gets the
    pseudo-reward a_i phi(xi), with a_i = G A_i / sum |A_j| over its group (absolute attributions sum to the group's
    size; 0 when all A are) and phi(x) = x for x >= 0, `backward` x below. Fresh rollouts keep the advantage of `base`.
    Nothing is replayed until `window` step means are known, nor when they do not vary; |xi| is clamped to `most`. Its
    replay and update are ``previous_batch`` and ``phased``; ratios of replayed rollouts are against the policy that
    sampled them (``objective.ratio.denominator = behaviour``).
    """

    base: Credit = Pipeline()
    window: int = Field(8, ge=2)
    backward: float = Field(0.1, ge=0.0)
    most: float = Field(5.0, gt=0.0)
    requires = frozenset({"previous_batch"})

    def start(self) -> dict[str, Any]:
        return {"means": []}

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if outlook.steps > self.window:
            return None
        return (
            f"{self.window} step means must be known before anything is replayed, and the run has {outlook.steps} steps"
        )

    def assign(self, batch: Batch, context: Context) -> Batch:
        batch = self.base.assign(batch, context)
        replayed = torch.tensor([t.guidance == REPLAYED for t in batch.trajectories], dtype=torch.bool)
        if len(replayed) != batch.n_sequences:
            replayed = torch.zeros(batch.n_sequences, dtype=torch.bool)
        means: list[float] = context.memory[self]["means"]
        feedback = self._feedback(batch.sequences["reward"][~replayed], means, context)
        rows = replayed[batch.sequence]
        attribution = attributions(batch["advantage"], batch)
        batch = batch.with_rows(advantage=torch.where(rows, attribution * feedback, batch["advantage"]))
        return batch.with_sequences(phase=(~replayed).long())

    def _feedback(self, fresh: Tensor, means: list[float], context: Context) -> float:
        """phi(xi) of this step; the step's mean joins the history."""
        mean = float(fresh.double().mean()) if len(fresh) else 0.0
        xi = 0.0
        if len(means) == self.window:
            spread = statistics.stdev(means)
            xi = (mean - statistics.fmean(means)) / spread if spread > 1e-12 else 0.0
        means.append(mean)
        del means[: -self.window]
        context.log("credit/feedback", xi)
        xi = min(max(xi, -self.most), self.most)
        return xi if xi >= 0 else self.backward * xi


def attributions(advantage: Tensor, batch: Batch) -> Tensor:
    """G A / sum over the group of |A|, A a sequence's mean advantage, per row [N]; 0 in a group without any."""
    per_sequence = batch.sequence_mean(advantage)
    total = segments.sum(per_sequence.abs(), batch.group, batch.n_groups)
    size = segments.count(batch.group, batch.n_groups, advantage.dtype)
    factor = torch.where(
        total > 0, size / torch.where(total > 0, total, torch.ones_like(total)), torch.zeros_like(total)
    )
    return advantage * factor[batch.row_group]
