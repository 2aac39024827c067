"""Claims of `anypo.systems.baselines.reinforcement`."""

from __future__ import annotations

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, identity
from anypo.claims.beds.control import ControlBed, learn
from anypo.claims.beds.exact import SCORES, TOY, pair
from anypo.exact.bench import Setting
from anypo.exact.check import expectation
from anypo.exact.estimators import measure
from anypo.systems import find


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
    base, ours = pair(run, "reinforce", "rloo", SCORES.replace(group=4), 100)
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
