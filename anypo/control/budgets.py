"""How many rollouts each prompt of a step gets, by what is expected of it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask, Uniform
from anypo.data.prompts import VALUES
from anypo.data.tokens import hashed


class ValueBudget(Uniform, name="value_budget"):
    """Uniform prompts, but the step's rollouts go where they are expected to teach: the allocation that maximises the summed
    B (1 - p) [1 - (1 - p)^(B - 1)] over prompts (V0, arXiv:2602.03584). p is asked of the value model on the shelf, which needs
    nothing but the prompt's tokens, so prompts that were never rolled out are told apart; 1/2 before it knows anything.

    Every prompt gets at least `least` rollouts and at most `most` * `samples`: for small p the sum is largest where a few prompts take
    all. Predictions are told apart in steps of 1 / `grades`; prompts of one grade get the same budget. The total is that of
    `samples` each.
    """

    least: int = Field(2, ge=1)
    most: float = Field(2.0, ge=1.0)
    grades: int = Field(32, ge=2)

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        asks = super().choose(problems, count, context)
        least, most = min(self.least, self.samples), int(self.most * self.samples)
        plan = allocate(self._rates(asks, context), self.samples * len(asks), least, most)
        context.log("control/largest_budget", max(plan, default=0))
        context.log("control/smallest_budget", min(plan, default=0))
        return [Ask(ask.index, size) for ask, size in zip(asks, plan)]

    def _rates(self, asks: list[Ask], context: Context) -> list[float]:
        """The expected success rate of what each ask is about, in grades, off 0 and 1."""
        world, known = context.world, context.memory.shelf.find(VALUES)
        if world is None or known is None or not hasattr(world.policy, "encode"):
            return [0.5] * len(asks)
        features = [hashed(world.policy.encode(world.problem(ask).messages)) for ask in asks]
        rates = known.predict(torch.from_numpy(np.stack(features))).double()
        context.log("control/expected_success", rates.mean())
        edge = 0.5 / self.grades
        return ((rates * self.grades).round() / self.grades).clamp(edge, 1 - edge).tolist()  # type: ignore[no-any-return]


def mixed_utility(rollouts: int, p: float) -> float:
    """U(B, p) = B (1 - p) [1 - (1 - p)^(B - 1)]: expected failures that share a group with at least one success."""
    return rollouts * (1 - p) * (1 - (1 - p) ** (rollouts - 1)) if rollouts > 1 else 0.0


def allocate(rates: list[float], total: int, least: int, most: int) -> list[int]:
    """Rollouts per prompt, between `least` and `most` each, that maximise the sum of `mixed_utility`, where equal rates get equal
    budgets; what then is left over of `total` (fewer than there are prompts of one rate) goes one each to where it gains most.

    U is not concave, so this is a knapsack over the distinct rates by dynamic programming and not a greedy choice, which would give
    one of several equal prompts everything.
    """
    kinds = sorted(Counter(rates).items())
    spare = max(0, min(total, most * len(rates)) - least * len(rates))
    best = np.zeros(spare + 1)
    chosen = []
    for p, size in kinds:
        options = [(b, mixed_utility(least + b, p) * size) for b in range(most - least + 1) if b * size <= spare]
        table = np.full((len(options), spare + 1), -np.inf)
        for row, (b, worth) in enumerate(options):
            table[row, b * size :] = best[: spare + 1 - b * size] + worth
        chosen.append(table.argmax(0))
        best = table.max(0)
    extra, left = {}, spare
    for (p, size), choice in zip(reversed(kinds), reversed(chosen)):
        extra[p] = int(choice[left])
        left -= extra[p] * size
    plan = [least + extra[p] for p in rates]
    return _topped_up(plan, rates, left, most)


def _topped_up(plan: list[int], rates: list[float], left: int, most: int) -> list[int]:
    """`plan` with `left` more rollouts, one each round to the prompts where it gains most."""
    while left > 0:
        gain = lambda i: mixed_utility(plan[i] + 1, rates[i]) - mixed_utility(plan[i], rates[i])
        takers = sorted((i for i in range(len(plan)) if plan[i] < most), key=gain, reverse=True)[:left]
        if not takers:
            break
        for i in takers:
            plan[i] += 1
        left -= len(takers)
    return plan
