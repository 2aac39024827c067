"""Claims of `anypo.systems.objectives.criteria`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.claims.beds.exact import Curves, Testbed, by_reward, finals, shown, train
from anypo.claims.beds.worlds import SHARED, SHARED_TOY
from anypo.exact import ExactTask, StateGraph, bandit
from anypo.run.trainer import Trainer
from anypo.systems import find


@claim("riskpo", base="the same bundles with their mean as objective", seconds=60, seeds=6,
       stand_in="an enumerable policy (10 prompts of mixed difficulty)",
       published="46.65 on hard maths, DAPO 43.87, GRPO 40.41 (1.5B); risk-seeking weights collapse the entropy")  # fmt: skip
def riskpo(run: ClaimRun) -> Outcome:
    """The lower tail instead of the mean: exact entropy lost per unit of exact reward gained on the way to reward 0.7, in 100 steps of
    four updates, against risk-neutral bundles (no extra weight, no quantile cut off). The failure: these lose more than half of
    their entropy. Control: the upper tail with the same weights, which the paper says loses more. Notes: rewards, and the same for
    GRPO, whose groups are not bundled."""
    bed = Testbed(prompts=10, batch=10, lr=0.05)
    steps = run.steps(100)
    method = find("riskpo").algorithm()
    variants = {
        "neutral": method.set({"credit.tail": 0.0, "credit.alpha": 1e-9, "credit.beta": 1 - 1e-9}),
        "lower": method,
        "upper": method.set({"credit.side": "upper"}),
        "grpo": find("grpo").algorithm().set({"update.minibatches_per_epoch": 4}),
    }
    found = {name: finals(a, bed, steps, run.seeds) for name, a in variants.items()}
    lost = {name: [_loss_per_gain(c, 0.7) for c in curves] for name, curves in found.items()}
    for name, curves in found.items():
        run.note(f"{name}: reward {shown(c.final for c in curves)} at the end, lost {shown(lost[name])}.")
    return compare(
        lost["neutral"], lost["lower"], "entropy lost per unit of reward gained", run, larger=False, least=0.05,
        controls={"upper tail": lost["upper"]},
        premise=fails([c.entropy[-1] < 0.5 * c.entropy[0] for c in found["neutral"]], "half of the entropy is lost"),
    )  # fmt: skip


def _entropy_at(curves: Curves, level: float) -> float:
    """Exact entropy when the exact reward first reaches `level`, interpolated between steps; nan where it never does."""
    above = np.flatnonzero(curves.value >= level)
    if not len(above):
        return float("nan")
    after = int(above[0])
    before = max(0, after - 1)
    rise = curves.value[after] - curves.value[before]
    share = (level - curves.value[before]) / rise if rise > 0 else 1.0
    return float(curves.entropy[before] + share * (curves.entropy[after] - curves.entropy[before]))


def _loss_per_gain(curves: Curves, level: float) -> float:
    """Entropy lost per unit of reward gained until `level`; until the end where that is never reached."""
    if curves.value.max() < level:
        return float((curves.entropy[0] - curves.entropy[-1]) / max(curves.final - curves.value[0], 1e-3))
    return (curves.entropy[0] - _entropy_at(curves, level)) / (level - float(curves.value[0]))


@claim("disco", published="average gain of 7 % over GRPO on six maths benchmarks (1.5B), with stable entropy", seconds=60,
       stand_in=SHARED_TOY)  # fmt: skip
def disco(run: ClaimRun) -> Outcome:
    """Ranking inside a KL constraint against GRPO without KL: exact reward at the end of 50 steps of 4 updates each, on prompts of
    which GRPO weighs the hard ones down: success from a quarter to a few in a thousand. Control: Dr. GRPO, which drops the
    deviation, and with it that weight in part. Notes: entropies, the hard half alone, and the constraint."""
    bed, steps = SHARED.replace(batch=16, set={"update.minibatches_per_epoch": 4}), run.steps(50)
    base, ours, undivided = (finals(name, bed, steps, run.seeds) for name in ("grpo", "disco", "dr-grpo"))
    run.note(f"entropy, start to end: {_entropies(base)} (grpo), {_entropies(ours)} (disco).")
    hard = [shown(c.values[-1][8:].mean() for c in side) for side in (base, ours)]
    run.note(f"prompts that want three or four letters: {hard[0]} (grpo), {hard[1]} (disco).")
    run.note(
        f"KL(old || pi) per token, mean of a step's updates: at most {max(_peak(c) for c in ours):.1e} (limit 1e-4)."
    )
    return by_reward(base, ours, run, "final", controls={"dr-grpo": undivided})


@claim("policy-cliff", base="rloo without entropy or KL", seconds=70, seeds=3, stand_in="a bandit of four answers",
       published="entropy regularisation restores the stability of the reward-policy map, at the price of stochasticity")  # fmt: skip
def policy_cliff(run: ClaimRun) -> Outcome:
    """Two equally good answers and a bonus of 0.05 on one of them: how far apart (L1) are the policies trained with the bonus on
    the first and on the second? Without entropy, and with entropy 0.1 in the return, 300 steps; the softmax predicts the latter."""
    steps, bonus = run.steps(300), 0.05
    jumps = {beta: run.each(partial(bonus_jump, beta, bonus, steps)) for beta in (0.0, 0.1, 0.2, 0.4)}
    betas = [beta for beta in jumps if beta > 0]
    slope = float(np.polyfit(np.log(betas), np.log([np.mean(jumps[beta]) for beta in betas]), 1)[0])
    run.note(f"slope of log jump in log beta: {slope:.2f} (theory -1).")
    for beta in betas:
        run.note(f"beta {beta:g}: {np.mean(jumps[beta]):.3f} (softmax {predicted_jump(beta, bonus):.3f});")
    jump = fails([value > 1.0 for value in jumps[0.0]], "without entropy the policies are further apart than 1")
    return compare(
        jumps[0.0], jumps[0.1], "L1 distance of the two policies", run, larger=False, least=0.1, premise=jump
    )


def tied(bonus: float, first: bool) -> Tensor:
    """Rewards [1, 4] of answers: two right ones, one of them with the bonus, and two wrong ones."""
    return torch.tensor([[0.0, 1.0 + bonus * first, 1.0 + bonus * (not first), 0.0]], dtype=torch.float64)


def predicted_jump(beta: float, bonus: float) -> float:
    """The distance of the two softmax optima."""
    return float(((tied(bonus, True) / beta).softmax(1) - (tied(bonus, False) / beta).softmax(1)).abs().sum())


def bonus_jump(beta: float, bonus: float, steps: int, seed: int) -> float:
    """L1 distance of the policies, averaged over the last fifth of the run, that differ in who gets the bonus."""
    method = find("policy-cliff").algorithm().set({"credit.shaping.0.coefficient": beta})
    found = []
    for first in (True, False):
        bed = Testbed(4, 1, 1, batch=4, group=32, lr=0.05, task=partial(tied_task, bonus, first))
        tables: list[Tensor] = []
        train(method, bed, steps, seed, partial(_remember, tables))
        found.append(torch.stack(tables[-max(1, steps // 5) :]).mean(0))
    return float((found[0] - found[1]).abs().sum())


def tied_task(bonus: float, first: bool, graph: StateGraph) -> ExactTask:
    return bandit(tied(bonus, first))


def _remember(tables: list[Tensor], trainer: Trainer) -> None:
    policy: Any = trainer.world.policy
    with torch.no_grad():
        tables.append(policy.log_table().exp()[0, 0])


def _entropies(curves: list[Curves]) -> str:
    return f"{np.mean([c.entropy[0] for c in curves]):.2f} to {np.mean([c.entropy[-1] for c in curves]):.2f}"


def _peak(curves: Curves) -> float:
    return float(curves.metric("objective/kl_penalty").max())
