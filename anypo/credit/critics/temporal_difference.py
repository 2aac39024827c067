"""Critics of actions, learned by temporal differences: twin and larger ensembles, with or without an entropy bonus."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from anypo.context import Context
from anypo.credit.base import Credit
from anypo.data.batch import Batch
from anypo.fits import Fit
from anypo.policies.control.perceptron import Perceptron
from anypo.update.base import Optimiser
from anypo.update.optimisers import AdamW


class TemporalDifference(Credit, name="temporal_difference"):
    """Q_e(s, a) for `members` critics, fitted before the policy to y = r + gamma (1 - terminal) V(s').

    V(s') is the least (or mean) of the target critics at the next action: a fresh draw of the policy (``action@next_old``), minus
    alpha log pi where `soft` (SAC, arXiv:1801.01290), or the action of a lagged policy (`next_source`, TD3, arXiv:1802.09477).
    The targets are the reference called ``target`` that update.references keeps of this part (``of: credit``). Loss:
    the sum over members of the mean squared error, halved.
    """

    gamma: float = Field(0.99, ge=0.0, le=1.0)
    members: int = Field(2, ge=1)
    hidden: tuple[int, ...] = (256, 256)
    reduce: Literal["min", "mean"] = "min"
    soft: bool = Field(False, description="the entropy of the next action counts, at the objective's temperature")
    next_source: str = Field("old", description="whose action follows: the policy's own (old), or a reference's")
    optimiser: Optimiser = AdamW(lr=3e-4)
    provides = frozenset({"action_values"})

    @property
    def _action(self) -> str:
        return f"action@next_{self.next_source}"

    def needs(self) -> frozenset[str]:
        soft = {"logp@next_old", "log_alpha_old"} if self.soft else set()
        return frozenset({"q", "q@next_target", self._action, *soft})

    def required(self) -> frozenset[str]:
        return frozenset({"transitions", "actor"})

    def learner(self, policy: Any, seed: int) -> ActionValues:
        inputs = policy.body.weights[0].shape[1] + len(policy.low)
        norm = getattr(policy, "norm", None)
        return ActionValues(inputs, self.hidden, self.members, seed, self._action, norm)

    def assign(self, batch: Batch, context: Context) -> Batch:
        q = batch["q@next_target"]
        following = q.amin(1) if self.reduce == "min" else q.mean(1)
        if self.soft:
            following = following - batch["log_alpha_old"].exp() * batch["logp@next_old"]
        goes_on = 1 - batch["terminated"].to(q.dtype)
        target = batch["step_reward"] + self.gamma * goes_on * following
        context.log("critic/target", batch.row_mean(target))
        return batch.with_rows(target=target)

    def fits(self) -> tuple[Fit, ...]:
        return (Fit(self.critic_loss, when="before_policy"),)

    def critic_loss(self, batch: Batch, context: Context) -> Tensor:
        """Half the sum over critics of the mean squared temporal difference, a scalar."""
        context.log("critic/value", batch.row_mean(batch["q"].detach().mean(1)))
        error = (batch["q"] - batch["target"][:, None]).square().sum(1)
        loss = 0.5 * batch.row_mean(error)
        context.log("critic/loss", loss)
        return loss


class ActionValues(nn.Module):
    """Fills ``q`` [N, members], the critics' values of the row's action at its observation, and ``q@next``, those of the column
    `next_action` at the observation that followed. norm: what observations go through first, the actor's own."""

    columns = frozenset({"q", "q@next"})
    holds = True

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        members: int,
        seed: int,
        next_action: str,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = norm if norm is not None else nn.Identity()
        self.body = Perceptron([inputs, *hidden, 1], members, seed)
        self.next_action = next_action

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """The named columns; connected to parameters (and to the action) when `grad`."""
        with torch.set_grad_enabled(grad):
            return {
                name: self._values(batch["observation_next"], batch[self.next_action])
                if name == "q@next"
                else self._values(batch["observation"], batch["action"])
                for name in names
            }

    def _values(self, observation: Tensor, action: Tensor) -> Tensor:
        found = self.body(torch.cat([self.norm(observation), action], -1))
        return found.squeeze(-1).T if found.ndim == 3 else found

    def frozen(self) -> Self:
        """An untrainable copy as it is now."""
        return copy.deepcopy(self).requires_grad_(False)

    @torch.no_grad()
    def blend(self, critic: Self, decay: float) -> None:
        """theta <- decay theta + (1 - decay) theta_critic."""
        torch._foreach_lerp_(list(self.parameters()), list(critic.parameters()), 1.0 - decay)
