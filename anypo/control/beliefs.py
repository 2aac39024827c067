"""Choosing prompts and budgets by what is known about each of them. Credit keeps these beliefs in the prompt store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask, Uniform
from anypo.control.choosing import outcome, right
from anypo.data.batch import Batch
from anypo.data.prompts import belief, prompt_store
from anypo.data.records import Group
from anypo.outlook import Outlook


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
    success rate, 1/2 for a problem never seen (SPO, arXiv:2509.13232).

    `first_samples` above `samples`: problems not seen yet come first, with that many rollouts, which are to start their belief as
    offline rollouts would (shaping ``start_beliefs``). They are paid out of the step's `prompts` * `samples` rollouts (one
    such visit a step is always made), and what is left goes to problems seen before.
    """

    samples: int = Field(1, ge=1)
    explore: float = Field(0.05, gt=0.0)
    first_samples: int = Field(1, ge=1)

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        memory, pool = context.memory[self], self.pool(problems, context.total)
        begin = self._beginnings(pool, count * self.samples, context)
        left = max(0, count - math.ceil(len(begin) * self.first_samples / self.samples))
        among = [i for i in range(pool) if not begin or i in memory["prompts"]]
        v = belief(prompt_store(context), self.looked_up(among, context)).numpy()
        weight = np.sqrt(v * (1 - v)) + self.explore
        generator = np.random.default_rng([context.seed, context.step, memory["cursor"]])
        memory["cursor"] += count
        chosen: list[int] = []
        while among and len(chosen) < left:  # more asks than problems: another pass
            size = min(left - len(chosen), len(among))
            chosen += generator.choice(among, size, replace=False, p=weight / weight.sum()).tolist()
        return [*(Ask(i, self.first_samples) for i in begin), *(Ask(i, self.samples) for i in chosen)]

    def _beginnings(self, pool: int, budget: int, context: Context) -> list[int]:
        """Problems whose belief this step starts with several rollouts, as many as its `budget` of rollouts pays for."""
        if self.first_samples <= self.samples:
            return []
        seen = context.memory[self]["prompts"]
        order = np.random.default_rng([context.seed, 11]).permutation(pool).tolist()
        return [i for i in order if i not in seen][: max(1, budget // self.first_samples)]

    @property
    def often(self) -> int:
        return 27 if self.first_samples > self.samples else super().often

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if reason := self.seldom(outlook):
            return reason
        pool = self.pool(outlook.problems or 0, outlook.steps)
        if (
            self.first_samples > self.samples
            and pool * self.first_samples >= outlook.steps * self.prompts * self.samples
        ):
            advice = f"set control.passes={self.often}" if pool > self.prompts else "plan more steps"
            return f"{pool} problems with {self.first_samples} rollouts each to begin with take the whole run; {advice}"
        return None


class HardFocus(_Identified, name="hard_focus"):
    """Breadth, then depth on what is still hard (DRIVE, arXiv:2511.06307).

    The first `breadth` share of the run: every problem in turn with `samples` rollouts. Then phases: at the start of each, the
    pool keeps the `keep` share with the lowest pass rate, among those still in it whose rate was measured; a problem whose last
    rate reached `solved` leaves for good, one never solved stays, one never rolled out does not come in. Pool problems get
    `deep_samples` rollouts each, and the prompts per step shrink so that the rollouts per step stay about `prompts` * `samples`.
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
                rates[group.index] = float(right(group, outcome(self.outcome, context)).mean())

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        progress = context.step / max(1, context.total)
        if progress < self.breadth:
            return super().choose(problems, count, context)
        memory = context.memory[self]
        phase = min(self.phases - 1, int((progress - self.breadth) / max(1e-9, 1 - self.breadth) * self.phases))
        if phase != memory["phase"]:
            memory["phase"], memory["pool"] = phase, self._narrow(self.pool(problems, context.total), memory)
            context.log("control/pool", len(memory["pool"]))
        pool = memory["pool"]
        wanted = max(1, count * self.samples // self.deep_samples)
        begin = memory["cursor"]
        memory["cursor"] += wanted
        order = np.random.default_rng([context.seed, 7, phase]).permutation(len(pool))
        return [Ask(int(pool[order[k % len(pool)]]), self.deep_samples) for k in range(begin, begin + wanted)]

    def _narrow(self, problems: int, memory: dict[str, Any]) -> list[int]:
        """The next phase's pool: unsolved members with a measured rate, hardest first, at most the kept share of those measured (never
        empty). A problem that was never rolled out is not hard but unknown; where none was, there is nothing to choose by."""
        rates = memory["rates"]
        measured = [i for i in memory["pool"] or sorted(rates) if i in rates]
        unsolved = sorted((i for i in measured if rates[i] < self.solved), key=lambda i: (rates[i], i))
        return unsolved[: max(1, round(self.keep * len(measured)))] or memory["pool"] or list(range(problems))
