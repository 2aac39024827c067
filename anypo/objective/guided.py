"""Answers that were sampled with a guide in view and are trained on the plain prompt, or that somebody else has finished: their own
ratio and trust region inside one objective, so that they share its mean with the others. They are the trajectories of the tag
``guided``, from their fork on."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.numerics import LIMIT, counted
from anypo.data.records import GUIDED
from anypo.objective.base import Aggregate, Ratio, Regulariser, Trust
from anypo.objective.ratios import TokenRatio
from anypo.objective.trusts.clips import Clip
from anypo.policies.views import Plain, View


class Undivided(Ratio, name="undivided"):
    """pi(a_t) itself, its log-probability within [-20, 20]: a ratio whose denominator is taken as 1 (the few-shot members of ICPO,
    arXiv:2510.26519; off-policy shaping without knowing who sampled)."""

    reads = frozenset({"logp"})

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        return batch["logp"].clamp(-LIMIT, LIMIT)


class Saturating(Trust, name="saturating"):
    """A r / (r + gamma): bounded by A, its slope in log r is A r gamma / (r + gamma)^2, a quarter of A at r = gamma and less
    elsewhere, so that what is already likely and what is out of reach moves little. No clip.

    gamma: a constant (ICPO, arXiv:2510.26519: 0.1); without one the `quantile` of the ratios of each trajectory's counted
    decisions, at least 1e-4 and detached (Guide, arXiv:2506.13923).
    """

    gamma: float | None = Field(None, gt=0.0)
    quantile: float = Field(0.9, ge=0.0, le=1.0)

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        return torch.sigmoid(log_ratio - self.log_gamma(log_ratio.detach(), batch)) * advantage

    def log_gamma(self, log_ratio: Tensor, batch: Batch) -> Tensor:
        """log gamma of every row, [N]."""
        if self.gamma is not None:
            return torch.full_like(log_ratio, self.gamma).log()
        keep = counted(batch)
        ratio = log_ratio.clamp(-LIMIT, LIMIT).exp()
        found = segments.quantile(ratio[keep], batch.sequence[keep], batch.n_sequences, self.quantile)
        return batch.spread(found.clamp(min=1e-4)).log()


def guided(batch: Batch) -> Tensor:
    """Which decisions were made with help, bool [N]: those of trajectories of the tag, but for the first `fork` of one that has a
    fork, which the policy made alone."""
    return batch.spread(batch.tagged(GUIDED)) & (batch["position"] >= batch.spread(batch.sequences["fork"]))


class GuidedRatio(Ratio, name="guided"):
    """One ratio for the decisions of guided answers, another for all `others`."""

    requires = frozenset({f"tag:{GUIDED}"})
    guided: Ratio = TokenRatio(denominator="behaviour")
    others: Ratio = TokenRatio()

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        return torch.where(guided(batch), self.guided.log_ratio(batch, context), self.others.log_ratio(batch, context))


class GuidedTrust(Trust, name="guided"):
    """One trust region for the decisions of guided answers, another for all `others`."""

    needs_ratio = False
    requires = frozenset({f"tag:{GUIDED}"})
    guided: Trust = Saturating()
    others: Trust = Clip()

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        tagged = batch.tagged(GUIDED)
        context.log("objective/guided_share", tagged.to(advantage.dtype).mean() if len(tagged) else 0.0)
        return torch.where(
            guided(batch),
            self.guided.surrogate(log_ratio, advantage, batch, context),
            self.others.surrogate(log_ratio, advantage, batch, context),
        )


class PlainLikelihood(Regulariser, name="plain_likelihood"):
    """- coefficient * mean over trajectories of A times the mean log pi of their decisions on the plain prompt, whatever prompt they
    were sampled and are trained on: what was learned with a guide in view is carried over to where there is none (distillation of
    NudgeRL, arXiv:2605.15726). Neither ratio nor clip; negative advantages, too."""

    coefficient: float = Field(0.1, ge=0.0)
    view: View = Plain()
    reads = frozenset({"logp@plain", "advantage"})

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        value = batch.sequence_mean(batch["advantage"] * batch["logp@plain"]).sum() / max(1, batch.n_sequences)
        context.log("objective/plain_likelihood", -value)
        return -self.coefficient * value


__all__ = ["GuidedRatio", "GuidedTrust", "PlainLikelihood", "Saturating", "Undivided", "guided"]
