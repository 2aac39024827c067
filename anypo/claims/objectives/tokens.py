"""Claims of `anypo.systems.objectives.tokens`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import Testbed, finals, mean, mean_final, shown, train
from anypo.claims.beds.worlds import SHARED, SHARED_TOY, RuleAnswer, RuleTask, final_policy, rule_task
from anypo.exact import EnumerablePolicy, StateGraph
from anypo.systems import find
from anypo.tasks.base import Environment, Problem


@claim("capo-curvature", base="grpo", seconds=60, seeds=12, stand_in=SHARED_TOY,
       published="stable at a learning rate at which GRPO collapses; MATH 72 % with 5K instead of 150K completions")  # fmt: skip
def capo_curvature(run: ClaimRun) -> Outcome:
    """Two prompts per step at ten times the learning rate that suits them: exact reward after 150 steps, against GRPO. The shift
    allowed to a token is the smallest power of ten at which less than 8 % of the tokens are rejected (the paper's share), found
    on one world of its own. Notes: GRPO at the suitable rate, and runs that end below half of what it reaches there."""
    bold, steps = SHARED.replace(batch=2, lr=1.0), run.steps(150)
    ours_method = _allowing(bold, run.steps(100), run)
    calm = finals("grpo", bold.replace(lr=0.1), steps, run.seeds)
    base, ours = finals("grpo", bold, steps, run.seeds), finals(ours_method, bold, steps, run.seeds)
    stuck = [sum(c.final < 0.5 * mean_final(calm) for c in curves) for curves in (base, ours)]
    run.note(
        f"GRPO at a tenth of the rate: {mean_final(calm):.3f}; below half of it: {stuck[0]} (grpo), {stuck[1]} (capo)."
    )
    run.note(f"rejected: {mean([c.metric('update/rejected_share').mean() for c in ours]):.3f} of the tokens.")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


def _allowing(bed: Testbed, steps: int, run: ClaimRun) -> Algorithm:
    """CAPO with the smallest allowed shift, a power of ten, that rejects less than 8 % of the tokens in a world of its own."""
    for power in range(-2, 4):
        method = find("capo-curvature").algorithm().set({"update.rules.0.shift": 10.0**power})
        rejected = train(method, bed, steps, 7).metric("update/rejected_share").mean()
        if rejected < 0.08:
            break
    run.note(f"allowed shift: {10.0**power:g} nats.")
    return method


def _formatted(prompt: int, text: str) -> float:
    """Right answers are "ab" and one letter of three that depends on the prompt."""
    return float(text == "ab" + "abc"[prompt % 3])


@dataclass(eq=False)
class _Coins(RuleTask):
    """Answers that begin with "ab" are right one time in five, whatever follows: nothing but the prefix can be learned."""

    generator: np.random.Generator = field(default_factory=np.random.default_rng)

    def environment(self, problem: Problem) -> Environment:
        right = float(self.generator.random() < 0.2)
        coin = lambda prompt, text: right * text.startswith("ab")
        return RuleAnswer(replace(self, rules={"correct": coin}), problem)


def _coins(seed: int) -> Callable[[StateGraph], Any]:
    def task(graph: StateGraph) -> Any:
        fair = rule_task(graph, 4, {"correct": lambda p, text: 0.2 * text.startswith("ab")}, lambda p: "ab")
        return _Coins(**vars(fair), generator=np.random.default_rng(seed))

    return task


def _knows_the_format(policy: EnumerablePolicy, seed: int) -> None:
    """Logits that write "ab", any token, the end: the prefix has nine chances in ten, the answer after it a quarter."""
    graph = policy.graph
    first = int(graph.child[0, 1])
    third = [int(state) for state in graph.child[int(graph.child[first, 2])] if state >= 0]
    with torch.no_grad():
        table = policy.weight.view(policy.prompts, graph.states, graph.vocabulary)
        table[:, 0, 1] += 4.0
        table[:, first, 2] += 4.0
        table[:, third, 0] += 4.0


@claim("gtpo-conflict", published="no late collapse, format kept; above GRPO on GSM8K, MATH and AIME 2024 (3B, 8B)",
       seconds=70, seeds=20, stand_in="a tabular policy whose right and wrong answers share a two-letter prefix")  # fmt: skip
def gtpo_conflict(run: ClaimRun) -> Outcome:
    """A prefix that every right answer must have and nearly every wrong one has too, while four answers in five are wrong throughout
    (their verdicts are drawn at random): its exact probability after 200 steps against GRPO. Notes: in how many seeds it
    falls below where it began; and the same where the verdict can be learned."""
    bed = Testbed(spread=0.2, lr=0.03, prepare=_knows_the_format)
    steps = run.steps(200)
    start = [_prefix(bed.world(seed).policy) for seed in run.seeds]
    ends = [
        [_prefix(final_policy(train(name, bed.replace(task=_coins(seed)), steps, seed))) for seed in run.seeds]
        for name in ("grpo", "gtpo-conflict")
    ]
    falls = [sum(e < s for e, s in zip(side, start)) for side in ends]
    run.note(
        f"the prefix begins at {shown(start)}; it ends lower in {falls[0]} (grpo) and {falls[1]} (gtpo) of {len(start)} seeds."
    )
    learnable = bed.replace(
        task=lambda graph: rule_task(graph, 4, {"correct": _formatted}, lambda p: "ab" + "abc"[p % 3])
    )
    for name in ("grpo", "gtpo-conflict"):
        some = finals(name, learnable, steps, run.seeds[:4])
        run.note(
            f"verdicts that can be learned (4 seeds), {name}: reward {shown(c.final for c in some)}, "
            f"prefix {shown(_prefix(final_policy(c)) for c in some)}."
        )
    return compare(ends[0], ends[1], "probability of the shared prefix", run)


def _prefix(policy: Any) -> float:
    """Exact probability of an answer that begins with "ab", mean over prompts."""
    with torch.no_grad():
        table = policy.log_table()
        return float((table[:, 0, 1] + table[:, int(policy.graph.child[0, 1]), 2]).exp().mean())
