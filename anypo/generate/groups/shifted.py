"""Rollouts at the training temperature, and successful ones at a shifted temperature as imitation targets (AEPO)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import TARGET, Group, Trajectory
from anypo.generate.base import Independent, World, episode
from anypo.generate.conversation import converse
from anypo.outlook import part_of

SHIFTED = 1
"""The role of the targets in their keys."""


class ShiftedTargets(Independent, name="shifted_targets"):
    """Independent rollouts, plus up to `most` (below 1: that share of the rollouts, at least one) successful ones of the same
    prompts drawn at a higher temperature while the policy's entropy is at or below `entropy`, at a lower one (and half as many)
    while it is above (AEPO, arXiv:2510.08141).

    The entropy is the mean per decision of the previous step's rollouts, 0 before the first. Successful: group-standardised reward
    above `threshold`. Imitating one's own samples of temperature T moves entropy up for T > 1, down for T < 1. Targets form groups
    of their own with `guidance` = "target"; they are trained on at the policy's own temperature, where their log-probabilities are
    computed anew (version -1).
    """

    traced = True
    provides = frozenset({"targets", "tag:target"})
    entropy: float = Field(0.5, ge=0.0, description="the level to hold, nats per decision")
    hot: float = Field(1.2, gt=0.0)
    cold: float = Field(0.8, gt=0.0)
    most: float = Field(0.0234, ge=0, description="targets, below 1 a share of the step's rollouts")
    threshold: float = 0.05

    def start(self) -> dict[str, Any]:
        return {"entropy": 0.0}

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        memory = context.memory[self]
        groups = super().rollout(asks, world, context)
        low = memory["entropy"] <= self.entropy
        most = part_of(self.most, sum(ask.samples for ask in asks))
        limit = most if low else (most + 1) // 2
        found = self._targets(asks, groups, self.hot if low else self.cold, limit, world, context) if limit else []
        memory["entropy"] = mean_entropy(groups)
        context.log("generate/targets", sum(len(group.trajectories) for group in found))
        context.log("generate/target_heat", self.hot if low else self.cold)
        return groups + found

    def _targets(
        self, asks: Sequence[Ask], groups: list[Group], heat: float, limit: int, world: World, context: Context
    ) -> list[Group]:
        """At most `limit` successful rollouts at temperature `heat`, in generation order, grouped by prompt."""
        sampling = self.sampling(context)
        sampling = dataclasses.replace(sampling, temperature=sampling.temperature * heat)
        episodes = [
            episode(ask, group.problem, context, SHIFTED, sample)
            for ask, group in zip(asks, groups)
            for sample in range(ask.samples)
        ]
        drawn = iter(converse(episodes, world.task, world.policy, world.sampler, sampling, self.turns, self.workspace))
        out = []
        for ask, group in zip(asks, groups):
            members = [t for _ in range(ask.samples) for t in next(drawn)]
            rewards = np.array([t.reward for t in members])
            spread = rewards.std(ddof=1) if len(members) > 1 else 0.0
            good = (rewards - rewards.mean()) / (spread + 1e-6) > self.threshold
            chosen = [_as_target(t, sampling.temperature / heat) for t, ok in zip(members, good) if ok][:limit]
            limit -= len(chosen)
            if chosen:
                out.append(group.replace(trajectories=tuple(chosen)))
        return out


def mean_entropy(groups: Sequence[Group]) -> float:
    """Mean entropy per decision of the groups' rollouts, in nats; 0 where the sampler recorded none."""
    columns = [t.entropy for group in groups for t in group.trajectories if t.entropy is not None]
    return float(np.concatenate(columns).mean()) if columns and sum(map(len, columns)) else 0.0


def _as_target(trajectory: Trajectory, temperature: float) -> Trajectory:
    version = np.full(len(trajectory), -1, dtype=np.int64)
    return trajectory.replace(
        guidance=TARGET, temperature=temperature, version=version, entropy=None, log_mass=None, kept=None
    )
