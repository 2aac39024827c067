"""Claims of `anypo.systems.objectives.tokens`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.claims.beds.exact import Testbed, by_reward, finals, mean, mean_final, shown, train
from anypo.claims.beds.worlds import SHARED, SHARED_TOY, RuleAnswer, RuleTask, final_policy, rule_task
from anypo.exact import EnumerablePolicy, StateGraph
from anypo.systems import find
from anypo.tasks.base import Environment, Problem


@claim("capo-curvature", base="grpo", seconds=60, seeds=10, stand_in=SHARED_TOY,
       published="stable at a learning rate at which GRPO collapses; MATH 72 % with 5K instead of 150K completions")  # fmt: skip
def capo_curvature(run: ClaimRun) -> Outcome:
    """Two prompts per step at ten times the learning rate that suits them, with the registered share of tokens rejected: exact reward
    after 100 steps, against GRPO. The failure: GRPO ends below half of what it reaches at the suitable rate. Control: GRPO at half of
    the bold rate, for leaving the largest steps out makes steps smaller."""
    bold, steps = SHARED.replace(batch=2, lr=1.0), run.steps(100)
    calm = mean_final(finals("grpo", bold.replace(lr=0.1), steps, run.seeds[:4]))
    base, ours = finals("grpo", bold, steps, run.seeds), finals("capo-curvature", bold, steps, run.seeds)
    slower = finals("grpo", bold.replace(lr=0.5), steps, run.seeds)
    stuck = [sum(c.final < 0.5 * calm for c in curves) for curves in (base, ours)]
    run.note(
        f"GRPO at a tenth of the rate (4 seeds): {calm:.3f}; below half of it: {stuck[0]} (grpo), {stuck[1]} (capo)."
    )
    run.note(f"rejected: {mean(c.metric('update/rejected_share').mean() for c in ours):.3f} of the tokens.")
    collapse = fails([c.final < 0.5 * calm for c in base], "GRPO ends below half of what a tenth of the rate reaches")
    return by_reward(base, ours, run, "final", least=0.02, controls={"grpo, half the rate": slower}, premise=collapse)


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
       seconds=60, seeds=10, stand_in="a tabular policy whose right and wrong answers share a two-letter prefix")  # fmt: skip
def gtpo_conflict(run: ClaimRun) -> Outcome:
    """A prefix that every right answer must have and nearly every wrong one has too, while four answers in five are wrong throughout
    (their verdicts are drawn at random): its exact probability after 120 steps against GRPO. The failure: it falls below where it
    began. Control: GRPO with a mean over tokens, under which short wrong answers do not weigh more on the prefix than long right
    ones. Notes: the reward where the verdict can be learned."""
    bed = Testbed(spread=0.2, lr=0.03, prepare=_knows_the_format)
    steps = run.steps(120)
    start = [_prefix(bed.world(seed).policy) for seed in run.seeds]
    by_token = find("grpo").algorithm().set({"objective.aggregate": "token_mean"})
    ends = [
        [_prefix(final_policy(train(method, bed.replace(task=_coins(seed)), steps, seed))) for seed in run.seeds]
        for method in ("grpo", "gtpo-conflict", by_token)
    ]
    run.note(f"the prefix begins at {shown(start)}.")
    learnable = bed.replace(
        task=lambda graph: rule_task(graph, 4, {"correct": _formatted}, lambda p: "ab" + "abc"[p % 3])
    )
    for name in ("grpo", "gtpo-conflict"):
        some = finals(name, learnable, steps, run.seeds[:2])
        run.note(f"verdicts that can be learned (2 seeds), {name}: {shown(c.final for c in some)}.")
    return compare(
        ends[0], ends[1], "probability of the shared prefix", run, least=0.01, controls={"grpo, mean over tokens": ends[2]},
        premise=fails([end < began for end, began in zip(ends[0], start)], "the shared prefix falls under GRPO"),
    )  # fmt: skip


def _prefix(policy: Any) -> float:
    """Exact probability of an answer that begins with "ab", mean over prompts."""
    with torch.no_grad():
        table = policy.log_table()
        return float((table[:, 0, 1] + table[:, int(policy.graph.child[0, 1]), 2]).exp().mean())
