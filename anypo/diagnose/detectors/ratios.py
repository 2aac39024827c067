"""Does the data fit the policy that learns from it? Ratios, staleness, mismatch, clipping, non-finite updates."""

from __future__ import annotations

from anypo.diagnose import observables as see
from anypo.diagnose.detector import Measured, Missing, detector
from anypo.diagnose.evidence import Evidence
from anypo.diagnose.levers import add, put, scale

SLOWER = scale("update.optimiser.lr", 0.3, "smaller steps")
FEWER = put("one optimiser step a batch", {"update.epochs": 1, "update.minibatches_per_epoch": 1})
CORRECT = add("objective.corrections", {"part": "truncated"}, "truncated importance weights against the sampler")
MASKED = add("objective.corrections", {"part": "masked"}, "leave out tokens the sampler saw very differently")
FRESH = put("train on fresh rollouts only", {"replay": "on_policy"})


def _level(run: Evidence, name: str, missing: str, form: str) -> Measured | Missing:
    series = run.series(name)
    if series is None:
        return Missing(missing)
    level = see.worst(series)
    return Measured(level, form.format(level))


@detector(
    "ratio_blowup",
    "Importance ratios blow up",
    room="objective",
    observable="median (of the worst third of the run) of the largest importance ratio of a step",
    limit=(3.0, 30.0),
    why="with one update on fresh data every ratio is 1 and within a clip range of 0.2 few leave [0.5, 2]; a token "
    "weighted threefold decides the step it is in",
    levers=(FEWER, SLOWER, CORRECT, put("a hard trust region", {"objective.trust": {"part": "clip", "dual": 3.0}})),
    curves=("objective/ratio_max", "objective/ratio_min", "objective/clip_fraction"),
    live=True,
)
def ratio_blowup(run: Evidence) -> Measured | Missing:
    return _level(run, "objective/ratio_max", "the objective has no importance ratio", "the largest ratio is {:.3g}")


@detector(
    "ess_collapse",
    "Effective sample size collapses",
    room="objective",
    observable="median share (of the worst third of the run) of the batch that the importance weights waste (1 - "
    "effective sample size)",
    limit=(0.3, 0.6),
    why="the variance of a weighted gradient grows as 1 / ESS; at 0.3 the step has the noise of a batch a third smaller, and "
    "on-policy steps waste nothing",
    levers=(FEWER, CORRECT, SLOWER, FRESH),
    curves=("objective/ess", "objective/correction_ess", "objective/ratio_max"),
    live=True,
)
def ess_collapse(run: Evidence) -> Measured | Missing:
    found = [
        series for name in ("objective/ess", "objective/correction_ess", "update/ess") if (series := run.series(name))
    ]
    if not found:
        return Missing("no effective sample size is recorded (the objective has no importance ratio)")
    ess = min(see.worst(series, low=True) for series in found)
    return Measured(1 - ess, f"the effective sample size is {ess:.0%} of the batch")


@detector(
    "clip_saturation",
    "Clipping saturates",
    room="objective",
    observable="median (of the worst third of the run) share of tokens whose ratio left the trust region",
    limit=(0.2, 0.4),
    why="clipped tokens have no gradient; a few per cent is the working range of PPO, a fifth means that most of an update is spent "
    "outside the region in which it is valid",
    levers=(
        FEWER,
        SLOWER,
        put("a wider region", {"objective.trust.low": 0.2, "objective.trust.high": 0.28}),
    ),
    curves=("objective/clip_fraction", "objective/ratio_max"),
    live=True,
)
def clip_saturation(run: Evidence) -> Measured | Missing:
    return _level(run, "objective/clip_fraction", "the trust region does not clip", "{:.1%} of the tokens are clipped")


@detector(
    "engine_mismatch",
    "Sampler and trainer disagree",
    room="engine",
    observable="median (of the worst third of the run) KL estimate (k3, nats a token) between sampler and trainer "
    "log-probabilities of the same weights",
    limit=(0.003, 0.03),
    why="the same weights must give the same log-probabilities; rounding stays below 0.001 nats, and beyond 0.003 the ratios of a "
    "thousand-token answer are off by a factor",
    levers=(
        CORRECT,
        MASKED,
        put("recompute the old policy in the trainer", {"engine.reuse_logp": "never"}),
    ),
    curves=("policy/mismatch_kl", "objective/kl_behaviour"),
    live=True,
)
def engine_mismatch(run: Evidence) -> Measured | Missing:
    missing = "the trainer did not recompute the sampler's log-probabilities (engine.reuse_logp)"
    return _level(run, "policy/mismatch_kl", missing, "sampler and trainer are {:.2g} nats a token apart")


@detector(
    "staleness",
    "Stale rollouts",
    room="engine",
    observable="median (of the worst third of the run) age of a trained token, in optimiser steps between the "
    "weights that sampled it and those it trains",
    limit=(4.0, 16.0),
    why="bias and variance of the estimators grow with the distance between the policies; up to a few steps are harmless in "
    "published asynchronous runs, beyond about 8 every one of them corrects",
    levers=(FRESH, CORRECT, MASKED, SLOWER, scale("replay.window", 0.5, "a shorter memory", low=1)),
    curves=("policy/staleness", "objective/kl_behaviour", "objective/ratio_max"),
    live=True,
)
def staleness(run: Evidence) -> Measured | Missing:
    return _level(
        run, "policy/staleness", "policy versions are not recorded", "trained tokens are {:.1f} optimiser steps old"
    )


@detector(
    "off_policy_share",
    "Off-policy data without a correction",
    room="replay",
    observable="median (of the worst third of the run) share of trained tokens that other weights than the present "
    "ones sampled",
    limit=(0.25, 0.75),
    why="a quarter of foreign tokens is as much as replay methods mix in on purpose; more of them, treated as if they were the "
    "policy's own, bias every step",
    levers=(CORRECT, MASKED, FRESH, scale("replay.fraction", 0.5, "mix in less")),
    curves=("policy/off_policy_share", "policy/staleness", "objective/ess"),
    live=True,
)
def off_policy_share(run: Evidence) -> Measured | Missing:
    found = _level(
        run,
        "policy/off_policy_share",
        "policy versions are not recorded",
        "{:.0%} of the trained tokens are off-policy",
    )
    if isinstance(found, Missing) or run.algorithm is None:
        return found
    objective = run.algorithm.objective
    ratio = getattr(objective, "ratio", None)
    corrected = bool(getattr(objective, "corrections", ())) or getattr(ratio, "denominator", "") == "behaviour"
    excuse = "the objective weighs them against the policy that sampled them" if corrected else ""
    age = run.series("policy/staleness")
    if age is not None and see.level(age) <= 1:
        excuse = excuse or "one optimiser step behind, as every pipelined run is"
    return Measured(found.score, found.says, (), excuse)


@detector(
    "skipped_updates",
    "Updates that are not finite",
    room="update",
    observable="share of all optimiser steps that were skipped because the loss or its gradient was not finite",
    limit=(1e-9, 0.05),
    why="no healthy step has an infinite or undefined loss; even one names a bug or a ratio without bound",
    levers=(SLOWER, put("a hard trust region", {"objective.trust": {"part": "clip", "dual": 3.0}}), CORRECT),
    curves=("update/skipped", "update/grad_norm", "objective/ratio_max"),
    live=True,
)
def skipped_updates(run: Evidence) -> Measured | Missing:
    skipped = run.series("update/skipped")
    if skipped is None:
        return Missing("the update does not record skipped steps")
    share = float(skipped.values.mean())
    return Measured(share, f"{share:.1%} of the optimiser steps were skipped")
