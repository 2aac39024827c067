"""Where claims about a gradient are tried: methods measured against the exact one, in worlds drawn by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Premise, fails
from anypo.exact.bench import Setting
from anypo.exact.estimators import Measurement, measure


def measured(
    run: ClaimRun, methods: Mapping[str, Algorithm], setting: Setting, draws: int
) -> dict[str, list[Measurement]]:
    """Every method in `setting`, one world per seed: world by world, so that methods that sample alike share their batches.
    Without warming up: for methods that remember nothing from batch to batch."""
    worlds = [(seed, replace(setting, seed=seed % 1000)) for seed in run.seeds]
    rows = [
        {name: measure(m, world, draws, warmup=0, seed=seed) for name, m in methods.items()} for seed, world in worlds
    ]
    return {name: [row[name] for row in rows] for name in methods}


def biased(base: Sequence[Measurement]) -> Premise:
    """The premise of a claim about bias: the base's direction is biased, by twice what the noise of its mean could feign."""
    return fails([m.angle_bias > 2 * m.angle_floor for m in base], "the base's bias is twice what noise could feign")


def squared_error(m: Measurement) -> float:
    """min over c of E |c g - G|^2 / |G|^2: what is left of an estimator's mean squared error after the best rescaling."""
    return 1.0 - m.scale**2 / (m.variance + (m.scale / m.cosine) ** 2)


__all__ = ["biased", "measured", "squared_error"]
