"""The baselines' whole gradients, credit included, against formulas written out with plain loops."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
import torch
from making_rows import make

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.systems import find

LENGTHS, REWARDS = [[3, 1, 4], [2, 2]], [[1.0, 0.0, 0.0], [0.0, 1.0]]
Row = tuple[int, int]
"""(sequence, position)."""


class Plain:
    """A batch as plain numbers."""

    def __init__(self, batch: Batch) -> None:
        self.reward = batch.sequences["reward"].tolist()
        self.group = batch.group.tolist()
        self.length = batch.sequences["length"].tolist()
        self.rows = list(zip(batch.sequence.tolist(), batch["position"].tolist()))
        take = lambda name: dict(zip(self.rows, batch[name].tolist()))
        self.logp, self.old, self.ref = take("logp"), take("logp_old"), take("logp_ref")
        self.n, self.s = len(self.rows), len(self.reward)

    def members(self, i: int) -> list[int]:
        return [j for j in range(self.s) if self.group[j] == self.group[i]]

    def ratio(self, row: Row) -> float:
        return math.exp(self.logp[row] - self.old[row])

    def gap(self, i: int, other: dict[Row, float]) -> float:
        return sum(self.old[row] - other[row] for row in self.rows if row[0] == i)

    def standardised(self, i: int) -> float:
        rewards = [self.reward[j] for j in self.members(i)]
        return (self.reward[i] - statistics.mean(rewards)) / (statistics.stdev(rewards) + 1e-6)

    def centred(self, i: int) -> float:
        return self.reward[i] - statistics.mean(self.reward[j] for j in self.members(i))


def clipped(r: float, a: float, low: float, high: float) -> float:
    """d min(r a, clip(r) a) / d log r."""
    inside = (r <= 1 + high) if a > 0 else (r >= 1 - low)
    return r * a if inside else 0.0


def reinforce(b: Plain, row: Row) -> float:
    return b.reward[row[0]] / b.s


def rloo(b: Plain, row: Row) -> float:
    i = row[0]
    paid = {j: b.reward[j] - 0.05 * b.gap(j, b.ref) for j in b.members(i)}
    return (paid[i] - statistics.mean(v for j, v in paid.items() if j != i)) / b.s


def grpo(b: Plain, row: Row) -> float:
    i = row[0]
    return clipped(b.ratio(row), b.standardised(i), 0.2, 0.2) / b.length[i] / b.s


def dr_grpo(b: Plain, row: Row) -> float:
    return clipped(b.ratio(row), b.centred(row[0]), 0.2, 0.2) / 64 / b.s


def dapo(b: Plain, row: Row) -> float:
    return clipped(b.ratio(row), b.standardised(row[0]), 0.2, 0.28) / b.n


def gspo(b: Plain, row: Row) -> float:
    i = row[0]
    s = math.exp(sum(b.logp[r] - b.old[r] for r in b.rows if r[0] == i) / b.length[i])
    wide = math.sqrt(4096 / b.length[i])
    return clipped(s, b.standardised(i), 3e-4 * wide, 4e-4 * wide) / b.length[i] / b.s


def cispo(b: Plain, row: Row) -> float:
    return min(b.ratio(row), 1.2) * b.standardised(row[0]) / b.n


def opo(b: Plain, row: Row) -> float:
    members = b.members(row[0])
    baseline = sum(b.length[j] * b.reward[j] for j in members) / sum(b.length[j] for j in members)
    return (b.reward[row[0]] - baseline) / b.n


def lite_ppo(b: Plain, row: Row) -> float:
    return clipped(b.ratio(row), b.centred(row[0]) / (statistics.stdev(b.reward) + 1e-8), 0.2, 0.2) / b.n


def reinforce_plus_plus(b: Plain, row: Row) -> float:
    def to_go(r: Row) -> float:
        later = [q for q in b.rows if q[0] == r[0] and q[1] >= r[1]]
        return b.reward[r[0]] - 0.01 * sum(b.old[q] - b.ref[q] for q in later)

    every = [to_go(r) for r in b.rows]
    advantage = (to_go(row) - statistics.mean(every)) / (statistics.stdev(every) + 1e-8)
    return clipped(b.ratio(row), advantage, 0.2, 0.2) / b.n


FORMULAS: dict[str, Callable[[Plain, Row], float]] = {
    "reinforce": reinforce, "rloo": rloo, "grpo": grpo, "dr-grpo": dr_grpo, "dapo": dapo, "gspo": gspo, "cispo": cispo,
    "opo": opo, "lite-ppo": lite_ppo, "reinforce++": reinforce_plus_plus,
}  # fmt: skip


@pytest.mark.exact(*FORMULAS)
@pytest.mark.parametrize("drift", [0.0, 0.02, 0.4])
@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_gradient_is_the_published_one(name: str, drift: float) -> None:
    batch = make(LENGTHS, REWARDS, drift=drift, seed=13)
    algorithm = Algorithm.from_dict(find(name).algorithm().dump())
    context = Context(0, 10, 0, Memory(algorithm))
    credited = algorithm.credit.assign(batch, context)
    logp = batch["logp"].clone().requires_grad_()
    loss = algorithm.objective.loss(credited.with_rows(logp=logp), context)
    (gradient,) = torch.autograd.grad(loss, logp)
    plain = Plain(batch)
    assert gradient.tolist() == pytest.approx([-FORMULAS[name](plain, row) for row in plain.rows], rel=1e-9, abs=1e-12)
