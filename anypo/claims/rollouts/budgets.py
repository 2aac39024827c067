"""Claims of `anypo.systems.rollouts.budgets`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.claims.beds.controls import DepthByLot, changed, random_plan, random_pool, settings
from anypo.claims.beds.exact import Curves, Testbed, by_reward, finals, learning, mean, mean_final, train
from anypo.claims.beds.items import Items
from anypo.claims.beds.worlds import SIXTEEN_TOY, final_policy, hard_and_easy, rule_task
from anypo.claims.rollouts.curricula import TEN_THOUSAND, measured
from anypo.exact import EnumerablePolicy, StateGraph
from anypo.systems import find

HARD_AND_EASY = Testbed(prompts=16, batch=16, group=8, lr=0.03, task=hard_and_easy)


@claim("xrpo", published="up to +4 % pass@1 over GRPO and GSPO; convergence up to 2.7 times faster", seconds=90, seeds=4,
       stand_in=SIXTEEN_TOY + " of widely varying difficulty, which cannot read examples")  # fmt: skip
def xrpo(run: ClaimRun) -> Outcome:
    """Rollouts where they reduce uncertainty, and unlikely right answers paid more: mean exact reward over 60 steps against GRPO at
    the same 128 rollouts per step. Controls: no examples shown, and the same rollouts handed out evenly. An effect below 0.01
    does not matter."""
    bed, steps, method = HARD_AND_EASY, run.steps(60), find("xrpo").algorithm()
    base, ours = finals("grpo", bed, steps, run.seeds), finals(method, bed, steps, run.seeds)
    arms = {
        "no examples": finals(method.set({"generate.exemplars": 0}), bed, steps, run.seeds),
        "even rounds": finals(method.set({"generate": "independent"}), bed, steps, run.seeds),
    }
    run.note(f"largest group: {np.mean([c.metric('generate/largest_group').mean() for c in ours]):.1f}.")
    return by_reward(base, ours, run, "area", least=0.01, controls=arms)


@claim("drive", published="state of the art at 32B on LeetCode and Codeforces; hard-focus with 64 rollouts after breadth with 8",
       seconds=100, seeds=5, stand_in="an enumerable policy on 24 tasks with success from a quarter to one in a thousand")  # fmt: skip
def drive(run: ClaimRun) -> Outcome:
    """Breadth with 8 rollouts, then depth with 64 on what is unsolved, against 8 rollouts throughout at the same rollouts per step:
    how many of the tasks that start below 2 % end above 50 % after 200 steps. Controls: depth on as many problems drawn by lot, and
    depth from the first step, which the card expects to be worse. Notes: reward over all tasks. Less than one task more does not
    matter."""

    def task(graph: StateGraph) -> Any:
        words = ["a", "b", "ab", "ba", "abc", "bca", "cab", "acc", "abcd", "bcda", "cdab", "dabc"]
        targets = words + [w.translate(str.maketrans("abcd", "dcba")) for w in words]
        return rule_task(
            graph, 24, {"correct": lambda p, text: float(text.startswith(targets[p]))}, lambda p: targets[p]
        )

    bed = Testbed(vocabulary=5, horizon=4, batch=8, group=8, lr=0.1, spread=0.3, task=task)
    steps, method = run.steps(200), find("drive").algorithm()
    base, ours = finals("grpo", bed, steps, run.seeds), finals(method, bed, steps, run.seeds)
    arms = {
        "depth on random problems": finals(method, changed(bed, random_pool), steps, run.seeds),
        "depth first": finals(method.set({"control.breadth": 0.0, "control.phases": 2}), bed, steps, run.seeds),
    }
    run.note(f"reward over all tasks: {mean_final(base):.3f} (grpo), {mean_final(ours):.3f} (drive).")
    return compare(
        list(map(_hard_solved, base)), list(map(_hard_solved, ours)), "hard tasks solved", run, least=1.0,
        controls={name: list(map(_hard_solved, curves)) for name, curves in arms.items()}, premise=learning(base),
    )  # fmt: skip


def _hard_solved(curves: Curves) -> float:
    hard = curves.values[0] < 0.02
    return float((curves.values[-1][hard] > 0.5).sum())


@claim("v-zero", published="AIME 2024 from 41 to 50 % with planned budgets; within-policy AUC 0.913 (trained value model: 0.840)",
       seconds=90, seeds=6, stand_in=SIXTEEN_TOY + " of widely varying difficulty")  # fmt: skip
def v_zero(run: ClaimRun) -> Outcome:
    """The step's 128 rollouts planned by the value model against eight for each prompt (GRPO): mean exact reward over 80 steps.
    Control: a plan for rates drawn by lot, under the same limits. Notes: the plan's largest budget, and the error of the value model.
    An effect below 0.01 does not matter."""
    bed, steps = HARD_AND_EASY, run.steps(80)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("v-zero", bed, steps, run.seeds)
    lot = finals("v-zero", changed(bed, random_plan), steps, run.seeds)
    run.note(f"largest budget: {mean(c.metric('control/largest_budget').max() for c in ours):.1f} rollouts.")
    run.note(
        f"squared error of the value model at the end: {mean(c.metric('credit/value_brier')[-10:].mean() for c in ours):.3f}."
    )
    run.note(
        f"exact reward at the end: {mean_final(base):.3f} (even), {mean_final(ours):.3f} (planned), {mean_final(lot):.3f} (by lot)."
    )
    return by_reward(base, ours, run, "area", least=0.01, controls={"a plan by lot": lot})


@claim("brorl", base="the same with 16 rollouts at equal total rollouts", seconds=90, seeds=4,
       published="512 rollouts per prompt revive a 1.5B model that had saturated at 16",
       stand_in="an enumerable policy of 400 answers that had saturated at 16 rollouts")  # fmt: skip
def brorl(run: ClaimRun) -> Outcome:
    """A policy that 60 steps with 16 rollouts per prompt have brought to where it learns no more goes on for twelve steps with 128
    (96 steps of 16 at the same total): exact reward at the end, against 16 rollouts for as many rollouts in all. Control: GRPO at
    128. The failure: 16 rollouts stay within 0.02 of where they had saturated. An effect below 0.02 does not matter."""
    many, first = run.steps(12), run.steps(60)
    bed = SIXTEEN.replace(prepare=lambda policy, seed: _saturate(policy, seed, first))
    method, wide = find("brorl").algorithm(), bed.replace(group=128)
    base = [train(method, bed, 8 * many, seed) for seed in run.seeds]
    ours, other = finals(method, wide, many, run.seeds), finals("grpo", wide, many, run.seeds)
    start = [float(c.value[0]) for c in base]
    run.note(f"exact reward where 16 rollouts had saturated: {mean(start):.3f}.")
    return compare(
        [float(c.value[-1]) for c in base], [float(c.value[-1]) for c in ours], "exact reward at the end", run, least=0.02,
        controls={"grpo with 128": [float(c.value[-1]) for c in other]},
        premise=fails([c.value[-1] < s + 0.02 for c, s in zip(base, start)], "16 rollouts had saturated"),
    )  # fmt: skip


def _rare(graph: StateGraph) -> Any:
    """Four prompts that want the one answer of two letters among 400."""
    targets = ["bc", "gk", "mr", "td"]
    rule = lambda p, text: float(text[:2] == targets[p])
    return rule_task(graph, 4, {"correct": rule}, lambda p: targets[p])


def _saturate(policy: EnumerablePolicy, seed: int, steps: int) -> None:
    """What so many steps with 16 rollouts make of the policy."""
    with torch.no_grad():
        policy.weight.copy_(_trained(seed, steps))


@lru_cache(maxsize=16)
def _trained(seed: int, steps: int) -> torch.Tensor:
    return final_policy(train(find("brorl").algorithm(), SIXTEEN, steps, seed)).weight.detach().clone()


SIXTEEN = Testbed(vocabulary=21, horizon=2, prompts=4, group=16, lr=0.05, task=_rare)
"""Prompts whose one right answer 16 rollouts hardly ever meet."""


@claim("dars", base="the same with all rollouts in the first stage", seconds=60, seeds=8, stand_in=TEN_THOUSAND,
       published="pass@k up at no further cost at convergence; with breadth pass@1 and pass@k together")  # fmt: skip
def dars(run: ClaimRun) -> Outcome:
    """Rollouts for hard prompts: mean exact success on the hardest quarter of 10,000 prompts in 30 steps of 16 x 16 rollouts at most,
    beside 16 rollouts for every prompt at equal rollouts in all. Control: as many further rollouts, for prompts drawn by lot. An
    effect below 0.01 does not matter."""
    items, steps = Items(prompts=16, samples=16, lr=2.0, hard=3.0), run.steps(30)
    lot = lambda a: a.replace(generate=DepthByLot(**settings(a.generate)))
    even = lambda a: a.set({"generate": "independent", "generate.max_new": 1})
    return measured("dars", run, items, steps, {"depth by lot": lot}, even=even, hardest=True, least=0.01)
