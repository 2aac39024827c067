"""The policy-gradient objective: ratio x trust region x aggregation x regularisers."""

from __future__ import annotations

from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.objective.aggregates import TokenMean
from anypo.objective.base import Aggregate, Correction, Objective, Ratio, Regulariser, Trust
from anypo.objective.ratios import TokenRatio
from anypo.objective.trusts import Clip


class PolicyGradient(Objective, name="policy_gradient"):
    """loss = - aggregate( corrections * trust(ratio, advantage) ) + sum of regularisers."""

    ratio: Ratio = TokenRatio()
    trust: Trust = Clip()
    aggregate: Aggregate = TokenMean()
    corrections: tuple[Correction, ...] = ()
    regularise: tuple[Regulariser, ...] = ()

    reads = frozenset({"logp", "advantage"})

    def loss(self, batch: Batch, context: Context) -> Tensor:
        surrogate = self.trust.surrogate(self.ratio.log_ratio(batch, context), batch["advantage"], batch, context)
        for correction in self.corrections:
            surrogate = surrogate * correction.factor(batch, context)
        loss = -self.aggregate.reduce(surrogate, batch)
        context.log("objective/surrogate", loss)
        for regulariser in self.regularise:
            loss = loss + regulariser.penalty(batch, self.aggregate, context)
        return loss
