"""The numbers of a step: what was produced, and how well it fits the weights it trains."""

from __future__ import annotations

import math

import numpy as np
import torch

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import LIMIT, k3
from anypo.data.records import DEMO, Group, Trajectory


def describe(groups: list[Group], context: Context, outcome: str, drawn: float = math.nan) -> None:
    """The step's headline numbers, over everything generated (before any filter). Demonstrations are not the policy's; rewards
    are those of unguided rollouts of the task's problems that somebody scored, where there are any. drawn: decisions that the
    engine drew in the step, whatever for (hints, critiques and estimates cost what rollouts cost); nan where it does not count, and
    the rollouts have to say it."""
    trajectories = [t for group in groups for t in group.trajectories if _sampled(t)]
    if trajectories:
        own = [
            group for group in groups if group.index >= 0
        ] or groups  # questions of the method's own are no part of the task
        alone = [t for g in own for t in g.trajectories if _sampled(t) and t.rewards and not t.guidance] or trajectories
        context.log("reward/mean", float(np.mean([t.reward for t in alone])))
        for name in sorted({name for t in alone for name in t.rewards}):
            context.log(f"reward/{name}", float(np.mean([t.rewards.get(name, 0.0) for t in alone])))
        lengths = np.array([len(t) for t in trajectories])
        context.log("rollout/count", float(len(trajectories)))
        context.log("rollout/length", float(lengths.mean()))
        context.log("rollout/truncated", float(np.mean([t.truncated for t in trajectories])))
        context.log("rollout/failed", float(np.mean([t.finish == "failed" for t in trajectories])))
        context.log(
            "rollout/degenerate",
            float(np.mean([_alike(g) for g in groups if any(map(_sampled, g.trajectories))])),
        )
        if math.isnan(drawn):  # a branch did not sample what is before its fork
            drawn = float(sum(len(t) - max(0, t.fork) for t in trajectories))
        entropies = [t.entropy for t in trajectories if t.entropy is not None]
        if entropies:
            context.log("policy/entropy", float(np.concatenate(entropies).mean()))
    if drawn > 0:
        context.log("tokens/generated", drawn)
        context.log("rollout/tokens_per_second", drawn / max(context.metrics["time/generate"], 1e-9))
    by_source(groups, context, outcome)


def by_source(groups: list[Group], context: Context, outcome: str) -> None:
    """The same, in short, for every source of a mixture of tasks: its share of the rollouts, their reward and length, and how many
    are right."""
    names = {str(getattr(group.problem, "source", "")) for group in groups} - {""}
    every = sum(_sampled(t) for group in groups for t in group.trajectories)
    for name in sorted(names):
        own = [g for g in groups if getattr(g.problem, "source", "") == name]
        found = [t for group in own for t in group.trajectories if _sampled(t)]
        if found:
            context.log(f"source/{name}/share", len(found) / every)
            context.log(f"source/{name}/reward", float(np.mean([t.reward for t in found])))
            context.log(f"source/{name}/length", float(np.mean([len(t) for t in found])))
            right = [t.rewards[outcome] >= 1 - 1e-9 for t in found if outcome in t.rewards]
            if right:
                context.log(f"source/{name}/right", float(np.mean(right)))


def fit(batch: Batch, version: int, context: Context) -> None:
    """How well the data fits the weights it is about to train: the mean age of a sampled decision in optimiser steps, the share
    that other weights sampled, and, where the trainer recomputed them, the divergence (k3, nats a decision) between sampler and
    trainer log-probabilities of the same weights, but for rollouts whose sampler was shown more than they are trained on: there
    the two answer different questions."""
    sampled = (batch["version"] >= 0) & (batch.weight > 0)
    if not bool(sampled.any()):
        return
    age = (version - batch["version"][sampled]).clamp(min=0)
    context.log("policy/staleness", age.double().mean())
    context.log("policy/off_policy_share", (age > 0).double().mean())
    helped = torch.tensor([getattr(t.content, "shown", None) is not None for t in batch.trajectories], dtype=torch.bool)
    fresh = sampled & (batch["version"] == version) & ~batch.spread(helped)
    if "logp_old" in batch.rows and batch["logp_old"] is not batch["logp_behaviour"] and bool(fresh.any()):
        gap = (batch["logp_behaviour"] - batch["logp_old"])[fresh].double().clamp(-LIMIT, LIMIT)
        context.log("policy/mismatch_kl", k3(gap).mean())


def _alike(group: Group) -> bool:
    """Whether all its rollouts have one reward, those that nobody scored left out."""
    scored = group.scored().rewards
    return bool(np.ptp(scored if len(scored) else group.rewards) < 1e-9)


def _sampled(trajectory: Trajectory) -> bool:
    """Whether the policy wrote it (not an expert)."""
    return trajectory.guidance != DEMO
