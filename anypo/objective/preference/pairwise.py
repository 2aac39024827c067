"""Proximal policy optimisation on pairs: the difference of two responses' rewards moves the difference of their log-ratios."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp
from anypo.objective.base import Objective
from anypo.objective.ratios import Denominator


class Pairwise(Objective, name="pairwise"):
    """Trajectory-wise pairwise policy gradient with importance weights and clipping (P3O, arXiv:2310.00212).

    For two responses of one prompt, q_i = log pi(y_i) / pi_old(y_i) summed over tokens, D the difference of their rewards
    (sequence column ``reward``, after shaping) and c = sg[ clip( e^(q_1 + q_2), 1 - weight_clip, 1 + weight_clip ) ]:
    ``separate`` (V1): 1/2 sum_i min( c D_i q_i, c D_i clip(q_i, +-drift_clip) ) with D_1 = D, D_2 = -D;
    ``joint`` (V2): min( c D q, c D clip(q, +-drift_clip) ) with q = (q_1 - q_2) / 2, which sees the pair's odds only.
    Either way the gradient at pi = pi_old is D grad( log pi(y_1) - log pi(y_2) ) / 2. More responses: the mean over all pairs
    of a prompt. Then the mean over prompts with at least one pair. Any offset per prompt drops out.
    """

    clip: Literal["separate", "joint"] = "separate"
    weight_clip: float = Field(0.2, ge=0.0)
    drift_clip: float = Field(0.2, ge=0.0)
    denominator: Denominator = "old"

    def needs(self) -> frozenset[str]:
        return frozenset({"logp", f"logp_{self.denominator}"})

    def required(self) -> frozenset[str]:
        return frozenset({"reference"}) if self.denominator == "ref" else frozenset()

    def loss(self, batch: Batch, context: Context) -> Tensor:
        drift = batch.sequence_sum(batch["logp"] - batch[f"logp_{self.denominator}"])
        reward = batch.sequences["reward"].to(drift.dtype)
        first, second = pairs(batch.group)
        gain = self.surrogate(drift[first], drift[second], reward[first] - reward[second], context)
        per_group = segments.mean(gain, batch.group[first], batch.n_groups)
        loss = -per_group.sum() / max(1, len(torch.unique(batch.group[first])))
        context.log("objective/surrogate", loss)
        return loss + batch["logp"].sum() * 0  # connected even without pairs

    def surrogate(self, first: Tensor, second: Tensor, difference: Tensor, context: Context) -> Tensor:
        """What is maximised per pair, from the two log-ratios and the difference of rewards, [P] each."""
        weight = bounded_exp((first + second).detach()).clamp(max(0.0, 1 - self.weight_clip), 1 + self.weight_clip)
        push = weight * difference
        if self.clip == "joint":
            gain, held = self._clipped((first - second) / 2, push)
        else:
            (one, held_one), (two, held_two) = self._clipped(first, push), self._clipped(second, -push)
            gain, held = (one + two) / 2, (held_one + held_two) / 2
        context.log("objective/clip_fraction", held.mean() if len(held) else 0.0)
        return gain

    def _clipped(self, drift: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
        free, bounded = push * drift, push * drift.clamp(-self.drift_clip, self.drift_clip)
        return torch.minimum(free, bounded), (bounded < free).to(free.dtype)


def pairs(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (i, j), i before j, of every pair of entries with equal id, both [P]."""
    found = [
        torch.combinations((ids == group).nonzero().flatten(), 2) for group in torch.unique(ids).tolist()
    ]  # combinations of one entry are none
    both = torch.cat(found) if found else torch.zeros(0, 2, dtype=torch.int64)
    return both[:, 0], both[:, 1]
