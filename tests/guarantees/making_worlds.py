"""A synthetic world for any algorithm: rollouts with given lengths and rewards, and a policy whose columns are set at will.

The policy's log-probabilities are table entries plus a linear function of parameters (zero at first), so extreme ratios are
possible, and parameter gradients exist. Everything goes through the real weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, FINISHED, TRUNCATED, Group, Tokens, Trajectory
from anypo.policies.divergences import Comparisons
from anypo.update.gradient import by_gradient
from anypo.update.naming import offers
from anypo.update.pulls import Pull, push
from anypo.update.weights import Weights

WIDTH = 5
COMPONENTS = ("correct", "format", "greedy")


class TablePolicy(nn.Module):
    """Columns from tables by (group, sample), `shift`ed by features @ theta. One instance is the policy, others its references.
    Divergences are a table, too: what they are is tests/policies/test_divergence_columns.py. Every other column is the same in every
    view."""

    columns = frozenset({"logp", "entropy"})
    features = frozenset({"hidden"})
    version = 0

    def __init__(self, tables: dict[str, dict[tuple[int, int], np.ndarray]], logp: str = "logp") -> None:
        super().__init__()
        self.tables, self.logp = tables, logp
        self.theta = nn.Parameter(torch.zeros(WIDTH, dtype=torch.float64))
        self.compared = Comparisons()

    def offers(self, name: str) -> bool:
        return name.partition("@")[0] in self.columns or self.compared.column(name) is not None

    def fill(self, batch: Batch, names: Sequence[str], grad: bool) -> dict[str, Tensor]:
        with torch.set_grad_enabled(grad):
            shift = self.look(batch, "hidden") @ self.theta
            found = {
                "logp": lambda: self.look(batch, self.logp) + shift,
                "entropy": lambda: self.look(batch, "entropy") + 0.5 * shift,
                "hidden": lambda: self.look(batch, "hidden").float(),
                "value": lambda: self.look(batch, "value") + shift,
            }
            found |= {
                name: lambda: self.look(batch, "divergence") + 0.1 * shift
                for name in names
                if self.compared.column(name) is not None
            }
            found |= {name: found[stat] for name in names if (stat := name.partition("@")[0]) in self.columns}
            return {name: found[name]().to(batch.weight.dtype if name != "hidden" else torch.float32) for name in names}

    def look(self, batch: Batch, name: str) -> Tensor:
        table = self.tables[name]
        first = next(iter(table.values()))  # of prompts without answers, which a control may ask about
        rows = [table.get(t.extra.get("key"), first) for t in batch.trajectories]
        empty = np.zeros((0, WIDTH) if name == "hidden" else 0)
        return torch.from_numpy(np.concatenate(rows) if rows else empty)

    def frozen(self) -> TablePolicy:
        return TablePolicy(self.tables, "ref").requires_grad_(False)

    def blend(self, policy: TablePolicy, decay: float) -> None:
        pass

    def critic(self, seed: int) -> TablePolicy:
        critic = TablePolicy(self.tables)
        critic.columns = frozenset({"value"})
        return critic


@dataclass(frozen=True)
class Case:
    """One synthetic situation. lengths and rewards by group; drift: size of the log-ratio noise between sampler, step start,
    current and reference policy; extreme: log ratios of +-70 on some rows; weight: loss weight of the rows."""

    lengths: Sequence[Sequence[int]]
    rewards: Sequence[Sequence[float]] | None = None
    drift: float = 0.3
    extreme: bool = False
    weight: Callable[[int], np.ndarray] | None = None
    zero_advantage: bool = False
    seed: int = 0
    dtype: torch.dtype = torch.float64
    truncated: bool = False

    def groups(self) -> list[Group]:
        rng = np.random.default_rng([self.seed, 1])
        out = []
        for g, lengths in enumerate(self.lengths):
            members = []
            for i, n in enumerate(lengths):
                tokens = np.concatenate([[9], rng.integers(0, 6, n)]).astype(np.int32)
                roles = np.array([CONTEXT] + [ACTION] * n, dtype=np.int8)
                reward = float(rng.integers(0, 2)) if self.rewards is None else float(self.rewards[g][i])
                cut = self.truncated or rng.random() < 0.2
                members.append(
                    Trajectory(
                        prompt=100 + g,
                        content=Tokens(tokens, roles),
                        logp=-rng.exponential(1.0, n) - 0.01,
                        version=np.zeros(n, dtype=np.int64),
                        entropy=rng.exponential(0.5, n),
                        rewards={
                            name: reward if name == "correct" else float(rng.integers(0, 2)) for name in COMPONENTS
                        }
                        | {"flawed": 0.0, "mode": 0.0, "confidence": 1.0},
                        reward=reward,
                        turn=np.arange(n) // 2,
                        finish=TRUNCATED if cut else FINISHED,
                        text=" ".join("abcdefgh"[t] for t in tokens[1:]),
                        sample=i,
                        extra={"key": (g, i)},
                        keys={"thought": np.where(np.arange(n) < (n + 1) // 2, 0, -1)},
                    )
                )
            out.append(Group(100 + g, tuple(members), step=0))
        return out

    def tables(self) -> dict[str, dict[tuple[int, int], np.ndarray]]:
        """Columns of the current, starting and reference policy by (group, sample)."""
        rng = np.random.default_rng([self.seed, 2])
        names = ("logp", "old", "ref", "entropy", "value", "hidden", "divergence")
        tables: dict[str, dict[tuple[int, int], np.ndarray]] = {name: {} for name in names}
        for group in self.groups():
            for t in group.trajectories:
                n = len(t)
                near = lambda base, n=n: np.minimum(base + self.drift * rng.standard_normal(n), -1e-3)
                old = near(t.logp)
                rows = {"old": old, "ref": near(old), "logp": near(old)}
                if self.extreme:
                    rows = {name: -np.where(rng.random(n) < 0.5, 70.0, 1e-3) for name in rows}
                rows |= {"entropy": rng.exponential(0.5, n), "value": rng.standard_normal(n)}
                for name, column in rows.items():
                    tables[name][t.extra.get("key", 0)] = column
                tables["hidden"][t.extra.get("key", 0)] = rng.standard_normal((n, WIDTH))
                tables["divergence"][t.extra.get("key", 0)] = rng.exponential(0.3, n)
        return tables


@dataclass
class Outcome:
    """What the update made of a case: the loss, d loss / d column by row, and the metrics."""

    pull: Pull
    metrics: dict[str, float]
    weights: Weights
    batch: Batch

    @property
    def loss(self) -> float:
        return float(self.pull.loss.detach())

    @property
    def acting(self) -> str:
        """The column through which the policy's choices enter the loss."""
        return next((name for name in ("logp", *self.pull.gradients) if name in self.pull.gradients), "logp")

    def by_row(self, column: str = "") -> dict[tuple[int, int, int], float]:
        """The gradient of a column (the acting one) keyed by (group, sample, position)."""
        column = column or self.acting
        batch, gradient = self.pull.batch, self.pull.gradients[column]
        rows = zip(batch.sequence.tolist(), batch["position"].tolist(), gradient.tolist())
        return {(*batch.trajectories[s].extra["key"], p): g for s, p, g in rows}


def play(
    algorithm: Algorithm,
    case: Case,
    change: Callable[[Batch], Batch] | None = None,
    on_policy: bool = False,
    nudge: np.ndarray | None = None,
    step: int = 0,
) -> Outcome:
    """Columns, credit and the derivative of the loss, by the real weights. `change` is applied to the packed batch before
    anything is filled; `nudge` [N] is added to the current log-probabilities and divergences."""
    algorithm = Algorithm.from_dict(algorithm.dump())
    tables = case.tables()
    if on_policy:
        tables |= {
            name: {t.extra["key"]: t.logp for g in case.groups() for t in g.trajectories} for name in ("logp", "old")
        }
    if nudge is not None:
        sizes = np.cumsum([len(t) for g in case.groups() for t in g.trajectories])[:-1]
        keys = [t.extra["key"] for g in case.groups() for t in g.trajectories]
        for name in ("logp", "divergence"):
            tables[name] = {key: tables[name][key] + part for key, part in zip(keys, np.split(nudge, sizes))}
    policy = TablePolicy(tables)
    weights = Weights(algorithm, policy, 0)
    context = Context(step, 100, 0, Memory(algorithm))
    batch = Batch.pack(case.groups(), dtype=case.dtype)
    if case.weight is not None:
        batch = batch.with_rows(weight=torch.as_tensor(case.weight(len(batch)), dtype=case.dtype))
    if change is not None:
        batch = change(batch)
    batch = weights.fill(batch)
    batch = batch.with_rows(logp_old=policy.look(batch, "old").to(case.dtype))
    batch = algorithm.credit.assign(batch, context)
    if case.zero_advantage and "advantage" in batch.rows:
        batch = batch.with_rows(advantage=torch.zeros_like(batch["advantage"]))
    pull = by_gradient(algorithm).pull(batch, weights, False, context)
    return Outcome(pull, context.metrics.values(), weights, batch)


def parameter_gradient(outcome: Outcome, budget: int) -> Tensor:
    """The gradient of all learners' parameters when the work is cut into micro-batches of `budget` rows."""
    found: list[Any] = []
    for learner in outcome.weights.learners.values():
        mine = {name: g for name, g in sorted(outcome.pull.gradients.items()) if offers(learner, name)}
        for p in learner.parameters():
            p.grad = None
        if mine:
            push(learner, outcome.pull.batch, mine, budget)
        found += [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learner.parameters()]
    return torch.cat([g.flatten() for g in found])
