"""A pessimistic double critic on whole responses (SAFE): one value per response, the soft minimum of two heads."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from anypo.context import Context
from anypo.credit.base import Credit
from anypo.credit.critics.gae import explained_variance, last_rows, with_advantage
from anypo.credit.plain import Whiten
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.fits import Fit
from anypo.update.base import Optimiser

HEADS = ("value_first", "value_second")


class PessimisticCritic(Credit, name="pessimistic_critic"):
    """A = r - V of the step's start, standardised over the batch's responses and equal for all decisions of one
    (SAFE; github.com/ryyzn9/SAFE).

    r is the reward in units of its running deviation around its running mean. V is the soft minimum of two value heads in the
    state of the response's last decision (see `soft_minimum`). Loss: coefficient / 2 * mean[ huber(V - r) +
    huber(V_old + clip(V - V_old, +-clip) - r) ], huber with slope change at 1/2. The heads differ by their starting weights only
    (Gaussian, deviation `spread`). optimiser: the policy's when absent (the release learns both at one rate).
    """

    alpha: float = Field(0.3, gt=0.0, description="softness of the minimum, in rewards")
    clip: float = Field(0.2, gt=0.0)
    coefficient: float = Field(0.5, ge=0.0)
    spread: float = Field(0.02, ge=0.0)
    optimiser: Optimiser | None = None

    reads = frozenset({*HEADS, *(f"{name}_old" for name in HEADS)})
    provides = frozenset({"critic"})
    excuses = {"common offset": "a critic has to learn the offset first"}

    def start(self) -> dict[str, Any]:
        return {"count": 0, "mean": 0.0, "square": 0.0}

    def learner(self, policy: Any, seed: int) -> TwinCritic:
        return TwinCritic(policy, self.spread, seed)

    def assign(self, batch: Batch, context: Context) -> Batch:
        target = self._normalised(batch.sequences["reward"], context)
        value = self._value(batch, "_old")
        batch = batch.with_sequences(target=target, value_old=value)
        advantage = Whiten().normalise(target - value, batch, context)
        return with_advantage(batch, batch.spread(advantage), context)

    def fits(self) -> tuple[Fit, ...]:
        return (Fit(self.value_loss),)

    def value_loss(self, batch: Batch, context: Context) -> Tensor:
        """The critic's loss on an update batch, a scalar."""
        value = self._value(batch)
        target, old = (batch.sequences[name].to(value.dtype) for name in ("target", "value_old"))
        counted = (segments.sum(batch.weight, batch.sequence, batch.n_sequences) > 0).to(value.dtype)
        near = old + (value - old).clamp(-self.clip, self.clip)
        error = F.huber_loss(value, target, reduction="none", delta=0.5)
        error = error + F.huber_loss(near, target, reduction="none", delta=0.5)
        loss = 0.5 * (error * counted).sum() / counted.sum().clamp(min=1)
        context.log("critic/loss", loss)
        context.log("critic/explained_variance", explained_variance(old, target, counted))
        return self.coefficient * loss

    def _value(self, batch: Batch, suffix: str = "") -> Tensor:
        """V of every response, [S]."""
        last = last_rows(batch).to(batch.weight.dtype)
        first, second = (segments.sum(batch[head + suffix] * last, batch.sequence, batch.n_sequences) for head in HEADS)
        return soft_minimum(first, second, self.alpha)

    def _normalised(self, reward: Tensor, context: Context) -> Tensor:
        """(reward - running mean) / (running deviation + 1e-8), this batch included (Welford, 1962)."""
        memory = context.memory[self]
        count = memory["count"] + len(reward)
        if not len(reward):
            return reward
        shift = float(reward.double().mean()) - memory["mean"]
        within = float(reward.double().var(correction=0)) * len(reward)
        memory["square"] += within + shift**2 * memory["count"] * len(reward) / count
        memory["mean"] += shift * len(reward) / count
        memory["count"] = count
        deviation = math.sqrt(memory["square"] / count)
        return (reward - memory["mean"]) / (deviation + 1e-8) if deviation > 0 else reward - memory["mean"]


def soft_minimum(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    """- alpha log( (e^(-first/alpha) + e^(-second/alpha)) / 2 ): between the minimum (alpha -> 0) and the mean (-> inf)."""
    both = torch.stack([-first / alpha, -second / alpha])
    return -alpha * (torch.logsumexp(both, 0) - math.log(2.0))


class TwinCritic:
    """Two critics beside one policy, filling `HEADS` [N]; `spread` is the deviation of the noise that tells their weights apart."""

    columns = frozenset(HEADS)

    def __init__(self, policy: Any, spread: float, seed: int) -> None:
        from anypo.policies.language.critic import Critic  # a model, which credit itself never needs

        make = policy.critic if hasattr(policy, "critic") else lambda seed: Critic(policy, seed=seed)
        self.heads = [make(seed), make(seed + 1)]
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                p.add_((spread * torch.randn(p.shape, generator=noise, dtype=torch.float64)).to(p))

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        return {
            name: head.fill(batch, ["value"], grad)["value"] for name, head in zip(HEADS, self.heads) if name in names
        }

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for head in self.heads for p in head.parameters()]

    def state_dict(self) -> dict[str, Any]:
        return {name: head.state_dict() for name, head in zip(HEADS, self.heads)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, head in zip(HEADS, self.heads):
            head.load_state_dict(state[name])
