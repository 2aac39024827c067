"""Direct preference optimisation: pairs of a chosen and a rejected answer, without rewards."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.objective.base import Objective

CHOSEN, REJECTED = "tag/chosen", "tag/rejected"
"""Sequence columns that say which side of its pair a sequence is."""


class PairLoss(Objective, name="pairs"):
    """-(1 - s) log sigmoid(m) - s log sigmoid(-m), mean over pairs, with s = `label_smoothing` and the implicit margin

        m = beta ( (logp_c - ref_c) - (logp_r - ref_r) ),

    logp and ref the sums of a sequence's counting decisions under the policy and the frozen initial one (DPO, arXiv:2305.18290;
    s the assumed share of wrong labels: conservative DPO). A pair is a group with one chosen and one
    rejected sequence (`margins`); groups that lack a side are left out, and a batch without pairs has loss 0.
    """

    beta: float = Field(0.1, gt=0.0)
    label_smoothing: float = Field(0.0, ge=0.0, lt=0.5)

    def needs(self) -> frozenset[str]:
        return frozenset({"logp", "logp_ref"})

    def required(self) -> frozenset[str]:
        return frozenset({"reference"})

    def loss(self, batch: Batch, context: Context) -> Tensor:
        margin = self.beta * margins(batch)
        each = -(1 - self.label_smoothing) * logsigmoid(margin) - self.label_smoothing * logsigmoid(-margin)
        found = max(1, len(margin))
        context.log("objective/pairs", float(len(margin)))
        if len(margin):
            context.log("objective/margin", margin.detach().mean())
            context.log("objective/ranked_right", (margin.detach() > 0).double().mean())
        return each.sum() / found + batch["logp"].sum() * 0  # connected even without pairs


def margins(batch: Batch) -> Tensor:
    """log pi/ref of the chosen minus that of the rejected sequence, for every group that has both, [pairs]. Several on a side are
    averaged."""
    ratio = batch.sequence_sum(batch["logp"] - batch["logp_ref"])
    none = torch.zeros(batch.n_sequences, dtype=torch.bool, device=ratio.device)
    chosen, rejected = (batch.sequences.get(name, none) for name in (CHOSEN, REJECTED))
    sides = [segments.mean(ratio[side], batch.group[side], batch.n_groups) for side in (chosen, rejected)]
    sizes = [segments.count(batch.group[side], batch.n_groups) for side in (chosen, rejected)]
    return (sides[0] - sides[1])[(sizes[0] > 0) & (sizes[1] > 0)]
