"""The loop: control -> generate -> filter -> replay -> credit -> objective -> update, and back to control.

The loop knows the rooms and nothing else: every decision is a part's. A run is a pure function of (algorithm, weights,
task, seed): rollouts are keyed by seed, prompt, visit (how often it was asked for before), sample and position, everything
else by seed, step and ids, so a run resumed from a checkpoint ends where the uninterrupted one does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.control.visits import Visits
from anypo.data.batch import Batch
from anypo.data.records import DEMO, Group, Trajectory
from anypo.generate.base import World
from anypo.objective.numerics import LIMIT, k3
from anypo.run.machine import Machine


class Trainer:
    """One run of one algorithm in one world."""

    def __init__(self, algorithm: Algorithm, world: World, seed: int, total: int) -> None:
        self.algorithm = Algorithm.from_dict(
            algorithm.dump()
        ).check()  # every part its own object: memory is keyed by it
        self.world, self.seed, self.total = world, seed, total
        self.memory = Memory(self.algorithm)
        self.machine = Machine(self.algorithm, world.policy, seed, world.sampler.exact)
        self.number = 0
        self.visits = Visits()
        self.hooks: dict[str, float] = {}
        self.batch: Batch | None = None
        self.groups: list[Group] = []

    def step(self) -> dict[str, float]:
        """One turn of the loop; returns the step's metrics. `groups` and `batch` hold what it worked on."""
        context = Context(self.number, self.total, self.seed, self.memory, hooks=dict(self.hooks))
        self.hooks.clear()
        began = time.perf_counter()
        fresh, self.groups = self._collect(context)
        with _timed("replay", context):
            chosen = self.algorithm.replay.select(self.groups, self.machine.policy.version, context)
        batch = Batch.pack(chosen)
        if len(batch):
            with _timed("columns", context):
                batch = self.machine.fill(batch)
            _fit(batch, self.machine.policy.version, context)
            with _timed("credit", context):
                batch = self.algorithm.credit.assign(batch, context)
            with _timed("update", context):
                self.machine.update(batch, context)
        self.batch = batch
        with _timed("control", context):
            self.algorithm.control.observe(fresh, context)
        self.hooks = {name: value for name, value in context.hooks.items() if name == "temperature"}
        _describe(fresh, batch, context)
        context.log("time/step", time.perf_counter() - began)
        self.number += 1
        return {"step": self.number, **context.metrics.values()}

    def _collect(self, context: Context) -> tuple[list[Group], list[Group]]:
        """Generate and screen until the planned number of prompts survived or the rounds are used up."""
        control, screen = self.algorithm.control, self.algorithm.filter
        every: list[Group] = []
        kept: list[Group] = []
        forget = getattr(self.world.sampler, "forget", None)
        if forget is not None:
            forget()  # nothing cached outside this step may influence it: resuming must not change a bit
        for _ in range(screen.rounds):
            asks = control.choose(len(self.world.task), control.prompts, context)
            asks = self.visits.stamp(asks, self.world.problem)
            with _timed("generate", context):
                groups = self.algorithm.generate.rollout(asks, self.world, context)
            with _timed("filter", context):
                groups = screen.score(groups, context)  # what control learns from and the metrics show, too
                survivors = screen.keep(groups, context)
            every += groups
            kept += survivors
            if len(kept) >= control.prompts:
                break
        context.log("filter/kept_share", len(kept) / max(1, len(every)))
        return every, kept[: control.prompts] if screen.rounds > 1 else kept

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.number,
            "hooks": dict(self.hooks),
            "visits": self.visits.state_dict(),
            "memory": self.memory.state_dict(),
            "machine": self.machine.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number, self.hooks = state["step"], dict(state["hooks"])
        self.visits.load_state_dict(state["visits"])
        self.memory.load_state_dict(state["memory"])
        self.machine.load_state_dict(state["machine"])
        torch.set_rng_state(state["torch_rng"])


@contextmanager
def _timed(room: str, context: Context) -> Iterator[None]:
    began = time.perf_counter()
    yield
    spent = context.metrics.get(f"time/{room}", 0.0) + time.perf_counter() - began
    context.metrics.put(f"time/{room}", spent)


def _describe(groups: list[Group], batch: Batch, context: Context) -> None:
    """The step's headline numbers, over everything generated (before any filter). Demonstrations are not the policy's; rewards
    are those of unguided rollouts, where there are any."""
    trajectories = [t for group in groups for t in group.trajectories if _sampled(t)]
    if trajectories:
        alone = [t for t in trajectories if not t.guidance] or trajectories
        context.log("reward/mean", float(np.mean([t.reward for t in alone])))
        for name in sorted({name for t in alone for name in t.rewards}):
            context.log(f"reward/{name}", float(np.mean([t.rewards.get(name, 0.0) for t in alone])))
        lengths = np.array([len(t) for t in trajectories])
        context.log("rollout/length", float(lengths.mean()))
        context.log("rollout/truncated", float(np.mean([t.truncated for t in trajectories])))
        context.log("rollout/failed", float(np.mean([t.finish == "failed" for t in trajectories])))
        context.log(
            "rollout/degenerate",
            float(np.mean([np.ptp(g.rewards) < 1e-9 for g in groups if any(map(_sampled, g.trajectories))])),
        )
        fresh = float(
            sum(len(t) - max(0, t.fork) for t in trajectories)
        )  # a branch did not sample what is before its fork
        context.log("tokens/generated", fresh)
        context.log("rollout/tokens_per_second", fresh / max(context.metrics["time/generate"], 1e-9))
        entropies = [t.entropy for t in trajectories if t.entropy is not None]
        if entropies:
            context.log("policy/entropy", float(np.concatenate(entropies).mean()))
    context.log("tokens/trained", float(batch.weight.sum()))


def _fit(batch: Batch, version: int, context: Context) -> None:
    """How well the data fits the weights it is about to train: the mean age of a sampled decision in optimiser steps, the share
    that other weights sampled, and, where the trainer recomputed them, the divergence (k3, nats a decision) between sampler and
    trainer log-probabilities of the same weights."""
    sampled = (batch["version"] >= 0) & (batch.weight > 0)
    if not bool(sampled.any()):
        return
    age = (version - batch["version"][sampled]).clamp(min=0)
    context.log("policy/staleness", age.double().mean())
    context.log("policy/off_policy_share", (age > 0).double().mean())
    fresh = sampled & (batch["version"] == version)
    if "logp_old" in batch.rows and batch["logp_old"] is not batch["logp_behaviour"] and bool(fresh.any()):
        gap = (batch["logp_behaviour"] - batch["logp_old"])[fresh].double().clamp(-LIMIT, LIMIT)
        context.log("policy/mismatch_kl", k3(gap).mean())


def _sampled(trajectory: Trajectory) -> bool:
    """Whether the policy wrote it (not an expert)."""
    return trajectory.guidance != DEMO
