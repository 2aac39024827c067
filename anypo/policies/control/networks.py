"""Small policies for control: multilayer perceptrons over observations, with the initialisation PPO is usually run with.

Hidden layers are tanh with orthogonal weights of gain sqrt 2; the action layer has gain 0.01, so the first policy is nearly
uniform, and the value layer gain 1 (Andrychowicz et al., arXiv:2006.05990; Huang et al., "The 37 implementation details of
proximal policy optimization", 2022).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from anypo.data.batch import Batch
from anypo.policies.control.saved import Saved


class ObservationNorm(nn.Module):
    """x -> clip((x - mean) / sqrt(var + 1e-8), -10, 10) with running statistics.

    `observe` adds a block of observations by Chan's parallel formula. Between two calls the map is fixed, so that what sampled
    and what is trained see the same inputs.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def observe(self, observations: Tensor) -> None:
        block = observations.detach().double()
        n = len(block)
        if not n:
            return
        mean, var = block.mean(0), block.var(0, unbiased=False)
        total = self.count + n
        delta = mean - self.mean
        self.var.copy_((self.var * self.count + var * n + delta**2 * self.count * n / total) / total)
        self.mean.add_(delta * n / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        scaled = (x.double() - self.mean) / (self.var + 1e-8).sqrt()
        return scaled.clamp(-10.0, 10.0).to(x.dtype)


class Network(Saved):
    """A perceptron over the observations of a batch: what policies and value networks share. beside: how many further inputs it
    has, which are not normalised."""

    columns: frozenset[str] = frozenset()

    def __init__(
        self, inputs: int, outputs: int, hidden: Sequence[int], gain: float, seed: int, normalise: bool, beside: int = 0
    ) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, tuple(hidden)
        self.norm: nn.Module = ObservationNorm(inputs) if normalise else nn.Identity()
        generator = torch.Generator().manual_seed(seed)
        sizes = [inputs + beside, *hidden, outputs]
        layers: list[nn.Module] = []
        for depth, (below, above) in enumerate(pairwise(sizes)):
            last = depth == len(sizes) - 2
            layer = nn.Linear(below, above)
            nn.init.orthogonal_(layer.weight, gain if last else math.sqrt(2.0), generator=generator)
            nn.init.zeros_(layer.bias)
            layers += [layer] if last else [layer, nn.Tanh()]
        self.body = nn.Sequential(*layers)

    def forward(self, observations: Tensor, *beside: Tensor) -> Tensor:
        """Output of the network for observations [B, ...], flattened to [B, inputs], and its further inputs."""
        seen = self.norm(observations.reshape(len(observations), -1))
        return self.body(torch.cat([seen, *beside], -1) if beside else seen)

    def observe(self, observations: np.ndarray | Tensor) -> None:
        """Update the observation statistics, if any (call it between updates: log-probabilities change with them)."""
        if isinstance(self.norm, ObservationNorm):
            self.norm.observe(self._tensor(observations).flatten(1))

    def _tensor(self, array: np.ndarray | Tensor) -> Tensor:
        return torch.as_tensor(np.asarray(array)).to(next(self.body.parameters()))

    def _gather(self, batch: Batch, field: str) -> Tensor:
        """A column of every row that only rollouts in environments have, [N, ...]."""
        if field not in batch.rows:
            raise TypeError("a control policy needs trajectories of observations and actions")
        return batch[field]


class ControlPolicy(Network):
    """Columns ``logp`` and ``entropy`` [N] of the distribution that every decision was drawn from."""

    columns = frozenset({"logp", "entropy"})
    version = 0

    def decided(self, batch: Batch) -> torch.distributions.Distribution:
        """The distribution of every decision of a batch, batch shape [N]."""
        raise NotImplementedError

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """The named columns, [N]; connected to the parameters when `grad`."""
        if not len(batch):
            return {name: torch.zeros(0) for name in names}
        with torch.set_grad_enabled(grad):
            distribution = self.decided(batch)
            out = {}
            if "logp" in names:
                out["logp"] = distribution.log_prob(self._actions(self._gather(batch, "action")))
            if "entropy" in names:
                out["entropy"] = distribution.entropy()
            return {name: column.to(batch.sequence.device) for name, column in out.items()}

    def _actions(self, actions: Tensor) -> Tensor:
        """Actions of a batch beside the weights, as the distribution takes them."""
        raise NotImplementedError

    def critic(self, seed: int) -> ValueNetwork:
        """A value network of the policy's own shape, which sees observations normalised as the policy does."""
        network = ValueNetwork(self.inputs, self.hidden, seed)
        network.norm = self.norm
        return network

    def frozen(self) -> Self:
        """An untrainable copy of the policy as it is now."""
        return copy.deepcopy(self).requires_grad_(False)

    @torch.no_grad()
    def blend(self, policy: Self, decay: float) -> None:
        """theta <- decay theta + (1 - decay) theta_policy; observation statistics are taken over."""
        for mine, theirs in zip(self.parameters(), policy.parameters()):
            mine.lerp_(theirs, 1.0 - decay)
        for statistic, newer in zip(self.buffers(), policy.buffers()):
            statistic.copy_(newer)


class _Direct(ControlPolicy):
    """One decision for every observation, from a distribution that the observation gives."""

    def distribution(self, observations: Tensor) -> torch.distributions.Distribution:
        """The action distribution at observations [B, ...], batch shape [B]."""
        raise NotImplementedError

    def decided(self, batch: Batch) -> torch.distributions.Distribution:
        return self.distribution(self._tensor(self._gather(batch, "observation")))

    @torch.no_grad()
    def act(self, observations: np.ndarray | Tensor, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Sampled actions [B, ...] at observations [B, ...] and their log-probabilities [B]."""
        distribution = self.distribution(self._tensor(observations))
        actions = self._draw(distribution, generator)
        return actions.cpu().numpy(), distribution.log_prob(actions).cpu().numpy()

    def _draw(self, distribution: Any, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def best(self, observations: np.ndarray | Tensor) -> np.ndarray:
        """The most likely action at each observation, [B, ...] (for evaluation)."""
        with torch.no_grad():
            return self.distribution(self._tensor(observations)).mode.cpu().numpy()


class GaussianPolicy(_Direct):
    """Continuous actions: a diagonal Gaussian with a mean from the network and one log standard deviation per dimension that
    does not depend on the observation. Log-probabilities are summed over dimensions; actions are not squashed or clipped."""

    def __init__(
        self,
        observation: int,
        action: int,
        hidden: Sequence[int] = (64, 64),
        log_std: float = 0.0,
        seed: int = 0,
        normalise: bool = False,
    ) -> None:
        super().__init__(observation, action, hidden, 0.01, seed, normalise)
        self.log_std = nn.Parameter(torch.full((action,), float(log_std)))

    def distribution(self, observations: Tensor) -> torch.distributions.Independent:
        mean = self(observations)
        normal = torch.distributions.Normal(mean, self.log_std.exp().expand_as(mean))
        return torch.distributions.Independent(normal, 1)

    def _draw(self, distribution: Any, generator: torch.Generator) -> Tensor:
        noise = torch.randn(distribution.mean.shape, generator=generator, dtype=distribution.mean.dtype)
        return distribution.mean + distribution.stddev * noise.to(distribution.mean.device)

    def _actions(self, actions: Tensor) -> Tensor:
        return actions.to(self.log_std)


class CategoricalPolicy(_Direct):
    """Discrete actions 0..actions-1 with logits from the network."""

    def __init__(
        self, observation: int, actions: int, hidden: Sequence[int] = (64, 64), seed: int = 0, normalise: bool = False
    ) -> None:
        super().__init__(observation, actions, hidden, 0.01, seed, normalise)

    def distribution(self, observations: Tensor) -> torch.distributions.Categorical:
        return torch.distributions.Categorical(logits=self(observations))

    def _draw(self, distribution: Any, generator: torch.Generator) -> Tensor:
        drawn = torch.multinomial(distribution.probs.cpu(), 1, generator=generator).squeeze(1)
        return drawn.to(distribution.probs.device)

    def _actions(self, actions: Tensor) -> Tensor:
        return actions.to(next(self.body.parameters()).device, torch.int64)


class ValueNetwork(Network):
    """Columns ``value`` [N], the expected return at every observation, and ``value_next`` [N], that at the observation which
    followed (0 where the episode ended there). A learner of its own beside a control policy."""

    columns = frozenset({"value", "value_next"})

    def __init__(
        self, observation: int, hidden: Sequence[int] = (64, 64), seed: int = 0, normalise: bool = False
    ) -> None:
        super().__init__(observation, 1, hidden, 1.0, seed, normalise)

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """The named columns, [N], connected to the parameters when `grad`."""
        if not len(batch) or not names:
            return {name: torch.zeros(0) for name in names}
        with torch.set_grad_enabled(grad):
            out = {}
            if "value" in names:
                out["value"] = self(self._tensor(self._gather(batch, "observation"))).squeeze(-1)
            if "value_next" in names:
                out["value_next"] = self._following(batch)
            return {name: column.to(batch.sequence.device) for name, column in out.items()}

    def _following(self, batch: Batch) -> Tensor:
        values = self(self._tensor(self._gather(batch, "observation_next"))).squeeze(-1)
        return values * (1 - batch["terminated"].double().to(values.device))

    def values(self, observations: np.ndarray | Tensor) -> np.ndarray:
        """Values at observations [B, ...], [B] (to bootstrap from the observation after a truncated rollout)."""
        with torch.no_grad():
            return self(self._tensor(observations)).squeeze(-1).cpu().numpy()
