"""Claims of `anypo.systems.objectives.off_policy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails, sooner
from anypo.claims.beds.exact import (
    LEAST,
    TOY,
    Curves,
    Testbed,
    by_reward,
    drop,
    finals,
    learning,
    mean,
    mean_entropy,
    mean_final,
)
from anypo.claims.beds.gradients import measured
from anypo.claims.beds.worlds import SHARED, SHARED_TOY
from anypo.exact.bench import Setting
from anypo.systems import find


@claim("remix", base="grpo", seconds=60, seeds=10, stand_in=SHARED_TOY,
       published="DeepScaleR's accuracy with 0.079M instead of 2.519M rollouts (1.5B); -4.84 without reincarnation")  # fmt: skip
def remix(run: ClaimRun) -> Outcome:
    """Reuse saves rollouts: rollouts until the exact reward is 80 % of the best that on-policy GRPO reaches (over all seeds), 64 per
    step for both; a run that never gets there is lost. Controls: GRPO with as many passes over its data, for twice the updates on
    the same rollouts explain a good part; and the published way to break it, 90 % old data to the end, which must not do as
    well. Noted: final rewards."""
    steps = run.steps(120)
    base, ours = finals("grpo", SHARED, steps, run.seeds), finals("remix", SHARED, steps, run.seeds)
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "grpo, every batch used twice": ("grpo", {"update.epochs": 2}),
        "90 % old data": ("remix", {"replay.fraction": 0.9, "replay.until": None}),
    }
    others = {
        label: finals(system, SHARED.replace(set=change), steps, run.seeds)
        for label, (system, change) in changes.items()
    }
    threshold = 0.8 * mean([c.value.max() for c in base])
    needed = lambda curves: [c.steps_to(threshold) * SHARED.batch * SHARED.group for c in curves]
    for label, curves in {"grpo": base, "remix": ours, **others}.items():
        run.note(f"{label}: {mean_final(curves):.3f} at the end.")
    run.note(f"threshold {threshold:.3f}.")
    return sooner(
        needed(base),
        needed(ours),
        "rollouts until 80 % of GRPO's best reward",
        run,
        most=(steps + 1) * SHARED.batch * SHARED.group,
        least=64,
        controls={label: needed(curves) for label, curves in others.items()},
        premise=learning(base),
    )


@claim("minirl", base="minirl without the ratio to the sampler", seconds=60, seeds=6,
       stand_in="an enumerable policy sampled with noisy logits for a mixture of experts in two engines",
       published="with the weight the most stable on policy; without it training collapses (30B-A3B, FP8 sampling)")  # fmt: skip
def minirl(run: ClaimRun) -> Outcome:
    """An engine that samples with an error of 0.5 in its logits: relative bias of the expected gradient, measured over batches, with
    and without the ratio to the sampler as weight. One update per batch, so the mask is inactive."""
    weighted = find("minirl").algorithm()
    methods = {"bare": weighted.set({"objective.trust.weight": "none"}), "weighted": weighted}
    found = measured(run, methods, Setting(noise=0.5, old="trainer", reward="graded"), run.steps(1000))
    seen = fails(
        [m.bias > 2 * m.floor for m in found["bare"]], "without the weight the bias is twice what noise could feign"
    )
    biases = [[m.bias for m in side] for side in found.values()]
    return compare(biases[0], biases[1], "relative bias of the gradient", run, larger=False, least=0.05, premise=seen)


@claim("vcpo", base="truncated sequence importance sampling", seconds=90, seeds=5,
       stand_in="an enumerable policy with shared features, answers of up to 5 tokens",
       published="stable up to 128 steps off-policy, where GRPO and truncated importance sampling collapse")  # fmt: skip
def vcpo(run: ClaimRun) -> Outcome:
    """The step size by effective sample size and the optimal baseline, against the same truncated weights with neither: exact reward
    after 150 steps on rollouts 64 updates old, at a learning rate at which the base loses a fiftieth or more of what it had reached
    on the way. Control: the base at half the rate, about what the effective sample size makes of it. Noted: largest drops,
    entropies. Set with seeds 1,000,000 and up."""
    plain = find("vcpo").algorithm().set({"credit.centre": "group_mean", "update.rules": []})
    bed, steps = Testbed(kind="linear", horizon=5, batch=4, lr=0.3, lag=64, reward="graded"), run.steps(150)
    base, ours = finals(plain, bed, steps, run.seeds), finals("vcpo", bed, steps, run.seeds)
    slow = finals(plain, bed.replace(lr=bed.lr / 2), steps, run.seeds)
    for label, curves in (("base", base), ("half the rate", slow), ("vcpo", ours)):
        run.note(f"{label}: largest drop {mean(map(drop, curves)):.3f}, entropy {mean_entropy(curves):.3f}.")
    lost = fails([drop(c) > 0.02 for c in base], "truncated importance sampling loses what it had reached")
    return by_reward(base, ours, run, "final", controls={"base, half the rate": slow}, premise=lost)


FIXED: dict[str, tuple[str, Mapping[str, Any]]] = {
    "grpo 0.1": ("grpo", {"objective.trust.low": 0.1, "objective.trust.high": 0.1}),
    "grpo 0.2": ("grpo", {}),
    "cispo 1": ("cispo", {"objective.trust.high": 1.0}),
}


@claim("p3o-ess", base="the fixed clip that is best over all lags", seconds=80, seeds=6, stand_in=TOY,
       published="matches or beats tuned GRPO, DAPO and CISPO on and off policy, with nothing to tune")  # fmt: skip
def p3o_ess(run: ClaimRun) -> Outcome:
    """One configuration for samplers 0 and 32 steps behind, against fixed clips with as many passes over every batch: worst exact
    reward after 60 steps of the two. The base is the fixed clip whose worst is best (chosen from the results, which is
    tuning); the other clips are controls, for a tuned one may be matched, but all must be beaten at some lag."""
    count = run.steps(60)
    reuse = {"update.epochs": 5, "update.minibatches_per_epoch": 1}
    methods = {name: find(base).algorithm().set({**changes, **reuse}) for name, (base, changes) in FIXED.items()}
    methods["p3o-ess"] = find("p3o-ess").algorithm().set({"replay": "on_policy"})  # the bed's sampler lags instead
    reached: dict[str, list[list[Curves]]] = {name: [] for name in methods}
    for lag in (0, 32):
        bed = Testbed(lag=lag, old="sampler", lr=0.05)
        for name, method in methods.items():
            reached[name].append(finals(method, bed, count, run.seeds))
        run.note(f"lag {lag}: {', '.join(f'{name} {mean_final(side[-1]):.3f}' for name, side in reached.items())}.")
    worst = {name: [min(c.final for c in seed) for seed in zip(*sides)] for name, sides in reached.items()}
    ours, tuned = worst.pop("p3o-ess"), max(worst, key=lambda name: mean(worst[name]))
    run.note(f"the best fixed clip: {tuned}.")
    late = learning(reached[tuned][-1])
    return compare(
        worst.pop(tuned),
        ours,
        "exact reward at the worse of two lags",
        run,
        least=LEAST,
        controls=worst,
        premise=late,
    )
