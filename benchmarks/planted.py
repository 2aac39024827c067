"""Runs with a planted pathology, and healthy ones: the real loop on the enumerable policy, with one thing made wrong.

Times and memory of so small a world are those of the machine, so the columns that tell of cost are drawn from a model of a
steady machine in every run, and only there made wrong where cost is the pathology.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from anypo.claims.beds.exact import Testbed
from anypo.diagnose.evidence import COLUMNS, Evidence
from anypo.errors import UserError
from anypo.exact import ExactTask, StateGraph
from anypo.run.disk.rollouts import table
from anypo.run.trainer import Trainer
from anypo.tasks.base import Environment, Problem, Reply

STEPS = 48

Judge = Callable[[int, str, float, int, np.random.Generator], Reply]
"""(prompt, text, true score, step, random) -> what the verifier says."""


@dataclass(frozen=True)
class Case:
    """One kind of run. `planted`: what is wrong with it; `also`: what follows from that by its nature and is therefore counted
    neither for nor against a detector. judge: the verifier in place of the true one; `starve`: how many problems are ever asked;
    `cost(step, random)`: cost columns; `lengths`: multiplies stored lengths."""

    name: str
    system: str
    bed: Testbed
    planted: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    judge: Judge | None = None
    weights: Mapping[str, float] = field(default_factory=lambda: {"correct": 1.0})
    starve: int = 0
    cost: Callable[[int, np.random.Generator], dict[str, float]] | None = None
    tail: bool = False
    steps: int = STEPS


@dataclass
class Judged:
    """An exact task whose verifier is someone else. Satisfies `anypo.tasks.base.Task`."""

    task: ExactTask
    judge: Judge
    weights: Mapping[str, float]
    random: np.random.Generator
    step: int = 0
    outcome: str = "correct"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def __len__(self) -> int:
        return len(self.task)

    def environment(self, problem: Problem) -> Environment:
        return Verdict(self, problem)


@dataclass
class Verdict:
    owner: Judged
    problem: Problem

    def reset(self) -> tuple[Mapping[str, str], ...]:
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        owner, prompt = self.owner, self.problem.prompt
        return owner.judge(prompt, text, owner.task.score(prompt, text), owner.step, owner.random)


def run(case: Case, seed: int) -> Evidence:
    """Train once and return what a run folder would hold."""
    world = case.bed.world(seed)
    random = np.random.default_rng([seed, 71])
    if case.judge is not None:
        world = dataclasses.replace(world, task=Judged(world.task, case.judge, case.weights, random))  # type: ignore[arg-type]
    tried, asked = world.task, case.starve or len(world.task)
    world.problem = lambda ask: tried.train(ask.index % asked)  # type: ignore[method-assign]
    trainer = Trainer(case.bed.adapt(case.system), world, seed, case.steps, beside=True)
    metrics, rollouts, visits = [], [], []
    costs = np.random.default_rng([seed, 72])
    for step in range(1, case.steps + 1):
        if case.judge is not None:
            world.task.step = step  # type: ignore[attr-defined]
        try:
            found = trainer.step()
        except UserError:  # the loop gives up on a run that is not finite any more
            break
        entry = (
            found
            | trainer.witness.said
            | {"accuracy/train": found.get("reward/correct", math.nan)}
            | steady(step, costs)
        )
        metrics.append(entry | (case.cost(step, costs) if case.cost else {}))
        rows = table(step, trainer.groups, trainer.batch).select(COLUMNS).to_pylist(maps_as_pydicts="lossy")
        if case.tail:
            rows = [row | {"length": row["length"] * int(costs.pareto(0.8) * 4 + 1)} for row in rows]
        rollouts.append(rows)
        visits += [group.index % asked for group in trainer.groups]
    task = {"outcome": "correct", "problems": len(world.task)}
    config = {"system": case.system, "model": "tiny", "task": "chain_sum"}
    return Evidence(metrics, rollouts, (), trainer.algorithm, config, task, visits)


def steady(step: int, random: np.random.Generator) -> dict[str, float]:
    """Cost columns of a machine in good order: a warm-up step, a tenth of noise, memory that settles."""
    noise = lambda: float(np.exp(random.normal(0, 0.1)))
    return {
        "time/generate": 1.0 * noise(),
        "time/step": 2.6 * noise(),
        "rollout/tokens_per_second": (150.0 if step == 1 else 400.0) * noise(),
        "memory/resident_gb": 2.0 + 0.5 * (1 - math.exp(-step / 4)) + abs(float(random.normal(0, 0.01))),
    }


# -- tasks and verifiers -----------------------------------------------------------------------------------------------------


def everything_right(graph: StateGraph) -> ExactTask:
    """Any answer is right: the first token pays 1."""
    reward = torch.zeros(4, graph.states, graph.vocabulary, dtype=torch.float64)
    reward[:, 0] = 1.0
    return ExactTask(graph, reward, ("a",) * 4)


def two_best(graph: StateGraph) -> ExactTask:
    """Answers that begin with a and with b are both right."""
    reward = torch.zeros(4, graph.states, graph.vocabulary, dtype=torch.float64)
    reward[:, 0, 1:3] = 1.0
    return ExactTask(graph, reward, ("a",) * 4)


def truth(prompt: int, text: str, score: float, step: int, random: np.random.Generator) -> Reply:
    return Reply({"correct": score})


def coin(prompt: int, text: str, score: float, step: int, random: np.random.Generator) -> Reply:
    return Reply({"correct": float(random.random() < 0.5)})


def flipping(prompt: int, text: str, score: float, step: int, random: np.random.Generator) -> Reply:
    return Reply({"correct": 1 - score if random.random() < 0.15 else score})


def breaking(prompt: int, text: str, score: float, step: int, random: np.random.Generator) -> Reply:
    broken = random.random() < 0.15
    return Reply({"correct": 0.0 if broken else score}, failed="ValueError: cannot parse the answer" if broken else "")


def slow(prompt: int, text: str, score: float, step: int, random: np.random.Generator) -> Reply:
    late = random.random() < 0.08
    return Reply({"correct": 0.0 if late else score}, failed="timed out after 5 s" if late else "")


def paid_by_length(prompt: int, text: str, score: float, step: int, random: np.random.Generator) -> Reply:
    return Reply({"correct": score, "bonus": len(text) / 12})


def paid_for_a(prompt: int, text: str, score: float, step: int, random: np.random.Generator) -> Reply:
    return Reply({"correct": score, "style": text.count("a") / 4})


def a_hole(prompt: int, text: str, score: float, step: int, random: np.random.Generator) -> Reply:
    return Reply({"correct": 1.0 if text.startswith("b") else score})


def drifting(prompt: int, text: str, score: float, step: int, random: np.random.Generator) -> Reply:
    """Among the tied best answers, the judge's taste changes every six steps, by a hundredth."""
    liked = "ab"[step // 6 % 2]
    return Reply({"correct": score, "taste": float(score > 0 and text.startswith(liked))})


def noisy_grades(prompt: int, text: str, score: float, step: int, random: np.random.Generator) -> Reply:
    return Reply({"correct": float(np.clip(0.5 + random.normal(0, 0.15), 0, 1))})


def infinite(prompt: int, text: str, score: float, step: int, random: np.random.Generator) -> Reply:
    """Now and then a number that is finite, but not in the float32 of a batch (one that is not finite costs its rollout only)."""
    return Reply({"correct": 1e200 if step % 6 == 5 and random.random() < 0.3 else score})


# -- the cases ---------------------------------------------------------------------------------------------------------------

BED = Testbed()
LONG = Testbed(graph="chain", horizon=12, reward="graded", spread=0.3)
DISTINCT = Testbed(vocabulary=5, horizon=4, prompts=16, reward="sparse", batch=8)
MANY = Testbed(prompts=48, batch=4, vocabulary=4, horizon=3)

HEALTHY = tuple(
    [Case(f"healthy {name}", name, BED, also=("inert",)) for name in (  # gspo's trust region cannot act on fresh data
        "grpo", "rloo", "reinforce++", "dr-grpo", "dapo", "gspo", "ppo", "mc-grpo", "cispo", "opo",
    )]
    + [
        Case("healthy grpo, graded", "grpo", BED.replace(reward="graded")),
        Case("healthy rloo, long", "rloo", LONG),
        Case("healthy grpo, many prompts", "grpo", MANY),
        Case("healthy grpo, linear policy", "grpo", BED.replace(kind="linear")),
        Case("healthy grpo, two epochs", "grpo", BED.replace(set={"update.epochs": 2})),
        Case("healthy grpo, one step behind", "grpo", BED.replace(lag=1)),
        Case("healthy grpo, rounding in the sampler", "grpo", BED.replace(noise=0.01)),
    ]
)  # fmt: skip

PLANTED = (
    Case("reward too sparse to be met", "grpo", Testbed(vocabulary=6, horizon=5, reward="sparse", lr=0.02), ("all_wrong",),
         ("truncation",)),
    Case("task too easy", "grpo", BED.replace(task=everything_right), ("all_right",)),
    Case("learning rate far too high", "reinforce", DISTINCT.replace(lr=2.0, reward="graded", group=2),
         ("entropy_collapse",), ("low_diversity", "all_wrong", "all_right", "truncation", "policy_cliff", "sign_flips")),
    Case("entropy bonus far too large", "grpo", BED.replace(spread=6.0, reward="sparse", set={
        "objective.regularise": [{"part": "entropy", "coefficient": 1.0}]}), ("entropy_explosion",), ("all_wrong", "truncation")),
    Case("temperature far too low", "grpo", BED.replace(spread=2.5, lr=0.005, set={"generate.temperature": 0.05}),
         ("low_diversity",), ("entropy_collapse", "all_wrong", "all_right")),
    Case("length limit too small", "grpo", Testbed(vocabulary=3, horizon=4, reward="sparse", set={"generate.max_new": 1}),
         ("truncation",), ("all_wrong",)),
    Case("reward with a length bug", "rloo", Testbed(vocabulary=3, horizon=8, reward="sparse", lr=0.1),
         ("length_hacking", "reward_hacking", "length_explosion"),
         ("all_wrong", "truncation"), paid_by_length, {"correct": 0.05, "bonus": 1.0}),
    Case("reward pays for a letter", "grpo", DISTINCT.replace(lr=0.2), ("reward_hacking",), ("low_diversity", "all_wrong",
         "entropy_collapse", "length_explosion", "truncation", "length_hacking", "sign_flips"),
         paid_for_a, {"correct": 0.3, "style": 1.0}),
    Case("a hole in the verifier", "grpo", DISTINCT, ("one_answer_for_all",), ("all_right",), a_hole),
    Case("verdicts flip", "grpo", BED, ("verifier_disagreement",), ("gradient_conflict",), flipping),
    Case("verifier breaks", "grpo", BED, ("verifier_errors",), (), breaking),
    Case("verifier times out", "grpo", BED, ("verifier_errors",), (), slow),
    Case("reward is a coin", "grpo", BED, ("gradient_conflict", "verifier_disagreement"), ("policy_cliff",), coin),
    Case("no trust region on stale data", "grpo", Testbed(vocabulary=12, horizon=3,
         lr=0.3, lag=12, old="sampler", set={"objective.trust": "none"}),
         ("ratio_blowup", "ess_collapse", "staleness", "off_policy_share"), ("entropy_collapse", "low_diversity", "all_right",
         "all_wrong", "policy_cliff")),
    Case("clip range far too small", "grpo", BED.replace(lr=0.1, set={
        "objective.trust.low": 0.01, "objective.trust.high": 0.01, "update.epochs": 4}), ("clip_saturation",)),
    Case("sampler eight steps behind", "grpo", BED.replace(lag=8), ("staleness", "off_policy_share")),
    Case("sampler 20 steps behind", "reinforce++", BED.replace(lag=20), ("staleness", "off_policy_share"),
         ("ratio_blowup", "ess_collapse", "clip_saturation")),
    Case("noise in the sampler", "grpo", BED.replace(noise=0.3), ("engine_mismatch",)),
    Case("three prompts of 48", "grpo", MANY, ("prompt_starvation",), ("all_right",), None, {"correct": 1.0}, 3),
    Case("drift for nothing", "grpo", BED.replace(lr=0.3, set={
        "update.reference": "frozen", "objective.regularise": [{"part": "kl", "coefficient": 1e-6}]}),
         ("kl_drift", "gradient_conflict", "verifier_disagreement"), ("entropy_collapse", "low_diversity", "policy_cliff"), coin),
    Case("noisy grades, groups of four", "grpo", BED.replace(group=4), ("sign_flips", "verifier_disagreement"),
         ("gradient_conflict", "all_wrong", "truncation"), noisy_grades),
    Case("a judge whose taste drifts", "grpo", BED.replace(lr=0.3, task=two_best), ("policy_cliff",),
         ("all_right", "low_diversity", "entropy_collapse", "reward_hacking"), drifting, {"correct": 1.0, "taste": 0.01}),
    Case("a trust region around a ratio of 1", "gspo", BED, ("inert",)),
    Case("infinite rewards", "grpo", BED, ("skipped_updates",), ("verifier_disagreement", "reward_hacking"), infinite),
    Case("weights blow up", "reinforce", DISTINCT.replace(lr=20.0, reward="graded", group=2), ("blown_weights",),
         ("entropy_collapse", "low_diversity", "all_wrong", "all_right", "truncation", "policy_cliff", "sign_flips", "dead_gradient",
          "gradient_conflict", "one_answer_for_all")),
    Case("the gradient dies", "grpo", BED, ("dead_gradient",), cost=lambda step, random: {
        "update/grad_norm": 0.0} if step > 24 else {}),
    Case("heavy-tailed lengths", "grpo", BED, ("long_tail",), ("length_hacking",), cost=lambda step, random: {
        "time/generate": 2.2, "time/step": 2.6}, tail=True),
    Case("sampling slows down", "grpo", BED, ("throughput",), cost=lambda step, random: {
        "rollout/tokens_per_second": 400 * math.exp(-step / 30) * float(np.exp(random.normal(0, 0.1)))}),
    Case("memory leaks", "grpo", BED, ("memory_growth",), cost=lambda step, random: {
        "memory/resident_gb": 2 + 0.04 * step + abs(float(random.normal(0, 0.01)))}),
)  # fmt: skip
