"""Acting in an environment: from observations to what is trained on and to what the world gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field

from anypo.parts import Part

if TYPE_CHECKING:
    from anypo.generate.base import World


@dataclass(frozen=True)
class Taken:
    """Actions in B environments. action: what is trained on (latent, residual, in the policy's own units), [B, ...]. sent: what the
    environments get, [B, ...]. logp: log-probabilities of `action`, [B]; zeros where the policy has no density. extra: further
    arrays [B, ...] that become row columns.

    Where D decisions make one step, action and extra are [B, D, ...] and logp is [B, D].
    """

    action: np.ndarray
    sent: np.ndarray
    logp: np.ndarray
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    def of(self, number: int) -> Taken:
        """What was taken in one of the environments, decision by decision: action and extra [D, ...], logp [D], sent [...]."""
        one = number if self.logp.ndim == 2 else slice(number, number + 1)
        extra = {name: array[one] for name, array in self.extra.items()}
        return Taken(self.action[one], self.sent[number], self.logp[one].astype(np.float64), extra)


class Act(Part, slot="act"):
    """How observations become actions; a field of generators that step environments. `space`: the environment's action space."""

    def act(self, seen: np.ndarray, space: Any, world: World, steps: int, generator: torch.Generator) -> Taken:
        """Actions while training, for observations [B, ...] after `steps` steps of the run in each environment."""
        raise NotImplementedError

    def best(self, seen: np.ndarray, space: Any, world: World) -> Taken:
        """Actions while evaluating."""
        raise NotImplementedError


class Own(Act, name="own"):
    """The policy's own action: while training a draw from it, while evaluating its best.

    A policy with a method ``sent`` says what the world gets; other continuous actions are clipped to the action space. Of several
    decisions for one step (a chain) the world gets the last. The first `warmup` steps of every environment are uniform in the
    action space instead.
    """

    warmup: int = Field(0, ge=0, description="uniformly random steps per environment before the policy acts")

    def refuse(self, algorithm: Any) -> str | None:
        if self.warmup and "chain" in algorithm.policy.provided():
            return f"policy={algorithm.policy.part} has no chain that leads to a uniformly random action; set warmup=0"
        return None

    def act(self, seen: np.ndarray, space: Any, world: World, steps: int, generator: torch.Generator) -> Taken:
        if steps < self.warmup:
            return _uniform(len(seen), space, world, generator)
        action, logp, *extra = world.policy.act(seen, generator)
        last = action[:, -1] if logp.ndim == 2 else action
        return Taken(action, sent(last, space, world), logp, *extra)

    def best(self, seen: np.ndarray, space: Any, world: World) -> Taken:
        action = world.policy.best(seen)
        return Taken(action, sent(action, space, world), np.zeros(len(seen), dtype=np.float32))


def sent(action: np.ndarray, space: Any, world: World) -> np.ndarray:
    """What the environment gets for the policy's action."""
    if hasattr(world.policy, "sent"):
        return world.policy.sent(action)
    if hasattr(space, "low"):
        return np.clip(action.reshape(len(action), *space.shape), space.low, space.high)
    return action


def _uniform(count: int, space: Any, world: World, generator: torch.Generator) -> Taken:
    """Uniform actions in a box or among the discrete ones, with the policy's unit for them."""
    if not hasattr(space, "low"):
        drawn = torch.randint(int(space.n), (count,), generator=generator).numpy()
        return Taken(drawn, drawn, np.full(count, -np.log(space.n), dtype=np.float32))
    unit = torch.rand(count, *space.shape, generator=generator).numpy()
    chosen = (space.low + unit * (space.high - space.low)).astype(np.float32)
    own = world.policy.taken(chosen.reshape(count, -1)) if hasattr(world.policy, "taken") else chosen
    logp = -np.log(np.maximum(space.high - space.low, 1e-12)).sum() if not hasattr(world.policy, "taken") else 0.0
    return Taken(own, chosen, np.full(count, logp, dtype=np.float32))
