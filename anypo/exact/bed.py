"""The real loop on the enumerable policy, with every quantity of interest known exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch

from anypo import roles
from anypo.algorithm import Algorithm
from anypo.exact import truth
from anypo.exact.graph import StateGraph, chain, tree
from anypo.exact.policy import EnumerablePolicy, Kind
from anypo.exact.sampler import EnumerableSampler, Versions
from anypo.exact.task import ExactTask, Reward, patterns
from anypo.generate.base import World
from anypo.replay import Delayed, OnPolicy
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.base import Task


@dataclass(frozen=True)
class Testbed:
    """A small exact world and the settings under which every method runs in it.

    vocabulary (EOS included), horizon, prompts (questions of falling ease), reward, kind, spread: of the world and its policy.
    graph: "tree" (the policy sees the whole prefix) or "chain" (position and previous token; long horizons, graded reward only).
    lag, versions, noise: who samples (see `EnumerableSampler`); a sampler that lags takes the place of replay=delayed. old: whose
    log-probabilities are ``logp_old``, the "trainer"'s at the start of the update or the "sampler"'s own, however stale. batch,
    group, lr, critic_lr: prompts per step, rollouts per prompt, learning rates of policy and critic; applied to the algorithm
    before `set`. task: a task of one's own over the graph instead of `patterns`. prepare: changes the initial policy in place,
    given the seed (a warm start).
    """

    __test__ = False

    vocabulary: int = 4
    horizon: int = 4
    prompts: int = 4
    reward: Reward = "binary"
    kind: Kind = "tabular"
    graph: Literal["tree", "chain"] = "tree"
    spread: float = 0.5
    lag: int = 0
    versions: Versions = "single"
    noise: float = 0.0
    old: Literal["trainer", "sampler"] = "trainer"
    batch: int = 4
    group: int = 8
    lr: float = 0.05
    critic_lr: float = 0.05
    task_seed: int = 0
    task: Callable[[StateGraph], ExactTask] | None = None
    prepare: Callable[[EnumerablePolicy, int], None] | None = None
    set: Mapping[str, Any] = field(default_factory=dict)

    def replace(self, **fields: Any) -> Testbed:
        return dataclasses.replace(self, **fields)

    def states(self) -> StateGraph:
        return (tree if self.graph == "tree" else chain)(self.vocabulary, self.horizon)

    def world(self, seed: int) -> World:
        """A fresh world: the task is the same for every seed, the initial policy is not."""
        graph = self.states()
        task = self.task(graph) if self.task else patterns(graph, self.prompts, self.reward, self.task_seed)
        policy = EnumerablePolicy(graph, len(task), self.kind, self.spread, seed)
        if self.prepare is not None:
            self.prepare(policy, seed)
        return World(cast(Task, task), policy, EnumerableSampler(policy, self.lag, self.noise, self.versions, seed))

    def adapt(self, algorithm: Algorithm | str) -> Algorithm:
        """The algorithm (or named system) with this testbed's sizes, learning rate and settings, where it has such fields."""
        method = find(algorithm).algorithm() if isinstance(algorithm, str) else algorithm
        if self.lag and isinstance(method.replay, Delayed):
            method = method.replace(replay=OnPolicy())
        wanted = {
            "control.prompts": self.batch,
            "control.samples": self.group,
            "generate.max_new": self.horizon,
            "update.optimiser.lr": self.lr,
            "credit.optimiser.lr": self.critic_lr,
            "objective.trust.optimiser.lr": self.critic_lr,
            "objective.view.template": "{prompt} ={solution}",
            "generate.guides.template": "{prompt} +{guide}",
            "generate.guides.example": "{solution}",
            "engine.reuse_logp": "always" if self.old == "sampler" else "exact",
        }
        return method.set({path: value for path, value in wanted.items() if _has(method, path)}).set(self.set)


def _has(algorithm: Algorithm, path: str) -> bool:
    value: Any = algorithm
    for step in path.split("."):
        if step not in getattr(type(value), "model_fields", {}):
            return False
        value = getattr(value, step)
    return True


@dataclass(frozen=True)
class Curves:
    """What happened, one entry per step plus the initial state (index 0): exact expected reward (`value`, mean over prompts, and
    `values` [steps + 1, prompts]), exact entropy per decision, exact KL from the initial policy; and the step `metrics`
    (nan at index 0 and where a step did not log them)."""

    value: np.ndarray
    values: np.ndarray
    entropy: np.ndarray
    kl: np.ndarray
    metrics: Mapping[str, np.ndarray]
    trainer: Trainer

    @property
    def final(self) -> float:
        """Mean exact reward of the last tenth of the run: steadier than its last point."""
        return float(self.value[-max(1, len(self.value) // 10) :].mean())

    @property
    def area(self) -> float:
        """Mean exact reward over the run (the normalised area under the curve)."""
        return float(self.value.mean())

    def steps_to(self, threshold: float) -> float:
        """First step whose exact reward reaches `threshold` (inf when none does)."""
        reached = np.flatnonzero(self.value >= threshold)
        return float(reached[0]) if len(reached) else float("inf")

    def collapsed(self, share: float = 0.5) -> bool:
        """The final reward is below `share` of the run's own peak."""
        return bool(self.final < share * self.value.max())

    def metric(self, name: str) -> np.ndarray:
        """A step metric without the entries where it was not logged."""
        column = self.metrics.get(name, np.zeros(0))
        return column[np.isfinite(column)]


def train(
    algorithm: Algorithm | str,
    bed: Testbed,
    steps: int,
    seed: int,
    watch: Callable[[Trainer], None] | None = None,
) -> Curves:
    """Run `algorithm` (or the named system) for `steps` steps of the real loop in a fresh world of `bed`.

    The same seed gives the same world, initial policy and sampling noise whatever the algorithm, so runs are paired by seed.
    `watch(trainer)` is called after every step.
    """
    world, method = bed.world(seed), bed.adapt(algorithm)
    world.models = roles.cast(method.models, world.policy, world.sampler, seed)
    trainer = Trainer(method, world, seed, steps)
    policy, graph, reward = world.policy, world.policy.graph, world.task.reward  # type: ignore[attr-defined]
    with torch.no_grad():
        start = policy.log_table()
    values, entropy, kl, logs = [], [], [], []
    for step in range(steps + 1):
        logs.append(trainer.step() if step else {})
        with torch.no_grad():
            table = policy.log_table()
            values.append(truth.value(table, reward, graph).numpy())
            entropy.append(float(truth.token_entropy(table, graph).mean()))
            kl.append(float(truth.kl(table, start, graph).mean()))
        if step and watch is not None:
            watch(trainer)
    names = {name for log in logs for name in log}
    metrics = {name: np.array([log.get(name, np.nan) for log in logs]) for name in sorted(names)}
    table = np.array(values)
    return Curves(table.mean(1), table, np.array(entropy), np.array(kl), metrics, trainer)


__all__ = ["Curves", "Testbed", "train"]
