"""Claims of `anypo.systems.credits.memory`."""

from __future__ import annotations

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import Curves, Testbed, finals
from anypo.claims.beds.worlds import SIXTEEN_TOY, expected_length, final_policy
from anypo.systems import find


@claim("spo-single-stream", published="maj@32 +3.4 points over GRPO on hard math (8B); no degenerate groups", seconds=60,
       seeds=10, stand_in=SIXTEEN_TOY)  # fmt: skip
def spo_single_stream(run: ClaimRun) -> Outcome:
    """One rollout for each of 64 prompts drawn per step against GRPO's 8 prompts x 8, the same 64 rollouts: mean exact reward over
    80 steps. No offline initialisation of the beliefs (first visits have one rollout too)."""
    bed = Testbed(prompts=16, lr=0.03)
    steps = run.steps(80)
    base = finals("grpo", bed.replace(batch=8, group=8), steps, run.seeds)
    single = find("spo-single-stream").algorithm().set({"control.first_samples": 1})
    ours = finals(single, bed.replace(batch=64, group=1), steps, run.seeds)
    dead = [np.mean([1 - c.metric("credit/live_share").mean() for c in curves]) for curves in (base, ours)]
    run.note(f"share of decisions without a signal: {dead[0]:.3f} (grpo), {dead[1]:.3f} (spo).")
    run.note(
        f"tracking error (rms, of rewards): {np.mean([c.metric('credit/tracker_error')[-10:].mean() for c in ours]):.2f}."
    )
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


@claim("mssr", base="spo-single-stream", published="GRPO's accuracy in half the steps; unshaped single rollouts collapse",
       seconds=60, seeds=10, stand_in=SIXTEEN_TOY)  # fmt: skip
def mssr(run: ClaimRun) -> Outcome:
    """Entropy-shaped advantages against the same single-rollout training without them, several optimiser steps per batch at a
    large learning rate: exact reward after 120 steps. Notes: entropy, and GRPO at the same number of rollouts."""
    bed = Testbed(prompts=16, batch=64, group=1, lr=0.1, set={"update.minibatches_per_epoch": 4})
    steps = run.steps(120)
    method = find("mssr").algorithm()
    ours = finals(method, bed, steps, run.seeds)
    base = finals(method.set({"credit.shape": []}), bed, steps, run.seeds)
    group = finals("grpo", bed.replace(batch=8, group=8), steps, run.seeds)
    entropy = [np.mean([c.entropy[-1] for c in curves]) for curves in (base, ours)]
    run.note(f"entropy at the end: {entropy[0]:.3f} (unshaped), {entropy[1]:.3f} (shaped).")
    run.note(f"GRPO: {np.mean([c.final for c in group]):.3f}.")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


@claim("hapo-history", published="33 to 59 % shorter responses with 2 to 5 % lower accuracy (1.5B models)", seconds=60, seeds=6,
       stand_in="an enumerable policy whose answers are decided by their first letters")  # fmt: skip
def hapo_history(run: ClaimRun) -> Outcome:
    """Letters after the deciding ones are wasted: exact expected length after 80 steps against GRPO. Notes: accuracy of both."""
    bed = Testbed(vocabulary=4, horizon=6, prompts=4, lr=0.05)
    steps = run.steps(80)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("hapo-history", bed, steps, run.seeds)
    run.note(f"accuracy: {np.mean([c.final for c in base]):.3f} (grpo), {np.mean([c.final for c in ours]):.3f} (hapo).")
    lengths = [[expected_length(final_policy(c)) for c in curves] for curves in (base, ours)]
    run.note(f"length change: {np.mean(lengths[1]) / np.mean(lengths[0]) - 1:+.0%}.")
    return compare(lengths[0], lengths[1], "expected length after training", run, larger=False)


@claim("pipo", published="mean pass@1 +0.9 to +2.8 over the bases on math, and steadier over seeds", seconds=60, seeds=12,
       stand_in="an enumerable policy at a learning rate that is too large")  # fmt: skip
def pipo(run: ClaimRun) -> Outcome:
    """GRPO with small noisy batches at a large learning rate, with and without retrospective verification: exact reward after
    60 steps. Notes: constant feedback (mere replay) in the place of the measured one, and the spread over seeds."""
    bed = Testbed(batch=2, group=4, lr=0.3)
    steps = run.steps(60)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("pipo", bed, steps, run.seeds)
    spread = [np.std([c.final for c in curves]) for curves in (base, ours)]
    run.note(f"standard deviation over seeds: {spread[0]:.3f} (grpo), {spread[1]:.3f} (pipo).")
    forward = finals(find("pipo").algorithm().set({"credit.backward": 0.0}), bed, steps, run.seeds)
    run.note(f"reinforcing only (no step back): {np.mean([c.final for c in forward]):.3f}.")
    signs = [_right_signs(c) for c in ours]
    run.note(f"feedback has the sign of the true change of the expected reward in {np.mean(signs):.2f} of the steps.")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


def _right_signs(curves: Curves) -> float:
    """How often the feedback of a step agrees in sign with what the update before it truly did."""
    feedback = np.nan_to_num(curves.metrics["credit/feedback"])[2:]
    change = np.diff(curves.value)[:-1]
    seen = feedback != 0
    return float((np.sign(feedback[seen]) == np.sign(change[seen])).mean()) if seen.any() else 0.5
