"""The circumstances: on the exact bed, and with a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anypo.algorithm import Algorithm
from anypo.errors import UserError, unknown
from anypo.exact.bed import Testbed
from anypo.replay import Delayed, OnPolicy
from anypo.update import GradientUpdate

BED = Testbed(kind="linear", vocabulary=5, horizon=5, prompts=8, batch=8, group=4)
"""Eight questions of falling ease, answers of up to five of five tokens, features that questions share; 32 rollouts a step."""


@dataclass(frozen=True)
class Regime:
    """One circumstance. bed: what is other about the exact bed. changes: to an algorithm, with a language model, too. updates:
    optimiser steps on every batch of rollouts. model: whether a language model can be put into it."""

    name: str
    what: str
    bed: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    updates: int = 1
    model: bool = True

    def put(self, algorithm: Algorithm) -> Algorithm:
        """The algorithm under this circumstance, whatever it would do by itself: how often it updates on its rollouts, how many
        it takes, how long they wait. `UserError` where it takes no gradient steps."""
        if not isinstance(algorithm.update, GradientUpdate):
            raise UserError(
                f"'{algorithm.name}' takes no gradient steps (update={algorithm.update.part}), so it has no regime"
            )
        if isinstance(algorithm.replay, Delayed):
            algorithm = algorithm.replace(replay=OnPolicy())
        steps = {"update.epochs": self.updates, "update.minibatches_per_epoch": 1}
        return algorithm.set(steps | dict(self.changes))


REGIMES: Mapping[str, Regime] = {
    regime.name: regime
    for regime in (
        Regime("fresh", "one update on fresh rollouts"),
        Regime("reuse", "eight updates on every batch of rollouts", {"old": "sampler"}, updates=8),
        Regime("stale", "rollouts sixteen updates old", {"lag": 16, "old": "sampler"}, model=False),
        Regime("sparse", "longer answers from more tokens, rarely right", {"vocabulary": 6, "horizon": 6}),
        Regime("small", "two rollouts a question, twice as many questions", {"batch": 16, "group": 2}),
        Regime("mismatch", "a sampler whose logits are off by normal noise of 0.7", {"noise": 0.7}, model=False),
        Regime(
            "long", "answers of 64 tokens, rewarded by the share that is right",
            {"graph": "chain", "horizon": 64, "vocabulary": 8, "reward": "graded"}, model=False,
        ),
    )
}  # fmt: skip


def chosen(names: str) -> tuple[Regime, ...]:
    """The regimes in a comma-separated list; ``all`` for every one. `UserError` for an unknown name."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if wanted == ["all"]:
        return tuple(REGIMES.values())
    for name in wanted:
        if name not in REGIMES:
            raise unknown("regime", name, (*REGIMES, "all"))
    if not wanted:
        raise UserError(f"--regime names one or more of: all, {', '.join(REGIMES)}")
    return tuple(REGIMES[name] for name in dict.fromkeys(wanted))


def bed_of(regime: Regime, rate: float) -> Testbed:
    """The exact bed under a circumstance, at a learning rate (the critic's, too)."""
    return BED.replace(lr=rate, critic_lr=rate, **regime.bed)


def fitting(algorithm: Algorithm, regimes: Sequence[Regime]) -> dict[str, str]:
    """Why the algorithm cannot be put into a regime, by its name; empty where it can be put into all."""
    out = {}
    for regime in regimes:
        try:
            bed_of(regime, 0.1).adapt(regime.put(algorithm)).check()
        except UserError as error:
            out[regime.name] = str(error)
    return out


__all__ = ["BED", "REGIMES", "Regime", "bed_of", "chosen", "fitting"]
