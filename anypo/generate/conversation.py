"""Playing episodes: alternate the policy's text with the environment's replies, by appending tokens only.

All live episodes advance together, so every turn is one call of the engine whatever their number. Nothing that was sampled
is ever tokenised again: what the environment shows is encoded as a continuation and appended. A turn is what the policy says
between two replies of the environment; where the next turn is to see something else than what grew so far, the workspace
(`anypo.generate.workspace`) gives a new context, and with it another trajectory of the same episode begins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anypo.data.content import Media, Message, media, parted, readable
from anypo.data.kept import Kept
from anypo.data.records import (
    ACTION,
    CONTEXT,
    FAILED,
    FINISHED,
    OBSERVATION,
    SHOWN,
    STATES,
    TRUNCATED,
    Tokens,
    Trajectory,
    key_id,
)
from anypo.engine.base import Completion, Request, Sampler, Sampling
from anypo.errors import UserError
from anypo.generate.workspace import Accumulate, Turn, Workspace
from anypo.tasks import step_all
from anypo.tasks.base import Action, Problem, Reply, State, Task
from anypo.tasks.live import Live


@dataclass
class Stretch:
    """One sequence of tokens that grows by appending: what becomes a trajectory. `begun`: how many of its first pieces are the
    context that `shown` stands in for when sampling, where there is one; `turns` and `parts`: each turn's number and what was
    sampled in it."""

    tokens: list[np.ndarray] = field(default_factory=list)
    roles: list[np.ndarray] = field(default_factory=list)
    media: tuple[Media, ...] = ()
    shown: np.ndarray | None = None
    begun: int = 0
    turns: list[int] = field(default_factory=list)
    parts: list[Completion] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    keys: list[Mapping[str, int]] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    text: str = ""

    def append(self, tokens: np.ndarray, role: int) -> None:
        self.tokens.append(tokens)
        self.roles.append(np.full(len(tokens), role, dtype=np.int8))

    def seen(self) -> np.ndarray:
        """The tokens that the next one is drawn after."""
        return np.concatenate(self.tokens if self.shown is None else [self.shown, *self.tokens[self.begun :]])

    @property
    def length(self) -> int:
        own = sum(map(len, self.tokens))
        return own if self.shown is None else max(own, len(self.shown) + sum(map(len, self.tokens[self.begun :])))


@dataclass
class Episode:
    """One episode in progress.

    start: where it begins, if not at the beginning (a `State`, or whatever the environment's ``reset(start)`` understands). shown:
    messages put before the opening when sampling only.
    turn: number of the turn to come; `kept`: what of it has been decided already; `spent`: decisions since the policy's own turn
    began; `most`: bound on these where it differs from the sampling's. said: text put into the policy's mouth in the first turn; the
    opening's own, if its last message is the assistant's (`opening` leaves that message out).
    keep: whether the state before every turn is kept, for forks.
    """

    problem: Problem
    sample: int
    seed: tuple[int, ...]
    start: Any = None
    shown: tuple[Message, ...] = ()
    live: Live | None = None
    opening: tuple[Message, ...] = ()
    stretches: list[Stretch] = field(default_factory=lambda: [Stretch()])
    past: list[Turn] = field(default_factory=list)
    turn: int = 0
    kept: Completion | None = None
    spent: int = 0
    most: int | None = None
    said: str = ""
    saying: str = ""
    keep: bool = False
    finish: str = ""
    failed: str = ""

    @property
    def stretch(self) -> Stretch:
        """The one that grows now."""
        return self.stretches[-1]


def play(
    episodes: Sequence[Episode],
    task: Task,
    policy: Any,
    sampler: Sampler,
    sampling: Sampling,
    turns: int = 1,
    workspace: Workspace | None = None,
) -> list[Trajectory]:
    """Play every episode to its end (at most `turns` turns each) and return one scored trajectory of each, in order: the whole
    of it, or its last one where the workspace made several."""
    return [made[-1] for made in converse(episodes, task, policy, sampler, sampling, turns, workspace)]


def converse(
    episodes: Sequence[Episode],
    task: Task,
    policy: Any,
    sampler: Sampler,
    sampling: Sampling,
    turns: int = 1,
    workspace: Workspace | None = None,
) -> list[tuple[Trajectory, ...]]:
    """Play every episode to its end; its scored trajectories, in order (a single one unless the workspace makes contexts anew)."""
    known: dict[Hashable, np.ndarray] = {}
    for episode in episodes:
        episode.live = Live(task, told(episode.problem, policy))
        _open(episode, episode.live.reset(episode.start), task, policy, sampling, known)
    carry_on(episodes, task, policy, sampler, sampling, turns, workspace)
    keyed = not isinstance(workspace or Accumulate(), Accumulate)
    return [trajectories(episode, task, sampling, keyed) for episode in episodes]


def _open(
    episode: Episode,
    opening: tuple[Message, ...],
    task: Task,
    policy: Any,
    sampling: Sampling,
    known: dict[Hashable, np.ndarray],
) -> None:
    """Begin with the messages `opening`; `known`: the tokens of openings so far, because the rollouts of a group begin alike."""
    if not opening:
        raise UserError(
            f"task '{task.name}' shows no messages, which a language policy begins with; tasks that take actions instead of text "
            "need the generator 'environment_steps'"
        )
    whole = readable(opening, policy, f"task '{task.name}'")
    _begin(episode, _encoded(whole, policy, known), whole, policy, sampling)
    episode.opening, begun = parted(whole)
    episode.said = begun + episode.said
    if episode.stretch.length >= policy.context:
        raise UserError(
            f"a prompt of task '{task.name}' has {episode.stretch.length} tokens but the model's context is "
            f"{policy.context}; shorten the prompt or choose another model"
        )


def _encoded(messages: tuple[Message, ...], policy: Any, known: dict[Hashable, np.ndarray]) -> np.ndarray:
    """Tokens of an opening, int32 [L]; one of plain texts is encoded once."""
    if not all(isinstance(value, str) for message in messages for value in message.values()):
        return policy.encode(messages)
    key = tuple(tuple(message.items()) for message in messages)
    if key not in known:
        known[key] = policy.encode(messages)
    return known[key]


def _begin(
    episode: Episode, tokens: np.ndarray, messages: tuple[Message, ...], policy: Any, sampling: Sampling
) -> None:
    """The first tokens of a stretch, those of `messages`. What the episode is `shown` besides is left out where it does not fit."""
    stretch = episode.stretch
    stretch.append(tokens, CONTEXT)
    stretch.media, stretch.begun = media(messages), 1
    if episode.shown:
        try:
            seen = policy.encode((*episode.shown, *messages))
        except UserError:  # longer than the model's whole context
            return
        stretch.shown = seen if len(seen) + sampling.max_new <= policy.context else None


def carry_on(
    episodes: Sequence[Episode],
    task: Task,
    policy: Any,
    sampler: Sampler,
    sampling: Sampling,
    turns: int,
    workspace: Workspace | None = None,
) -> None:
    """Play open episodes on until all are over or have had their turns."""
    workspace = workspace or Accumulate()
    while live := [episode for episode in episodes if not episode.finish and episode.turn < turns]:
        fresh = sampler.generate([request(episode, sampling) for episode in live])
        take_turn(live, fresh, task, policy, sampling, workspace)
    for episode in episodes:
        episode.finish = episode.finish or TRUNCATED


def request(episode: Episode, sampling: Sampling) -> Request:
    """What is to be sampled for the turn to come, or for the rest of it."""
    tokens, key = episode.stretch.seen(), (*episode.seed, episode.turn)
    if episode.kept is not None:
        tokens = np.concatenate([tokens, episode.kept.tokens])
    begun = episode.spent + (0 if episode.kept is None else len(episode.kept.tokens))
    limit = episode.most or sampling.max_new
    if limit != sampling.max_new or begun:
        sampling = dataclasses.replace(sampling, max_new=max(1, limit - begun))
    return Request(tokens, sampling, key)


def take_turn(
    episodes: Sequence[Episode],
    fresh: Sequence[Completion],
    task: Task,
    policy: Any,
    sampling: Sampling,
    workspace: Workspace,
) -> None:
    """One turn of every episode, with what was sampled for it: the environments reply, and the episodes go on or end."""
    completions = [joined(episode.kept, completion) for episode, completion in zip(episodes, fresh)]
    texts = [policy.decode(completion.tokens) for completion in completions]
    heard = [text if episode.turn else episode.said + text for episode, text in zip(episodes, texts)]
    counts = [len(completion.tokens) for completion in completions]
    lives = [episode.live for episode in episodes if episode.live is not None]
    for episode, live in zip(episodes, lives):
        if episode.keep:
            episode.stretch.states.append(live.snapshot())
    replies = step_all([live.environment for live in lives], heard, counts, sampling.max_new)
    for episode, live, completion, text, said, reply in zip(episodes, lives, completions, texts, heard, replies):
        live.heard(Action(said, len(completion.tokens), sampling.max_new), reply)
        record(episode, completion, text, reply, task)
        episode.saying += said
        _end_or_go_on(episode, completion, reply, policy, sampling, workspace)
        episode.turn, episode.kept = episode.turn + 1, None


def record(episode: Episode, completion: Completion, text: str, reply: Reply, task: Task) -> None:
    """Add a turn, as it was sampled, and what it earned to the stretch that grows."""
    stretch = episode.stretch
    stretch.append(completion.tokens, ACTION)
    stretch.parts.append(completion)
    stretch.turns.append(episode.turn)
    stretch.text += text
    stretch.rewards.append(sum(task.weights.get(name, 0.0) * value for name, value in reply.rewards.items()))
    stretch.keys.append({name: key_id(value) for name, value in reply.keys.items()})


def _end_or_go_on(
    episode: Episode, completion: Completion, reply: Reply, policy: Any, sampling: Sampling, workspace: Workspace
) -> None:
    if reply.failed:
        episode.finish, episode.failed = FAILED, reply.failed
    elif completion.finish != "stop":
        episode.finish = completion.finish
    elif reply.truncated:
        episode.finish = TRUNCATED
    elif reply.done:
        episode.finish = FINISHED
    elif reply.append:
        _continue(episode, completion, reply.append, policy, sampling)
    else:
        shown = readable(reply.messages, policy, f"task '{episode.live.task.name}'" if episode.live else "the task")
        episode.past.append(Turn(episode.saying, shown))
        episode.saying, episode.spent = "", 0
        anew = workspace.context(episode.opening, episode.past)
        if anew is None:
            ended = bool(len(completion.tokens)) and int(completion.tokens[-1]) in ends(policy)
            following = policy.continue_with(shown, ended, history(episode))
            if _fits(episode, following, policy):
                episode.stretch.append(following, OBSERVATION)
                episode.stretch.media += media(shown)
        else:
            _begin_anew(episode, readable(anew, policy, f"the workspace '{workspace.part}'"), policy, sampling)


def _continue(episode: Episode, completion: Completion, text: str, policy: Any, sampling: Sampling) -> None:
    """Append the text inside the policy's own turn, of which `max_new` bounds all that is sampled."""
    following = words(policy, text)
    episode.saying += text
    episode.spent += len(completion.tokens)
    if episode.spent >= (episode.most or sampling.max_new):
        episode.finish = TRUNCATED
    elif _fits(episode, following, policy):
        episode.stretch.append(following, OBSERVATION)


def _fits(episode: Episode, following: np.ndarray, policy: Any) -> bool:
    """Whether there is room for more in the model's context; an episode without room is cut off."""
    if episode.stretch.length + len(following) >= policy.context:
        episode.finish = TRUNCATED
    return not episode.finish


def _begin_anew(episode: Episode, messages: tuple[Message, ...], policy: Any, sampling: Sampling) -> None:
    """The next turn in a context of its own. One that the model cannot hold costs this episode only."""
    try:
        tokens = policy.encode(messages)
    except UserError as error:
        episode.finish, episode.failed = FAILED, f"workspace: {error}"
        return
    if len(tokens) >= policy.context:
        episode.finish = TRUNCATED
        return
    episode.stretches.append(Stretch())
    _begin(episode, tokens, messages, policy, sampling)


def trajectories(episode: Episode, task: Task, sampling: Sampling, keyed: bool = False) -> tuple[Trajectory, ...]:
    """The immutable records of a finished episode, one for every stretch in which something was said. Each has the rewards of the
    whole episode; where there are several, the earlier ones are finished (or failed with the episode). `keyed`: whether they carry
    the key ``episode``."""
    said = [stretch for stretch in episode.stretches if stretch.parts]
    out = []
    for stretch in said:
        last = stretch is said[-1] or episode.finish == FAILED
        own = {"episode": episode.sample} if keyed else {}
        finish = episode.finish if last else FINISHED
        out.append(_trajectory(episode, stretch, task, sampling, finish, own))
    return tuple(out)


def _trajectory(
    episode: Episode, stretch: Stretch, task: Task, sampling: Sampling, finish: str, own: Mapping[str, int]
) -> Trajectory:
    assert episode.live is not None
    parts, rewards = stretch.parts, episode.live.rewards
    tokens, roles = np.concatenate(stretch.tokens), np.concatenate(stretch.roles)
    extra: dict[str, Any] = {"failed": episode.failed, "turn_rewards": tuple(stretch.rewards)}
    if stretch.states:
        extra[STATES] = tuple(stretch.states)
    return Trajectory(
        prompt=episode.problem.prompt,
        content=Tokens(tokens.astype(np.int32), roles, stretch.shown, stretch.media),
        logp=np.concatenate([part.logp for part in parts]),
        version=np.concatenate([part.version for part in parts]),
        entropy=_known(np.concatenate([part.entropy for part in parts])),
        log_mass=np.concatenate([part.log_mass for part in parts]),
        kept=Kept.joined([part.kept for part in parts], [len(part.tokens) for part in parts]),
        turn=np.concatenate([np.full(len(part.tokens), turn) for turn, part in zip(stretch.turns, parts)]),
        rewards=dict(rewards),
        weights=task.weights,
        reward=sum(weight * rewards.get(name, 0.0) for name, weight in task.weights.items()),
        finish=finish,
        text=stretch.text,
        temperature=sampling.temperature,
        sample=episode.sample,
        guidance="" if stretch.shown is None else SHOWN,
        extra=extra,
        keys={**own, **_keys(stretch)},
    )


def _keys(stretch: Stretch) -> dict[str, Any]:
    """The environment's keys as ids per decision, int64 [T]; -1 in turns without one."""
    lengths = [len(part.tokens) for part in stretch.parts]
    names = sorted({name for turn in stretch.keys for name in turn})
    return {name: np.repeat([turn.get(name, -1) for turn in stretch.keys], lengths).astype(np.int64) for name in names}


def words(policy: Any, text: str) -> np.ndarray:
    """Tokens of `text` inside an answer, without what ends it."""
    return np.asarray(policy.words(text) if hasattr(policy, "words") else policy.answer(text)[:-1])


def told(problem: Problem, policy: Any) -> Problem:
    """The problem, with what the policy's chat template opens in its turn, unless the problem itself has begun the turn."""
    opened = "" if parted(problem.messages)[1] else getattr(policy, "opened", "")
    return dataclasses.replace(problem, opened=opened)


def ends(policy: Any) -> frozenset[int]:
    """Tokens with which the policy ends its turn; that of its answers where it names none."""
    return policy.ends if hasattr(policy, "ends") else frozenset({int(policy.answer("")[-1])})


def ending(policy: Any) -> np.ndarray:
    """Tokens that end the policy's turn where it has said something already."""
    closing, last = np.asarray(policy.answer("")), ends(policy)
    return closing[next(at for at, token in enumerate(closing.tolist()) if token in last) :]


def history(episode: Episode) -> tuple[Message, ...]:
    """The messages before the policy's last turn, as far as they are known."""
    out = list(episode.opening)
    for turn in episode.past[:-1]:
        out += [{"role": "assistant", "content": turn.said}, *turn.shown]
    return tuple(out)


def joined(kept: Completion | None, fresh: Completion) -> Completion:
    """The decisions kept of a turn and the new ones as one completion."""
    if kept is None:
        return fresh

    def both(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.concatenate([old, new]).astype(np.asarray(new).dtype)

    return dataclasses.replace(
        fresh,
        tokens=both(kept.tokens, fresh.tokens),
        logp=both(kept.logp, fresh.logp),
        entropy=both(kept.entropy, fresh.entropy),
        log_mass=both(kept.log_mass, fresh.log_mass),
        kept=Kept.joined([kept.kept, fresh.kept], [len(kept.tokens), len(fresh.tokens)]),
        version=both(kept.version, fresh.version),
    )


def _known(column: np.ndarray) -> np.ndarray | None:
    """None where the engine could not tell (servers report no entropy)."""
    return None if np.isnan(column).any() else column
