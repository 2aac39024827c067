"""The policy-gradient objective: ratio x trust region x corrections x aggregation, plus regularisers."""

from __future__ import annotations

import torch
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import LIMIT, bounded_exp, counted, effective_sample_size, k3
from anypo.objective.aggregates import TokenMean
from anypo.objective.base import Aggregate, Correction, Objective, Ratio, Regulariser, Trust
from anypo.objective.ratios import TokenRatio
from anypo.objective.trusts.clips import Clip


class PolicyGradient(Objective, name="policy_gradient"):
    """loss = - aggregate( corrections * trust(ratio, advantage) ) + sum of regularisers.

    The four-factor form of the unified policy-gradient estimator (arXiv:2509.04419): mask x 1/denominator x advantage x
    likelihood gradient. Any ratio goes with any trust, aggregate, correction and regulariser unless a part refuses.
    """

    ratio: Ratio = TokenRatio()
    trust: Trust = Clip()
    aggregate: Aggregate = TokenMean()
    corrections: tuple[Correction, ...] = ()
    regularise: tuple[Regulariser, ...] = ()

    reads = frozenset({"logp", "advantage"})

    def loss(self, batch: Batch, context: Context) -> Tensor:
        log_ratio = self.ratio.log_ratio(batch, context)
        surrogate = self.trust.surrogate(log_ratio, batch["advantage"], batch, context)
        for correction in self.corrections:
            surrogate = surrogate * correction.factor(batch, context)
        loss = -self.aggregate.reduce(surrogate, batch)
        context.log("objective/surrogate", loss)
        describe(log_ratio.detach(), batch, context)
        for regulariser in self.regularise:
            loss = loss + regulariser.penalty(batch, self.aggregate, context)
        return loss


def describe(log_ratio: Tensor, batch: Batch, context: Context) -> None:
    """Log what the ratios look like and how far the policy is from the others the batch knows. All finite.

    objective/ratio_max, ratio_min: extreme ratios; ess: effective sample size as a share of the rows, in (0, 1];
    kl_old, kl_behaviour, kl_ref: k3 estimates, in nats per decision, of the divergence from each of these policies (under the
    current one for kl_ref, under the other one for the two that sampled or started the step); entropy: nats per decision.
    """
    keep = counted(batch)
    if not bool(keep.any()):
        return
    kept = log_ratio[keep]
    context.log("objective/ratio_max", bounded_exp(kept.max()))
    context.log("objective/ratio_min", bounded_exp(kept.min()))
    context.log("objective/ess", effective_sample_size(log_ratio, keep))
    logp = batch["logp"].detach()
    for name, sign in (("old", -1.0), ("behaviour", -1.0), ("ref", 1.0)):
        if f"logp_{name}" in batch.rows:
            gap = (logp - batch[f"logp_{name}"]).clamp(-LIMIT, LIMIT)
            context.log(f"objective/kl_{name}", batch.row_mean(k3(sign * gap)))
    for name in ("entropy", "entropy_old"):
        if name in batch.rows:
            context.log("objective/entropy", batch.row_mean(torch.nan_to_num(batch[name].detach())))
            break
