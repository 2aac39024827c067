"""Credit per decision from a critic (GAE) or from returns alone.

Convention: a trajectory's ``reward`` is the total of everything it earned, its ``step_reward`` rows included; what is not in
``step_reward`` is the outcome, paid at the last decision.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Credit, Select, Shaping
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.fits import Fit
from anypo.update.base import Optimiser
from anypo.update.optimisers import AdamW


class Returns(Credit, name="returns"):
    """The discounted reward to go, G_t = r_t + gamma G_{t+1}, whitened over all counted rows of the batch (REINFORCE++,
    arXiv:2501.03262)."""

    gamma: float = Field(1.0, ge=0.0, le=1.0)
    whiten: bool = True
    shaping: tuple[Shaping, ...] = ()

    def assign(self, batch: Batch, context: Context) -> Batch:
        for shaping in self.shaping:
            batch = shaping.shape(batch, context)
        returns = segments.discounted(row_rewards(batch), batch.sequence, batch.n_sequences, self.gamma)
        return with_advantage(batch, whiten_rows(returns, batch) if self.whiten else returns, context)


class GAE(Credit, name="gae"):
    """Generalised advantage estimation with a learned critic V (arXiv:1506.02438): A_t = sum_k (gamma lam)^k delta_{t+k},
    delta_t = r_t + gamma V(s_{t+1}) - V(s_t); whitened over counted rows.

    The critic's loss is coefficient * mean max( (V - G)^2, (clip(V, V_old +- clip) - G)^2 ) / 2 with the lambda-return
    G_t = V(s_t) + the lambda-sum of deltas for `value_lam`.

    truncated: what follows the last decision of a truncated trajectory: ``terminal`` value 0; ``last`` the last known value,
    V(s_T) := V(s_{T-1}), and no outcome reward yet (T-PPO's EGAE, arXiv:2506.15050); ``bootstrap`` the critic's value of the
    observation that followed (column ``value_next_old``; what control needs, Pardo et al., arXiv:1712.00378).
    unit: what a step is. ``turn``: all decisions of a turn are one, valued at its first and paid what they earn together; each has its
    advantage times inner^(decisions left in the turn), and the critic learns its return from all of them. So chains of inner steps are
    credited (DPPO, arXiv:2409.00588): what the environment discounts, they do not.
    value_on: which rows train the critic: the ``counted`` ones, or all rows of ``finished`` trajectories and no others.
    select: which decisions train the policy (after advantages are known, before they are whitened); the critic is unaffected.
    over: whose mean and deviation whiten: those of the counted rows, or of ``all`` rows, counted or not.
    """

    gamma: float = Field(1.0, ge=0.0, le=1.0)
    lam: float = Field(0.95, ge=0.0, le=1.0)
    unit: Literal["decision", "turn"] = "decision"
    inner: float = Field(1.0, ge=0.0, le=1.0, description="unit=turn: factor for every decision left in the turn")
    whiten: bool = True
    over: Literal["counted", "all"] = "counted"
    shaping: tuple[Shaping, ...] = ()
    truncated: Literal["terminal", "last", "bootstrap"] = "terminal"
    value_lam: float | None = Field(
        None, ge=0.0, le=1.0, description="lambda of the critic's target; the policy's when absent"
    )
    value_on: Literal["counted", "finished"] = "counted"
    coefficient: float = Field(0.5, ge=0.0)
    clip: float | None = Field(0.2, gt=0.0)
    critic: Literal["head", "copy"] = Field(
        "head", description="value head on the policy's trunk, or a trunk of its own"
    )
    width: int = Field(0, ge=0, description="hidden units of the value head; 0 is linear")
    select: tuple[Select, ...] = ()
    optimiser: Optimiser = AdamW(lr=1e-3)

    reads = frozenset({"value", "value_old"})
    provides = frozenset({"critic"})
    excuses = {"common offset": "a critic has to learn the offset first"}

    def needs(self) -> frozenset[str]:
        return self.reads | (frozenset({"value_next_old"}) if self.truncated == "bootstrap" else frozenset())

    def refuse(self, algorithm: Any) -> str | None:
        if self.inner != 1.0 and self.unit != "turn":
            return "inner discounts the decisions inside a turn, and every decision is a step of its own here; set unit=turn"
        return None

    def learner(self, policy: Any, seed: int) -> Any:
        """The critic: the policy's own (`policy.critic(seed)`) where it has one, else a value head beside a language model."""
        if hasattr(policy, "critic"):
            return policy.critic(seed)
        from anypo.policies.language.critic import Critic  # a model, which credit itself never needs

        return Critic(policy, self.critic, self.width, seed)

    def assign(self, batch: Batch, context: Context) -> Batch:
        for shaping in self.shaping:
            batch = shaping.shape(batch, context)
        advantage, target = self._by_turn(batch) if self.unit == "turn" else self._by_decision(batch)
        batch = batch.with_rows(**{"return": target, "value_weight": self._value_weight(batch)})
        batch = batch.with_rows(advantage=advantage).with_sequences(advantage=batch.sequence_mean(advantage))
        for select in self.select:
            batch = select.select(batch, context)
        chosen = batch["advantage"]
        pool = batch if self.over == "counted" else batch.with_rows(weight=torch.ones_like(batch.weight))
        return with_advantage(batch, whiten_rows(chosen, pool) if self.whiten else chosen, context)

    def _by_decision(self, batch: Batch) -> tuple[Tensor, Tensor]:
        value, following, reward = self._seen(batch)
        return self._estimated(value, following, reward, batch.sequence, batch.n_sequences)

    def _by_turn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        value, following, reward = self._seen(batch)
        ids, turns = batch.units("turn")  # numbered sequence by sequence, in the order of time
        first, last = segments.firsts(ids, turns), segments.lasts(ids, turns)
        earned = segments.sum(reward, ids, turns)
        advantage, target = self._estimated(
            value[first], following[last], earned, batch.sequence[first], batch.n_sequences
        )
        left = batch["position"][last][ids] - batch["position"]
        return advantage[ids] * self.inner ** left.to(reward.dtype), target[ids]

    def _seen(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The value at every decision, that of what follows it, and its reward, each [N]."""
        value = batch["value_old"]
        open_ended = batch.sequences["truncated"] & (self.truncated == "last")
        following = batch["value_next_old"] if self.truncated == "bootstrap" else next_value(value, batch, open_ended)
        return value, following, row_rewards(batch, ~open_ended)

    def _estimated(
        self, value: Tensor, following: Tensor, reward: Tensor, ids: Tensor, n: int
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns of steps in the order of time, of the trajectories `ids`."""
        delta = reward + self.gamma * following - value
        advantage = segments.discounted(delta, ids, n, self.gamma * self.lam)
        if self.value_lam in (None, self.lam):
            return advantage, value + advantage
        return advantage, value + segments.discounted(delta, ids, n, self.gamma * float(self.value_lam or 0.0))

    def _value_weight(self, batch: Batch) -> Tensor:
        if self.value_on == "counted":
            return batch.weight
        return batch.spread(~batch.sequences["truncated"]).to(batch.weight.dtype)

    def fits(self) -> tuple[Fit, ...]:
        return (Fit(self.value_loss),)

    def value_loss(self, batch: Batch, context: Context) -> Tensor:
        """The critic's loss on an update batch, a scalar."""
        value, target, weight = batch["value"], batch["return"], batch["value_weight"]
        error = (value - target) ** 2
        if self.clip is not None:
            near = batch["value_old"] + (value - batch["value_old"]).clamp(-self.clip, self.clip)
            error = torch.maximum(error, (near - target) ** 2)
        total = weight.sum()
        loss = 0.5 * (error * weight).sum() / torch.where(total > 0, total, torch.ones_like(total))
        context.log("critic/loss", loss)
        context.log("critic/explained_variance", explained_variance(batch["value_old"], target, weight))
        return self.coefficient * loss


def row_rewards(batch: Batch, settled: Tensor | None = None) -> Tensor:
    """Reward of every decision, [N]: ``step_reward``, plus at the last one what the trajectory earned beyond these.

    `settled` bool [S]: trajectories whose outcome is paid (all when absent).
    """
    dense = batch["step_reward"]
    outcome = batch.sequences["reward"].to(dense.dtype) - segments.sum(dense, batch.sequence, batch.n_sequences)
    if settled is not None:
        outcome = torch.where(settled, outcome, torch.zeros_like(outcome))
    return dense + batch.spread(outcome) * last_rows(batch).to(dense.dtype)


def last_rows(batch: Batch) -> Tensor:
    """The last decision of every trajectory, bool [N]."""
    return batch["position"] == batch.spread(batch.sequences["length"]) - 1


def next_value(value: Tensor, batch: Batch, open_ended: Tensor) -> Tensor:
    """V(s_{t+1}) per row, [N]: 0 after the last decision, or its own value where the trajectory is `open_ended` (bool [S])."""
    order = segments.order(batch.sequence, batch["position"])
    following = torch.empty_like(value)
    following[order] = value[order].roll(-1)
    stay = torch.where(batch.spread(open_ended), value, torch.zeros_like(value))
    return torch.where(last_rows(batch), stay, following)


def whiten_rows(values: Tensor, batch: Batch) -> Tensor:
    """(values - mean) / (std + 1e-8) over the counted rows, [N]; only centred where they do not vary."""
    keep = batch.weight > 0
    pool = values[keep]
    if len(pool) < 2:
        return values
    centred = values - (pool.min() + (pool - pool.min()).mean())  # equal values deviate by exactly nothing
    spread = centred[keep].std()
    return centred / (spread + 1e-8) if spread > 0 else centred


def with_advantage(batch: Batch, rows: Tensor, context: Context) -> Batch:
    """The batch with the row column ``advantage`` and its trajectory mean as sequence column, logged."""
    batch = batch.with_rows(advantage=rows).with_sequences(advantage=batch.sequence_mean(rows))
    context.log("credit/advantage_abs", batch.row_mean(rows.abs()))
    live = (rows != 0) & (batch.weight > 0)
    context.log("credit/live_share", live.float().mean() if len(rows) else 0.0)
    return batch


def explained_variance(value: Tensor, target: Tensor, weight: Tensor) -> float:
    """1 - Var(target - value) / Var(target) over rows with weight; 0 when the target does not vary."""
    keep = weight > 0
    if int(keep.sum()) < 2 or float(target[keep].var()) <= 0:
        return 0.0
    return float(1 - (target - value)[keep].var() / target[keep].var())
