"""The bounded ratio with a learned threshold: a second critic that is the median of returns, where the first is their mean."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp
from anypo.fits import Fit
from anypo.objective.base import Trust
from anypo.outlook import Outlook
from anypo.update.base import Optimiser
from anypo.update.optimisers import AdamW

COLUMN = "median"


class MedianBound(Trust, name="median_bound"):
    """- |G - V| |r - r*|, r* = 1 - width + 2 width sigmoid((G - u) / softness) (BPO, arXiv:2604.18578; the released code,
    github.com/bounded-ratio-rl/bounded_ratio_rl 64ff1cd, src/sb3/BPO.py): decisions whose return G is above the median u of their
    state aim at the ratio 1 + width, the others at 1 - width.

    G is the critic's lambda-return (column ``return``), V the critic's value now, both fixed in the loss, as is u. u is a critic
    of the same kind with a loss of its own, coefficient * mean( softplus(G - u) - (G - u) / 2 ), whose minimum is where G is above
    u as often as below, softly. The batch's advantages are not read: neither centring nor whitening moves a target. optimiser:
    that of u, by default the one that V has: a median that lags behind the mean would put every decision on one side.
    """

    width: float = Field(0.3, gt=0.0, le=1.0)
    softness: float = Field(0.001, gt=0.0)
    coefficient: float = Field(0.5, ge=0.0)
    optimiser: Optimiser = AdamW(lr=1e-3)

    needs_ratio = False
    reads = frozenset({COLUMN, "value"})
    requires = frozenset({"critic"})

    def refuse(self, algorithm: Any) -> str | None:
        if algorithm.credit.part == "gae":
            return None
        return "its targets are a critic's lambda-returns; set credit=gae"

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return None

    def learner(self, policy: Any, seed: int) -> Any:
        if hasattr(policy, "critic"):
            return MedianCritic(policy.critic(seed))
        from anypo.policies.language.critic import Critic  # a model, which an objective itself never needs

        return MedianCritic(Critic(policy, seed=seed))

    def fits(self) -> tuple[Fit, ...]:
        return (Fit(self.median_loss),)

    def median_loss(self, batch: Batch, context: Context) -> Tensor:
        """The loss of u on an update batch, a scalar."""
        above = batch["return"].to(batch[COLUMN].dtype) - batch[COLUMN]
        loss = batch.row_mean(F.softplus(above) - above / 2)
        context.log("objective/median_loss", loss)
        return self.coefficient * loss

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        returns = batch["return"].to(log_ratio.dtype)
        target = self.target(returns, batch[COLUMN].detach().to(log_ratio.dtype))
        gap = bounded_exp(log_ratio) - target
        context.log("objective/overshoot", batch.row_mean((gap.detach() * (target - 1) > 0).to(gap.dtype)))
        context.log("objective/above_median", batch.row_mean((target > 1).to(gap.dtype)))
        return -(returns - batch["value"].detach().to(log_ratio.dtype)).abs() * gap.abs()

    def target(self, returns: Tensor, median: Tensor) -> Tensor:
        """The ratio r* that decisions with these returns aim at, [N]."""
        return 1 - self.width + 2 * self.width * torch.sigmoid((returns - median) / self.softness)


class MedianCritic:
    """Another critic whose ``value`` is called ``median``."""

    columns = frozenset({COLUMN})

    def __init__(self, critic: Any) -> None:
        self.critic = critic

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """``median`` [N], connected to the critic's parameters when `grad`."""
        return {COLUMN: self.critic.fill(batch, ["value"], grad)["value"]} if COLUMN in names else {}

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.critic.parameters())

    def state_dict(self) -> dict[str, Any]:
        return dict(self.critic.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.critic.load_state_dict(state)


__all__ = ["MedianBound", "MedianCritic"]
