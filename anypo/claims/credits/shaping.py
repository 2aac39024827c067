"""Claims of `anypo.systems.credits.shaping`."""

from __future__ import annotations

from typing import Any

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.claims.beds.controls import changed, random_weights
from anypo.claims.beds.exact import Curves, Testbed, by_reward, finals, mean, mean_final
from anypo.claims.beds.worlds import expected, final_policy, rule_task
from anypo.exact import StateGraph
from anypo.systems import find


@claim("adora", published="AMC 40 after 100 steps instead of 35 (GRPO)", seconds=60, seeds=8,
       stand_in="an enumerable policy; thinking pays on half of the prompts, and short answers are a lure there")  # fmt: skip
def adora(run: ClaimRun) -> Outcome:
    """Eight prompts share their parameters. On each an answer of one letter is right by luck (one letter of three), one that spells
    the prompt's three letters is right on half of them: mean exact reward over 80 steps against GRPO. Control: the same weights,
    handed to the groups by lot. An effect below 0.01 does not matter."""
    bed = Testbed(kind="linear", vocabulary=4, horizon=4, prompts=8, batch=8, lr=0.03, task=_thinking)
    steps = run.steps(80)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("adora", bed, steps, run.seeds)
    lot = finals("adora", changed(bed, random_weights), steps, run.seeds)
    return by_reward(base, ours, run, "area", least=0.01, controls={"weights by lot": lot})


def _thinking(graph: StateGraph) -> Any:
    """Even prompts want the letter somewhere in an answer of at least three, odd ones as the whole answer."""
    letters = "abcabcab"

    def rule(p: int, text: str) -> float:
        return float(len(text) >= 3 and letters[p] in text if p % 2 == 0 else text == letters[p])

    return rule_task(graph, 8, {"correct": rule}, lambda p: letters[p] * (3 if p % 2 == 0 else 1))


@claim("fapo", published="better outcomes and fewer flawed positives than plain verification at equal tokens", seconds=60, seeds=6,
       stand_in="an enumerable policy: solve needs three rare steps, a guess is right but flawed")  # fmt: skip
def fapo(run: ClaimRun) -> Outcome:
    """Solving starts at about 2 %, a flawed guess at about 20 %: exact share of flawed answers among right ones after 80 steps
    of 16 rollouts per prompt at a small learning rate, against GRPO on the outcome with the same clip. The failure: the guess is what
    is left. Control: a detector that calls every right answer flawed or not by a fair coin. Notes: accuracy, and a detector that
    errs in a fifth of the cases. An effect below 0.1 does not matter."""
    bed = Testbed(vocabulary=6, horizon=3, prompts=4, group=16, lr=0.02, spread=0.2, task=_guessable)
    steps = run.steps(80)
    method = find("fapo").algorithm().set({"filter.signals": []})
    base = finals(find("grpo").algorithm().set({"objective": method.objective.dump()}), bed, steps, run.seeds)
    ours = finals(method, bed, steps, run.seeds)
    coin = finals(method, bed.replace(task=lambda graph: _guessable(graph, 0.5)), steps, run.seeds)
    noisy = finals(method, bed.replace(task=lambda graph: _guessable(graph, 0.2)), steps, run.seeds[:3])
    shares, others, lucky = ([_flawed_share(c) for c in curves] for curves in (base, ours, coin))
    run.note(f"accuracy: {mean_final(base):.3f} (grpo), {mean_final(ours):.3f} (fapo).")
    run.note(f"with a detector that errs on a fifth of the answers: {mean(map(_flawed_share, noisy)):.3f} flawed.")
    return compare(
        shares, others, "share of right answers that are flawed", run, larger=False, least=0.1,
        controls={"flaws by a coin": lucky}, premise=fails([s > 0.5 for s in shares], "most right answers are flawed"),
    )  # fmt: skip


def _guessable(graph: StateGraph, errs: float = 0.0) -> Any:
    """Answers that begin with abc are right and clean, those that begin with d are right and flawed."""
    coin = np.random.default_rng(0)
    rules = {
        "correct": lambda p, text: float(text.startswith(("abc", "d"))),
        "flawed": lambda p, text: float(text.startswith("d") != (coin.random() < errs)),
        "truly_flawed": lambda p, text: float(text.startswith("d")),
    }
    return rule_task(graph, 4, rules, lambda p: "abc", correct=1.0)


def _flawed_share(curves: Curves) -> float:
    policy, task = final_policy(curves), curves.trainer.world.task
    return expected(policy, task.table("truly_flawed")) / max(expected(policy, task.reward), 1e-9)  # type: ignore[attr-defined]
