"""Controlled off-policyness: a path of policies, batches sampled k updates behind its end, and the true gradient there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

import torch
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.exact import truth
from anypo.exact.graph import tree
from anypo.exact.policy import EnumerablePolicy, Kind
from anypo.exact.sampler import EnumerableSampler, Versions
from anypo.exact.task import ExactTask, Reward, patterns
from anypo.generate.base import Independent, World
from anypo.tasks.base import Task

OLDEST = 64
"""Updates on the path from the initial policy to the one whose gradient is estimated."""


@dataclass(frozen=True)
class Setting:
    """Under which conditions an estimator is measured.

    staleness: updates between the sampling policy and the current one; versions: see `EnumerableSampler`; noise: standard
    deviation of the sampler's logit error. group: rollouts per prompt; every batch holds each of the `prompts` once.
    old: ``logp_old`` is the "sampler"'s (several optimiser steps per batch of rollouts, as published objectives assume) or the
    "trainer"'s, recomputed for the current weights (asynchronous rollouts).
    step: size of one update of the path, in nats of KL per sequence and update.
    """

    staleness: int = 0
    group: int = 8
    reward: Reward = "binary"
    versions: Versions = "single"
    noise: float = 0.0
    old: Literal["sampler", "trainer"] = "sampler"
    prompts: int = 4
    vocabulary: int = 4
    horizon: int = 4
    kind: Kind = "linear"
    step: float = 5e-5
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """A setting made concrete. `weights` [OLDEST + 1, ...]: the path; `gradient` [D]: the true gradient of the mean expected
    reward at its end; `drift`: exact KL in nats per sequence from the sampling policy to the current one."""

    setting: Setting
    task: ExactTask
    weights: Tensor
    gradient: Tensor
    drift: float

    def policy(self, behind: int = 0) -> EnumerablePolicy:
        """The policy `behind` updates before the end of the path, stamped with its version."""
        s = self.setting
        policy = EnumerablePolicy(self.task.graph, s.prompts, s.kind, seed=s.seed)
        with torch.no_grad():
            policy.weight.copy_(self.weights[OLDEST - behind])
        policy.version = OLDEST - behind
        return policy

    def sampler(self, seed: int) -> EnumerableSampler:
        """Whoever samples in this setting; it has seen the whole path."""
        s = self.setting
        moving = self.policy(s.staleness)
        sampler = EnumerableSampler(moving, s.staleness, s.noise, s.versions, seed)
        for behind in range(s.staleness, -1, -1):
            with torch.no_grad():
                moving.weight.copy_(self.weights[OLDEST - behind])
            moving.version = OLDEST - behind
            sampler.forget()
        return sampler

    def draw(self, draws: int, seed: int, generate: Independent | None = None) -> list[list[Group]]:
        """`draws` independent batches of one group per prompt, through the real generator and environments."""
        s = self.setting
        world = World(cast(Task, self.task), self.policy(), self.sampler(seed))
        generate = generate or Independent(max_new=s.horizon)
        context = Context(0, 1, seed, Memory(Algorithm()))
        asks = [Ask(prompt, s.group, visit=visit) for visit in range(draws) for prompt in range(s.prompts)]
        groups = generate.rollout(asks, world, context)
        return [groups[k : k + s.prompts] for k in range(0, len(groups), s.prompts)]


@lru_cache(maxsize=8)
def scene(setting: Setting) -> Scene:
    """The path and the truth of a setting.

    The path is natural for reinforcement learning: every update follows a noisy estimate of the gradient (half signal, half
    noise, by norm), with a length that gives every update the same small KL.
    """
    graph = tree(setting.vocabulary, setting.horizon)
    task = patterns(graph, setting.prompts, setting.reward, setting.seed)
    policy = EnumerablePolicy(graph, setting.prompts, setting.kind, seed=setting.seed)
    generator = torch.Generator().manual_seed(setting.seed + 1)
    weights = [policy.weight.detach().clone()]
    length = 0.1
    for _ in range(OLDEST):
        signal = truth.policy_gradient(policy, task.reward, graph)
        noise = torch.randn(signal.shape, generator=generator, dtype=signal.dtype)
        direction = signal / signal.norm() + noise / noise.norm()
        length = _move(policy, direction.reshape(policy.weight.shape), setting.step, length)
        weights.append(policy.weight.detach().clone())
    path = torch.stack(weights)
    gradient = truth.policy_gradient(policy, task.reward, graph)
    here = policy.log_table().detach()
    with torch.no_grad():
        policy.weight.copy_(path[OLDEST - setting.staleness])
        drift = float(truth.kl(policy.log_table(), here, graph).mean())
    return Scene(setting, task, path, gradient, drift)


def _move(policy: EnumerablePolicy, direction: Tensor, target: float, length: float) -> float:
    """Step along `direction` by the length at which the mean KL from before to after is `target`; returns that length, a good
    first guess for the next step (KL is nearly quadratic in the length)."""
    with torch.no_grad():
        start, before = policy.weight.clone(), policy.log_table()
        for _ in range(8):
            policy.weight.copy_(start + length * direction)
            found = float(truth.kl(before, policy.log_table(), policy.graph).mean())
            if abs(found / target - 1.0) < 1e-3:
                break
            length *= (target / found) ** 0.5
    return length


def split(batch: Batch, sequences: int, groups: int) -> list[Batch]:
    """Cut a batch of many draws, each of `sequences` trajectories in `groups` groups, into one batch per draw (views)."""
    lengths = batch.sequences["length"]
    ends = lengths.cumsum(0)[sequences - 1 :: sequences].tolist()
    out = []
    for number, (begin, end) in enumerate(zip([0, *ends], ends)):
        own = slice(number * sequences, (number + 1) * sequences)
        rows = {name: column[begin:end] for name, column in batch.rows.items()}
        columns = {name: column[own] for name, column in batch.sequences.items()}
        rows["sequence"] = rows["sequence"] - own.start
        columns["group"] = columns["group"] - number * groups
        asked = batch.problems[number * groups : (number + 1) * groups]
        out.append(Batch(rows, columns, groups, batch.trajectories[own], asked))
    return out


def pack(draws: Sequence[Sequence[Group]], policy: EnumerablePolicy) -> Batch:
    """All draws in one float64 batch, each decision with its flat ``state`` and its ``token``."""
    batch = Batch.pack([group for groups in draws for group in groups], torch.float64)
    states, tokens = policy.rows(batch)
    return batch.with_rows(state=states, token=tokens)
