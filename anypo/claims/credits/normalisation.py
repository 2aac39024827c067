"""Claims of `anypo.systems.credits.normalisation`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import TOY, Testbed, finals, train
from anypo.claims.beds.worlds import expected, rule_task
from anypo.credit.scales import beta_density, beta_exponents
from anypo.exact import StateGraph


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


@claim("bnpo", published="steadier, lower-variance gradients than REINFORCE and GRPO; best average on math benchmarks",
       seconds=20, seeds=10, stand_in="prompts with success rates from a Beta law, 16 rollouts each, no network")  # fmt: skip
def bnpo(run: ClaimRun) -> Outcome:
    """Variance of the normalised advantage at equal mean size, (standard deviation / mean absolute value)^2 over 32
    prompts x 16 rollouts, as log ratio to GRPO's: negative is better. Success rates from Beta(2.3, 1.1), Beta(1, 1),
    Beta(4, 4) and Beta(0.8, 3)."""

    def spread(rewards: np.ndarray, weight: np.ndarray) -> float:
        advantage = weight[:, None] * (rewards - rewards.mean(1, keepdims=True))
        size = np.abs(advantage).mean()
        return float(advantage.var() / size**2) if size > 0 else 1.0

    def one(seed: int) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        found = []
        for a, b in ((2.3, 1.1), (1.0, 1.0), (4.0, 4.0), (0.8, 3.0)):
            for _ in range(run.steps(50)):
                p = rng.beta(a, b, 32)
                rewards = (rng.random((32, 16)) < p[:, None]).astype(float)
                rate = torch.tensor(rewards.mean(1))
                density = beta_density(rate, *beta_exponents(rate)).numpy().clip(1e-6)
                std = rewards.std(1, ddof=1)
                grpo = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
                found.append((spread(rewards, grpo), spread(rewards, np.where(std > 0, 1 / density, 0.0))))
        return tuple(np.log(np.array(found)).mean(0))  # type: ignore[return-value]

    pairs = run.each(one)
    return compare(
        [b for b, _ in pairs], [o for _, o in pairs], "log relative variance of the advantage", run, larger=False
    )


@claim("gdpo", published="better and steadier trade-offs than GRPO on two and three rewards; no early collapse of the hard one",
       seconds=60, seeds=10, stand_in="an enumerable policy with an easy and a hard binary reward")  # fmt: skip
def gdpo(run: ClaimRun) -> Outcome:
    """An easy reward (the first letter is right) and a hard one (letters two to four are): mean exact hard reward over 80
    steps against GRPO on the sum."""
    bed = Testbed(vocabulary=4, horizon=4, lr=0.05, task=_two_rewards)

    def area(system: str, seed: int) -> tuple[float, float]:
        curve: list[list[float]] = []

        def watch(trainer: Any) -> None:
            policy, task = trainer.world.policy, trainer.world.task
            curve.append([expected(policy, task.table(name)) for name in ("hard", "easy")])

        train(system, bed, run.steps(80), seed, watch)
        hard, easy = np.mean(curve, 0)
        return float(hard), float(easy)

    base, ours = ([area(name, seed) for seed in run.seeds] for name in ("grpo", "gdpo"))
    run.note(f"easy reward: {np.mean([e for _, e in base]):.3f} (grpo), {np.mean([e for _, e in ours]):.3f} (gdpo).")
    return compare([h for h, _ in base], [h for h, _ in ours], "mean exact hard reward over training", run)


def _two_rewards(graph: StateGraph) -> Any:
    easy, hard = ["a", "b", "c", "a"], ["bca", "cab", "abb", "cca"]
    rules = {
        "easy": lambda p, text: float(text[:1] == easy[p]),
        "hard": lambda p, text: float(text[1:4] == hard[p]),
    }
    return rule_task(graph, 4, rules, lambda p: easy[p] + hard[p])
