"""Learning from demonstrations: likelihood terms, and their blend with reinforcement learning.

Convention: the sequence column ``demo`` (bool [S]) marks trajectories that an expert wrote. They were not sampled from the
policy: their ``logp_behaviour`` is 0 and their ``version`` -1. `Blend` shows each objective only its own rows, so every term is a
mean over its own sample count whatever the mix.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.objective.aggregates import TokenMean
from anypo.objective.base import Aggregate, Objective
from anypo.objective.policy_gradient import PolicyGradient
from anypo.outlook import Outlook, length, moment
from anypo.parts import Part


class Supervised(Objective, name="supervised"):
    """- aggregate( w_t log pi(y_t) + smoothing H_t ): weighted likelihood of the batch's decisions, whatever their reward.

    weight: ``none`` 1 (supervised fine-tuning); ``probability`` sg[p_t] (the expert's own probability taken as 1);
    ``phi`` sg[p_t (1 - p_t)], which leaves alone what is already known and what is out of reach (CHORD-phi, arXiv:2508.11408).
    cutoff: no gradient for tokens already more likely than this (1 = off).
    smoothing: weight of the entropy at the same decisions, label smoothing with its divergence from the uniform distribution
    reversed (the confidence penalty, arXiv:1701.06548).
    """

    weight: Literal["none", "probability", "phi"] = "none"
    cutoff: float = Field(1.0, gt=0.0, le=1.0)
    smoothing: float = Field(0.0, ge=0.0)
    aggregate: Aggregate = TokenMean()

    def needs(self) -> frozenset[str]:
        return frozenset({"logp", "entropy"} if self.smoothing else {"logp"})

    def loss(self, batch: Batch, context: Context) -> Tensor:
        logp = batch["logp"].clamp(max=math.log(self.cutoff))
        loss = -self.aggregate.reduce(self._weight(batch["logp"].detach().exp()) * logp, batch)
        if self.smoothing:
            loss = loss - self.smoothing * self.aggregate.reduce(batch["entropy"], batch)
        context.log("objective/nll", -batch.row_mean(batch["logp"].detach()))
        return loss

    def _weight(self, probability: Tensor) -> Tensor:
        if self.weight == "none":
            return torch.ones_like(probability)
        return probability if self.weight == "probability" else probability * (1 - probability)


class Mixing(Part, slot="mixing"):
    """Weights of the reinforcement and the expert term for an update batch at a step: `weights(batch, context) -> (float, float)`."""

    def weights(self, batch: Batch, context: Context) -> tuple[float, float]:
        raise NotImplementedError


class Summed(Mixing, name="sum"):
    """1 and `coefficient`."""

    coefficient: float = Field(1.0, ge=0.0)

    def weights(self, batch: Batch, context: Context) -> tuple[float, float]:
        return 1.0, self.coefficient


class Routed(Mixing, name="routed"):
    """1 - s and `coefficient` s, s the share of the batch's groups that are demonstrations: where every prompt has either its rollouts
    or its solution, the mean over prompts of a L_RL + b L_SFT with (a, b) = (1, 0) or (0, 1) (HPT, arXiv:2509.04419). As fewer prompts
    need their solution, the expert term weighs less; with `sum` one of them would weigh as much as a batch of them."""

    coefficient: float = Field(1.0, ge=0.0)

    def weights(self, batch: Batch, context: Context) -> tuple[float, float]:
        shown = len(torch.unique(batch.group[demonstrations(batch)]))
        share = shown / max(1, len(torch.unique(batch.group)))
        return 1.0 - share, self.coefficient * share


class Annealed(Mixing, name="annealed"):
    """1 - mu and mu: mu rises linearly to `peak` over `warmup` steps, then falls to `valley` over `decay` steps as half a
    cosine (CHORD, arXiv:2508.11408). With both lengths 0, mu is `valley` throughout. Lengths below 1 are shares of the run."""

    peak: float = Field(0.9, ge=0.0, le=1.0)
    valley: float = Field(0.05, ge=0.0, le=1.0)
    warmup: float = Field(0, ge=0)
    decay: float = Field(200, ge=0)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        end = moment(self.warmup, outlook.steps) + moment(self.decay, outlook.steps)
        if end <= outlook.steps or not self.decay:
            return None
        last = self.mu(outlook.steps - 1, outlook.steps)
        return (
            f"beyond mu={last:.2g} (its valley is {self.valley:g}), for {outlook.steps} of {end} steps are planned; set "
            "objective.mixing.decay=0.5, half of the run"
        )

    def regime(self) -> tuple[str, ...]:
        if not self.decay and not self.warmup:
            return (f"mu is {self.valley:g} throughout",)
        return (f"mu falls from {self.peak:g} to {self.valley:g} over {length(self.decay)}",)

    def mu(self, step: int, total: int) -> float:
        """The expert term's weight at a step of a run of `total`."""
        warmup, decay = moment(self.warmup, total), moment(self.decay, total)
        if step < warmup:
            return self.peak * step / warmup
        if step >= warmup + decay:
            return self.valley
        progress = (step - warmup) / decay
        return self.valley + (self.peak - self.valley) * 0.5 * (1 + math.cos(math.pi * progress))

    def weights(self, batch: Batch, context: Context) -> tuple[float, float]:
        mu = self.mu(context.step, context.total)
        return 1 - mu, mu


class Blend(Objective, name="blend"):
    """a * loss(rollouts) + b * loss(demonstrations), with (a, b) from `mixing`. A term without rows is 0."""

    rollouts: Objective = PolicyGradient()
    experts: Objective = Supervised()
    mixing: Mixing = Summed()

    def loss(self, batch: Batch, context: Context) -> Tensor:
        demo = demonstrations(batch)
        first, second = self.mixing.weights(batch, context)
        context.log("objective/expert_weight", second)
        context.log("objective/expert_share", demo.float().mean() if len(demo) else 0.0)
        loss = batch["logp"].sum() * 0
        if first and not bool(demo.all()):
            loss = loss + first * self.rollouts.loss(batch.select(~demo), context)
        if second and bool(demo.any()):
            loss = loss + second * self.experts.loss(batch.select(demo), context)
        return loss


def demonstrations(batch: Batch) -> Tensor:
    """Which sequences are demonstrations, bool [S]."""
    return batch.sequences.get("demo", torch.zeros(batch.n_sequences, dtype=torch.bool))
