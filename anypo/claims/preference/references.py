"""Claims of `anypo.systems.preference.references`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import TOY, Curves, Testbed, finals, mean_final, shown, train
from anypo.claims.beds.worlds import LONG, LONG_TOY, affordable, decisive, final_policy
from anypo.exact import EnumerablePolicy, ExactTask, truth
from anypo.generate.base import World
from anypo.systems import find
from anypo.tasks.base import Environment, Problem, Reply


@claim("salsa", base="ppo", seconds=90, seeds=8, stand_in="log-linear enumerable policies: a good one plus noise, twice",
       published="above PPO with the SFT reference on MT-Bench, Arena-Hard and UltraFeedback (2B to 7B models)")  # fmt: skip
def salsa(run: ClaimRun) -> Outcome:
    """The policy and a second model are one half-trained policy plus independent noise. Exact reward after 60 steps of PPO with the
    average of both as reference, at the KL that PPO has from its own reference at the same penalty (interpolated between four
    penalties). Notes: reward of the parents and of their average; reward at equal penalty; one third model as reference."""
    bed = Testbed(kind="linear", lr=0.02)
    steps = run.steps(60)
    beta, betas = 0.4, (0.2, 0.4, 0.8, 1.6)
    base, ours, equal, third, parents = [], [], [], [], []
    for seed in run.seeds:
        models = [_noisy(bed, seed, k) for k in range(3)]
        own = bed.replace(prepare=_become(models[0]))
        plain = train(_penalised("ppo", beta), own, steps, seed)
        spent = _distance(plain)
        front = [_souped(own, models[1], 0.5, b, steps, seed) for b in betas]
        order = np.argsort([_distance(c) for c in front])
        ours.append(float(np.interp(spent, [_distance(front[i]) for i in order], [front[i].final for i in order])))
        base.append(plain.final)
        equal.append(front[1].final)
        third.append(_souped(own, models[2], 0.0, beta, steps, seed).final)
        parents.append([*(_reward(bed, w) for w in models[:2]), _reward(bed, (models[0] + models[1]) / 2)])
    first, second, soup = np.mean(parents, 0)
    run.note(f"exact reward of the parents {first:.3f} and {second:.3f}, of their average {soup:.3f}.")
    run.note(f"reward at equal penalty: {shown(equal)}; with a third model alone as reference: {shown(third)}.")
    return compare(base, ours, "exact reward at equal KL from the reference", run)


def _noisy(bed: Testbed, seed: int, which: int, steps: int = 40, noise: float = 0.5) -> Tensor:
    """Weights of a policy half-trained on the exact gradient (the same for every `which`), plus Gaussian noise."""
    world = bed.world(seed)
    policy = world.policy
    for _ in range(steps):
        slope = truth.policy_gradient(policy, world.task.reward, policy.graph)  # type: ignore[attr-defined]
        with torch.no_grad():
            policy.weight += 0.1 * (slope / slope.norm()).reshape(policy.weight.shape)
    generator = torch.Generator().manual_seed(1000 * which + seed)
    return policy.weight.detach() + noise * torch.randn(policy.weight.shape, generator=generator, dtype=torch.float64)


def _become(weight: Tensor) -> Callable[[EnumerablePolicy, int], None]:
    def prepare(policy: EnumerablePolicy, seed: int) -> None:
        with torch.no_grad():
            policy.weight.copy_(weight)

    return prepare


def _souped(bed: Testbed, other: Tensor, own: float, beta: float, steps: int, seed: int) -> Curves:
    """SALSA with a second model of these weights, which counts 1 - `own` in the average."""
    second = bed.replace(prepare=_become(other)).world(seed).policy
    changes = {"update.reference.models": ["second"], "update.reference.own": own}
    with patch("anypo.policies.load", lambda name: second):
        return train(_penalised("salsa", beta).set(changes), bed, steps, seed)


def _penalised(system: str, beta: float) -> Algorithm:
    return find(system).algorithm().set({"credit.shaping.0.coefficient": beta})


def _distance(curves: Curves) -> float:
    """Exact KL of the final policy from its reference, nats per answer."""
    policy, reference = final_policy(curves), curves.trainer.weights.reference
    with torch.no_grad():
        return float(truth.kl(policy.log_table(), reference.log_table(), policy.graph).mean())


def _reward(bed: Testbed, weight: Tensor) -> float:
    world = bed.replace(prepare=_become(weight)).world(0)
    with torch.no_grad():
        return float(truth.value(world.policy.log_table(), world.task.reward, world.policy.graph).mean())  # type: ignore[attr-defined]


@dataclasses.dataclass
class _Corrupted:
    """An environment that gives a random reward half of the time."""

    inner: Environment
    dice: np.random.Generator

    def reset(self) -> Any:
        return self.inner.reset()

    def step(self, *reply: Any) -> Reply:
        found = self.inner.step(*reply)
        if self.dice.random() < 0.5:
            return dataclasses.replace(found, rewards={"correct": float(self.dice.random())})
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class _NoisyTask(ExactTask):
    """A task half of whose rewards are random; `reward`, by which policies are evaluated, is the true one."""

    dice: np.random.Generator = dataclasses.field(default_factory=lambda: np.random.default_rng(0))

    def environment(self, problem: Problem) -> Environment:
        return _Corrupted(super().environment(problem), self.dice)


class _NoisyBed(Testbed):
    def world(self, seed: int) -> World:
        plain = super().world(seed)
        clean: Any = plain.task
        task = _NoisyTask(clean.graph, clean.reward, clean.targets, clean.kind, dice=np.random.default_rng(seed))
        return World(task, plain.policy, plain.sampler)  # type: ignore[arg-type]


@claim("a-lol", base="behaviour cloning weighted by the reward", seconds=60, stand_in=TOY,
       published="most helpful and safest of the offline methods on HHA, and robust to noisy data in three tasks")  # fmt: skip
def a_lol(run: ClaimRun) -> Outcome:
    """Offline, from 16 steps of the initial policy's answers with half of the rewards random: exact (true) reward after 60 steps on
    this data, against weighted behaviour cloning (reward times log-likelihood, no baseline, no filter, no ratio)."""
    bed = _NoisyBed(reward="graded", lr=0.02, set={"replay.groups": 4})
    count = 16 + run.steps(60)
    ours_method = find("a-lol").algorithm()
    cloning = ours_method.set({"credit.centre": "none", "credit.select": [], "objective.ratio": "score"})
    base = run.each(lambda seed: train(cloning, bed, count, seed))
    ours = run.each(lambda seed: train(ours_method, bed, count, seed))
    free = run.each(lambda seed: train(ours_method.set({"objective.ratio": "score"}), bed, count, seed))
    run.note(f"A-LoL ref-free: {mean_final(free):.3f}.")
    return compare([c.final for c in base], [c.final for c in ours], "final exact reward", run)


@claim("dapo-direct", base="dpo", published="up to +7.6 points on MATH and +9.2 on MBPP+; step-level beats response-level signals",
       seconds=60, seeds=6, stand_in=LONG_TOY)  # fmt: skip
def dapo_direct(run: ClaimRun) -> Outcome:
    """Step advantages from re-rolled states and a critic against the same quadratic loss on whole responses, with the same
    responses trained on (as in the paper, what the critic's data cost is not counted): mean exact reward over 30 steps.
    Every token is a step. Notes: whole responses with as many more prompts as the estimates cost."""
    method = find("dapo-direct").algorithm().set({"generate.delimiter": ""})
    method = method.set({"generate.below": 1.1, "generate.interval": 1})
    whole = method.set({"generate": "independent", "credit.granularity": "trajectory"})
    bed, steps = LONG.replace(task=decisive, group=4), run.steps(30)
    base, ours = finals(whole, bed, steps, run.seeds), finals(method, bed, steps, run.seeds)
    more = affordable(run, ours, whole, bed)
    rich = finals(whole, bed.replace(batch=more), steps, run.seeds)
    run.note(f"with them the base reaches {np.mean([c.area for c in rich]):.3f}.")
    rises = [c.value[1] - c.value[0] for c in ours]
    run.note(f"the first round raised the expected reward in {sum(r > 0 for r in rises)} of {len(rises)} runs.")
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)
