"""Claims of `anypo.systems.objectives.off_policy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, not_worse
from anypo.claims.beds.exact import TOY, Curves, Testbed, finals, mean, mean_final, train
from anypo.claims.beds.worlds import SHARED, SHARED_TOY
from anypo.exact.bench import Setting
from anypo.exact.estimators import measure
from anypo.systems import find


@claim("remix", base="grpo", seconds=50, seeds=12, stand_in=SHARED_TOY,
       published="DeepScaleR's accuracy with 0.079M instead of 2.519M rollouts (1.5B); -4.84 without reincarnation")  # fmt: skip
def remix(run: ClaimRun) -> Outcome:
    """Reuse saves rollouts: rollouts until the exact reward is 80 % of the best that on-policy GRPO reaches (over all seeds), 64 per
    step for both; not reached counts as the whole run. Notes: final rewards, each part of the method removed, GRPO with as
    many passes over its data, and the published way to break it (90 % old data)."""
    steps = run.steps(150)
    base, ours = finals("grpo", SHARED, steps, run.seeds), finals("remix", SHARED, steps, run.seeds)
    threshold = 0.8 * mean([c.value.max() for c in base])
    needed = [[_rollouts(c, threshold, SHARED) for c in curves] for curves in (base, ours)]
    run.note(
        f"threshold {threshold:.3f}; exact reward at the end: {mean_final(base):.3f} (grpo), {mean_final(ours):.3f} (remix)."
    )
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "GRPO, every batch used twice": ("grpo", {"update.epochs": 2}),
        "without reincarnation of the reference": ("remix", {"update.reference.at": 10**6}),
        "without old data": ("remix", {"replay.fraction": 0.0}),
        "90 % old data": ("remix", {"replay.fraction": 0.9}),
    }
    for label, (system, change) in changes.items():
        other = finals(system, SHARED.replace(set=change), steps, run.seeds[:6])
        spent = mean([_rollouts(c, threshold, SHARED) for c in other])
        run.note(f"{label}: {spent:.0f} rollouts, {mean_final(other):.3f} at the end (first six seeds).")
    return compare(needed[0], needed[1], "rollouts until 80 % of GRPO's best reward", run, larger=False)


def _rollouts(curves: Curves, threshold: float, bed: Testbed) -> float:
    return min(curves.steps_to(threshold), len(curves.value) - 1) * bed.batch * bed.group


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
        found[lag] = finals(plain, bed, steps, run.seeds), finals("vcpo", bed, steps, run.seeds)
    fresh = [np.mean([c.area for c in side]) for side in found[0]]
    base, ours = found[32]
    run.note(f"fresh rollouts: {fresh[0]:.3f} (base), {fresh[1]:.3f} (vcpo).")
    run.note(f"smallest effective sample size (share): {min(c.metric('update/ess').min() for c in ours):.2f}.")
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


FIXED: dict[str, tuple[str, Mapping[str, Any]]] = {
    "grpo 0.1": ("grpo", {"objective.trust.low": 0.1, "objective.trust.high": 0.1}),
    "grpo 0.4": ("grpo", {"objective.trust.low": 0.4, "objective.trust.high": 0.4}),
    "cispo 1": ("cispo", {"objective.trust.high": 1.0}),
    "cispo 3": ("cispo", {"objective.trust.high": 3.0}),
}


@claim("p3o-ess", base="the clip range that is best at each lag", seconds=80, seeds=6, stand_in=TOY,
       published="matches or beats tuned GRPO, DAPO and CISPO on and off policy, with nothing to tune")  # fmt: skip
def p3o_ess(run: ClaimRun) -> Outcome:
    """One configuration for samplers 0, 8 and 32 steps behind against the best of four fixed clips, chosen for each lag by its mean
    over the seeds: exact reward at the end, mean over the lags. Not worse by more than 0.03."""
    count = run.steps(100)
    ours, best, fixed = [], [], {name: [] for name in FIXED}  # type: ignore[var-annotated]
    for lag in (0, 8, 32):
        bed = Testbed(lag=lag, old="sampler", lr=0.05)
        tried = {
            name: [train(find(base).algorithm().set(changes), bed, count, seed).final for seed in run.seeds]
            for name, (base, changes) in FIXED.items()
        }
        winner = max(tried, key=lambda name: float(np.mean(tried[name])))
        best.append(tried[winner])
        ours.append([train("p3o-ess", bed, count, seed).final for seed in run.seeds])
        for name, reached in tried.items():
            fixed[name].append(float(np.mean(reached)))
        run.note(f"lag {lag}: {np.mean(ours[-1]):.3f} against {np.mean(best[-1]):.3f} ({winner}).")
    worst = {name: round(min(means), 3) for name, means in fixed.items()}
    run.note(f"worst lag: {min(np.mean(o) for o in ours):.3f}; of the fixed ones: {worst}.")
    return not_worse(list(np.mean(best, 0)), list(np.mean(ours, 0)), 0.03, "final exact reward", run)
