"""More rollouts for what the first few found hard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group
from anypo.generate.base import OWN, Independent, World, episode
from anypo.generate.groups.rounds import all_at_once, solved
from anypo.outlook import Outlook

Schedule = Literal["hardness", "equal"]


class Deepened(Independent, name="deepened"):
    """Every prompt gets `base` rollouts; prompts of which less than half are right get more, pooled with the first (DARS,
    arXiv:2508.13755). With u the share of right ones (`base` of which none is right count as half a success), the group grows to
    `base` / (2 u) rollouts (``hardness``), or to `base` / (4 u (1 - u)) (``equal``: all groups below 1/2 get the summed
    |reward - mean| that one at 1/2 has), rounded up, at most to `most`. `deviation`: advantages are divided by the group's standard
    deviation, which changes what is summed.

    A step never spends more rollouts than its asks say: where the wishes are more than is left of them they are cut in proportion,
    equal ones alike but for single rollouts, and what nobody wishes for is not spent.
    """

    base: int = Field(8, ge=1)
    schedule: Schedule = "hardness"
    most: int = Field(64, ge=1)
    deviation: bool = False

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return all_at_once(self.base, algorithm) or super().dormant(algorithm, outlook)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        first = [min(self.base, ask.samples) for ask in asks]
        groups = [
            g.replace(trajectories=t) for g, t in zip(*self._rolled(asks, [0] * len(asks), first, world, context))
        ]
        right = [[solved(t, world.task) for t in group.trajectories] for group in groups]
        wishes = self.wishes(right, context)
        left = sum(ask.samples for ask in asks) - sum(first)
        extra = granted(wishes, left)
        more = self._rolled(asks, first, extra, world, context)[1]
        pooled = [g.replace(trajectories=(*g.trajectories, *t)) for g, t in zip(groups, more)]
        saved = [not any(r) and any(solved(t, world.task) for t in new) for r, new in zip(right, more)]
        context.log("generate/wished", float(sum(wishes)))
        context.log("generate/unspent", float(left - sum(extra)))
        context.log("generate/saved_share", float(np.mean(saved)) if saved else 0.0)
        return pooled

    def wishes(self, right: Sequence[Sequence[bool]], context: Context) -> list[int]:
        """Further rollouts wanted by every prompt, from which of its first were right."""
        return [self.wish(sum(r) / len(r), len(r)) if r else 0 for r in right]

    def wish(self, rate: float, size: int) -> int:
        """Further rollouts wanted by a prompt of which this share of `size` rollouts was right."""
        u = rate if rate > 0 else 0.5 / size
        if u >= 0.5:
            return 0
        weight = 2 * math.sqrt(u * (1 - u)) if self.deviation else 2 * u * (1 - u)
        peak = (1.0 if self.deviation else 0.5) * (2 * (1 - u) if self.schedule == "hardness" else 1.0)
        return max(0, min(math.ceil(round(size * (peak - weight) / weight, 9)), self.most - size))

    def _rolled(
        self, asks: Sequence[Ask], begin: Sequence[int], count: Sequence[int], world: World, context: Context
    ) -> tuple[list[Group], list[tuple[Any, ...]]]:
        """`count` rollouts of every ask from sample number `begin` on: empty groups, and the rollouts of each."""
        problems = [world.problem(ask) for ask in asks]
        episodes = [
            episode(ask, problem, context, OWN, sample)
            for ask, problem, at, n in zip(asks, problems, begin, count)
            for sample in range(at, at + n)
        ]
        made = iter(self.converse(episodes, world, context) if episodes else [])
        rollouts = [tuple(t for _ in range(n) for t in next(made)) for n in count]
        empty = [Group(p.prompt, (), p, context.step, ask.index, ask.visit) for ask, p in zip(asks, problems)]
        return empty, rollouts


def granted(wishes: Sequence[int], budget: int) -> list[int]:
    """The wishes, or where they are more than the budget their proportional shares of it, the largest remainders rounded up."""
    total = sum(wishes)
    if total <= budget:
        return list(wishes)
    exact = np.array(wishes, dtype=np.float64) * budget / total
    out = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(-(exact - out), kind="stable")
    out[order[: budget - int(out.sum())]] += 1
    return out.tolist()  # type: ignore[no-any-return]
