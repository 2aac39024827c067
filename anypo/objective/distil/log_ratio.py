"""Distillation by the sampled tokens alone."""

from __future__ import annotations

from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.objective.distil.sources import _Taught


class LogRatio(_Taught, name="log_ratio"):
    """- aggregate( A log pi(y_t) ), A = sg[ log q(y_t) - log pi(y_t) ] with q the teacher's distribution: on tokens sampled from pi at
    temperature 1 its expectation has the gradient of KL(pi || q), at the cost of one number per decision instead of a
    vocabulary. A is taken over the whole vocabulary, whatever sampling left out (the sampled-token loss of OPSD,
    arXiv:2601.18734)."""

    def needs(self) -> frozenset[str]:
        return frozenset({"logp", self.taught("logp")})

    def loss(self, batch: Batch, context: Context) -> Tensor:
        logp = batch["logp"]
        gap = batch[self.taught("logp")].detach() - (logp.detach() + batch["log_mass"].to(logp.dtype))
        context.log("objective/log_ratio", batch.row_mean(gap))
        context.log("objective/shown_share", self.shown_share(batch))
        return -self.aggregate.reduce(gap * logp, batch)
