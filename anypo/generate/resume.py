"""Continuing rollouts from a stored state: the primitive behind trees, re-rolled states and interventions (one-turn tasks)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anypo.data.records import CONTEXT, Tokens, Trajectory
from anypo.engine.base import Completion, Request, Sampling
from anypo.generate.base import World
from anypo.generate.conversation import Episode, _take_turn, trajectory
from anypo.tasks.base import Problem


@dataclass(frozen=True)
class Start:
    """A state to continue from: the first `cut` decisions of `seed` (None: the prompt itself). `key` makes the random numbers of
    the continuation its own. `shown`: messages put before the prompt when sampling only (exemplars, hints); what is trained on
    is the plain prompt. The remaining fields go into the resulting trajectory."""

    problem: Problem
    key: tuple[int, ...]
    seed: Trajectory | None = None
    cut: int = 0
    sample: int = 0
    parent: int = -1
    fork: int = -1
    guidance: str = ""
    shown: tuple[Mapping[str, str], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


def resume(starts: Sequence[Start], world: World, sampling: Sampling) -> list[Trajectory]:
    """One scored continuation of every start, in order. The decisions before the cut keep the log-probabilities, entropies and
    versions they were sampled with; `sampling.max_new` bounds the whole answer."""
    episodes, requests, prompts = [], [], []
    for start in starts:
        episode = Episode(start.problem, start.sample, start.key, world.task.environment(start.problem))
        assert episode.environment is not None
        opening = episode.environment.reset()
        episode.append(world.policy.encode(opening), CONTEXT)
        episodes.append(episode)
        seen = world.policy.encode((*start.shown, *opening)) if start.shown else episode.tokens[0]
        if len(seen) + sampling.max_new > world.policy.context:
            seen = episode.tokens[0]
        prompts.append(seen)
        tokens = np.concatenate([seen, decisions(start.seed)[: start.cut]])
        rest = dataclasses.replace(sampling, max_new=max(1, sampling.max_new - start.cut))
        requests.append(Request(tokens, rest, (*start.key, 0)))
    out = []
    for start, episode, seen, fresh in zip(starts, episodes, prompts, world.sampler.generate(requests)):
        _take_turn(episode, _joined(start, fresh), world.policy)
        done = trajectory(episode, world.task, sampling)
        if len(seen) != len(episode.tokens[0]):
            assert isinstance(done.content, Tokens)
            done = done.replace(content=dataclasses.replace(done.content, shown=seen))
        out.append(
            done.replace(
                parent=start.parent,
                fork=start.fork,
                guidance=start.guidance,
                extra={**done.extra, **start.extra},
            )
        )
    return out


def decisions(seed: Trajectory | None) -> np.ndarray:
    """The tokens the policy decided on, in order."""
    if seed is None:
        return np.zeros(0, dtype=np.int64)
    assert isinstance(seed.content, Tokens)
    return seed.content.tokens[seed.content.actions]


def _joined(start: Start, fresh: Completion) -> Completion:
    """The kept decisions and the new ones as one completion."""
    if start.seed is None or not start.cut:
        return fresh

    def both(old: np.ndarray | None, new: np.ndarray) -> np.ndarray:
        kept = np.zeros(start.cut) if old is None else np.asarray(old)[: start.cut]
        return np.concatenate([kept, new]).astype(np.asarray(new).dtype)

    seed = start.seed
    return dataclasses.replace(
        fresh,
        tokens=both(decisions(seed), fresh.tokens),
        logp=both(seed.logp, fresh.logp),
        entropy=both(seed.entropy, fresh.entropy),
        log_mass=both(seed.log_mass, fresh.log_mass),
        version=both(seed.version, fresh.version),
    )
