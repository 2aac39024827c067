"""A Gaussian denoising chain over actions: an action is noise that the policy turns into a choice in a few inner steps.

Every inner step is a decision with a density of its own, so that whatever trains on log-probabilities trains the chain (two-layer
decision process of DPPO, Ren et al., arXiv:2409.00588).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from anypo.data.batch import Batch
from anypo.policies.control.actors import scaled
from anypo.policies.control.networks import ControlPolicy


def cosine(steps: int) -> np.ndarray:
    """abar_0 = 1 .. abar_steps [steps + 1]: the share of an action's variance that is left after so many steps of noise (Nichol and
    Dhariwal, arXiv:2102.09672, equation 17); every step leaves at least 0.001 of what the step before left."""
    at = (np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2
    kept = np.cos(at[1:]) ** 2 / np.cos(at[:-1]) ** 2
    return np.concatenate([[1.0], np.cumprod(np.maximum(kept, 0.001))])


class ChainPolicy(ControlPolicy):
    """x_K ~ N(0, 1), then x_{k-1} ~ N(mu(s, x_k, k), sigma_k^2) for k = K..1; the world gets x_0, clipped to [-1, 1] and scaled to the
    bounds `low` and `high` of its actions.

    The network gives v, the mean is that of the denoising step q(x_{k-1} | x_k, x_0) at the action it stands for,
    x_0 = sqrt(abar_k) x_k - sqrt(1 - abar_k) v (Ho et al., arXiv:2006.11239, equation 7; Salimans and Ho, arXiv:2202.00512). The
    deviations sigma_k [K, A] are learned, from sigma_k^2 = beta_k on. With v = 0, where a new policy nearly is, x_0 is exactly
    standard normal.

    Inner step j = K - k is decision j of a step in the environment. Rows have, beside observation and action (x_{k-1}), the columns
    ``before`` (x_k) [N, A] and ``inner`` (j) [N].
    """

    keep: Tensor
    pull: Tensor

    def __init__(
        self,
        observation: int,
        low: np.ndarray,
        high: np.ndarray,
        inner: int = 5,
        hidden: Sequence[int] = (64, 64),
        seed: int = 0,
        normalise: bool = False,
    ) -> None:
        super().__init__(observation, low.size, hidden, 0.01, seed, normalise, beside=low.size + inner)
        self.low, self.high = low.astype(np.float32).ravel(), high.astype(np.float32).ravel()
        left = cosine(inner)
        kept = left[1:] / left[:-1]  # alpha_k, k = 1..K
        keep, pull = np.sqrt(kept), np.sqrt(left[:-1]) * (1 - kept) / np.sqrt(1 - left[1:])
        for name, values in (("keep", keep), ("pull", pull)):  # by inner step, from the noise on
            self.register_buffer(name, torch.from_numpy(values[::-1].copy()), persistent=False)
        deviation = torch.from_numpy(0.5 * np.log(1 - kept)[::-1].copy()).float()
        self.log_std = nn.Parameter(deviation[:, None].repeat(1, low.size))

    def step(self, observations: Tensor, before: Tensor, inner: Tensor) -> torch.distributions.Independent:
        """The distribution of x_{k-1} [N, A] after x_k = `before` [N, A] at inner step `inner` [N]."""
        which = one_hot(inner, len(self.keep)).to(before)
        v = self(observations, before, which)
        mean = self.keep[inner, None].to(before) * before - self.pull[inner, None].to(before) * v
        return torch.distributions.Independent(torch.distributions.Normal(mean, self.log_std[inner].exp()), 1)

    def decided(self, batch: Batch) -> torch.distributions.Independent:
        observations, before = (self._tensor(self._gather(batch, name)) for name in ("observation", "before"))
        return self.step(observations, before, batch["inner"].to(before.device))

    def _actions(self, actions: Tensor) -> Tensor:
        return actions.to(self.log_std)

    @torch.no_grad()
    def act(
        self, observations: np.ndarray | Tensor, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Chains at observations [B, ...]: x_{K-1}..x_0 [B, K, A], their log-probabilities [B, K], and the columns of their rows."""
        seen = self._tensor(observations)
        chain, logp = [self._noise(len(seen), generator)], []
        for inner in range(len(self.keep)):
            distribution = self._at(seen, chain[-1], inner)
            drawn = distribution.mean + distribution.stddev * self._noise(len(seen), generator)
            logp.append(distribution.log_prob(drawn))
            chain.append(drawn)
        inner_steps = np.tile(np.arange(len(self.keep)), (len(seen), 1))
        stacked = torch.stack(chain, 1).cpu().numpy()
        return (
            stacked[:, 1:], torch.stack(logp, 1).cpu().numpy(), {"before": stacked[:, :-1], "inner": inner_steps}
        )  # fmt: skip

    @torch.no_grad()
    def best(self, observations: np.ndarray | Tensor) -> np.ndarray:
        """The end [B, A] of the chain without noise, from x_K = 0 and by means (for evaluation)."""
        seen = self._tensor(observations)
        action = self.log_std.new_zeros(len(seen), len(self.low))
        for inner in range(len(self.keep)):
            action = self._at(seen, action, inner).mean
        return action.cpu().numpy()

    def sent(self, actions: np.ndarray) -> np.ndarray:
        """Actions [..., A] on the scale of the environment, inside its bounds."""
        return scaled(np.clip(actions, -1, 1), self.low, self.high)

    def _at(self, seen: Tensor, before: Tensor, inner: int) -> torch.distributions.Independent:
        return self.step(seen, before, torch.full((len(seen),), inner, device=before.device))

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(count, len(self.low), generator=generator, dtype=self.log_std.dtype)
        return drawn.to(self.log_std.device)


__all__ = ["ChainPolicy", "cosine"]
