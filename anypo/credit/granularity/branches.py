"""Monte Carlo credit between states: differences of estimated values along a rollout, from chains of re-rolled states or from
trees of rollouts that share prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Granularity
from anypo.credit.centres.heads import empty_buffer, fit_head, keep_recent
from anypo.data.batch import Batch
from anypo.errors import UserError


class ChainValues(Granularity, name="chain_values"):
    """A_k = V(s_{k+1}) - V(s_k) for every decision of segment k (SPO-chain, arXiv:2505.23564).

    The generator re-rolled the state at each segment start and left ``starts`` (decision indices, the first 0) and ``values``
    in the trajectory's `extra`. The value after the last segment is the trajectory's own reward, so a trajectory's
    advantages telescope to reward - V(s_0). A trajectory without estimates is one segment with its sequence advantage.
    """

    requires = frozenset({"state_values"})

    def spread(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        rows = batch.spread(advantages).clone()
        rewards = batch.sequences["reward"].double().numpy()
        begin = torch.cat([torch.zeros(1, dtype=torch.int64), batch.sequences["length"].cumsum(0)])
        for s, trajectory in enumerate(batch.trajectories):
            if "values" not in trajectory.extra:
                continue
            steps = segment_advantages(
                trajectory.extra["starts"], trajectory.extra["values"], rewards[s], int(batch.sequences["length"][s])
            )
            rows[begin[s] : begin[s + 1]] = torch.from_numpy(steps).to(rows.dtype)
        return rows


def segment_advantages(starts: list[int], values: list[float], reward: float, length: int) -> np.ndarray:
    """V at the end of a decision's segment minus V at its start, [length]. `starts` ascending from 0, one value each."""
    gains = np.diff(np.append(np.asarray(values, dtype=np.float64), reward))
    at = np.searchsorted(np.asarray(starts), np.arange(length), side="right") - 1
    return gains[at]


class CriticValues(Granularity, name="critic_values"):
    """A(s, a) = V(s + a) - V(s) per step, with a critic of states fitted to Monte Carlo values (Direct Advantage Policy
    Optimization, arXiv:2412.18279); the last step uses the verified reward.

    The generator valued the states at step starts by re-rolling them (``starts`` and ``values`` in `extra`). The critic maps
    the hidden state there to that value: a ridge head on principal components, refitted every step from the last `buffer`
    states of *earlier* steps. Until it has seen `least` states the Monte Carlo values themselves are used.
    """

    components: int = Field(32, ge=1)
    ridge: float = Field(1.0, ge=0.0)
    buffer: int = Field(4096, ge=2)
    least: int = Field(128, ge=2)
    reads = frozenset({"hidden"})
    requires = frozenset({"state_values"})

    def start(self) -> dict[str, Any]:
        return empty_buffer()

    def spread(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        rows = batch.spread(advantages).clone()
        length = batch.sequences["length"].tolist()
        begin = np.concatenate([[0], np.cumsum(length)]).astype(int)
        valued = [s for s, t in enumerate(batch.trajectories) if "values" in t.extra]
        if not valued or "hidden" not in batch.rows:
            return rows
        states = [begin[s] + np.asarray(batch.trajectories[s].extra["starts"]) for s in valued]
        targets = torch.tensor([v for s in valued for v in batch.trajectories[s].extra["values"]], dtype=torch.float64)
        features = [batch["hidden"][torch.from_numpy(np.concatenate(states))].double()]
        head = fit_head(context.memory[self], self.components, self.ridge, self.least)
        guess = head.predict(features) if head else targets
        if head:
            context.log("credit/critic_error", ((guess - targets) ** 2).mean().sqrt())
        keep_recent(context.memory[self], features, targets, self.buffer)
        values = torch.split(guess, [len(s) for s in states])
        for s, value in zip(valued, values):
            reward = float(batch.sequences["reward"][s])
            steps = segment_advantages(batch.trajectories[s].extra["starts"], value.tolist(), reward, length[s])
            rows[begin[s] : begin[s + 1]] = torch.from_numpy(steps).to(rows.dtype)
        return rows


@dataclass
class Branch:
    """One stretch of decisions between two states of a tree: rows [begin, end) of trajectory `owner`."""

    owner: int
    begin: int
    end: int
    value: float = 0.0
    advantage: float = 0.0


class TreeValues(Granularity, name="tree_values"):
    """A(branch) = V(its end) - V(its start) over the tree that the group's rollouts form by their shared prefixes (SPO-tree,
    arXiv:2505.23564).

    A leaf's value is its reward, an inner state's the mean value of its branches, bottom up; all rollouts that start at the
    prompt are branches of the root, so a group without forks has the plain group-mean advantage. `scale`: divide by the
    standard deviation (plus `eps`) of the siblings' values. A forked rollout names its parent by the parent's sample number;
    the decisions it shares with the parent carry the parent's advantage (``select=own_decisions`` trains them once).
    """

    scale: bool = False
    eps: float = Field(1e-6, gt=0.0)

    def spread(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        column = {name: batch.sequences[name].tolist() for name in ("reward", "length", "sample", "parent", "fork")}
        begin = np.concatenate([[0], np.cumsum(column["length"])]).astype(int)
        rows = np.zeros(len(batch))
        for group in torch.unique(batch.group).tolist():
            members = (batch.group == group).nonzero().flatten().tolist()
            tree = Tree(members, column, self.scale, self.eps)
            for branch in tree.branches:
                first = begin[branch.owner]
                rows[first + branch.begin : first + branch.end] = branch.advantage
            for member in sorted(members, key=tree.depth):
                mother, shared = tree.mother[member], column["fork"][member]
                if mother >= 0:
                    rows[begin[member] : begin[member] + shared] = rows[begin[mother] : begin[mother] + shared]
        return torch.from_numpy(rows).to(advantages.dtype)


class Tree:
    """The branches of one group with their values and advantages. `column` holds the sequence columns as lists."""

    def __init__(self, members: list[int], column: dict[str, list[Any]], scale: bool, eps: float) -> None:
        place = {column["sample"][m]: m for m in members}
        self.mother = {m: place.get(column["parent"][m], -1) if column["parent"][m] >= 0 else -1 for m in members}
        if any(self.mother[m] < 0 <= column["parent"][m] for m in members):
            raise UserError("a forked rollout's parent is not in its group; keep trees whole in filter and replay")
        self.column, self.scale, self.eps = column, scale, eps
        self.sons: dict[int, list[int]] = {m: [] for m in members}
        for m in members:
            if self.mother[m] >= 0:
                self.sons[self.mother[m]].append(m)
        self.branches: list[Branch] = []
        fork = column["fork"]
        top = [self._grow(m, 0) for m in members if self.mother[m] < 0 or fork[m] == 0]
        self._compare(top)

    def depth(self, member: int) -> int:
        """Forks between the prompt and this rollout."""
        return 0 if self.mother[member] < 0 else 1 + self.depth(self.mother[member])

    def _grow(self, owner: int, start: int) -> Branch:
        """The branch of `owner` from decision `start` to its next fork or its end, with everything that hangs on it."""
        forks = {self.column["fork"][son] for son in self.sons[owner]}
        end = min((f for f in forks if f > start), default=None)
        branch = Branch(owner, start, self.column["length"][owner] if end is None else end)
        if end is None:
            branch.value = float(self.column["reward"][owner])
        else:
            sons = [son for son in self.sons[owner] if self.column["fork"][son] == end]
            branch.value = self._compare([self._grow(owner, end), *(self._grow(son, end) for son in sons)])
        self.branches.append(branch)
        return branch

    def _compare(self, siblings: list[Branch]) -> float:
        """Set the siblings' advantages; returns the value of the state they leave from."""
        values = np.array([sibling.value for sibling in siblings])
        gains = values - values.mean() if np.ptp(values) > 0 else np.zeros_like(values)
        for sibling, gain in zip(siblings, gains / (values.std() + self.eps) if self.scale else gains):
            sibling.advantage = float(gain)
        return float(values.mean())
