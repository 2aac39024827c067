"""Claims of `anypo.systems.credits.normalisation`."""

from __future__ import annotations

from typing import Any

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, learns
from anypo.claims.beds.exact import TOY, Curves, Testbed, finals, learning, mean_area, train
from anypo.claims.beds.worlds import SIXTEEN_TOY, expected, hard_and_easy, rule_task
from anypo.exact import StateGraph
from anypo.systems import find


@claim("mc-grpo", published="GSM8K +4.6 points over GRPO at two rollouts per prompt (1.7B); the gap to eight within 1 %",
       seconds=40, seeds=10, stand_in=TOY)  # fmt: skip
def mc_grpo(run: ClaimRun) -> Outcome:
    """A median baseline at two trained rollouts per prompt (three generated, one dropped) against GRPO with two: mean exact
    reward over 100 steps. Graded rewards, so that a median differs from the majority outcome."""
    bed = Testbed(reward="graded", lr=0.02)
    steps = run.steps(100)
    base = [c.area for c in finals("grpo", bed.replace(group=2), steps, run.seeds)]
    ours = [c.area for c in finals("mc-grpo", bed.replace(group=3), steps, run.seeds)]
    eight = np.mean([c.area for c in finals("grpo", bed.replace(group=8), steps, run.seeds)])
    flips = {g: sign_flips(g) for g in (2, 4, 8)}
    run.note(
        f"GRPO with eight rollouts: {eight:.3f}. Wrong signs under heavy-tailed rewards, mean against median baseline:"
    )
    run.note("; ".join(f"G = {g}: {a:.3f} against {b:.3f}" for g, (a, b) in flips.items()) + ".")
    return compare(base, ours, "mean exact reward over training", run)


def sign_flips(group: int, draws: int = 20_000) -> tuple[float, float]:
    """Share of rollouts whose advantage has the opposite sign of reward minus expected reward, under the mean of `group` rollouts
    and under the median of `group` + 1. Rewards 0, 0.1, 1 or, rarely, 5."""
    rng = np.random.default_rng(group)
    values, chance = np.array([0.0, 0.1, 1.0, 5.0]), np.array([0.45, 0.2, 0.3, 0.05])
    rewards = rng.choice(values, (draws, group + 1), p=chance)
    truth = np.sign(rewards - values @ chance)
    few = rewards[:, :group]
    mean = np.sign(few - few.mean(1, keepdims=True))
    median = np.sign(rewards - np.sort(rewards, 1)[:, [group // 2]])
    return float((mean * truth[:, :group] < 0).mean()), float((median * truth < 0).mean())


@claim("bnpo", base="the same with GRPO's standard deviation", seconds=60, seeds=8, stand_in=SIXTEEN_TOY,
       published="steadier, lower-variance gradients than REINFORCE and GRPO; best average on math benchmarks")  # fmt: skip
def bnpo(run: ClaimRun) -> Outcome:
    """The registered system with its Beta density, against itself with the group's standard deviation, on prompts of widely varying
    difficulty and 80 steps: variation of the gradient's norm (standard deviation over mean of the steps), smaller being steadier.
    Control: a constant density, which is REINFORCE with the group mean. Notes: exact reward over training. An effect below
    0.02 does not matter."""
    bed = Testbed(prompts=16, batch=16, group=8, lr=0.03, task=hard_and_easy)
    steps, method = run.steps(80), find("bnpo").algorithm()
    base, ours, flat = (
        finals(one, bed, steps, run.seeds)
        for one in (method.set({"credit.scale": "std"}), method, method.set({"credit.scale": "none"}))
    )
    run.note(
        f"exact reward over training: {', '.join(f'{mean_area(c):.3f}' for c in (base, ours, flat))} (std, beta, none)."
    )
    return compare(
        [_variation(c) for c in base], [_variation(c) for c in ours], "variation of the gradient's norm", run, larger=False,
        least=0.02, controls={"constant density": [_variation(c) for c in flat]}, premise=learning(base),
    )  # fmt: skip


def _variation(curves: Curves) -> float:
    norms = curves.metric("update/grad_norm")
    return float(norms.std() / norms.mean())


@claim("gdpo", published="better and steadier trade-offs than GRPO on two and three rewards; no early collapse of the hard one",
       seconds=60, seeds=8, stand_in="an enumerable policy with an easy and a hard binary reward")  # fmt: skip
def gdpo(run: ClaimRun) -> Outcome:
    """An easy reward of weight 0.3 (the first letter is right) and a hard one of weight 1 (letters two to four are): mean exact hard
    reward over 100 steps against GRPO on the weighted sum. Control: that sum, whitened over the batch as here. Notes: the easy
    reward. An effect below 0.02 does not matter."""
    bed = Testbed(vocabulary=4, horizon=4, lr=0.05, task=_two_rewards)

    def area(system: Algorithm, seed: int) -> tuple[float, float, float]:
        curve: list[list[float]] = []

        def watch(trainer: Any) -> None:
            policy, task = trainer.world.policy, trainer.world.task
            curve.append([expected(policy, task.table(name)) for name in ("hard", "easy")])

        train(system, bed, run.steps(100), seed, watch)
        hard, easy = np.mean(curve, 0)
        return float(hard), float(easy), curve[0][0]

    grpo, method = find("grpo").algorithm(), find("gdpo").algorithm()
    whitened = grpo.set({"credit.normalise": method.credit.normalise.dump()})  # type: ignore[attr-defined]
    base, ours, sums = ([area(one, seed) for seed in run.seeds] for one in (grpo, method, whitened))
    easy = [np.mean([e for _, e, _ in side]) for side in (base, ours)]
    run.note(f"easy reward: {easy[0]:.3f} (grpo), {easy[1]:.3f} (gdpo).")
    hard = [[h for h, _, _ in side] for side in (base, ours, sums)]
    return compare(
        hard[0], hard[1], "mean exact hard reward over training", run, least=0.02,
        controls={"the sum, whitened": hard[2]}, premise=learns([first for _, _, first in base], hard[0], 0.95),
    )  # fmt: skip


def _two_rewards(graph: StateGraph) -> Any:
    easy, hard = ["a", "b", "c", "a"], ["bca", "cab", "abb", "cca"]
    rules = {
        "easy": lambda p, text: float(text[:1] == easy[p]),
        "hard": lambda p, text: float(text[1:4] == hard[p]),
    }
    return rule_task(graph, 4, rules, lambda p: easy[p] + hard[p], easy=0.3, hard=1.0)
