"""Budgets planned by expected success: the optimum of their own utility, fair to equals, and about prompts nobody has seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.control.budgets import ValueBudget, allocate, mixed_utility
from anypo.data.prompts import VALUES
from anypo.run.trainer import Trainer

SIXTEEN = [0.25] * 4 + [0.06] * 4 + [0.015] * 4 + [0.004] * 4


def worth(plan: list[int], rates: list[float]) -> float:
    return sum(mixed_utility(b, p) for b, p in zip(plan, rates))


def optimum(rates: list[float], total: int, least: int, most: int) -> float:
    """The largest summed utility of any plan, equals treated alike or not."""
    best = {0: 0.0}
    for p in rates:
        step: dict[int, float] = {}
        for spent, value in best.items():
            for b in range(least, most + 1):
                if spent + b <= total:
                    step[spent + b] = max(step.get(spent + b, -1.0), value + mixed_utility(b, p))
        best = step
    return max(best.values())


@pytest.mark.exact("v-zero")
def test_mixed_utility_by_enumeration() -> None:
    exact = sum(
        (6 - sum(draw)) * (sum(draw) > 0) * 0.3 ** sum(draw) * 0.7 ** (6 - sum(draw))
        for draw in itertools.product((0, 1), repeat=6)
    )
    assert mixed_utility(6, 0.3) == pytest.approx(exact) == pytest.approx(3.494, abs=1e-3)
    assert mixed_utility(1, 0.5) == mixed_utility(4, 0.0) == mixed_utility(4, 1.0) == 0.0


@pytest.mark.parametrize(
    ("rates", "total"),
    [
        (SIXTEEN, 128),
        ([0.5] * 7 + [0.3], 64),
        ([0.25] * 4 + [0.06] * 4, 64),
        ([0.02, 0.3, 0.99, 0.6], 32),
        (np.linspace(0.02, 0.98, 16).tolist(), 128),
    ],
)
def test_equals_get_equal_budgets_nobody_takes_all_and_little_is_lost(rates: list[float], total: int) -> None:
    plan = allocate(rates, total, 2, 16)
    assert sum(plan) == total and min(plan) >= 2 and max(plan) <= 16
    for p in set(rates):
        alike = [b for b, r in zip(plan, rates) if r == p]
        assert max(alike) - min(alike) <= 1
    assert worth(plan, rates) >= 0.95 * optimum(rates, total, 2, 16)
    # among plans that treat equals alike (every rate's budget, times how many have it) none is better
    kinds = sorted(set(rates))
    if len(kinds) <= 4:
        sizes = [rates.count(p) for p in kinds]
        fair = max(
            sum(n * mixed_utility(b, p) for b, n, p in zip(budgets, sizes, kinds))
            for budgets in itertools.product(range(2, 17), repeat=len(kinds))
            if sum(b * n for b, n in zip(budgets, sizes)) <= total
        )
        assert worth(plan, rates) >= fair - 1e-9
    if len(kinds) == len(rates):
        assert worth(plan, rates) == pytest.approx(optimum(rates, total, 2, 16))


def test_one_rate_is_a_uniform_plan() -> None:
    assert allocate([0.06] * 8, 64, 2, 16) == [8] * 8
    assert sorted(allocate([0.06] * 8, 61, 2, 16)) == [7] * 3 + [8] * 5
    assert allocate([0.5] * 3, 100, 2, 16) == [16] * 3 and allocate([], 0, 2, 16) == []


def test_prompts_that_were_never_rolled_out_are_planned_by_their_words() -> None:
    """Eight of the sixteen prompts have been seen; the model is asked about all."""
    bed = Testbed(prompts=16, batch=8, group=8, lr=0.01)
    run = Trainer(bed.adapt("v-zero"), bed.world(0), 0, 20)
    first = run.step()
    assert first["control/largest_budget"] == first["control/smallest_budget"] == 8  # nothing is known yet
    part, seen = run.algorithm.control, {g.index for g in run.groups}
    context = Context(1, 20, 0, run.memory, world=run.world)
    asks = part.choose(16, 8, context)
    assert seen.isdisjoint(ask.index for ask in asks) and sum(ask.samples for ask in asks) == 64
    assert context.metrics["control/expected_success"] != 0.5
    assert len({ask.samples for ask in asks}) > 1 and max(ask.samples for ask in asks) <= 16


def test_without_a_model_every_prompt_gets_the_same() -> None:
    part = ValueBudget(samples=6)
    context = Context(0, 10, 0, Memory(part))
    assert context.memory.shelf.find(VALUES) is None
    assert [ask.samples for ask in part.choose(40, 4, context)] == [6] * 4
