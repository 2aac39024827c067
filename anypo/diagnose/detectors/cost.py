"""Where do time and memory go? Waiting for the longest rollout, throughput, memory."""

from __future__ import annotations

import math

import numpy as np

from anypo.diagnose import observables as see
from anypo.diagnose.detector import Measured, Missing, detector
from anypo.diagnose.evidence import Evidence
from anypo.diagnose.levers import ask, scale


@detector(
    "long_tail",
    "Waiting for the longest rollout",
    room="engine",
    observable="share of the step time that slots wait for the longest rollout: (1 - mean / longest length) x generation's share",
    limit=(0.45, 0.65),
    why="an even spread of lengths wastes half of the slots at the end of generation; beyond 0.45 of the whole step a few rollouts "
    "set the pace of all",
    levers=(
        scale("generate.max_new", 0.5, "cut the tail", low=4),
        ask(
            "who is so long",
            'anypo rollouts {run} "select step, length, reward from rollouts order by length desc limit 20"',
        ),
    ),
    curves=("time/generate", "time/step", "rollout/length"),
    live=True,
    text=True,
)
def long_tail(run: Evidence) -> Measured | Missing:
    waiting = see.idle(run.rollouts)
    generate, step = run.series("time/generate"), run.series("time/step")
    if math.isnan(waiting) or generate is None or step is None:
        return Missing("no rollouts or no times are recorded")
    share = min(1.0, see.level(generate) / max(see.level(step), 1e-9))
    longest = sorted(run.late(), key=lambda row: -row["length"])
    return Measured(
        waiting * share, f"{waiting:.0%} of the slots wait during generation, which is {share:.0%} of a step", longest
    )


@detector(
    "throughput",
    "Sampling gets slower",
    room="engine",
    observable="share of the sampling speed that is lost between the first and the last quarter",
    limit=(0.35, 0.6),
    why="speed varies by a tenth or two from step to step on a shared machine; losing a third for good is a leak, a fuller cache or "
    "a busier machine",
    levers=(
        scale("engine.kv_tokens", 2, "more room for the cache"),
        scale("generate.max_new", 0.5, "shorter rollouts", low=4),
        ask(
            "where the time goes",
            'anypo rollouts {run} "select step, time_generate, time_update, time_step from metrics"',
        ),
    ),
    curves=("rollout/tokens_per_second", "time/generate", "rollout/length"),
    live=True,
)
def throughput(run: Evidence) -> Measured | Missing:
    speed = run.series("rollout/tokens_per_second")
    if speed is None or len(speed) < 9:
        return Missing("fewer than 9 steps with a sampling speed are recorded")
    kept = type(speed)(speed.steps[1:], speed.values[1:])  # the first step warms up
    first, last = see.ends(kept)
    lost = 1 - last / max(first, 1e-9) if see.monotone(kept.values) < -0.4 else 0.0
    return Measured(lost, f"{first:,.0f} → {last:,.0f} tokens a second")


@detector(
    "memory_growth",
    "Memory keeps growing",
    room="engine",
    observable="relative growth of the resident memory in the second half of the run (0 where it does not grow steadily)",
    limit=(0.1, 0.3),
    why="memory settles once every buffer has its size; a tenth more in the second half, step after step, will end the run some day",
    levers=(
        scale("engine.kv_tokens", 0.5, "a smaller cache", low=1024),
        scale("engine.token_budget", 0.5, "smaller micro-batches", low=512),
        ask("the curve", 'anypo rollouts {run} "select step, memory_resident_gb from metrics"'),
    ),
    curves=("memory/resident_gb", "rollout/length"),
    live=True,
)
def memory_growth(run: Evidence) -> Measured | Missing:
    memory = run.series("memory/resident_gb")
    if memory is None or len(memory) < 8:
        return Missing("fewer than 8 steps with memory are recorded")
    half = memory.values[len(memory) // 2 :]
    first, last = float(np.median(half[: max(1, len(half) // 4)])), float(np.median(half[-max(1, len(half) // 4) :]))
    grown = last / max(first, 1e-9) - 1 if see.monotone(half) > 0.8 else 0.0
    return Measured(grown, f"{first:.2f} → {last:.2f} GiB in the second half")
