"""Handing out a step's rollouts in rounds, to the prompts where one more is worth most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group, Trajectory
from anypo.data.tokens import hashed
from anypo.generate.base import OWN, World, rollout_key
from anypo.generate.resume import Start
from anypo.generate.trees.segments import _Forking, _grown
from anypo.outlook import Outlook
from anypo.tasks.base import Task


class AdaptiveRounds(_Forking, name="adaptive_rounds"):
    """Every prompt gets `base` rollouts; the rest of the step's budget goes, `round` at a time, to the prompts of
    highest priority (XRPO, arXiv:2510.06672).

    Priority = expected shrinkage of the confidence interval of the mean reward by one more rollout, h(n) - h(n + 1) with
    h(n) = t(1 - `alpha`/2, n - 1) s / sqrt(n), plus `explore` sqrt(log(1 + T) / n), T the rollouts so far. A prompt without
    success after its base rollouts is sampled with `exemplars` solved examples shown (the nearest in a growing corpus of successes,
    never its own); the rollout is trained on the plain prompt, so its ratio is against the seeded sampler. Success is the task's
    outcome: an answer that is partly paid is not solved.
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
        return {"prompts": [], "features": [], "messages": []}

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return all_at_once(self.base, algorithm)

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
                shown = (
                    self._shown(group, world, context)
                    if not any(solved(t, world.task) for t in group.trajectories)
                    else ()
                )
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
        other = np.array(memory["prompts"]) != group.prompt
        nearest = [i for i in np.argsort(-similarity, kind="stable") if other[i]][: self.exemplars]
        return self._fitting([message for i in nearest[::-1] for message in memory["messages"][i]], group, world)

    def _fitting(self, shown: Sequence[dict[str, str]], group: Group, world: World) -> tuple[dict[str, str], ...]:
        """What is shown, or nothing where the model's context has no room for it."""
        tokens = world.policy.encode((*shown, *group.problem.messages))
        return tuple(shown) if len(tokens) + self.max_new <= world.policy.context else ()

    def _learn(self, groups: Sequence[Group], world: World, context: Context) -> None:
        memory = context.memory[self]
        for group in groups if self.exemplars else ():
            done = [t for t in group.trajectories if solved(t, world.task) and not t.guidance]
            if done:
                memory["prompts"].append(group.prompt)
                memory["features"].append(hashed(world.policy.encode(group.problem.messages)))
                answer = {"role": "assistant", "content": done[0].text}
                memory["messages"].append([*map(dict, group.problem.messages), answer])
        for kept in memory.values():
            del kept[: -self.corpus]


def all_at_once(base: int, algorithm: Any) -> str | None:
    """That the first `base` rollouts of a prompt are all that it has, or None."""
    samples = algorithm.control.samples
    if base < samples:
        return None
    return f"base {base} rollouts are all {samples} that a prompt has; set control.samples={2 * base}"


def solved(trajectory: Trajectory, task: Task) -> bool:
    """Whether the task's outcome says that a rollout is right (its reward, where it has no such component)."""
    return trajectory.is_right(task.outcome)


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
