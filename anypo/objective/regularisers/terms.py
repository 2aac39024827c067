"""Regularisers: further terms of the loss. KL divergences, entropy, likelihood of chosen tokens, ratio variance, and any of them
under a constraint."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data import numerics, segments
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp
from anypo.data.tokens import ROLE_COLUMNS, role_counts
from anypo.freshness import always_one
from anypo.objective.base import Aggregate, Ratio, Regulariser
from anypo.objective.ratios import Denominator, TokenRatio
from anypo.outlook import Outlook, moment, said_of
from anypo.update.multipliers import DualAscent, Multiplier

ESTIMATORS = {"k1": numerics.k1, "k2": numerics.k2, "k3": numerics.k3}


class KL(Regulariser, name="kl"):
    """coefficient * KL(pi || other) per decision, estimated on the decisions taken, reduced like the surrogate.

    to: the reference (needs one), the step's starting policy, or the sampler.
    estimator: k1 log(p/q); k2 its square / 2; k3 q/p - 1 + log(p/q) (GRPO).
    gradient: ``direct`` differentiates the estimate as it stands; ``unbiased`` differentiates r * estimate with r = pi/pi_old, so
    that the sampling distribution's own dependence on the weights is counted. On-policy, the gradient of KL(pi || q) is
    given by k2 directly and by k1 or k3 unbiased; k3 directly gives that of KL(q || pi); k1 directly has expectation zero
    and is refused.
    """

    coefficient: float = Field(0.001, ge=0.0)
    estimator: Literal["k1", "k2", "k3"] = "k3"
    gradient: Literal["direct", "unbiased"] = "direct"
    to: Denominator = "ref"

    def needs(self) -> frozenset[str]:
        return frozenset({"logp", f"logp_{self.to}"}) | ({"logp_old"} if self.gradient == "unbiased" else set())

    def required(self) -> frozenset[str]:
        return frozenset({"reference"}) if self.to == "ref" else frozenset()

    def refuse(self, algorithm: Any) -> str | None:
        if self.estimator == "k1" and self.gradient == "direct":
            return "the gradient of k1 itself has expectation zero; set gradient to 'unbiased', or estimator to 'k2' or 'k3'"
        return None

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return None if self.to == "ref" else always_one("current", self.to, algorithm)

    def divergence(self, batch: Batch) -> Tensor:
        """The estimate per decision, [N]."""
        rows = ESTIMATORS[self.estimator](batch["logp"] - batch[f"logp_{self.to}"])
        return rows * bounded_exp(batch["logp"] - batch["logp_old"]) if self.gradient == "unbiased" else rows

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        value = aggregate.reduce(self.divergence(batch), batch)
        context.log("objective/kl_penalty", self.coefficient * value)
        return self.coefficient * value


class HardnessKL(KL, name="hardness_kl"):
    """KL whose estimate counts `hard` times on decisions of rollouts that their generator found hard (reward component ``hard``),
    and once on all others (CLPO, arXiv:2509.25004): what is hard may move further from the reference. Scaled before it is reduced."""

    hard: float = Field(0.5, ge=0.0)
    requires = frozenset({"hardness"})

    def required(self) -> frozenset[str]:
        return super().required() | self.requires

    def divergence(self, batch: Batch) -> Tensor:
        rows = super().divergence(batch)
        marks = batch.sequences.get("reward/hard")
        if marks is None:  # nobody has spoken
            return rows
        return rows * torch.where(batch.spread(marks) > 0.5, self.hard, 1.0).to(rows.dtype)


class KLConvex(Regulariser, name="kl_convex"):
    """coefficient * ( lambda KL(pi || ref) + (1 - lambda) KL(pi || old) ): tight to the base model early, then half to the
    base and half to the step's starting policy (ReMix, arXiv:2507.06892).

    lambda(t) = max( floor, 1 - drop * ceil( max(t - hold, 0) / every ) ) with t the step. k3 estimates. hold, every: in steps, below
    1 as shares of the run.
    """

    coefficient: float = Field(0.001, ge=0.0)
    hold: float = Field(50, ge=0)
    every: float = Field(10, gt=0)
    drop: float = Field(0.1, ge=0.0)
    floor: float = Field(0.5, ge=0.0, le=1.0)
    reads = frozenset({"logp", "logp_old", "logp_ref"})
    requires = frozenset({"reference"})

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if moment(self.hold, outlook.steps) < outlook.steps - 1:
            return None
        path = next(path for path, part in algorithm.walk() if part is self)
        advice = (
            f"set {path}.hold to a share of the run, such as 0.25, or plan more steps"
            if self.hold >= 1
            else "plan more steps"
        )
        planned = f"its share falls after {said_of(self.hold)} and {outlook.steps} steps are planned"
        return f"beyond a KL to the reference, for {planned}; {advice}"

    def regime(self) -> tuple[str, ...]:
        return (f"the base model's share of the KL falls after {said_of(self.hold)}, every {said_of(self.every)}",)

    def share(self, step: int, total: int) -> float:
        """lambda, the weight of the base model, at a step of a run of `total`."""
        hold = moment(self.hold, total)
        every = self.every if self.every >= 1 else self.every * total
        return max(self.floor, 1 - self.drop * math.ceil(round(max(step - hold, 0) / every, 9)))

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        share = self.share(context.step, context.total)
        to_base = numerics.k3(batch["logp"] - batch["logp_ref"])
        to_old = numerics.k3(batch["logp"] - batch["logp_old"])
        value = aggregate.reduce(share * to_base + (1 - share) * to_old, batch)
        context.log("objective/kl_penalty", self.coefficient * value)
        context.log("objective/kl_base_share", share)
        return self.coefficient * value


class Entropy(Regulariser, name="entropy"):
    """- coefficient * entropy of the policy at every decision (nats), an entropy bonus: reduced like the surrogate, or its `mean` over
    decisions whatever the surrogate's aggregate."""

    coefficient: float = Field(0.001, ge=0.0)
    mean: Literal["surrogate", "token"] = "surrogate"
    reads = frozenset({"entropy"})

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        entropy = batch["entropy"]
        value = batch.row_mean(entropy) if self.mean == "token" else aggregate.reduce(entropy, batch)
        return -self.coefficient * value


class EntropyTemperature(Regulariser, name="entropy_temperature"):
    """Holds the entropy of what is sampled at `level` nats per decision by the sampling temperature, not by the loss: after every
    batch T <- T exp( rate (level - H) ), a factor on `generate.temperature` within [low, high].

    H is the mean entropy over the batch at the temperature it was sampled at, which is also the temperature that
    log-probabilities are taken at: the policy that is trained is the one that samples. The term of the loss is 0.
    """

    level: float = Field(0.5, ge=0.0)
    rate: float = Field(0.5, gt=0.0)
    low: float = Field(0.5, gt=0.0)
    high: float = Field(2.0, gt=0.0)
    reads = frozenset({"logp", "entropy_old"})
    provides = frozenset({"sampling_temperature"})

    def refuse(self, algorithm: Any) -> str | None:
        return None if self.low <= self.high else f"low = {self.low:g} must not exceed high = {self.high:g}"

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        heat = context.hooks.get("temperature", 1.0)
        if context.epoch == 0 and context.minibatch == 0 and bool((batch.weight > 0).any()):
            gap = self.level - float(batch.row_mean(batch["entropy_old"]))
            heat = min(self.high, max(self.low, heat * math.exp(self.rate * gap)))
            context.hooks["temperature"] = heat
        context.log("objective/temperature", heat)
        return batch["logp"].sum() * 0


class Likelihood(Regulariser, name="likelihood"):
    """- coefficient * log pi of the decisions taken, reduced like the surrogate: KL(sampler || pi) up to a constant. The same as
    adding `coefficient` to every advantage of a score function, a lowered baseline (AsymRE; arXiv:2509.24203)."""

    coefficient: float = Field(0.1, ge=0.0)
    reads = frozenset({"logp"})

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        return -self.coefficient * aggregate.reduce(batch["logp"], batch)


class RoleLikelihood(Regulariser, name="role_likelihood"):
    """- coefficient * mean log pi of the tokens of a role, at temperature 1: next-token prediction of what the environment
    returned, which makes the policy a model of its world without another rollout or another pass (arXiv:2605.24517), or of
    the prompt.

    It has no advantage and no ratio: it applies to every trajectory of the batch, and a group whose rewards are all the same
    still learns from it. mean: every such token counts alike (``token``), or every trajectory that has some (``sequence``), so that
    one long reply does not drown the others. A decision of weight 0 takes the tokens charged to it along (see
    `anypo.data.tokens.charged`). 0 without such tokens, as in every single-turn task for observations.
    """

    role: Literal["observation", "context"] = "observation"
    coefficient: float = Field(0.1, ge=0.0)
    mean: Literal["token", "sequence"] = "token"

    def needs(self) -> frozenset[str]:
        return frozenset({self.column})

    @property
    def column(self) -> str:
        return f"logp_{self.role}"

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        logp = batch[self.column]
        weight = batch.weight.to(logp.dtype)
        counts = weight * role_counts(batch, ROLE_COLUMNS[self.column], logp.dtype)
        present = torch.where(counts > 0, weight * logp, torch.zeros_like(logp))  # no pass for rows without tokens
        loss = -_mean(present, counts, batch, self.mean)
        context.log(f"objective/nll_{self.role}", loss)
        return self.coefficient * loss


def _mean(sums: Tensor, counts: Tensor, batch: Batch, mean: str) -> Tensor:
    """Of quantities whose sums and numbers stand in the rows, both [N]; 0 when there are none."""
    if mean == "sequence":
        sums, counts = (segments.sum(column, batch.sequence, batch.n_sequences) for column in (sums, counts))
        present = counts > 0
        sums, counts = sums / torch.where(present, counts, torch.ones_like(counts)), present.to(counts.dtype)
    total = counts.sum()
    return sums.sum() / torch.where(total > 0, total, torch.ones_like(total))


class RatioVariance(Regulariser, name="ratio_variance"):
    """coefficient * (r - 1)^2, reduced like the surrogate: an estimate of chi^2(pi || pi_b), about 2 KL for small steps
    (R2VPO, arXiv:2601.03320). Acts as a brake on the advantage, A - 2 coefficient (r - 1), with no plateau."""

    coefficient: float = Field(0.04, ge=0.0)
    ratio: Ratio = TokenRatio()

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return self.ratio.certain(algorithm)

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        deviation = bounded_exp(self.ratio.log_ratio(batch, context)) - 1
        value = aggregate.reduce(deviation * deviation, batch)
        context.log("objective/ratio_variance", value)
        return self.coefficient * value


class Controlled(Regulariser, name="controlled"):
    """Another regulariser under the constraint `of` <= `limit`: lambda * of, where the multiplier lambda sees the violation.

    With `of` = kl it holds a KL budget; with `of` = entropy (whose value is minus the entropy) and `limit` = -H it
    keeps the entropy above H.
    """

    of: Regulariser = RatioVariance(coefficient=1.0)
    limit: float = 0.02
    multiplier: Multiplier = DualAscent()

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        value = self.of.penalty(batch, aggregate, context)
        weight = self.multiplier.weight(float(value.detach()) - self.limit, context)
        context.log("objective/multiplier", weight)
        return weight * value
