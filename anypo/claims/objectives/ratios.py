"""Claims of `anypo.systems.objectives.ratios`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import STALE, TOY, Curves, finals, mean, mean_area, mean_final, pair
from anypo.claims.beds.worlds import SHARED_STALE


@claim("minpro", base="cispo", seconds=60, seeds=12, stand_in="an enumerable policy with shared features, answers of up to 6 tokens",
       published="stable under large lag where GRPO, GSPO and CISPO collapse; pass@1 59.4 (8B)")  # fmt: skip
def minpro(run: ClaimRun) -> Outcome:
    """The smallest earlier ratio in every token's weight: exact reward after 150 steps on rollouts that are 16 updates old, against
    CISPO with the same upper bound and learning rate. Notes: runs that lost half of their own peak, and the largest
    drop below the best reward so far."""
    bed, steps = SHARED_STALE.replace(horizon=6, lag=16), run.steps(150)
    base, ours = finals("cispo", bed, steps, run.seeds), finals("minpro", bed, steps, run.seeds)
    collapsed = [sum(c.collapsed() for c in curves) for curves in (base, ours)]
    run.note(f"collapsed: {collapsed[0]} (cispo), {collapsed[1]} (minpro) of {len(base)} runs.")
    run.note(f"largest drop: {_drop(base):.3f} (cispo), {_drop(ours):.3f} (minpro).")
    run.note(f"reward over training: {mean_area(base):.3f} (cispo), {mean_area(ours):.3f} (minpro).")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


def _drop(curves: Sequence[Curves]) -> float:
    return mean([float((np.maximum.accumulate(c.value) - c.value).max()) for c in curves])


@claim("mhpo", published="average 43.7 instead of 38.3 (GRPO, 7B); gradient norms low and free of spikes", seconds=60,
       stand_in=TOY)  # fmt: skip
def mhpo(run: ClaimRun) -> Outcome:
    """A smooth damped multiplier against the clip, on rollouts eight updates old: log of largest over median gradient norm in 150
    steps. (Adam makes the steps comparable.)"""
    base, ours = pair(run, "grpo", "mhpo", STALE, 150)
    run.note(f"norms above 5 running medians, per run: {np.mean([spikes(c) for c in base]):.1f} (grpo), "
             f"{np.mean([spikes(c) for c in ours]):.1f} (mhpo).")  # fmt: skip
    run.note(f"exact reward at the end: {mean_final(base):.3f} (grpo), {mean_final(ours):.3f} (mhpo).")
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
