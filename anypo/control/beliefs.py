"""Choosing prompts and budgets by what is known about each of them. Credit keeps these beliefs in the prompt store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask, Uniform
from anypo.data.batch import Batch
from anypo.data.prompts import belief, prompt_store
from anypo.data.records import Group


class _Identified(Uniform):
    """Remembers which prompt each training problem is, as soon as it was seen (memory ``prompts``: index -> prompt)."""

    def start(self) -> dict[str, Any]:
        return {"cursor": 0, "prompts": {}}

    def observe(self, groups: Sequence[Group], batch: Batch, context: Context) -> None:
        seen = context.memory[self]["prompts"]
        seen.update({group.index: group.prompt for group in groups if group.index >= 0})

    def looked_up(self, indices: Sequence[int], context: Context) -> torch.Tensor:
        """Prompt ids of training problems, -1 where not seen yet, int64."""
        seen = context.memory[self]["prompts"]
        return torch.tensor([seen.get(int(i), -1) for i in indices], dtype=torch.int64)


class UncertainPrompts(_Identified, name="uncertain_prompts"):
    """Draws problems without replacement with probability proportional to sqrt(v (1 - v)) + `explore`, v the tracked
    success rate (SPO, arXiv:2509.13232). A problem never seen counts as v = 1/2; on its first visit it gets
    `first_samples` rollouts, which start its belief as offline rollouts would, afterwards `samples`."""

    samples: int = Field(1, ge=1)
    explore: float = Field(0.05, gt=0.0)
    first_samples: int = Field(1, ge=1)

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        memory = context.memory[self]
        v = belief(prompt_store(context), self.looked_up(range(problems), context)).numpy()
        weight = np.sqrt(v * (1 - v)) + self.explore
        generator = np.random.default_rng([context.seed, context.step, memory["cursor"]])
        memory["cursor"] += count
        chosen: list[int] = []
        while len(chosen) < count:  # more asks than problems: another pass
            size = min(count - len(chosen), problems)
            chosen += generator.choice(problems, size, replace=False, p=weight / weight.sum()).tolist()
        seen = memory["prompts"]
        return [Ask(i, self.samples if i in seen else self.first_samples) for i in chosen]


class ValueBudget(_Identified, name="value_budget"):
    """Uniform prompts, but the step's rollouts go where they are expected to teach: the allocation that maximises the summed
    B (1 - p) [1 - (1 - p)^(B - 1)] over prompts, p from the generalist value model (V0, arXiv:2602.03584; prompt store table
    ``value``, 1/2 for a prompt not seen). Every prompt gets at least `least`; the total is that of `samples` each."""

    least: int = Field(2, ge=1)

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        asks = super().choose(problems, count, context)
        prompts = self.looked_up([ask.index for ask in asks], context)
        rates = prompt_store(context).read("value", prompts, 0.5).tolist()
        plan = allocate(rates, self.samples * len(asks), min(self.least, self.samples))
        context.log("control/largest_budget", max(plan, default=0))
        return [Ask(ask.index, size) for ask, size in zip(asks, plan)]


def mixed_utility(rollouts: int, p: float) -> float:
    """U(B, p) = B (1 - p) [1 - (1 - p)^(B - 1)]: expected failures that share a group with at least one success."""
    return rollouts * (1 - p) * (1 - (1 - p) ** (rollouts - 1)) if rollouts > 1 else 0.0


def allocate(rates: list[float], total: int, least: int) -> list[int]:
    """Rollouts per prompt that maximise the sum of `mixed_utility` under a total, greedily by marginal gain, at least
    `least` each (as published; the sum is not concave where p is small, so this need not be the optimum)."""
    plan = [least] * len(rates)
    gains = [mixed_utility(least + 1, p) - mixed_utility(least, p) for p in rates]
    for _ in range(total - sum(plan)):
        best = int(np.argmax(gains))
        plan[best] += 1
        gains[best] = mixed_utility(plan[best] + 1, rates[best]) - mixed_utility(plan[best], rates[best])
    return plan


class HardFocus(_Identified, name="hard_focus"):
    """Breadth, then depth on what is still hard (DRIVE, arXiv:2511.06307).

    The first `breadth` share of the run: every problem in turn with `samples` rollouts. Then phases: at the start of each, the
    pool keeps the `keep` share with the lowest pass rate, among those still in it; a problem whose last rate reached `solved`
    leaves for good, one never solved stays. Pool problems get `deep_samples` rollouts each, and the prompts per step
    shrink so that the rollouts per step stay about `prompts` * `samples`.
    """

    breadth: float = Field(0.5, ge=0.0, le=1.0)
    phases: int = Field(3, ge=1)
    keep: float = Field(0.5, gt=0.0, le=1.0)
    solved: float = Field(0.9, gt=0.0)
    deep_samples: int = Field(64, ge=1)
    outcome: str = ""

    def start(self) -> dict[str, Any]:
        return {"cursor": 0, "prompts": {}, "rates": {}, "pool": [], "phase": -1}

    def observe(self, groups: Sequence[Group], batch: Batch, context: Context) -> None:
        super().observe(groups, batch, context)
        rates = context.memory[self]["rates"]
        for group in groups:
            if group.index >= 0 and group.trajectories:
                right = [t.rewards.get(self.outcome, t.reward) >= 1 - 1e-9 for t in group.trajectories]
                rates[group.index] = float(np.mean(right))

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        progress = context.step / max(1, context.total)
        if progress < self.breadth:
            return super().choose(problems, count, context)
        memory = context.memory[self]
        phase = min(self.phases - 1, int((progress - self.breadth) / max(1e-9, 1 - self.breadth) * self.phases))
        if phase != memory["phase"]:
            memory["phase"], memory["pool"] = phase, self._narrow(problems, memory)
            context.log("control/pool", len(memory["pool"]))
        pool = memory["pool"]
        wanted = max(1, count * self.samples // self.deep_samples)
        begin = memory["cursor"]
        memory["cursor"] += wanted
        order = np.random.default_rng([context.seed, 7, phase]).permutation(len(pool))
        return [Ask(int(pool[order[k % len(pool)]]), self.deep_samples) for k in range(begin, begin + wanted)]

    def _narrow(self, problems: int, memory: dict[str, Any]) -> list[int]:
        """The next phase's pool: unsolved members, hardest first, at most the kept share (never empty)."""
        rates = memory["rates"]
        before = memory["pool"] or list(range(problems))
        unsolved = [i for i in before if rates.get(i, 0.0) < self.solved]
        hardest = sorted(unsolved, key=lambda i: (rates.get(i, 0.0), i))
        return hardest[: max(1, round(self.keep * len(before)))] or before
