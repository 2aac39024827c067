"""Claims of `anypo.systems.preference.pairs`."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import TOY, Curves, Testbed, finals, shown
from anypo.claims.beds.worlds import final_policy
from anypo.exact import ExactTask, StateGraph, patterns, truth
from anypo.systems import find


@claim("copg", base="reinforce with the same penalty and no importance weights", seconds=60, stand_in=TOY,
       published="offline on TL;DR above DPO and IPO; on a bandit only CoPG finds the optimum from off-policy data")  # fmt: skip
def copg(run: ClaimRun) -> Outcome:
    """Learning from one fixed sampler (the initial, skewed policy; nothing is ever sampled anew) at equal KL penalty: the share
    of the analytically possible gain in E[R] - beta KL that is reached in 400 steps of 32 pairs, against REINFORCE with the
    penalty in the reward. Notes: seeds within 2 % of the optimum; RLOO with two samples, whose gradient is the same."""
    beta = 0.05
    bed = Testbed(horizon=3, reward="graded", spread=1.0, lag=1_000_000, batch=32, group=2, lr=0.05)
    penalty = {"credit.shaping": [{"part": "reward_kl", "coefficient": beta}], "update.reference": "frozen"}
    steps = run.steps(400)
    plain = find("reinforce").algorithm().set(penalty)
    base, ours = ([_gain(c, beta) for c in finals(method, bed, steps, run.seeds)] for method in (plain, "copg"))
    twin = [_gain(c, beta) for c in finals("rloo", bed, steps, run.seeds[:3])]
    run.note(
        f"within 2 % of the optimum: {sum(g >= 0.98 for g in ours)} of {len(ours)} seeds (smallest share {min(ours):.4f})."
    )
    run.note(f"RLOO on the same pairs (3 seeds): {shown(twin)}, CoPG {shown(ours[:3])}: the same gradient.")
    return compare(base, ours, "share of the possible gain in E[R] - beta KL", run)


def _gain(curves: Curves, beta: float) -> float:
    """(J - J0) / (J* - J0), mean over prompts of J = E[R] - beta KL(pi || pi_0) and of its optimum beta log E_0 exp(R / beta)."""
    world = curves.trainer.world
    policy, task = final_policy(curves), world.task
    start = curves.trainer.weights.reference
    graph = policy.graph
    with torch.no_grad():
        here, there = policy.log_table(), start.log_table()
        reward = truth.sequence_reward(task.reward, graph)  # type: ignore[attr-defined]
        reached = truth.value(here, task.reward, graph) - beta * truth.kl(here, there, graph)  # type: ignore[attr-defined]
        best = beta * torch.logsumexp(truth.sequence_logp(there, graph) + reward / beta, 1)
        first = truth.value(there, task.reward, graph)  # type: ignore[attr-defined]
    return float((reached - first).mean() / (best - first).mean())


@claim("p3o-pairwise", base="PPO on whole responses with one global baseline", seconds=60, stand_in=TOY,
       published="dominates PPO's and DPO's KL-reward frontiers (TL;DR, HH); 57.0 % GPT-4 win rate against PPO")  # fmt: skip
def p3o_pairwise(run: ClaimRun) -> Outcome:
    """Pairs against absolute rewards: mean exact reward over 100 steps where every prompt's rewards are offset by a constant of its
    own, ten times as spread as the rewards. The base is PPO's clip on the whole response's ratio with the batch mean as baseline;
    both pass four times over each batch, two responses per prompt, without a KL term."""
    plain = find("p3o-pairwise").algorithm().set({"credit.shaping": []})
    whole = find("reinforce").algorithm()
    whole = whole.set({"credit.centre": "batch_mean", "update.epochs": 4, "objective.trust": "clip"})
    whole = whole.set({"objective.ratio": {"part": "sequence", "normalise": False}})
    steps = run.steps(100)
    means: dict[float, tuple[list[float], list[float]]] = {}
    for spread in (0.0, 10.0):
        bed = Testbed(batch=16, group=2, lr=0.02, task=partial(offset_task, spread))
        means[spread] = _areas(finals(whole, bed, steps, run.seeds)), _areas(finals(plain, bed, steps, run.seeds))
    base, ours = means[10.0]
    run.note(f"without offsets: {np.mean(means[0.0][0]):.3f} (base), {np.mean(means[0.0][1]):.3f} (ours).")
    return compare(base, ours, "mean exact reward over training", run)


def offset_task(spread: float, graph: StateGraph) -> ExactTask:
    """Graded rewards of four prompts, plus a constant per prompt, `spread` times their standard deviation (mean zero)."""
    task = patterns(graph, 4, "graded")
    deviation = truth.sequence_reward(task.reward, graph).std()
    constant = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64) * spread * deviation
    reward = task.reward.clone()
    reward[:, 0] += constant[:, None]
    return ExactTask(graph, reward, task.targets, "offset")


def _areas(curves: list[Curves]) -> list[float]:
    return [c.area for c in curves]
