"""Actors whose action is a differentiable function of a draw: what critics can pull on.

Actions are trained on in [-1, 1]; `sent` scales them to the environment's own bounds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from anypo.data.batch import Batch
from anypo.policies.control.perceptron import Perceptron
from anypo.policies.control.saved import Saved

SEEN = {"new": "observation", "next": "observation_next"}
"""The observation that each view's fresh action is drawn at."""


class Actor(Saved):
    """What both actors share: a network over observations, bounds of the action space, copies and averages. `norm` is what
    observations go through first; critics beside the actor share it.

    Columns: ``action@new`` [N, A], a fresh action at the row's observation, ``action@next``, one at the observation that
    followed, and their log-probabilities where the actor has any. The noise of a draw is the row column ``noise@<view>``.
    """

    columns: frozenset[str] = frozenset()
    holds = True
    version = 0

    def __init__(
        self, observation: int, outputs: int, low: np.ndarray, high: np.ndarray, hidden: Sequence[int], seed: int
    ):
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        self.body = Perceptron([observation, *hidden, outputs], seed=seed)
        self.low, self.high = low.astype(np.float32).ravel(), high.astype(np.float32).ravel()

    def noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """Standard normal noise of one draw a row, [rows, A]."""
        return torch.randn(rows, len(self.low), generator=generator)

    def sent(self, actions: np.ndarray) -> np.ndarray:
        """Actions [..., A] in [-1, 1] on the scale of the environment."""
        return scaled(actions, self.low, self.high)

    def taken(self, sent: np.ndarray) -> np.ndarray:
        """Actions [..., A] of the environment in [-1, 1]."""
        return 2 * (sent - self.low) / (self.high - self.low) - 1

    def frozen(self) -> Self:
        """An untrainable copy of the actor as it is now."""
        return copy.deepcopy(self).requires_grad_(False)

    @torch.no_grad()
    def blend(self, policy: Self, decay: float) -> None:
        """theta <- decay theta + (1 - decay) theta_policy."""
        torch._foreach_lerp_(list(self.parameters()), list(policy.parameters()), 1.0 - decay)

    def describe(self) -> dict[str, Any]:
        """Provenance: the class and its size."""
        return {"architecture": type(self).__name__, "parameters": sum(p.numel() for p in self.parameters())}


def scaled(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions [..., A] in [-1, 1] between the bounds `low` and `high` [A]."""
    return low + (actions + 1) / 2 * (high - low)


class SquashedGaussian(Actor):
    """a = tanh(u), u ~ N(mu(s), sigma(s)^2), with log pi(a) = log N(u) - sum log(1 - a^2 + 1e-6) (Haarnoja et al.,
    arXiv:1801.01290, appendix C); log sigma is clamped to [-20, 2]."""

    columns = frozenset({"logp", "action@new", "logp@new", "action@next", "logp@next"})

    def __init__(
        self, observation: int, low: np.ndarray, high: np.ndarray, hidden: Sequence[int] = (256, 256), seed: int = 0
    ) -> None:
        super().__init__(observation, 2 * low.size, low, high, hidden, seed)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before squashing, both [N, A]."""
        mean, log_std = self.body(self.norm(observations)).chunk(2, -1)
        return mean, log_std.clamp(-20.0, 2.0)

    def draw(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [N, A] and their log-probabilities [N] for a draw's noise [N, A]."""
        mean, log_std = self(observations)
        action = torch.tanh(mean + log_std.exp() * noise)
        return action, _density(noise, log_std, action)

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """The named columns; connected to the parameters when `grad`."""
        out: dict[str, Tensor] = {}
        with torch.set_grad_enabled(grad):
            for view, seen in SEEN.items():
                if {f"action@{view}", f"logp@{view}"} & set(names):
                    action, logp = self.draw(batch[seen], batch[f"noise@{view}"])
                    out |= {f"action@{view}": action, f"logp@{view}": logp}
            if "logp" in names:
                mean, log_std = self(batch["observation"])
                action = batch["action"].clamp(-1 + 1e-6, 1 - 1e-6)
                out["logp"] = _density((torch.atanh(action) - mean) / log_std.exp(), log_std, action)
        return {name: out[name] for name in names}

    @torch.no_grad()
    def act(self, observations: np.ndarray, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Sampled actions [B, A] in [-1, 1] and their log-probabilities [B]."""
        action, logp = self.draw(_tensor(observations), self.noise(len(observations), generator))
        return action.numpy(), logp.numpy()

    @torch.no_grad()
    def best(self, observations: np.ndarray) -> np.ndarray:
        """tanh of the mean, [B, A]."""
        return torch.tanh(self(_tensor(observations))[0]).numpy()


class DeterministicActor(Actor):
    """a = tanh(mu(s)), explored with Gaussian noise; at the next observation with clipped noise (target policy smoothing, Fujimoto
    et al., arXiv:1802.09477). exploration, smoothing: deviations; limit: bound of the smoothing noise."""

    columns = frozenset({"action@new", "action@next"})

    def __init__(
        self,
        observation: int,
        low: np.ndarray,
        high: np.ndarray,
        hidden: Sequence[int] = (256, 256),
        seed: int = 0,
        exploration: float = 0.1,
        smoothing: float = 0.2,
        limit: float = 0.5,
    ) -> None:
        super().__init__(observation, low.size, low, high, hidden, seed)
        self.exploration, self.smoothing, self.limit = exploration, smoothing, limit

    def forward(self, observations: Tensor) -> Tensor:
        """Actions [N, A]."""
        return torch.tanh(self.body(self.norm(observations)))

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """The named columns; connected to the parameters when `grad`."""
        out: dict[str, Tensor] = {}
        with torch.set_grad_enabled(grad):
            if "action@new" in names:
                out["action@new"] = self(batch["observation"])
            if "action@next" in names:
                spread = (self.smoothing * batch["noise@next"]).clamp(-self.limit, self.limit)
                out["action@next"] = (self(batch["observation_next"]) + spread).clamp(-1.0, 1.0)
        return out

    @torch.no_grad()
    def act(self, observations: np.ndarray, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Explored actions [B, A] in [-1, 1]; log-probabilities are 0 [B], for there is no density."""
        noise = self.exploration * self.noise(len(observations), generator)
        action = (self(_tensor(observations)) + noise).clamp(-1.0, 1.0)
        return action.numpy(), np.zeros(len(observations), dtype=np.float32)

    @torch.no_grad()
    def best(self, observations: np.ndarray) -> np.ndarray:
        """The actor's action, [B, A]."""
        return self(_tensor(observations)).numpy()


def _density(noise: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """log pi [N] of squashed actions [N, A] whose standardised Gaussian draw is `noise`."""
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    return (normal - torch.log(1 - action.square() + 1e-6)).sum(-1)


def _tensor(observations: np.ndarray) -> Tensor:
    return torch.as_tensor(np.asarray(observations, dtype=np.float32)).flatten(1)


__all__ = ["Actor", "DeterministicActor", "SquashedGaussian"]
