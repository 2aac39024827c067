"""Continuing rollouts from a stored state, at any decision of any turn: the primitive behind trees, re-rolled states and
interventions. The environment is put back to where it stood before that turn (`anypo.tasks.live`)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anypo.data.content import Message, media, parted, readable
from anypo.data.records import CANCELLED, CONTEXT, FINISHED, STATES, TRUNCATED, Tokens, Trajectory
from anypo.engine.base import Completion, Request, Sampling
from anypo.generate.base import World
from anypo.generate.conversation import Episode, carry_on, joined, record, take_turn, told, trajectories, words
from anypo.generate.workspace import Accumulate
from anypo.tasks.base import Action, Problem, Reply, State
from anypo.tasks.live import Live


@dataclass(frozen=True)
class Start:
    """A state to continue from: the first `cut` decisions of `seed` (None: the beginning, or the environment's `state`). `key` makes
    the random numbers of the continuation its own. `shown`: messages put before the prompt when sampling only (exemplars,
    hints), left out where they do not fit; what is trained on is the plain prompt. `said`: text already put into the policy's mouth,
    given as context and never trained on. `most`: bound on the decisions of the turn that is continued, in the place of the
    sampling's. The remaining fields go into the trajectory."""

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
    state: Any = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def turn(self) -> int:
        """The turn that is continued."""
        if self.seed is None or self.seed.turn is None or not self.cut:
            return 0
        return int(self.seed.turn[min(self.cut, len(self.seed) - 1)])


def resume(
    starts: Sequence[Start], world: World, sampling: Sampling, turns: int = 1, keep: bool = False
) -> list[Trajectory]:
    """One scored continuation of every start, in order, of at most `turns` turns with those before the cut. The decisions before the
    cut keep the log-probabilities, entropies and versions they were sampled with; `sampling.max_new` bounds every turn. `keep`:
    whether the results are to be continued themselves (needed for environments that store their own state)."""
    episodes = [begun(start, world, sampling, keep) for start in starts]
    carry_on(episodes, world.task, world.policy, world.sampler, sampling, turns)
    return [_marked(start, trajectories(e, world.task, sampling)[-1]) for start, e in zip(starts, episodes)]


def score(
    starts: Sequence[Start], completions: Sequence[Completion], world: World, sampling: Sampling
) -> list[Trajectory]:
    """The finished, scored one-turn trajectories whose decisions are `completions`, in order."""
    made = ended([begun(start, world, sampling) for start in starts], completions, world, sampling)
    return [_marked(start, trajectory) for start, trajectory in zip(starts, made)]


def ended(
    episodes: Sequence[Episode], completions: Sequence[Completion], world: World, sampling: Sampling
) -> list[Trajectory]:
    """The scored trajectories of episodes whose last turn `completions` are, in order."""
    take_turn(episodes, completions, world.task, world.policy, sampling, Accumulate())
    for episode in episodes:
        episode.finish = episode.finish or TRUNCATED
    return [trajectories(episode, world.task, sampling)[-1] for episode in episodes]


def given_up(
    episodes: Sequence[Episode], completions: Sequence[Completion], world: World, sampling: Sampling
) -> list[Trajectory]:
    """The trajectories of episodes whose last turn was given up with what `completions` say: cancelled, and scored by nobody."""
    for episode, completion in zip(episodes, completions):
        record(episode, completion, world.policy.decode(completion.tokens), Reply({}), world.task)
        episode.finish = CANCELLED
    return [trajectories(episode, world.task, sampling)[-1] for episode in episodes]


def finished(
    starts: Sequence[Start], kept: Sequence[Completion | None], world: World, sampling: Sampling
) -> list[Trajectory]:
    """One scored one-turn trajectory of every start, in order, that begins with the decisions `kept` (None: none); what ended there,
    or leaves no room in the model's context, is not sampled on."""
    requests = {}
    for place, (start, said) in enumerate(zip(starts, kept)):
        own = np.zeros(0, dtype=np.int64) if said is None else said.tokens
        if (said is None or said.finish != "stop") and len(own) < sampling.max_new:
            seen = np.concatenate([prompt_shown(start, world, sampling.max_new), own])
            if len(own) and len(seen) >= world.policy.context:
                continue
            left = dataclasses.replace(sampling, max_new=sampling.max_new - len(own))
            requests[place] = Request(seen, left, (*start.key, start.turn))
    fresh = dict(zip(requests, world.sampler.generate(list(requests.values()))))
    whole = [joined(said, fresh[place]) if place in fresh else said for place, said in enumerate(kept)]
    return score(starts, [completion for completion in whole if completion is not None], world, sampling)


def prompt_shown(start: Start, world: World, limit: int, opening: Sequence[Message] | None = None) -> np.ndarray:
    """Tokens before the policy's own: what is `shown` (unless it does not fit), the opening (by default the problem's), and what was
    already `said`."""
    opening = start.problem.messages if opening is None else opening
    said = words(world.policy, start.said) if start.said else np.zeros(0, dtype=np.int64)
    for messages in ((*start.shown, *opening), opening):
        seen = np.concatenate([world.policy.encode(messages), said])
        if len(seen) + limit <= world.policy.context:
            break
    return seen


def begun(start: Start, world: World, sampling: Sampling, keep: bool = False) -> Episode:
    """The episode as it stood before the decision `start.cut`."""
    live = Live(world.task, told(start.problem, world.policy))
    episode = Episode(start.problem, start.sample, start.key, live=live, most=start.most, said=start.said, keep=keep)
    stretch, turn = episode.stretch, start.turn
    shown = readable(live.reset(_state(start, world, sampling)), world.policy, f"task '{world.task.name}'")
    episode.opening, opened = parted(shown)
    if turn:
        assert start.seed is not None
        _retrace(episode, start.seed, turn, world)
        if start.shown:
            stretch.shown = prompt_shown(start, world, start.most or sampling.max_new)
            if stretch.length + (start.most or sampling.max_new) > world.policy.context:
                stretch.shown = start.seed.content.shown  # type: ignore[union-attr]
    else:
        episode.said = opened + episode.said
        stretch.append(world.policy.encode(shown), CONTEXT)
        stretch.media = media(shown)
        if start.said:
            stretch.append(words(world.policy, start.said), CONTEXT)
        stretch.begun = len(stretch.tokens)
        if start.shown:
            stretch.shown = prompt_shown(start, world, start.most or sampling.max_new, shown)
    if start.seed is not None and start.cut:
        episode.kept = _decided(start.seed, first_decision(start.seed, turn), start.cut)
    return episode


def _state(start: Start, world: World, sampling: Sampling) -> Any:
    """Where the environment stood before the turn that is continued: as it was kept, or after the actions so far."""
    seed, turn = start.seed, start.turn
    if seed is not None and STATES in seed.extra:
        return seed.extra[STATES][turn]
    if seed is None or not turn:
        return start.state
    said = [decisions(seed)[begin:end] for begin, end in _spans(seed, turn)]
    texts = [world.policy.decode(tokens) for tokens in said]
    texts[0] = parted(start.problem.messages)[1] + start.said + texts[0]
    return State(
        tuple(Action(text, len(tokens), sampling.max_new) for text, tokens in zip(texts, said)), start=start.state
    )


def _spans(seed: Trajectory, turn: int) -> list[tuple[int, int]]:
    """The first decision of every turn before `turn`, and that after its last."""
    return list(itertools.pairwise(first_decision(seed, number) for number in range(turn + 1)))


def _retrace(episode: Episode, seed: Trajectory, turn: int, world: World) -> None:
    """Take over the turns before `turn` as they are recorded in the seed."""
    content = seed.content
    assert isinstance(content, Tokens)
    stretch, at = episode.stretch, content.actions
    edges = [0, int(at[0]), int(at[first_decision(seed, turn)])]
    for begin, end in itertools.pairwise(edges):
        stretch.tokens.append(content.tokens[begin:end])
        stretch.roles.append(content.roles[begin:end])
    stretch.shown, stretch.begun, stretch.media = content.shown, 1, content.media
    for number, (begin, end) in enumerate(_spans(seed, turn)):
        stretch.text += world.policy.decode(decisions(seed)[begin:end])
        stretch.parts.append(_decided(seed, begin, end))
        stretch.turns.append(number)
        stretch.keys.append({name: int(np.broadcast_to(ids, len(seed))[begin]) for name, ids in seed.keys.items()})
    stretch.rewards = list(seed.extra["turn_rewards"][:turn])
    stretch.states = list(seed.extra.get(STATES, ())[:turn])
    episode.turn = turn


def first_decision(seed: Trajectory, turn: int) -> int:
    """The first decision of a turn (the number of decisions, when there is no such turn)."""
    return 0 if seed.turn is None else int(np.searchsorted(seed.turn, turn))


def _decided(seed: Trajectory, begin: int, end: int) -> Completion:
    """Decisions `begin` to `end` of a rollout as they were sampled."""

    def piece(column: np.ndarray | None) -> np.ndarray:
        return np.zeros(end - begin) if column is None else np.asarray(column)[begin:end]

    return Completion(
        tokens=decisions(seed)[begin:end],
        logp=piece(seed.logp),
        entropy=piece(seed.entropy),
        log_mass=piece(seed.log_mass),
        version=piece(seed.version),
        finish=FINISHED,
        kept=None if seed.kept is None else seed.kept.part(begin, end),
    )


def _marked(start: Start, done: Trajectory) -> Trajectory:
    """The trajectory with what its start says about it."""
    extra = {**done.extra, **start.extra}
    return done.replace(parent=start.parent, fork=start.fork, guidance=start.guidance, extra=extra)


def decisions(seed: Trajectory | None) -> np.ndarray:
    """The tokens the policy decided on, in order."""
    if seed is None:
        return np.zeros(0, dtype=np.int64)
    assert isinstance(seed.content, Tokens)
    return seed.content.tokens[seed.content.actions]
