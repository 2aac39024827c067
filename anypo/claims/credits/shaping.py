"""Claims of `anypo.systems.credits.shaping`."""

from __future__ import annotations

from typing import Any

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import Curves, Testbed, finals
from anypo.claims.beds.worlds import expected, final_policy, rule_task
from anypo.exact import StateGraph
from anypo.systems import find


@claim("adora", published="AMC 40 after 100 steps instead of 35 (GRPO)", seconds=60, seeds=10,
       stand_in="an enumerable policy whose chance of being right grows with the length of its answer")  # fmt: skip
def adora(run: ClaimRun) -> Outcome:
    """Longer answers pay: an answer of n letters is right when at least one of them is the prompt's. Mean exact reward
    over 60 steps against GRPO; a control where only the first letter counts is in the notes."""

    def task(anywhere: bool) -> Any:
        letters = ["a", "b", "c", "a"]
        rule = lambda p, text: float(letters[p] in (text if anywhere else text[:1]))
        return lambda graph: rule_task(graph, 4, {"correct": rule}, lambda p: letters[p])

    steps = run.steps(60)
    bed = Testbed(vocabulary=4, horizon=5, lr=0.02)
    base = [c.area for c in finals("grpo", bed.replace(task=task(True)), steps, run.seeds)]
    ours = [c.area for c in finals("adora", bed.replace(task=task(True)), steps, run.seeds)]
    control = [
        np.mean([c.area for c in finals(name, bed.replace(task=task(False)), steps, run.seeds)])
        for name in ("grpo", "adora")
    ]
    run.note(f"control, length irrelevant: {control[0]:.3f} (grpo), {control[1]:.3f} (adora).")
    return compare(base, ours, "mean exact reward over training", run)


@claim("fapo", published="better outcomes and fewer flawed positives than plain verification at equal tokens", seconds=60, seeds=6,
       stand_in="an enumerable policy: solve needs three rare steps, a guess is right but flawed")  # fmt: skip
def fapo(run: ClaimRun) -> Outcome:
    """Solving starts at about 2 %, a flawed guess at about 20 %: exact share of flawed answers among right ones after 150 steps
    against GRPO on the outcome. Notes: accuracy and clean solutions of both; a detector that errs in a fifth of the cases."""

    def task(graph: StateGraph, errs: float = 0.0) -> Any:
        guessed = lambda text: text.startswith("d")
        coin = np.random.default_rng(0)
        rules = {
            "correct": lambda p, text: float(text.startswith("abc") or guessed(text)),
            "flawed": lambda p, text: float(guessed(text) != (coin.random() < errs)),
            "truly_flawed": lambda p, text: float(guessed(text)),
        }
        return rule_task(graph, 4, rules, lambda p: "abc", correct=1.0)

    bed = Testbed(vocabulary=6, horizon=3, prompts=4, lr=0.05, spread=0.2, task=task)
    steps = run.steps(150)
    method = find("fapo").algorithm().set({"filter.signals": []})
    base = finals(find("grpo").algorithm().set({"objective": method.objective}), bed, steps, run.seeds)
    ours = finals(method, bed, steps, run.seeds)
    shares = [[_flawed_share(c) for c in curves] for curves in (base, ours)]
    level = [np.mean([c.final for c in curves]) for curves in (base, ours)]
    run.note(f"accuracy: {level[0]:.3f} (grpo), {level[1]:.3f} (fapo).")
    noisy = finals(method, bed.replace(task=lambda graph: task(graph, 0.2)), steps, run.seeds)
    run.note(
        f"with a detector that errs on a fifth of the answers: {np.mean([_flawed_share(c) for c in noisy]):.3f} flawed."
    )
    return compare(shares[0], shares[1], "share of right answers that are flawed", run, larger=False)


def _flawed_share(curves: Curves) -> float:
    policy, task = final_policy(curves), curves.trainer.world.task
    return expected(policy, task.table("truly_flawed")) / max(expected(policy, task.reward), 1e-9)  # type: ignore[attr-defined]
