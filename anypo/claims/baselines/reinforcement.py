"""Claims of `anypo.systems.baselines.reinforcement`."""

from __future__ import annotations

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, identity, learns
from anypo.claims.beds.control import ControlBed, learn
from anypo.claims.beds.exact import SCORES, TOY, by_reward, pair
from anypo.claims.beds.gradients import biased, measured
from anypo.credit.centres.groups import BatchMean, GroupMean, Uncentred
from anypo.credit.pipeline import Pipeline
from anypo.exact.bench import Setting
from anypo.exact.check import expectation
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
    batch of 256 steps, against the same surrogate without clipping, which learns, too: its best batch lies above its first by 20."""
    bed = ControlBed(environments=8, steps=32, epochs=20, minibatches=1, lr=1e-3, gamma=0.98, lam=0.8)
    plain = find("ppo").algorithm().set({"objective.trust": "none"})

    def returns(method: Algorithm | str, seed: int) -> np.ndarray:
        return learn(method, bed, run.steps(12_000), seed)[0]

    base, ours = run.each(lambda seed: returns(plain, seed)), run.each(lambda seed: returns("ppo", seed))
    first, best = [float(c[np.isfinite(c)][0]) for c in base], [float(np.nanmax(c)) for c in base]
    premise = learns(first, best, 475, by=20, what="without clipping returns rise by 20 and stay below 475")
    means = [[float(np.nanmean(c)) for c in side] for side in (base, ours)]
    return compare(means[0], means[1], "mean episode return over training", run, least=10, premise=premise)


@claim("rloo", base="reinforce", published="wins 3.2 to 20.3 % more comparisons than PPO; beats REINFORCE with a mean baseline",
       seconds=40, stand_in=TOY)  # fmt: skip
def rloo(run: ClaimRun) -> Outcome:
    """The other rollouts as baseline: mean exact reward over 100 steps against REINFORCE, 4 rollouts per prompt (the paper's k)."""
    return by_reward(*pair(run, "reinforce", "rloo", SCORES.replace(group=4), 100), run)


@claim("remax", base="reinforce", published="46 % less memory and 1.6 times faster than PPO; the greedy baseline cuts the variance",
       seconds=40, seeds=5, stand_in=TOY)  # fmt: skip
def remax(run: ClaimRun) -> Outcome:
    """The greedy answer's reward as baseline: signal-to-noise ratio of one batch's gradient against REINFORCE, one rollout per
    prompt, at a policy half-way through training. Control: the mean reward of the other prompts of the batch as baseline, which
    costs no decoding."""

    plain = find("reinforce").algorithm()
    batch = plain.replace(credit=Pipeline(centre=BatchMean()))
    methods = {"reinforce": plain, "remax": find("remax").algorithm(), "mean of the batch": batch}
    found = measured(run, methods, Setting(group=1, reward="graded"), run.steps(400))
    signal = {label: [m.snr for m in side] for label, side in found.items()}
    return compare(
        signal.pop("reinforce"), signal.pop("remax"), "signal-to-noise ratio of the gradient", run, least=0.01, controls=signal
    )  # fmt: skip


@claim("reinforce++", base="grpo", published="normalising per prompt is biased; over the batch the bias vanishes with its size",
       seconds=60, seeds=5, stand_in=TOY)  # fmt: skip
def reinforce_plus_plus(run: ClaimRun) -> Outcome:
    """Normalising over the whole batch instead of within prompts: the part of the bias that no learning rate repairs, against
    GRPO's, on policy with 8 rollouts for each of 4 prompts."""

    methods = {name: find(name).algorithm() for name in ("grpo", "reinforce++")}
    found = measured(run, methods, Setting(), run.steps(800))
    biases = [[m.angle_bias for m in side] for side in found.values()]
    seen = biased(found["grpo"])
    return compare(
        biases[0], biases[1], "bias left after the best rescaling", run, larger=False, least=0.05, premise=seen
    )


@claim("opo", base="the mean of the group", seconds=20, seeds=10,
       stand_in="an enumerable policy with shared features, answers of 1 to 8 tokens",
       published="higher and more diverse scores than GRPO and REINFORCE++ (7B), by the baseline of least variance")  # fmt: skip
def opo(run: ClaimRun) -> Outcome:
    """Rewards weighted by length as baseline: variance of a batch's gradient, of its mean's squared length, against the plain mean of
    the group, on policy, where answers are of very unequal length. Control: no baseline."""
    ours = find("opo").algorithm()
    centres = {"plain": GroupMean(), "none": Uncentred()}
    methods = {
        "ours": ours,
        **{label: ours.replace(credit=Pipeline(centre=centre)) for label, centre in centres.items()},
    }
    setting = Setting(group=8, reward="graded", vocabulary=3, horizon=8)
    measurements = measured(run, methods, setting, run.steps(300))
    found = {label: [1 / max(m.snr, 1e-6) for m in side] for label, side in measurements.items()}
    return compare(
        found["plain"], found["ours"], "variance of the gradient over its squared length", run, larger=False, least=0.01,
        controls={"no baseline": found["none"]},
    )  # fmt: skip
