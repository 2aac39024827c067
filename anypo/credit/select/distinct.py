"""Rollouts that oppose one they hardly differ from: pushing one up and the other down cancels on what they share."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.alike import alikeness
from anypo.credit.base import Select
from anypo.credit.reading import outcome
from anypo.data.batch import Batch
from anypo.parts import Part


class Distance(Part, slot="distance"):
    """How far two rollouts of a group are from each other."""

    def between(self, batch: Batch, members: list[int]) -> Tensor:
        """Distances [M, M] among the sequences `members`, 0 where two are alike; NaN where it is not known."""
        raise NotImplementedError


class NGrams(Distance, name="ngrams"):
    """1 - the share of n-grams that two rollouts have in common, n from 1 to `longest`, each as often as both have it (Dice): 0 for
    the same text, 1 for texts without a common token. It knows nothing of what is right."""

    longest: int = Field(3, ge=1)

    def between(self, batch: Batch, members: list[int]) -> Tensor:
        return torch.from_numpy(1 - alikeness([batch.trajectories[i] for i in members], self.longest))


class ScoreGap(Distance, name="score"):
    """The difference of two fine-grained scores in [0, 1], a reward component that some signal writes: a language model's grade of
    the reasoning (signal ``judge`` with weight 0), as in DaGRPO's paper."""

    component: str = "judge"

    def between(self, batch: Batch, members: list[int]) -> Tensor:
        score = outcome(batch, self.component)[members].double()
        return (score[:, None] - score).abs()


class Distinct(Select, name="distinct"):
    """Drop rollouts that oppose nearly identical ones (DaGRPO, arXiv:2512.06337): pushing one up and the other down cancels on
    what they share and explodes on the little they do not.

    A right and a wrong rollout of one group conflict when their `distance` is below `threshold` times the mean distance of such
    pairs in the group. `rule`: drop a rollout with only opposites in conflict (``all``), or with any (``any``). Under ``all`` and
    a threshold of at most 1 the pair that differs most is never dropped, so a group with right and wrong answers keeps some of
    both. Demonstrations (anchors) are opposites like others, and never dropped. Advantages are those of the full group.
    """

    distance: Distance = NGrams()
    threshold: float = Field(0.75, ge=0.0)
    rule: Literal["all", "any"] = "all"
    outcome: str = ""
    right: float = 1.0

    def select(self, batch: Batch, context: Context) -> Batch:
        right = outcome(batch, self.outcome) >= self.right - 1e-9
        drop = torch.zeros(batch.n_sequences, dtype=torch.bool)
        for group in torch.unique(batch.group).tolist():
            members = (batch.group == group).nonzero().flatten()
            opposite = right[members][:, None] != right[members]
            if bool(opposite.any()):
                drop[members] = self._conflicting(self.distance.between(batch, members.tolist()), opposite)
        drop &= ~batch.sequences["demo"]
        context.log("credit/conflict_share", drop.float().mean() if len(drop) else 0.0)
        return batch.select(~drop)

    def _conflicting(self, distance: Tensor, opposite: Tensor) -> Tensor:
        """Which members of a group conflict, bool [M], from distances and who opposes whom, both [M, M]."""
        close = opposite & (distance < self.threshold * distance[opposite].nanmean())
        return close.any(1) if self.rule == "any" else opposite.any(1) & (close == opposite).all(1)
