"""Improving an actor by what the critic of `credit` says about its fresh actions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.fits import POLICY, Fit
from anypo.objective.base import Objective
from anypo.parts import Part
from anypo.update.base import Optimiser
from anypo.update.optimisers import AdamW


class Temperature(Part, slot="temperature"):
    """The weight alpha of the entropy, as the row column ``log_alpha``."""


class LearnedTemperature(Temperature, name="learned"):
    """alpha is learned so that the policy's entropy stays near a target: loss - log alpha (log pi + target) (Haarnoja et al.,
    arXiv:1812.05905). target: nats; None is minus the number of action dimensions."""

    initial: float = Field(1.0, gt=0.0)
    target: float | None = None
    optimiser: Optimiser = AdamW(lr=3e-4)
    reads = frozenset({"log_alpha", "logp@new"})

    def learner(self, policy: Any, seed: int) -> Scalar:
        return Scalar(self.initial)

    def fits(self) -> tuple[Fit, ...]:
        return (Fit(self.temperature_loss),)

    def temperature_loss(self, batch: Batch, context: Context) -> Tensor:
        """The temperature's loss, a scalar; nothing reaches the policy."""
        target = self.target if self.target is not None else -float(batch["action"].shape[1])
        context.log("policy/temperature", batch["log_alpha_old"].exp().mean())
        context.log("policy/entropy_draw", -batch.row_mean(batch["logp@new"].detach()))
        return -batch.row_mean(batch["log_alpha"] * (batch["logp@new"].detach() + target))


class FixedTemperature(Temperature, name="fixed"):
    """A constant alpha."""

    value: float = Field(0.2, gt=0.0)
    reads = frozenset({"log_alpha_old"})

    def learner(self, policy: Any, seed: int) -> Scalar:
        return Scalar(self.value)


class Scalar(nn.Module):
    """One positive number, learned as its logarithm: ``log_alpha`` [N], the same in every row."""

    columns = frozenset({"log_alpha"})
    holds = True

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(float(initial)).log())

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        with torch.set_grad_enabled(grad):
            return {name: self.log.expand(len(batch)) for name in names}


class SoftImprovement(Objective, name="soft_improvement"):
    """Mean of alpha log pi(a|s) - min_e Q_e(s, a) over fresh actions a (SAC, arXiv:1801.01290)."""

    temperature: Temperature = LearnedTemperature()
    every: int = Field(1, ge=1, description="only in every so many optimiser steps")
    reads = frozenset({"action@new", "logp@new", "log_alpha_old"})
    requires = frozenset({"action_values"})

    def fits(self) -> tuple[Fit, ...]:
        return (Fit(self.loss, POLICY, every=self.every),)

    def loss(self, batch: Batch, context: Context) -> Tensor:
        value = context.nets["credit"].fill(batch.with_rows(action=batch["action@new"]), ["q"])["q"].amin(1)
        return batch.row_mean(batch["log_alpha_old"].exp() * batch["logp@new"] - value)


class _Deterministic(Objective):
    """An actor that follows the first critic, in every `every`-th optimiser step only (TD3's delay, arXiv:1802.09477)."""

    every: int = Field(2, ge=1)
    reads = frozenset({"action@new"})
    requires = frozenset({"action_values"})

    def fits(self) -> tuple[Fit, ...]:
        return (Fit(self.loss, POLICY, every=self.every),)

    def followed(self, batch: Batch, context: Context) -> Tensor:
        """The first critic's value of the actor's own action."""
        return context.nets["credit"].fill(batch.with_rows(action=batch["action@new"]), ["q"])["q"][:, 0]


class DeterministicImprovement(_Deterministic, name="deterministic_improvement"):
    """Minus the mean of the first critic's value of the actor's own action (DDPG, arXiv:1509.02971), only in every `every`-th
    optimiser step (TD3's delay, arXiv:1802.09477)."""

    def loss(self, batch: Batch, context: Context) -> Tensor:
        return -batch.row_mean(self.followed(batch, context))


class ClonedImprovement(_Deterministic, name="cloned_improvement"):
    """Mean of |pi(s) - a|^2 (over action dimensions, too) minus lambda Q_1(s, pi(s)), lambda = alpha / mean |Q_1(s, pi(s))|: the
    actor improves near the actions that were taken (TD3+BC, arXiv:2106.06860). alpha = 0 is behaviour cloning. In every `every`-th
    optimiser step."""

    alpha: float = Field(2.5, ge=0.0)

    def loss(self, batch: Batch, context: Context) -> Tensor:
        value = self.followed(batch, context)
        scale = self.alpha / batch.row_mean(value.detach().abs()).clamp(min=1e-8)
        distance = batch.row_mean((batch["action@new"] - batch["action"]).square().mean(1))
        context.log("objective/distance", distance)
        context.log("objective/scale", scale)
        return distance - scale * batch.row_mean(value)
