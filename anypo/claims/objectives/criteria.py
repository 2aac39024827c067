"""Claims of `anypo.systems.objectives.criteria`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import Curves, Testbed, finals, pair, shown, train
from anypo.claims.objectives.entropy import _entropy_at
from anypo.exact import ExactTask, StateGraph, bandit
from anypo.run.trainer import Trainer
from anypo.systems import find


@claim("riskpo", base="the same bundles with their mean as objective", seconds=60,
       stand_in="an enumerable policy (10 prompts of mixed difficulty)",
       published="46.65 on hard maths, DAPO 43.87, GRPO 40.41 (1.5B); risk-seeking weights collapse the entropy")  # fmt: skip
def riskpo(run: ClaimRun) -> Outcome:
    """The lower tail instead of the mean: exact entropy lost per unit of exact reward gained on the way to reward 0.8, against
    risk-neutral bundles (no extra weight, no quantile cut off). Notes: the same for the upper tail, which the paper says loses
    more, and for GSPO, whose groups are not bundled."""
    bed = Testbed(prompts=10, batch=10, lr=0.05)
    steps = run.steps(200)
    method = find("riskpo").algorithm()
    variants = {
        "neutral": method.set({"credit.tail": 0.0, "credit.alpha": 1e-9, "credit.beta": 1 - 1e-9}),
        "lower": method,
        "upper": method.set({"credit.side": "upper"}),
        "gspo": find("gspo").algorithm(),
    }
    lost = {name: [_loss_per_gain(c, 0.8) for c in finals(a, bed, steps, run.seeds)] for name, a in variants.items()}
    run.note(f"upper tail: {shown(lost['upper'])}; GSPO: {shown(lost['gspo'])}.")
    above = sum(u > n for u, n in zip(lost["upper"], lost["neutral"]))
    run.note(f"the upper tail loses more than the mean in {above} of {len(run.seeds)} seeds.")
    return compare(lost["neutral"], lost["lower"], "entropy lost per unit of reward gained", run, larger=False)


def _loss_per_gain(curves: Curves, level: float) -> float:
    return (curves.entropy[0] - _entropy_at(curves, level)) / (level - curves.value[0])


@claim("disco", published="average gain of 7 % over GRPO on six maths benchmarks (1.5B), with stable entropy", seconds=60,
       stand_in="an enumerable policy (4 prompts, 4 tokens; one answer in four right at first) for the language model")  # fmt: skip
def disco(run: ClaimRun) -> Outcome:
    """Ranking inside a KL constraint against GRPO without KL: exact reward at the end of 60 steps of 4 updates each. Binary rewards
    that few answers earn."""
    bed = Testbed(kind="linear", batch=16, lr=0.02, set={"update.minibatches_per_epoch": 4})
    base, ours = pair(run, "grpo", "disco", bed, 60)
    run.note(f"right at the start: {np.mean([c.value[0] for c in ours]):.2f}.")
    run.note(f"entropy, start to end: {_entropies(base)} (grpo), {_entropies(ours)} (disco).")
    run.note(
        f"KL(old || pi) per token, mean of a step's updates: at most {max(_peak(c) for c in ours):.1e} (limit 1e-4)."
    )
    return compare([c.final for c in base], [c.final for c in ours], "exact reward at the end", run)


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
    return compare(jumps[0.0], jumps[0.1], "L1 distance of the two policies", run, larger=False)


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
