"""Claims of `anypo.systems.rollouts.watched`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, Premise, claim, compare, learns, sooner
from anypo.claims.beds.controls import over_sampled, random_pruning
from anypo.claims.beds.countdowns import Countdowns, Learned, fixed, learn
from anypo.systems import find

WORDS = "a character model of a hundred thousand parameters that counts letters down and ends with a digit; lengths are log-normal"
DIGIT_FIRST = "a character model of a hundred thousand parameters that writes a digit and counts twelve letters down"


@claim("april", base="the same method, waiting for all of its groups", seconds=240, seeds=4, stand_in=WORDS,
       published="rollout throughput up by 22.5 % (at most 44 %), final accuracy by 2.1 %, with GRPO, DAPO and GSPO ")  # fmt: skip
def april(run: ClaimRun) -> Outcome:
    """Processor time spent sampling, in the embedded engine on one thread, until the exact expected reward has risen from 0.34 to 0.7:
    twice the groups in work and the unfinished ones resumed, against waiting for all groups (eight prompts, eight rollouts,
    answers of 2 to 53 tokens with a median of 5). The same learning is bought in both, so that what stale pieces cost is in the
    price. Control: plain over-sampling, as many groups begun and the unfinished ones thrown away. Notes: tokens decoded, passes of
    the engine and updates until then, and tokens trained per second of sampling. Less than a tenth of the base's time does not
    matter; a run that is not there after 60 steps is lost."""
    method = find("april").algorithm().set({"generate.temperature": 1.0})
    waiting = method.set({"generate": "independent"})
    arms = [_until(run, made) for made in (waiting, method, over_sampled(_sized(method)))]
    for name, runs in zip(("waiting", "april", "over-sampling"), arms):
        run.note(f"{name}: {_bill(runs)}.")
    stale = np.mean([r.metric("policy/off_policy_share") for r in arms[1]])
    run.note(f"written by earlier versions: {stale:.0%} of april's tokens, {_age(arms[1]):.1f} updates old on average.")
    need = [[r.needed(GOAL, r.seconds) for r in runs] for runs in arms]
    most = max([max(r.seconds) for runs in arms for r in runs])
    there = Premise(f"waiting for all gets to {GOAL}", sum(map(math.isfinite, need[0])), len(need[0]), 0.8)
    unit = float(np.mean([min(value, most) for value in need[0]]))
    metric = f"processor time of sampling until an expected reward of {GOAL} (the base's mean time is 1)"
    base, ours, other = ([value / unit for value in side] for side in need)
    return sooner(
        base, ours, metric, run, most=most / unit, least=0.1, controls={"over-sampling": other}, premise=there
    )


GOAL = 0.7


def _sized(algorithm: Algorithm) -> Algorithm:
    return algorithm.set(
        {"control.prompts": 8, "control.samples": 8, "generate.max_new": 56, "update.optimiser.lr": 1e-3}
    )


def _until(run: ClaimRun, algorithm: Algorithm) -> list[Learned]:
    """Runs until the goal."""
    return [learn(_sized(algorithm), Countdowns(), run.steps(60), seed, goal=GOAL) for seed in run.seeds]


def _bill(runs: Sequence[Learned]) -> str:
    """What it took to get there, on average over the runs that did, and how fast tokens to train on came."""
    mean = lambda of: float(np.mean([v for r in runs if math.isfinite(v := r.needed(GOAL, of(r)))] or [math.nan]))
    rate = sum(r.trained for r in runs) / sum(r.seconds[-1] for r in runs)
    steps = mean(lambda r: np.arange(len(r.value)))
    return (
        f"{mean(lambda r: r.seconds):.1f} s, {mean(lambda r: r.tokens):.0f} tokens, {mean(lambda r: r.passes):.0f} passes, "
        f"{steps:.0f} updates; {rate:.0f} tokens to train on per second"
    )


def _age(runs: Sequence[Any]) -> float:
    return float(np.mean([r.metric("policy/staleness") for r in runs]))


@claim("arrol", seconds=200, seeds=8, stand_in=DIGIT_FIRST,
       published="+2.3 to +3.0 accuracy over GRPO and DAPO, up to 1.7 times faster training (1B to 8B)")  # fmt: skip
def arrol(run: ClaimRun) -> Outcome:
    """Rollouts of which half are given up after four tokens, by a head that learns to read there how they will end: mean exact
    expected reward over the first 8,000 decoded tokens against GRPO with the same sixteen rollouts of one prompt an update, of which
    one in ten is right at first. An answer begins with its digit, and a policy that knows the digit to be wrong goes on in
    capitals, so that there is something to read. Controls: as many given up by lot; and GRPO with as many rollouts per prompt as
    the tokens that an update of ours decodes would pay for. Notes: tokens per update, the head's area under the curve, how
    balanced the survivors are (mean share right times share wrong), and time of sampling. An effect below 0.01 does not matter."""
    bed, most = Countdowns(lengths=fixed, skill=0.0, tells=1.0, warm=400), 1_000.0 if run.quick else 8_000.0
    method = find("arrol").algorithm().set(JUDGED)
    sizes = {path: value for path, value in JUDGED.items() if path not in ("generate.cold", "generate.optimiser")}
    plain = find("grpo").algorithm().set(sizes)
    each = lambda algorithm: [learn(algorithm, bed, 100, seed, tokens=most) for seed in run.seeds]
    base, ours, lot = each(plain), each(method), each(random_pruning(method))
    per = lambda runs: sum(r.tokens[-1] for r in runs) / sum(len(r.rows) for r in runs)
    size = max(2, round(plain.control.samples * per(ours) / per(base)))
    fewer = each(plain.set({"control.samples": size}))
    for name, runs in (("grpo", base), ("arrol", ours), ("by lot", lot), (f"grpo with {size}", fewer)):
        spent, rate = np.mean([r.seconds[-1] for r in runs]), np.mean([r.needed(0.25, r.seconds) for r in runs])
        run.note(
            f"{name}: {per(runs):.0f} tokens an update, balance {np.mean([r.metric('balance') for r in runs]):.3f}, "
            f"{spent:.1f} s of sampling, {rate:.1f} s until an expected reward of 0.25."
        )
    run.note(f"area under the curve of the head: {np.mean([r.metric('generate/quality_auc') for r in ours]):.2f}.")
    within = lambda runs: [r.within(most) for r in runs]
    return compare(
        within(base), within(ours), "mean exact expected reward at equal decoded tokens", run, least=0.01,
        controls={"by lot": within(lot), "fewer rollouts, the same tokens": within(fewer)},
        premise=learns([r.value[0] for r in base], [r.value[-1] for r in base], 0.95),
    )  # fmt: skip


JUDGED: dict[str, Any] = {
    "control.prompts": 1,
    "control.samples": 16,
    "generate.max_new": 16,
    "generate.cold": 4,
    "generate.optimiser": {"part": "adamw", "lr": 1e-2},
    "update.optimiser.lr": 3e-4,
}
