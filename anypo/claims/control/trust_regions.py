"""Claims of `anypo.systems.control.trust_regions`."""

from __future__ import annotations

from functools import partial

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.control import ControlBed, learn

CONTROL = ControlBed(environments=8, steps=32, epochs=20, minibatches=1, lr=1e-3, gamma=0.98, lam=0.8)
"""CartPole with many passes over small batches: where it shows what keeps a policy near its data."""


def _at(bed: ControlBed, total: int, seed: int) -> float:
    return _mean_return("trpo", seed, total, bed)


def _mean_return(method: Algorithm | str, seed: int, total: int, bed: ControlBed = CONTROL) -> float:
    return float(np.nanmean(learn(method, bed, total, seed)[0]))


@claim("mdpo", base="one gradient step per batch", seconds=60, seeds=5, stand_in="CartPole-v1 for MuJoCo",
       published="several gradient steps on the penalised objective are essential; like or better than TRPO and PPO")  # fmt: skip
def mdpo(run: ClaimRun) -> Outcome:
    """Mirror descent with m = 10 gradient steps per batch against m = 1 (where its KL has no gradient) on the same 12,000 steps of
    CartPole: mean episode return while learning. The learning rate is ten times smaller with ten steps, so that the optimiser
    covers the same distance."""
    total = run.steps(12_000)
    many, single = CONTROL.replace(epochs=10, lr=1e-3), CONTROL.replace(epochs=1, lr=1e-2)
    base = run.each(lambda seed: _mean_return("mdpo", seed, total, single))
    ours = run.each(lambda seed: _mean_return("mdpo", seed, total, many))
    clip = run.each(lambda seed: _mean_return("ppo", seed, total, many))
    run.note(f"PPO's clip under the settings of m = 10: {np.mean(clip):.1f}.")
    return compare(base, ours, "mean episode return over training", run)


@claim("bpo-bounded-ratio", base="ppo", seconds=60, seeds=5, stand_in="CartPole-v1 for MuJoCo",
       published="matches or beats PPO on MuJoCo, Atari and IsaacLab, with smoother curves")  # fmt: skip
def bpo_bounded_ratio(run: ClaimRun) -> Outcome:
    """The pull back to the target ratio against PPO's clip: mean episode return while learning CartPole for 12,000 steps, 20 epochs
    per batch. The 4-epoch figures of both are in the remarks."""
    total = run.steps(12_000)
    base = run.each(lambda seed: _mean_return("ppo", seed, total))
    ours = run.each(lambda seed: _mean_return("bpo-bounded-ratio", seed, total))
    few = CONTROL.replace(epochs=4)
    for name in ("ppo", "bpo-bounded-ratio"):
        run.note(f"with 4 epochs, {name}: {np.mean([_mean_return(name, s, total, few) for s in run.seeds]):.1f}.")
    return compare(base, ours, "mean episode return over training", run)


@claim("trpo", base="the plain gradient under the same bound", seconds=180, seeds=5, stand_in="CartPole-v1 for MuJoCo",
       published="learns every locomotion task; the plain gradient and other fixed metrics are slower or fail (figure 4)")  # fmt: skip
def trpo(run: ClaimRun) -> Outcome:
    """The natural gradient against the plain one with everything else as it is: line search, bound of KL 0.01, critic and advantages,
    on 16,000 steps of CartPole; mean episode return while learning. Where the damping outweighs F the direction is g's and the
    step has length sqrt(2 radius / damping); the base is the best of three dampings. Remarks: one Adam step per batch at
    the best of three learning rates, whose critic takes one step, too."""
    total = run.steps(16_000)
    bed = ControlBed(environments=8, steps=128, minibatches=1, lr=1e-3)
    natural = {"update": {"part": "natural", "minibatches": 8}}
    ours = run.each(partial(_at, bed.replace(set=natural), total))
    plain = {
        damping: run.each(partial(_at, bed.replace(set=natural | {"update.damping": damping}), total))
        for damping in (1.0, 10.0, 100.0)
    }
    adam = {
        lr: run.each(
            partial(_at, bed.replace(epochs=1, set={"update.optimiser.lr": lr, "credit.optimiser.lr": lr}), total)
        )
        for lr in (3e-3, 1e-2, 3e-2)
    }
    for name, tried in (("plain gradient by damping", plain), ("Adam by learning rate", adam)):
        run.note(f"{name}: " + ", ".join(f"{at:g}: {np.mean(found):.1f}" for at, found in tried.items()) + ".")
    best = max(plain.values(), key=lambda found: float(np.mean(found)))
    return compare(best, ours, "mean episode return over training", run)
