"""Step rules: what one optimiser step may do with the statistics of its whole batch."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import counted, effective_sample_size
from anypo.objective.base import Ratio
from anypo.objective.ratios import SequenceRatio
from anypo.outlook import Outlook
from anypo.update.base import StepRule


class EssRate(StepRule, name="ess_rate"):
    """Learning rate x min(1, q / target)^power with q = ESS / B the effective sample size of the trajectories' importance weights
    (VCPO, arXiv:2602.17616). It acts after Adam's normalisation, where scaling the loss would be invisible.

    The weight of a trajectory is the value of `ratio` on its rows (by default the product of its token ratios to the sampler).
    """

    power: float = Field(0.5, gt=0.0)
    target: float = Field(1.0, gt=0.0)
    ratio: Ratio = SequenceRatio(denominator="behaviour", normalise=False)

    def refuse(self, algorithm: Any) -> str | None:
        if isinstance(self.ratio, SequenceRatio) and self.ratio.span == "sequence":
            return None
        return "its weights are those of whole trajectories, so `ratio` must be a sequence ratio"

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return self.ratio.certain(algorithm)

    def learning_rate(self, batch: Batch, context: Context) -> float:
        last = batch["position"] == batch.spread(batch.sequences["length"]) - 1
        live = torch.zeros(batch.n_sequences, dtype=torch.bool)
        live[batch.sequence[counted(batch)]] = True
        log_weights = self.ratio.log_ratio(batch, context)[last]
        share = float(effective_sample_size(log_weights, live[batch.sequence[last]]))
        context.log("update/ess", share)
        return min(1.0, share / self.target) ** self.power
