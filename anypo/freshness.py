"""Where an importance ratio cannot differ from 1, and every part that looks at it is the identity: decided from the algorithm,
before a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MORE = "set update.minibatches_per_epoch=4 or update.epochs=4"
OLDER = "set replay=delayed, so that data ages"
OTHERS = frozenset({"off_policy", "tempered", "shown", "demonstrations", "targets", "tag:demo", "tag:target"})
"""What parts provide whose decisions were not, or not all, sampled by the trained policy as the trainer sees it."""


def unmoved(algorithm: Any) -> str | None:
    """Why the policy is still the one of the step's start whenever its loss is taken, with the setting that would change that; None
    where it moves in between."""
    if algorithm.update.turns() == 1:
        return f"every batch is trained on in one optimiser step; {MORE}"
    if _one_group(algorithm) and getattr(algorithm.update, "epochs", 2) == 1:
        return "a step has one prompt, and prompts are not split between minibatches; set control.prompts=4 or update.epochs=4"
    return None


def _one_group(algorithm: Any) -> bool:
    """Whether every batch is one group for certain."""
    plain = algorithm.generate.part == "independent" and algorithm.replay.part in ("on_policy", "delayed")
    return plain and algorithm.control.prompts == 1 and not any(part.part == "scatter" for _, part in algorithm.walk())


def same_sampler(algorithm: Any) -> str | None:
    """Why every decision was sampled by the policy of the step's start, as the trainer sees it, with the setting that would change
    that; None where the sampler may be another policy, or nobody can know (a method that takes the sampler's log-probabilities for the
    old ones has its reasons)."""
    if not _exact(algorithm) or algorithm.engine.reuse_logp == "always" or _aged_windows(algorithm):
        return None
    return (
        f"the embedded engine samples with the very policy that is trained, and only this step's rollouts are; {OLDER}"
    )


def _exact(algorithm: Any, age: bool = False) -> bool:
    """Whether what was sampled has the trainer's own log-probabilities under the weights of its step; `age`: of an earlier one."""
    provided = frozenset().union(*(part.provided() for _, part in algorithm.walk()))
    engine = algorithm.engine
    taking_turns = engine.part == "local" and engine.pace.part == "synchronous"
    return taking_turns and not provided & (OTHERS - {"off_policy"} if age else OTHERS)


def _aged_windows(algorithm: Any) -> bool:
    """Whether decisions of earlier steps are trained on together with this step's window."""
    parts = [part for _, part in algorithm.walk()]
    return any("windows" in p.provided() for p in parts) and not any("windows" in p.required() for p in parts)


def always_one(numerator: str, denominator: str, algorithm: Any) -> str | None:
    """Why the ratio between two policies (``current``, ``old``, ``behaviour``, ``ref``) is 1 for certain; None where it may not be."""
    pair = {numerator, denominator}
    if len(pair) == 1:
        return f"it divides the {numerator} policy by itself; set another numerator or denominator"
    if "ref" in pair:
        return _sampler_kept(algorithm) if pair == {"ref", "behaviour"} else None
    reused = getattr(algorithm.engine, "reuse_logp", "") == "always"
    if pair == {"old", "behaviour"} and reused:
        return "engine.reuse_logp=always takes the sampler's log-probabilities for the old ones; set engine.reuse_logp=exact"
    moved = numerator == "current" and unmoved(algorithm) is None
    aged = (denominator == "behaviour" or reused) and same_sampler(algorithm) is None
    if moved or aged:
        return None
    return same_sampler(algorithm) if denominator == "behaviour" else unmoved(algorithm)


def _sampler_kept(algorithm: Any) -> str | None:
    """Why the reference gives every decision the very log-probability it was sampled with; None where it may differ."""
    remembers = getattr(getattr(algorithm.update, "reference", None), "remembers", False)
    if not remembers or not _exact(algorithm, age=True):
        return None
    return (
        "the embedded engine computes what it samples as the trainer does, and the reference remembers the weights that sampled; set "
        "engine=remote, whose numbers differ"
    )


def ratios(part: Any, algorithm: Any) -> Iterator[Any]:
    """The ratios that a trust region is handed: those of the objectives that hold it."""
    return (owner.ratio for _, owner in algorithm.walk() if getattr(owner, "trust", None) is part)


def idle(part: Any, algorithm: Any) -> str | None:
    """Why a trust region sees ratios of exactly 1 only; None where some may differ."""
    reasons = [ratio.certain(algorithm) for ratio in ratios(part, algorithm)]
    if not reasons or None in reasons:
        return None
    if algorithm.update.turns() == 1 and reasons[0] == unmoved(algorithm):
        return f"one update on fresh data leaves every ratio at 1, which is no fault; to have it act, {MORE}"
    return f"every ratio is exactly 1, because {reasons[0]}"
