"""Playing episodes: alternate the policy's text with the environment's messages, by appending tokens only.

All live episodes advance together, so every turn is one call of the engine whatever their number. Nothing that was sampled
is ever tokenised again: the environment's messages are encoded as a continuation and appended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anypo.data.records import ACTION, CONTEXT, FAILED, OBSERVATION, SHOWN, TRUNCATED, Tokens, Trajectory
from anypo.engine.base import Completion, Request, Sampler, Sampling
from anypo.errors import UserError
from anypo.tasks import step_all
from anypo.tasks.base import Environment, Problem, Reply, Task


@dataclass
class Episode:
    """One conversation in progress. `start`: the state its environment begins in (None: its own beginning). `shown`: messages put
    before the opening when sampling only; `seen` are then the tokens that the sampler had in the place of the opening's."""

    problem: Problem
    sample: int
    seed: tuple[int, ...]
    environment: Environment | None = None
    start: Any = None
    shown: tuple[Mapping[str, str], ...] = ()
    seen: np.ndarray | None = None
    tokens: list[np.ndarray] = field(default_factory=list)
    roles: list[np.ndarray] = field(default_factory=list)
    parts: list[Completion] = field(default_factory=list)
    rewards: dict[str, float] = field(default_factory=dict)
    turn_rewards: list[float] = field(default_factory=list)
    text: str = ""
    finish: str = ""
    failed: str = ""

    def append(self, tokens: np.ndarray, role: int) -> None:
        self.tokens.append(tokens)
        self.roles.append(np.full(len(tokens), role, dtype=np.int8))

    @property
    def context(self) -> list[np.ndarray]:
        """What the sampler conditions on, in pieces."""
        return self.tokens if self.seen is None else [self.seen, *self.tokens[1:]]

    @property
    def length(self) -> int:
        return max(sum(map(len, self.tokens)), sum(map(len, self.context)))


def play(
    episodes: Sequence[Episode],
    task: Task,
    policy: object,
    sampler: Sampler,
    sampling: Sampling,
    turns: int = 1,
) -> list[Trajectory]:
    """Play every episode to its end (at most `turns` turns each) and return the scored trajectories, in order."""
    for episode in episodes:
        episode.environment = task.environment(episode.problem)
        _open(episode, policy, sampling)
        if episode.length >= policy.context:  # type: ignore[attr-defined]
            raise UserError(
                f"a prompt of task '{task.name}' has {episode.length} tokens but the model's context is "
                f"{policy.context}; shorten the prompt or choose another model"  # type: ignore[attr-defined]
            )
    live = list(episodes)
    for turn in range(turns):
        if not live:
            break
        completions = sampler.generate([Request(np.concatenate(e.context), sampling, (*e.seed, turn)) for e in live])
        texts = [policy.decode(completion.tokens) for completion in completions]  # type: ignore[attr-defined]
        counts = [len(completion.tokens) for completion in completions]
        environments = [e.environment for e in live if e.environment is not None]
        replies = step_all(environments, texts, counts, sampling.max_new)
        for episode, completion, text, reply in zip(live, completions, texts, replies):
            _take_turn(episode, completion, text, reply, task, policy)
        live = [episode for episode in live if not episode.finish]
    for episode in live:
        episode.finish = TRUNCATED
    return [trajectory(episode, task, sampling) for episode in episodes]


def _open(episode: Episode, policy: Any, sampling: Sampling) -> None:
    """Begin the environment, and with it the tokens. What is `shown` is left out where it does not fit."""
    environment: Any = episode.environment
    opening = environment.reset() if episode.start is None else environment.reset(episode.start)
    episode.append(policy.encode(opening), CONTEXT)
    if episode.shown:
        try:
            seen = policy.encode((*episode.shown, *opening))
        except UserError:  # longer than the model's whole context
            return
        episode.seen = seen if len(seen) + sampling.max_new <= policy.context else None


def _take_turn(episode: Episode, completion: Completion, text: str, reply: Reply, task: Task, policy: object) -> None:
    episode.append(completion.tokens, ACTION)
    episode.parts.append(completion)
    episode.text += text
    for name, value in reply.rewards.items():
        episode.rewards[name] = episode.rewards.get(name, 0.0) + value
    episode.turn_rewards.append(sum(task.weights.get(name, 0.0) * value for name, value in reply.rewards.items()))
    if reply.failed:
        episode.finish, episode.failed = FAILED, reply.failed
    elif completion.finish != "stop":
        episode.finish = completion.finish
    elif reply.done:
        episode.finish = "stop"
    else:
        following = policy.continue_with(reply.messages)  # type: ignore[attr-defined]
        if episode.length + len(following) >= policy.context:  # type: ignore[attr-defined]
            episode.finish = TRUNCATED
        else:
            episode.append(following, OBSERVATION)


def trajectory(episode: Episode, task: Task, sampling: Sampling) -> Trajectory:
    """The immutable record of a finished episode."""
    parts = episode.parts
    tokens, roles = np.concatenate(episode.tokens), np.concatenate(episode.roles)
    return Trajectory(
        prompt=episode.problem.prompt,
        content=Tokens(tokens.astype(np.int32), roles, episode.seen),
        logp=np.concatenate([part.logp for part in parts]),
        version=np.concatenate([part.version for part in parts]),
        entropy=_known(np.concatenate([part.entropy for part in parts])),
        log_mass=np.concatenate([part.log_mass for part in parts]),
        turn=np.concatenate([np.full(len(part.tokens), turn) for turn, part in enumerate(parts)]),
        rewards=dict(episode.rewards),
        reward=sum(weight * episode.rewards.get(name, 0.0) for name, weight in task.weights.items()),
        finish=episode.finish,
        text=episode.text,
        temperature=sampling.temperature,
        sample=episode.sample,
        guidance=SHOWN if episode.seen is not None else "",
        extra={"failed": episode.failed, "turn_rewards": tuple(episode.turn_rewards)},
    )


def _known(column: np.ndarray) -> np.ndarray | None:
    """None where the engine could not tell (servers report no entropy)."""
    return None if np.isnan(column).any() else column
