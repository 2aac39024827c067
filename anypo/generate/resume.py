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
from anypo.tasks import step_all
from anypo.tasks.base import Problem


@dataclass(frozen=True)
class Start:
    """A state to continue from: the first `cut` decisions of `seed` (None: the prompt itself). `key` makes the random
    numbers of the continuation its own. `shown`: messages put before the prompt when sampling only (exemplars, hints);
    what is trained on is the plain prompt. `said`: text already put into the policy's mouth, given as context and never
    trained on. `most`: bound on the whole answer's decisions in the place of the sampling's. The remaining fields go
    into the trajectory."""

    problem: Problem
    key: tuple[int, ...]
    seed: Trajectory | None = None
    cut: int = 0
    sample: int = 0
    parent: int = -1
    fork: int = -1
    guidance: str = ""
    shown: tuple[Mapping[str, str], ...] = ()
    said: str = ""
    most: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def resume(starts: Sequence[Start], world: World, sampling: Sampling) -> list[Trajectory]:
    """One scored continuation of every start, in order. The decisions before the cut keep the log-probabilities, entropies and
    versions they were sampled with; `sampling.max_new` bounds the whole answer."""
    requests = []
    for start in starts:
        limit = start.most or sampling.max_new
        seen = np.concatenate([prompt_shown(start, world, limit), decisions(start.seed)[: start.cut]])
        rest = dataclasses.replace(sampling, max_new=max(1, limit - start.cut))
        requests.append(Request(seen, rest, (*start.key, 0)))
    fresh = world.sampler.generate(requests)
    return score(starts, [_joined(start, c) for start, c in zip(starts, fresh)], world, sampling)


def prompt_shown(start: Start, world: World, limit: int) -> np.ndarray:
    """Tokens before the policy's own: what is `shown` (unless it does not fit), the prompt, and what was already `said`."""
    opening = start.problem.messages
    said = words(world.policy, start.said) if start.said else np.zeros(0, dtype=np.int64)
    for messages in ((*start.shown, *opening), opening):
        seen = np.concatenate([world.policy.encode(messages), said])
        if len(seen) + limit <= world.policy.context:
            break
    return seen


def score(
    starts: Sequence[Start], completions: Sequence[Completion], world: World, sampling: Sampling
) -> list[Trajectory]:
    """The finished, scored trajectories whose decisions are `completions`, in order."""
    episodes, environments, texts = [], [], []
    for start, completion in zip(starts, completions):
        environment = world.task.environment(start.problem)
        episode = Episode(start.problem, start.sample, start.key, environment)
        episode.append(world.policy.encode(environment.reset()), CONTEXT)
        if start.said:
            episode.append(words(world.policy, start.said), CONTEXT)
        episodes.append(episode)
        environments.append(environment)
        texts.append(world.policy.decode(completion.tokens))
    heard = [start.said + text for start, text in zip(starts, texts)]
    replies = step_all(environments, heard, [len(c.tokens) for c in completions], sampling.max_new)
    out = []
    for start, episode, completion, text, reply in zip(starts, episodes, completions, texts, replies):
        _take_turn(episode, completion, text, reply, world.task, world.policy)
        out.append(_marked(start, trajectory(episode, world.task, sampling), world, sampling))
    return out


def _marked(start: Start, done: Trajectory, world: World, sampling: Sampling) -> Trajectory:
    """The trajectory with what its start says about it."""
    if start.shown:
        assert isinstance(done.content, Tokens)
        shown = prompt_shown(start, world, start.most or sampling.max_new)
        done = done.replace(content=dataclasses.replace(done.content, shown=shown))
    extra = {**done.extra, **start.extra}
    return done.replace(parent=start.parent, fork=start.fork, guidance=start.guidance, extra=extra)


def words(policy: Any, text: str) -> np.ndarray:
    """Tokens of `text` inside an answer, without an end-of-sequence token."""
    return np.asarray(policy.answer(text))[:-1]


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
