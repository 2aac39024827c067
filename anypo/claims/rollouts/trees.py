"""Claims of `anypo.systems.rollouts.trees`."""

from __future__ import annotations

from typing import Any

from anypo.claims.base import ClaimRun, Outcome, claim, fails
from anypo.claims.beds.exact import Testbed, by_reward, finals, mean_final
from anypo.claims.beds.worlds import affordable, rule_task
from anypo.claims.credits.segments import CHAIN, CHAIN_TOY
from anypo.exact import StateGraph
from anypo.systems import find


@claim("treepo", base="dapo at equal sampled tokens", seconds=120, seeds=6, stand_in=CHAIN_TOY,
       published="22 to 43 % fewer GPU hours for sampling at equal or better accuracy (7B)")  # fmt: skip
def treepo(run: ClaimRun) -> Outcome:
    """Trees of sixteen leaves in segments of two tokens, two prompts a step, against DAPO with sixteen independent rollouts and as
    many more prompts as the shared tokens pay for: mean exact reward over 40 steps with one decisive token among 24. Control: the same
    trees, with the mean of the whole group as baseline. An effect below 0.02 does not matter."""
    steps, bed = run.steps(40), CHAIN.replace(group=16, batch=2)
    method, dapo = find("treepo").algorithm(), find("dapo").algorithm()
    ours = finals(method, bed, steps, run.seeds)
    base = finals(dapo, bed.replace(batch=affordable(run, ours, dapo, bed)), steps, run.seeds)
    flat = finals(method.set({"credit.centre": "group_mean"}), bed, steps, run.seeds)
    return by_reward(base, ours, run, "area", least=0.02, controls={"the group's mean": flat})


@claim("latr", base="grpo at equal sampled tokens", seconds=150, seeds=6, stand_in=CHAIN_TOY,
       published="131 % faster learning and +4.2 points of pass@1 over sampling (GRPO and DAPO, 3B to 7B)")  # fmt: skip
def latr(run: ClaimRun) -> Outcome:
    """Groups of sixteen that are a tree at first, its branches compared three and five tokens after they parted, against GRPO with
    sixteen independent rollouts and as many more prompts as the tokens pay for: mean exact reward over 40 steps with one decisive
    token among 24. The share of the tree falls as published. Controls: the same trees with nothing pruned, and with a tree for the
    whole run. An effect below 0.02 does not matter."""
    steps, bed = run.steps(40), CHAIN.replace(group=16, batch=2)
    sizes = {"generate.lookahead": (3, 5), "generate.rival": 0.1, "generate.gap": 0.25, "generate.grow": 12}
    method, grpo = find("latr").algorithm().set(sizes), find("grpo").algorithm()
    ours = finals(method, bed, steps, run.seeds)
    base = finals(grpo, bed.replace(batch=affordable(run, ours, grpo, bed)), steps, run.seeds)
    arm = lambda **changes: finals(method.set({f"generate.{k}": v for k, v in changes.items()}), bed, steps, run.seeds)
    controls = {"nothing pruned": arm(edit=0.0), "a tree throughout": arm(schedule=((0.0, 1.0),))}
    return by_reward(base, ours, run, "area", least=0.02, controls=controls)


KEY = "abbabaabba"
"""What opens the lock."""


def _lock(solution: str) -> Any:
    """One prompt that wants the ten letters of the key and an end behind them; its worked solution is `solution`."""

    def task(graph: StateGraph) -> Any:
        return rule_task(graph, 1, {"correct": lambda p, text: float(text == KEY)}, lambda p: solution)

    return task


@claim("dr-po", base="ppo", seconds=150, seeds=5, stand_in="a lock of ten letters, three choices each, with one worked solution",
       published="better GPT-4 win rate than PPO and DPO (TL;DR, HH); sample bounds where good answers are covered")  # fmt: skip
def dr_po(run: ClaimRun) -> Outcome:
    """A combination lock: ten letters in a row and an end, or nothing. Exact success from the bare prompt after 80 steps of 32
    rollouts, with the one solution to be reset into, against PPO, which hardly ever meets success. The failure: PPO stays below one in
    a hundred. Control: resets into other letters. Notes: half of the rollouts reset; imitation of the same solution, whose upper
    bound is 1 in a world without chance. An effect below 0.1 does not matter."""
    bed = Testbed(vocabulary=3, horizon=11, prompts=1, batch=1, group=32, lr=0.05, task=_lock(KEY))
    steps, method = run.steps(80), find("dr-po").algorithm()
    base, ours = finals("ppo", bed, steps, run.seeds), finals(method, bed, steps, run.seeds)
    other = finals(method, bed.replace(task=_lock("babbaababb")), steps, run.seeds)
    half = finals(method.set({"generate.share": 0.5}), bed, steps, run.seeds)
    run.note(
        f"success: {mean_final(half):.3f} (half reset), {mean_final(finals('sft', bed, steps, run.seeds)):.3f} (imitation)."
    )
    return by_reward(
        base, ours, run, "final", least=0.1, controls={"resets into other letters": other},
        premise=fails([c.final < 0.01 for c in base], "ppo stays below one in a hundred"),
    )  # fmt: skip
