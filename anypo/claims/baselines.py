"""Claims of the baselines, on the enumerable policy."""

from __future__ import annotations

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, identity
from anypo.claims.controlbeds import ControlBed, learn
from anypo.claims.testbeds import Curves, Testbed, train
from anypo.exact import truth
from anypo.exact.bench import Setting
from anypo.exact.check import expectation
from anypo.exact.estimators import measure
from anypo.exact.graph import END
from anypo.systems import find

TOY = "an enumerable policy (4 prompts, 4 tokens) for the language model"

SCORES = Testbed(reward="graded", lr=0.02)
"""Rewards away from zero, as reward models give them: where baselines matter."""

REUSED = Testbed(kind="linear", batch=16, lr=0.02, set={"update.minibatches_per_epoch": 16})
"""Sixteen optimiser steps per batch of rollouts, as the papers on clipping train."""


@claim(
    "reinforce", base="reinforce", published="the expected update is the gradient of the expected reward", seconds=15
)
def reinforce(run: ClaimRun) -> Outcome:
    """Williams' theorem, without sampling: the update averaged over every possible batch, weighted by its probability, is the true
    gradient to rounding. Worlds drawn by seed; the largest relative error counts."""

    def error(seed: int) -> float:
        setting = Setting(
            prompts=1, vocabulary=3, horizon=2, group=2, kind="tabular", reward="graded", seed=seed % 1000
        )
        mean, true = expectation(find("reinforce").algorithm(), setting)
        return float((mean - true).norm() / true.norm())

    return identity(max(run.each(error)), 1e-12, "relative error of the expected update", run)


@claim("grpo", base="reinforce", published="GSM8K 82.9 % to 88.2 %, MATH 46.8 % to 51.7 % (7B), without a critic",
       seconds=40, stand_in=TOY)  # fmt: skip
def grpo(run: ClaimRun) -> Outcome:
    """The group as baseline: mean exact reward over 100 steps against REINFORCE with the same rollouts (8 per prompt)."""
    base, ours = _pair(run, "reinforce", "grpo", SCORES, 100)
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


@claim("ppo", base="PPO without clipping", seconds=60, seeds=5, stand_in="CartPole-v1 for MuJoCo",
       published="normalised score over seven MuJoCo tasks 0.82 with clipping at 0.2, -0.39 without")  # fmt: skip
def ppo(run: ClaimRun) -> Outcome:
    """The clip, in control and through the same parts: mean episode return while learning CartPole for 12,000 steps, 20 epochs per
    batch of 256 steps, against the same surrogate without clipping."""
    bed = ControlBed(environments=8, steps=32, epochs=20, minibatches=1, lr=1e-3, gamma=0.98, lam=0.8)
    plain = find("ppo").algorithm().set({"objective.trust": "none"})

    def mean_return(method: Algorithm | str, seed: int) -> float:
        return float(np.nanmean(learn(method, bed, run.steps(12_000), seed)[0]))

    base, ours = run.each(lambda seed: mean_return(plain, seed)), run.each(lambda seed: mean_return("ppo", seed))
    return compare(base, ours, "mean episode return over training", run)


@claim("rloo", base="reinforce", published="wins 3.2 to 20.3 % more comparisons than PPO; beats REINFORCE with a mean baseline",
       seconds=40, stand_in=TOY)  # fmt: skip
def rloo(run: ClaimRun) -> Outcome:
    """The other rollouts as baseline: mean exact reward over 100 steps against REINFORCE, 4 rollouts per prompt (the paper's k)."""
    base, ours = _pair(run, "reinforce", "rloo", SCORES.replace(group=4), 100)
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


@claim("remax", base="reinforce", published="46 % less memory and 1.6 times faster than PPO; the greedy baseline cuts the variance",
       seconds=40, seeds=5, stand_in=TOY)  # fmt: skip
def remax(run: ClaimRun) -> Outcome:
    """The greedy answer's reward as baseline: signal-to-noise ratio of one batch's gradient against REINFORCE, one rollout per
    prompt, at a policy half-way through training."""

    def signal(name: str, seed: int) -> float:
        setting = Setting(group=1, reward="graded", seed=seed % 1000)
        return measure(find(name).algorithm(), setting, run.steps(400), seed=seed).snr

    base, ours = run.each(lambda seed: signal("reinforce", seed)), run.each(lambda seed: signal("remax", seed))
    return compare(base, ours, "signal-to-noise ratio of the gradient", run)


@claim("reinforce++", base="grpo", published="normalising per prompt is biased; over the batch the bias vanishes with its size",
       seconds=60, seeds=5, stand_in=TOY)  # fmt: skip
def reinforce_plus_plus(run: ClaimRun) -> Outcome:
    """Normalising over the whole batch instead of within prompts: the part of the bias that no learning rate repairs, against
    GRPO's, on policy with 8 rollouts for each of 4 prompts."""

    def bias(name: str, seed: int) -> float:
        return measure(find(name).algorithm(), Setting(seed=seed % 1000), run.steps(800), seed=seed).angle_bias

    base, ours = run.each(lambda seed: bias("grpo", seed)), run.each(lambda seed: bias("reinforce++", seed))
    return compare(base, ours, "bias left after the best rescaling", run, larger=False)


@claim("dr-grpo", base="grpo", published="stops the growth of wrong answers at equal accuracy; AIME 2024 43.3 % (7B)",
       seconds=40, stand_in="an enumerable policy with answers of up to 6 tokens")  # fmt: skip
def dr_grpo(run: ClaimRun) -> Outcome:
    """No division by the answer's own length: exact expected length of wrong answers after 40 steps, against GRPO. Binary rewards
    that the length itself does not enter."""
    bed = Testbed(vocabulary=3, horizon=6, lr=0.03)
    base, ours = _pair(run, "grpo", "dr-grpo", bed, 40)
    run.note(f"exact reward at the end: {_final(base):.3f} (grpo), {_final(ours):.3f} (dr-grpo).")
    return compare(
        [_wrong_length(c) for c in base], [_wrong_length(c) for c in ours], "length of wrong answers", run, larger=False
    )


@claim(
    "dapo", base="grpo", published="AIME 2024 50 instead of 30 (GRPO, 32B); entropy stays up", seconds=60, stand_in=TOY
)
def dapo(run: ClaimRun) -> Outcome:
    """Wider upper clip, dynamic sampling, token mean: mean exact reward over 15 steps of 16 updates each, against GRPO at equal
    updates. As in the paper, dynamic sampling pays for its replacements with further rollouts."""
    base, ours = _pair(run, "grpo", "dapo", REUSED, 15)
    run.note(f"entropy at the end: {_entropy(base):.3f} (grpo), {_entropy(ours):.3f} (dapo).")
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


@claim("gspo", base="grpo", published="higher reward than GRPO at equal compute, while clipping two orders of magnitude more tokens",
       seconds=60, stand_in=TOY)  # fmt: skip
def gspo(run: ClaimRun) -> Outcome:
    """One ratio per answer, clipped at 3e-4 and 4e-4: mean exact reward over 40 steps of 4 updates each (the paper's number of
    minibatches), against GRPO."""
    bed = REUSED.replace(set={"update.minibatches_per_epoch": 4})
    base, ours = _pair(run, "grpo", "gspo", bed, 40)
    run.note(f"share clipped: {_clipped(base):.3f} (grpo), {_clipped(ours):.3f} (gspo).")
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


@claim(
    "cispo", base="dapo", published="reaches DAPO's AIME 2024 score in half the steps (32B)", seconds=60, stand_in=TOY
)
def cispo(run: ClaimRun) -> Outcome:
    """Clipped weights instead of clipped updates: mean exact reward over 15 steps of 16 updates each, against DAPO. CISPO gets
    DAPO's dynamic sampling, so that both use their prompts alike and only the objectives differ."""
    sampled_alike = find("cispo").algorithm().replace(filter=find("dapo").algorithm().filter)
    count = run.steps(15)
    base = run.each(lambda seed: train("dapo", REUSED, count, seed))
    ours = run.each(lambda seed: train(sampled_alike, REUSED, count, seed))
    high = 0.9 * float(np.mean([c.value.max() for c in base]))
    run.note(f"steps to {high:.2f}: {_steps(base, high):.1f} (dapo), {_steps(ours, high):.1f} (cispo).")
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


def _pair(run: ClaimRun, base: str, ours: str, bed: Testbed, steps: int) -> tuple[list[Curves], list[Curves]]:
    count = run.steps(steps)
    return run.each(lambda seed: train(base, bed, count, seed)), run.each(lambda seed: train(ours, bed, count, seed))


def _final(curves: list[Curves]) -> float:
    return float(np.mean([c.final for c in curves]))


def _entropy(curves: list[Curves]) -> float:
    return float(np.mean([c.entropy[-1] for c in curves]))


def _clipped(curves: list[Curves]) -> float:
    return float(np.mean([c.metric("objective/clip_fraction").mean() for c in curves]))


def _steps(curves: list[Curves], threshold: float) -> float:
    return float(np.mean([c.steps_to(threshold) for c in curves]))


def _wrong_length(curves: Curves) -> float:
    """Exact expected length of an answer that is wrong, over all prompts."""
    policy, task = curves.trainer.world.policy, curves.trainer.world.task
    graph = policy.graph
    with torch.no_grad():
        chance = truth.sequence_logp(policy.log_table(), graph).exp()
    wrong = chance * (truth.sequence_reward(task.reward, graph) < 1 - 1e-9)  # type: ignore[attr-defined]
    length = (graph.sequences()[0] != END).sum(1).double()
    return float((wrong * length).sum() / wrong.sum())
