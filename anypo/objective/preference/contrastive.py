"""Pairwise and contrastive policy gradients: responses of one prompt are each other's baseline, whoever sampled them."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.objective.base import Objective


class Contrastive(Objective, name="contrastive"):
    """Contrastive policy gradient: minimise - ( dR ds - (beta/2) ds^2 ) over pairs of responses to one prompt, with dR the
    difference of their rewards and ds that of s(y) = log pi(y) - log pi_ref(y), summed over tokens (CoPG, arXiv:2406.19185).

    Its optimum is pi_ref exp(R/beta) / Z from data of any distribution with support: no importance weights. More than two
    responses: the mean over all ordered pairs of a group, then over groups with at least one pair. Reads the sequence column
    ``reward`` (after the credit room's shaping), not the advantage.
    """

    beta: float = Field(0.1, gt=0.0)
    reads = frozenset({"logp", "logp_ref"})
    requires = frozenset({"reference"})

    def loss(self, batch: Batch, context: Context) -> Tensor:
        score = batch.sequence_sum(batch["logp"] - batch["logp_ref"])
        reward = batch.sequences["reward"].to(score.dtype)
        loss = contrast(reward, score, self.beta, batch.group, batch.n_groups)
        context.log("objective/surrogate", loss)
        context.log("objective/kl_sequence", score.detach().mean() if len(score) else 0.0)
        return loss


def contrast(reward: Tensor, score: Tensor, beta: float, ids: Tensor, n: int) -> Tensor:
    """Mean over groups of the mean over ordered pairs (i, j) of (beta/2)(s_i - s_j)^2 - (R_i - R_j)(s_i - s_j), scalar.

    Written with deviations from the group mean: the sum over ordered pairs of d_R d_s is 2 K sum (R - mean R)(s - mean s).
    """
    size = segments.count(ids, n, score.dtype)
    off = score - segments.mean(score, ids, n)[ids]
    gain = (reward - segments.mean(reward, ids, n)[ids]) * off - beta / 2 * off * off
    paired = size > 1
    per_group = segments.sum(gain, ids, n) * 2 / (size - 1).clamp(min=1)
    return -torch.where(paired, per_group, torch.zeros_like(per_group)).sum() / paired.sum().clamp(min=1)
