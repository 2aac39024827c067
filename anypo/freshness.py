"""Where an importance ratio cannot differ from 1, and every part that looks at it is the identity: decided from the algorithm,
before a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MORE = "set update.minibatches_per_epoch=4 or update.epochs=4"
OLDER = "set replay=delayed, so that data ages"


def unmoved(algorithm: Any) -> str | None:
    """Why the policy is still the one of the step's start whenever its loss is taken, with the setting that would change that; None
    where it moves in between."""
    return f"every batch is trained on in one optimiser step; {MORE}" if algorithm.update.turns() == 1 else None


def same_sampler(algorithm: Any) -> str | None:
    """Why every decision was sampled by the policy of the step's start, as the trainer sees it, with the setting that would change
    that; None where the sampler may be another policy, or nobody can know (a method that takes the sampler's log-probabilities for the
    old ones has its reasons)."""
    provided = frozenset().union(*(part.provided() for _, part in algorithm.walk()))
    engine = algorithm.engine
    exact = engine.part == "local" and engine.pace.part == "synchronous" and engine.reuse_logp != "always"
    if not exact or provided & {"off_policy", "tempered", "shown"}:
        return None
    return (
        f"the embedded engine samples with the very policy that is trained, and only this step's rollouts are; {OLDER}"
    )


def always_one(numerator: str, denominator: str, algorithm: Any) -> str | None:
    """Why the ratio between two policies (``current``, ``old``, ``behaviour``) is 1 for certain; None where it may not be."""
    if "ref" in (numerator, denominator):
        return None
    moved = numerator == "current" and unmoved(algorithm) is None
    aged = (denominator == "behaviour" or getattr(algorithm.engine, "reuse_logp", "") == "always") and same_sampler(
        algorithm
    ) is None
    if moved or aged:
        return None
    return same_sampler(algorithm) if denominator == "behaviour" else unmoved(algorithm)


def ratios(part: Any, algorithm: Any) -> Iterator[Any]:
    """The ratios that a trust region is handed: those of the objectives that hold it."""
    return (owner.ratio for _, owner in algorithm.walk() if getattr(owner, "trust", None) is part)


def idle(part: Any, algorithm: Any) -> str | None:
    """Why a trust region sees ratios of exactly 1 only; None where some may differ."""
    reasons = [ratio.certain(algorithm) for ratio in ratios(part, algorithm)]
    if not reasons or None in reasons:
        return None
    return f"every ratio is exactly 1, because {reasons[0]}"
