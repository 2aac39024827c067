"""Handing out a step's rollouts in rounds, to the prompts where one more is worth most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group
from anypo.data.tokens import hashed
from anypo.generate.base import OWN, World, rollout_key
from anypo.generate.resume import Start
from anypo.generate.trees.segments import _Forking, _grown


class AdaptiveRounds(_Forking, name="adaptive_rounds"):
    """Every prompt gets `base` rollouts; the rest of the step's budget goes, `round` at a time, to the prompts of
    highest priority (XRPO, arXiv:2510.06672).

    Priority = expected shrinkage of the confidence interval of the mean reward by one more rollout, h(n) - h(n + 1) with
    h(n) = t(1 - `alpha`/2, n - 1) s / sqrt(n), plus `explore` sqrt(log(1 + T) / n), T the rollouts so far. With
    `exemplars` > 0, a prompt without success after its base rollouts is sampled with that many solved examples shown
    (the nearest in a growing corpus of successes); the rollout is trained on the plain prompt, so its ratio is against
    the seeded sampler.
    """

    base: int = Field(4, ge=2)
    round: int = Field(4, ge=1)
    alpha: float = Field(0.05, gt=0.0, lt=1.0)
    explore: float = Field(0.1, ge=0.0)
    exemplars: int = Field(0, ge=0)
    corpus: int = Field(512, ge=1)

    def provided(self) -> frozenset[str]:
        return super().provided() | (frozenset({"shown"}) if self.exemplars else frozenset())

    def start(self) -> dict[str, Any]:
        return {"features": [], "messages": []}

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [min(self.base, ask.samples) for ask in asks], world, context)
        left = sum(ask.samples for ask in asks) - sum(len(g.trajectories) for g in groups)
        while left > 0:
            total = sum(len(g.trajectories) for g in groups)
            homes = spread_out([g.rewards for g in groups], min(self.round, left), total, self.alpha, self.explore)
            taken = [len(g.trajectories) for g in groups]
            starts = []
            for place in homes:
                group = groups[place]
                shown = self._shown(group, world, context) if not (group.rewards > 0).any() else ()
                key = rollout_key(context, group.problem, group.visit, OWN, taken[place])
                guidance = "exemplars" if shown else ""
                starts.append(Start(group.problem, key, sample=taken[place], shown=shown, guidance=guidance))
                taken[place] += 1
            groups = _grown(groups, homes, self.resumed(starts, world, context))
            left -= len(homes)
        context.log("generate/largest_group", max((len(g.trajectories) for g in groups), default=0))
        self._learn(groups, world, context)
        return groups

    def _shown(self, group: Group, world: World, context: Context) -> tuple[dict[str, str], ...]:
        """The nearest solved examples as messages."""
        memory = context.memory[self]
        if not self.exemplars or not memory["features"]:
            return ()
        similarity = np.stack(memory["features"]) @ hashed(world.policy.encode(group.problem.messages))
        nearest = np.argsort(-similarity, kind="stable")[: self.exemplars]
        return tuple(message for i in nearest[::-1] for message in memory["messages"][i])

    def _learn(self, groups: Sequence[Group], world: World, context: Context) -> None:
        memory = context.memory[self]
        for group in groups if self.exemplars else ():
            solved = [t for t in group.trajectories if t.reward > 0 and not t.guidance]
            if solved:
                memory["features"].append(hashed(world.policy.encode(group.problem.messages)))
                answer = {"role": "assistant", "content": solved[0].text}
                memory["messages"].append([*map(dict, group.problem.messages), answer])
        del memory["features"][: -self.corpus], memory["messages"][: -self.corpus]


def spread_out(rewards: Sequence[np.ndarray], count: int, total: int, alpha: float, explore: float) -> list[int]:
    """The prompts that the next `count` rollouts go to, one at a time to the highest priority, from each prompt's
    rewards so far (at least two) and the rollouts given out in total. The spread of rewards is taken as it is; the
    numbers of rollouts grow."""
    sizes = [len(r) for r in rewards]
    spreads = [float(r.std(ddof=1)) for r in rewards]
    homes = []
    for given in range(count):
        scores = [priority(n, s, total + given, alpha, explore) for n, s in zip(sizes, spreads)]
        homes.append(int(np.argmax(scores)))
        sizes[homes[-1]] += 1
    return homes


def priority(n: int, spread: float, total: int, alpha: float, explore: float) -> float:
    """XRPO's priority of a prompt with `n` rollouts whose rewards have this sample deviation."""
    return shrinkage(n, spread, alpha) + explore * float(np.sqrt(np.log1p(total) / n))


def shrinkage(n: int, spread: float, alpha: float) -> float:
    """Half-width of the 1 - alpha confidence interval of a mean at n samples, minus that at n + 1, with the same sample
    deviation."""
    from scipy import stats

    now = stats.t.ppf(1 - alpha / 2, n - 1) / np.sqrt(n)
    then = stats.t.ppf(1 - alpha / 2, n) / np.sqrt(n + 1)
    return float(spread * (now - then))
