"""Credit by key: what a decision was worth among the decisions of the group that were taken in the same place."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Granularity
from anypo.credit.centres.keyed import key_features, log_shared, shared_baseline, shared_deviation, single
from anypo.data import segments
from anypo.data.batch import Batch

Step = Literal["turn", "decision"]
"""What one step is: a turn of a conversation, or a single decision (the actions of a control task)."""


class KeyedReturns(Granularity, name="keyed_returns"):
    """A_t = `outcome` A(trajectory) + `weight` (R_t - mean R) / F over the steps of the group that agree in every key of `by` (the
    anchor groups of GiGPO, arXiv:2505.10978: by = (state,); by = (turn,): UI-S1's step groups, arXiv:2509.11543).

    R_t = sum_{k >= t} gamma^(k - t) r_k, r the reward of a step (`step_rewards`). F: the standard deviation of the R_t compared with
    `scale`, 1 without. Revisits inside one trajectory count. A step that shares its keys with no other is its own baseline, so that
    only its trajectory's advantage is left. All decisions of a step share its advantage.
    """

    by: tuple[str, ...] = Field(("state",), min_length=1)
    step: Step = "turn"
    gamma: float = Field(0.95, ge=0.0, le=1.0)
    outcome: float = Field(1.0, ge=0.0)
    weight: float = Field(1.0, ge=0.0)
    leave_one_out: bool = False
    scale: bool = False
    ddof: int = Field(1, ge=0, le=1)
    eps: float = Field(1e-6, ge=0.0)

    def required(self) -> frozenset[str]:
        return key_features(self.by)

    def spread(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        steps, n = units(batch, self.step)
        ids, size = alike(batch, self.by, steps, n)
        log_shared(ids, size, context)
        owner = batch.sequence[segments.firsts(steps, n)]
        returns = segments.discounted(step_rewards(batch, steps, n), owner, batch.n_sequences, self.gamma)
        gain = returns - shared_baseline(returns, ids, size, self.leave_one_out)
        if self.scale:
            gain = gain / shared_deviation(returns, ids, size, self.ddof, self.eps)
        return self.outcome * batch.spread(advantages) + self.weight * gain[steps].to(advantages.dtype)


class KeyedMean(Granularity, name="keyed_mean"):
    """The mean of the trajectories' advantages over the steps of the group that agree in every key of `by`: what good and bad
    rollouts did alike is worth what they were worth together (merged edges of SALT, arXiv:2510.20022: by = (state, action)). A
    step that shares its keys with no other keeps its trajectory's advantage."""

    by: tuple[str, ...] = Field(("state", "action"), min_length=1)
    step: Step = "turn"

    def required(self) -> frozenset[str]:
        return key_features(self.by)

    def spread(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        steps, n = units(batch, self.step)
        ids, size = alike(batch, self.by, steps, n)
        log_shared(ids, size, context)
        owner = batch.sequence[segments.firsts(steps, n)]
        return segments.mean(advantages[owner], ids, size)[ids][steps]


def units(batch: Batch, step: Step) -> tuple[Tensor, int]:
    """The step of each row, numbered by trajectory and then in time, int64 [N], and how many there are."""
    return batch.units("turn") if step == "turn" else batch.units("sequence", "position")


def alike(batch: Batch, by: tuple[str, ...], steps: Tensor, n: int) -> tuple[Tensor, int]:
    """Id of the steps of a group that agree in all keys (those of a step's first decision), int64 [U], and how many ids there are. A
    step without one of the keys shares with nobody."""
    first = segments.firsts(steps, n)
    keys = [batch.key(name)[first] for name in by]
    alone = torch.stack([key < 0 for key in keys]).any(0)
    return segments.joint(batch.row_group[first], *keys, single(alone))


def step_rewards(batch: Batch, steps: Tensor, n: int) -> Tensor:
    """The reward of every step [U]: its decisions' ``step_reward``, or what a conversation earned in that turn; what the
    trajectory's reward has beyond their sum (an outcome, a shaping) is earned in its last step."""
    own = segments.sum(batch["step_reward"], steps, n)
    first = segments.firsts(steps, n)
    owner, turn = batch.sequence[first], batch["turn"][first]
    for s, trajectory in enumerate(batch.trajectories):
        earned = trajectory.extra.get("turn_rewards")
        if earned and trajectory.step_rewards is None:
            mine = ((owner == s) & (turn < len(earned))).nonzero().flatten()
            own[mine] = torch.tensor(earned, dtype=own.dtype)[turn[mine]]
    rest = batch.sequences["reward"] - segments.sum(own, owner, batch.n_sequences)
    last = torch.zeros(batch.n_sequences, dtype=torch.int64).scatter_reduce(0, owner, torch.arange(n), "amax")
    some = segments.count(owner, batch.n_sequences) > 0
    return own.index_add(0, last[some], rest[some].to(own.dtype))
