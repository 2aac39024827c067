"""Claims about ranking, pairs, ratio variance, engine mismatch, hazards, asynchrony, a controlled KL, and policy cliffs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, fewer_events
from anypo.claims.testbeds import Curves, Testbed, train
from anypo.exact import ExactTask, StateGraph, bandit, patterns, truth
from anypo.exact.bench import Setting
from anypo.exact.estimators import measure
from anypo.run.trainer import Trainer
from anypo.systems import find

TOY = "an enumerable policy (4 prompts, 4 tokens) for the language model"

STALE = Testbed(kind="linear", batch=8, lr=0.02, lag=8, old="sampler")
"""Every rollout eight updates behind, and its sampler's log-probabilities taken as the old ones, as asynchronous runs do."""


@claim("disco", published="average gain of 7 % over GRPO on six maths benchmarks (1.5B), with stable entropy", seconds=60,
       stand_in="an enumerable policy (4 prompts, 4 tokens; one answer in four right at first) for the language model")  # fmt: skip
def disco(run: ClaimRun) -> Outcome:
    """Ranking inside a KL constraint against GRPO without KL: exact reward at the end of 60 steps of 4 updates each. Binary rewards
    that few answers earn."""
    bed = Testbed(kind="linear", batch=16, lr=0.02, set={"update.minibatches_per_epoch": 4})
    base, ours = _pair(run, "grpo", "disco", bed, 60)
    run.note(f"right at the start: {np.mean([c.value[0] for c in ours]):.2f}.")
    run.note(f"entropy, start to end: {_entropies(base)} (grpo), {_entropies(ours)} (disco).")
    run.note(
        f"KL(old || pi) per token, mean of a step's updates: at most {max(_peak(c) for c in ours):.1e} (limit 1e-4)."
    )
    return compare([c.final for c in base], [c.final for c in ours], "exact reward at the end", run)


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
        means[spread] = _areas(_runs(whole, bed, steps, run)), _areas(_runs(plain, bed, steps, run))
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


@claim("r2vpo", published="relative gains of up to 17 % over clipping, with about half the rollouts (1.5B, 7B)", seconds=60,
       stand_in=TOY)  # fmt: skip
def r2vpo(run: ClaimRun) -> Outcome:
    """A constraint on the ratio's variance against GRPO's clip, on rollouts eight updates old: mean exact reward over 100 steps."""
    base, ours = _pair(run, "grpo", "r2vpo", STALE, 100)
    high = 0.9 * float(np.mean([c.value.max() for c in base]))
    run.note(f"steps to {high:.2f}: {_steps(base, high):.1f} (grpo), {_steps(ours, high):.1f} (r2vpo).")
    late = [c.metric("objective/ratio_variance") for c in ours]
    run.note(f"ratio variance in the second half: {np.mean([v[len(v) // 2 :].mean() for v in late]):.4f} (limit 0.02).")
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


@claim("minirl", base="minirl without the ratio to the sampler", seconds=60, seeds=6,
       stand_in="an enumerable policy sampled with noisy logits for a mixture of experts in two engines",
       published="with the weight the most stable on policy; without it training collapses (30B-A3B, FP8 sampling)")  # fmt: skip
def minirl(run: ClaimRun) -> Outcome:
    """An engine that samples with an error of 0.5 in its logits: relative bias of the expected gradient, measured over batches, with
    and without the ratio to the sampler as weight. One update per batch, so the mask is inactive."""
    weighted = find("minirl").algorithm()
    bare = weighted.set({"objective.trust.weight": "none"})

    def bias(method: Algorithm, seed: int) -> float:
        setting = Setting(noise=0.5, old="trainer", reward="graded", seed=seed % 1000)
        return measure(method, setting, run.steps(1000), seed=seed).bias

    base, ours = run.each(lambda seed: bias(bare, seed)), run.each(lambda seed: bias(weighted, seed))
    return compare(base, ours, "relative bias of the gradient", run, larger=False)


@claim("mhpo", published="average 43.7 instead of 38.3 (GRPO, 7B); gradient norms low and free of spikes", seconds=60,
       stand_in=TOY)  # fmt: skip
def mhpo(run: ClaimRun) -> Outcome:
    """A smooth damped multiplier against the clip, on rollouts eight updates old: log of largest over median gradient norm in 150
    steps. (Adam makes the steps comparable.)"""
    base, ours = _pair(run, "grpo", "mhpo", STALE, 150)
    run.note(f"norms above 5 running medians, per run: {np.mean([spikes(c) for c in base]):.1f} (grpo), "
             f"{np.mean([spikes(c) for c in ours]):.1f} (mhpo).")  # fmt: skip
    run.note(f"exact reward at the end: {_final(base):.3f} (grpo), {_final(ours):.3f} (mhpo).")
    return compare(
        [peakedness(c) for c in base],
        [peakedness(c) for c in ours],
        "log largest / median gradient norm",
        run,
        larger=False,
    )


def peakedness(curves: Curves) -> float:
    norms = curves.metric("update/grad_norm")
    return float(np.log(norms.max() / np.median(norms)))


def spikes(curves: Curves, factor: float = 5.0, window: int = 20) -> int:
    """Steps whose gradient norm exceeds `factor` times the median of the `window` before."""
    norms = curves.metric("update/grad_norm")
    return sum(norms[k] > factor * np.median(norms[k - window : k]) for k in range(window, len(norms)))


@claim("vcpo", base="truncated sequence importance sampling", seconds=90, seeds=6, stand_in=TOY,
       published="stable up to 128 steps off-policy, where GRPO and truncated importance sampling collapse")  # fmt: skip
def vcpo(run: ClaimRun) -> Outcome:
    """The step size by effective sample size and the optimal baseline, against the same truncated weights with neither: mean exact
    reward over 100 steps on rollouts 32 updates old."""
    plain = find("vcpo").algorithm().set({"credit.centre": "group_mean", "update.rules": []})
    steps = run.steps(100)
    found: dict[int, tuple[list[Curves], list[Curves]]] = {}
    for lag in (0, 32):
        bed = Testbed(kind="linear", batch=4, lr=0.05, lag=lag, reward="graded")
        found[lag] = _runs(plain, bed, steps, run), _runs("vcpo", bed, steps, run)
    fresh = [np.mean([c.area for c in side]) for side in found[0]]
    base, ours = found[32]
    run.note(f"fresh rollouts: {fresh[0]:.3f} (base), {fresh[1]:.3f} (vcpo).")
    run.note(f"smallest effective sample size (share): {min(c.metric('update/ess').min() for c in ours):.2f}.")
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


@claim("safe-rlhf-pid", base="the same without the penalty's gradient", seconds=60, seeds=12,
       stand_in="an enumerable policy whose proxy reward pays double for one worthless answer",
       published="+5.15 % training reward over PPO (0.725 against 0.689, 3B), hardly any reward crashes, tighter KL")  # fmt: skip
def safe_rlhf_pid(run: ClaimRun) -> Outcome:
    """A controlled KL against none, under a reward that can be hacked: crashes of the true reward (more than 20 % below the run's own
    maximum) within 150 steps. The proxy pays 2 for one answer that is worth nothing and equals the true reward elsewhere."""
    bed = Testbed(horizon=3, batch=8, group=8, lr=0.05, task=hackable)
    steps = run.steps(150)
    guarded = find("safe-rlhf-pid").algorithm()
    free = guarded.set({"objective.regularise.1.mode": "inert"})
    base, ours = (run.each(partial(true_reward, method, bed, steps)) for method in (free, guarded))
    strength = {"objective.regularise.1": {"part": "kl", "coefficient": 0.1, "estimator": "k2"}}
    fixed = run.each(partial(true_reward, guarded.set(strength), bed, steps))
    for name, side in (("without", base), ("controlled", ours), ("fixed KL weight 0.1", fixed)):
        worst = np.mean([k for _, k in side])
        final = np.mean([v[-max(1, steps // 10) :].mean() for v, _ in side])
        run.note(
            f"{name}: {sum(crashed(v) for v, _ in side)} crashes, true reward {final:.3f}, largest KL {worst:.2f};"
        )
    return fewer_events(
        [crashed(v) for v, _ in base], [crashed(v) for v, _ in ours], "runs whose true reward crashed", run
    )


def hackable(graph: StateGraph) -> ExactTask:
    """Graded rewards, except that the answer of forbidden tokens throughout pays 2 (see `true_task`)."""
    task = true_task(graph)
    reward = task.reward.clone()
    for prompt in range(len(reward)):
        path = hack(task.reward[prompt], graph)
        reward[prompt, path[-1][0], path[-1][1]] += 2.0
    return ExactTask(graph, reward, task.targets, "hackable")


def true_task(graph: StateGraph) -> ExactTask:
    return patterns(graph, 4, "graded")


def hack(reward: Tensor, graph: StateGraph) -> list[tuple[int, int]]:
    """States and tokens of the longest answer that takes the least rewarded letter everywhere."""
    state, out = 0, []
    while state >= 0:
        token = 1 + int(reward[state, 1:].argmin())
        out.append((state, token))
        state = int(graph.child[state, token])
    return out


def true_reward(method: Algorithm, bed: Testbed, steps: int, seed: int) -> tuple[np.ndarray, float]:
    """The exact true reward after every step, and the largest KL of a whole answer from the initial policy."""
    true = true_task(bed.states())
    values: list[float] = []

    def watch(trainer: Trainer) -> None:
        policy: Any = trainer.world.policy
        with torch.no_grad():
            values.append(float(truth.value(policy.log_table(), true.reward, true.graph).mean()))

    curves = train(method, bed, steps, seed, watch)
    return np.array(values), float(curves.kl.max())


def crashed(values: np.ndarray) -> bool:
    """Some value is more than 20 % below the largest before it."""
    return bool((values < 0.8 * np.maximum.accumulate(values)).any())


def _pair(run: ClaimRun, base: str, ours: str, bed: Testbed, steps: int) -> tuple[list[Curves], list[Curves]]:
    count = run.steps(steps)
    return _runs(base, bed, count, run), _runs(ours, bed, count, run)


def _runs(method: Algorithm | str, bed: Testbed, steps: int, run: ClaimRun) -> list[Curves]:
    return run.each(partial(train, method, bed, steps))


def _areas(curves: list[Curves]) -> list[float]:
    return [c.area for c in curves]


def _final(curves: list[Curves]) -> float:
    return float(np.mean([c.final for c in curves]))


def _entropies(curves: list[Curves]) -> str:
    return f"{np.mean([c.entropy[0] for c in curves]):.2f} to {np.mean([c.entropy[-1] for c in curves]):.2f}"


def _peak(curves: Curves) -> float:
    return float(curves.metric("objective/kl_penalty").max())


def _steps(curves: list[Curves], threshold: float) -> float:
    return float(np.mean([c.steps_to(threshold) for c in curves]))
