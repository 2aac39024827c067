"""The baseline of least variance when trajectories carry importance weights."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Centre
from anypo.data import segments
from anypo.data.batch import Batch


class OptimalBaseline(Centre, name="optimal_baseline"):
    """b = sum_i W_i R_i / sum_i W_i over the group, W_i = w_i^2 |g_i|^2 (off-policy optimal baseline of VCPO, arXiv:2602.17616).

    w_i: product of the trajectory's ratios to its sampler (whole, not cut off; the release takes the norm of the gradient with its cut
    weight inside, so that w counts twice there); g_i: gradient of its log-probability, the ``sum`` over its L decisions, as
    in the released recipe (mit-han-lab/vcpo c7f030f, normalize_by_length=False: W grows with L), or their ``mean``, as it enters an
    update that averages over decisions (the paper's formula: W falls with L); one backward pass each; both for the weights at the
    step's start, so ``logp_old`` has to be the trainer's. b minimises sum_i | w_i (R_i - b) g_i |^2; with equal W it is the group
    mean, as it is where all W vanish.
    """

    score: Literal["sum", "mean"] = "sum"

    reads = frozenset({"logp_old", "logp_behaviour", "score_norm"})

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        log_weight = 2 * batch.sequence_sum(batch["logp_old"] - batch["logp_behaviour"]).double()
        log_weight = log_weight + batch.sequences["score_norm"].double().log()
        if self.score == "sum":  # the column is of the mean log-probability
            log_weight = (
                log_weight + 2 * batch.sequence_sum(torch.ones_like(batch.weight)).double().clamp(min=1e-12).log()
            )
        weight = relative(log_weight, batch.group, batch.n_groups)
        return weighted_mean(values, weight.to(values.dtype), batch.group, batch.n_groups)[batch.group]


def relative(log_weights: Tensor, ids: Tensor, n: int) -> Tensor:
    """Weights [S] relative to the largest of their segment, so that none overflows; all 1 where every one is 0 (log -inf)."""
    top = segments.max(log_weights, ids, n)[ids]
    dead = torch.isinf(top)
    return torch.where(dead, torch.ones_like(top), (log_weights - torch.where(dead, torch.zeros_like(top), top)).exp())


def weighted_mean(values: Tensor, weights: Tensor, ids: Tensor, n: int) -> Tensor:
    """Weighted mean of [S, K] by segment, [n, K]; exactly the common value where all members are equal."""
    origin = segments.min(values, ids, n)
    origin = torch.where(torch.isfinite(origin), origin, torch.zeros_like(origin))
    return origin + segments.mean(values - origin[ids], ids, n, weights)
