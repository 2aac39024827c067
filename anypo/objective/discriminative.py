"""Right answers scored above wrong ones: group-relative learning as ranking, inside a trust region that is a constraint."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp, k1, k3
from anypo.freshness import always_one
from anypo.objective.aggregates import TokenMean
from anypo.objective.base import Aggregate, Objective, Regulariser
from anypo.objective.ratios import Denominator
from anypo.outlook import Outlook


class Discriminative(Objective, name="discriminative"):
    """- mean over groups of [ mean of s over positives - tau log mean exp(s / tau) over negatives ] (DisCO, arXiv:2505.12366).

    s: a response's mean log-probability (``likelihood``) or mean token ratio to the step's starting policy (``ratio``).
    The soft maximum gives each negative the weight softmax(s / tau); tau = inf is the plain difference of means (DisCO-b).
    Positives are responses above their group's mean reward, negatives those below: right and wrong where rewards are binary.
    Groups without both contribute 0 and are still divided by. Reads the sequence column ``reward``, no advantage.
    """

    score: Literal["likelihood", "ratio"] = "likelihood"
    tau: float = Field(10.0, gt=0.0)
    regularise: tuple[Regulariser, ...] = ()

    def needs(self) -> frozenset[str]:
        return frozenset({"logp"}) | (frozenset({"logp_old"}) if self.score == "ratio" else frozenset())

    def loss(self, batch: Batch, context: Context) -> Tensor:
        scores = batch.sequence_mean(self._rows(batch))
        reward = batch.sequences["reward"]
        above = reward - segments.mean(reward, batch.group, batch.n_groups)[batch.group]
        loss = -margins(scores, above, self.tau, batch.group, batch.n_groups).sum() / _present(batch)
        context.log("objective/surrogate", loss)
        for regulariser in self.regularise:
            loss = loss + regulariser.penalty(batch, TokenMean(), context)
        return loss

    def _rows(self, batch: Batch) -> Tensor:
        return batch["logp"] if self.score == "likelihood" else bounded_exp(batch["logp"] - batch["logp_old"])


def margins(scores: Tensor, above: Tensor, tau: float, ids: Tensor, n: int) -> Tensor:
    """mean of the scores [S] with above > 0, minus the soft maximum of those with above < 0, by group, [n]; 0 without both."""
    positive, negative = (above > 0).to(scores.dtype), (above < 0).to(scores.dtype)
    rivals = segments.sum(negative, ids, n)
    if tau == torch.inf:
        hardest = segments.mean(scores, ids, n, negative)
    else:
        top = segments.max(torch.where(above < 0, scores.detach(), -torch.inf), ids, n)
        top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
        exponent = torch.where(above < 0, (scores - top[ids]) / tau, torch.zeros_like(scores))
        mean = segments.mean(exponent.exp(), ids, n, negative)
        hardest = top + tau * torch.where(rivals > 0, mean, torch.ones_like(mean)).log()
    both = (segments.sum(positive, ids, n) > 0) & (rivals > 0)
    margin = segments.mean(scores, ids, n, positive) - hardest
    return torch.where(both, margin, torch.zeros_like(margin))


def _present(batch: Batch) -> int:
    """Groups with at least one response (at least 1)."""
    return max(1, len(torch.unique(batch.group)))


class ForwardKL(Regulariser, name="forward_kl"):
    """coefficient * KL(other || pi) per decision, where `other` sampled the decisions: the step's starting policy, or the sampler.

    With x = log pi - log other: k1 is -x, k3 is e^x - 1 - x. Both are unbiased under `other` as they stand, and so are their
    gradients; k3 is never negative. (`kl` estimates the opposite direction.) Reduced like the surrogate.
    """

    coefficient: float = Field(0.001, ge=0.0)
    estimator: Literal["k1", "k3"] = "k3"
    to: Denominator = "old"

    def needs(self) -> frozenset[str]:
        return frozenset({"logp", f"logp_{self.to}"})

    def required(self) -> frozenset[str]:
        return frozenset({"reference"}) if self.to == "ref" else frozenset()

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return None if self.to == "ref" else always_one("current", self.to, algorithm)

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        rows = (k1 if self.estimator == "k1" else k3)(batch[f"logp_{self.to}"] - batch["logp"])
        value = aggregate.reduce(rows, batch)
        context.log("objective/kl_penalty", self.coefficient * value)
        return self.coefficient * value
