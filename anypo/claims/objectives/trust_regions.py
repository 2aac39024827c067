"""Claims of `anypo.systems.objectives.trust_regions`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare, not_worse, weaker
from anypo.claims.beds.exact import STALE, TOY, Curves, Testbed, finals, mean, mean_final, mean_steps, pair, train
from anypo.claims.beds.worlds import SHARED_STALE, SHARED_TOY
from anypo.systems import find


@claim("bapo", base="grpo", seconds=50, seeds=20, stand_in=SHARED_TOY,
       published="entropy and reward stay up under partial rollouts, where a fixed clip collapses; beats o3-mini (32B)")  # fmt: skip
def bapo(run: ClaimRun) -> Outcome:
    """Searched instead of fixed bounds: entropy after 150 steps of partial rollouts whose tokens are 0 to 8 updates old, against
    GRPO's fixed 0.8 and 1.2. Reproduced only if, besides, the exact reward is not lower by more than 0.02. At first nine of ten
    rollouts fail. Notes: both rewards and the upper bound found."""
    bed, steps = SHARED_STALE.replace(lag=8, versions="partial"), run.steps(150)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("bapo", bed, steps, run.seeds)
    bound = mean([c.metric("objective/clip_high").mean() for c in ours])
    run.note(
        f"exact reward at the end: {mean_final(base):.3f} (grpo), {mean_final(ours):.3f} (bapo); mean upper bound {bound:.2f}."
    )
    reward = not_worse([c.final for c in base], [c.final for c in ours], 0.02, "", run)
    run.note(
        f"reward not lower by more than 0.02: {reward.verdict} ({reward.effect:+.3f} [{reward.low:.3f}, {reward.high:.3f}])."
    )
    entropy = compare([c.entropy[-1] for c in base], [c.entropy[-1] for c in ours], "entropy after training, nats", run)
    return replace(entropy, verdict=weaker(entropy.verdict, reward.verdict))


@claim("rec", base="REC without a mask", seconds=60, seeds=12, stand_in=SHARED_TOY,
       published="REINFORCE collapses off-policy; with one-sided clipping it matches GRPO, importance weights or not")  # fmt: skip
def rec(run: ClaimRun) -> Outcome:
    """The mask stabilises, the importance weight does not matter: exact reward after 40 synchronisations with 16 updates between
    them, against the same group REINFORCE without a mask. Notes: with importance weights, with the wide bounds (0.6, 2.0), and
    how far the policy moved between synchronisations."""
    bed = SHARED_STALE.replace(batch=16, old="trainer", set={"update.minibatches_per_epoch": 16})
    steps = run.steps(40)
    region = "objective.trust.region"
    variants: dict[str, dict[str, Any]] = {
        "no mask": {region: "everywhere"},
        "one-sided": {},
        "one-sided, importance weights": {"objective.trust.weight": "ratio"},
        "one-sided, wide": {f"{region}.low": 0.6, f"{region}.high": 2.0},
    }
    found = {}
    for label, change in variants.items():
        found[label] = finals(find("rec").algorithm().set(change), bed, steps, run.seeds)
        moved = mean([c.metric("objective/kl_old").max() for c in found[label]])
        run.note(f"{label}: {mean_final(found[label]):.3f}, largest KL from the sampler {moved:.2f} nats.")
    base, ours = found["no mask"], found["one-sided"]
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


@claim("r2vpo", published="relative gains of up to 17 % over clipping, with about half the rollouts (1.5B, 7B)", seconds=60,
       stand_in=TOY)  # fmt: skip
def r2vpo(run: ClaimRun) -> Outcome:
    """A constraint on the ratio's variance against GRPO's clip, on rollouts eight updates old: mean exact reward over 100 steps."""
    base, ours = pair(run, "grpo", "r2vpo", STALE, 100)
    high = 0.9 * float(np.mean([c.value.max() for c in base]))
    run.note(f"steps to {high:.2f}: {mean_steps(base, high):.1f} (grpo), {mean_steps(ours, high):.1f} (r2vpo).")
    late = [c.metric("objective/ratio_variance") for c in ours]
    run.note(f"ratio variance in the second half: {np.mean([v[len(v) // 2 :].mean() for v in late]):.4f} (limit 0.02).")
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


@claim("gbpo", base="grpo", published="stays stable with more epochs and a wider bound, where GRPO does not (TTRL)",
       seconds=60, stand_in=TOY)  # fmt: skip
def gbpo(run: ClaimRun) -> Outcome:
    """Sixteen epochs per batch with bounds of 0.4 on shared features: exact reward at the end, against GRPO's clip."""
    bed = Testbed(kind="linear", batch=4, group=8, lr=0.05)
    count = run.steps(40)
    wide = {"objective.trust.low": 0.4, "objective.trust.high": 0.4, "update.epochs": 16}
    base = run.each(lambda seed: train(find("grpo").algorithm().set(wide), bed, count, seed))
    ours = run.each(lambda seed: train(find("gbpo").algorithm().set(wide), bed, count, seed))
    run.note(f"largest ratio, mean over steps: {_ratio(base):.2f} (grpo), {_ratio(ours):.2f} (gbpo).")
    return compare([c.final for c in base], [c.final for c in ours], "final exact reward", run)


def _ratio(curves: list[Curves]) -> float:
    return float(np.mean([c.metric("objective/ratio_max").mean() for c in curves]))
