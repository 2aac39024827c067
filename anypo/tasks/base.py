"""Tasks are environments: a question with a verifier is the one-step case of reset/step."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np

from anypo.data.content import Message
from anypo.data.records import prompt_id


@dataclass(frozen=True)
class Problem:
    """One item of a task. `messages` is a chat (role/content mappings, see `anypo.data.content`); `solution` a worked answer text
    for supervised warm starts (empty if the task has none); `prompt` the stable id of the question (see
    `anypo.data.records.prompt_id`); `opened` what the policy's chat template has written into its turn before it speaks (``<think>``,
    say), as far as the generator knows (None: nobody said); `place` where it was read, as messages name it; `source` the source of a
    mixture that posed it; `hints` what may be shown to help, each a whole hint, from the least telling to the most (none says the
    answer)."""

    prompt: int
    messages: tuple[Message, ...]
    answer: str = ""
    solution: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    opened: str | None = None
    place: str = field(default="", compare=False)
    source: str = field(default="", compare=False)
    hints: tuple[str, ...] = ()

    @classmethod
    def ask(cls, question: str, answer: str = "", solution: str = "", **metadata: Any) -> Self:
        """A question in one user message; the id is that of its text."""
        return cls(prompt_id(question), ({"role": "user", "content": question},), answer, solution, metadata)


@dataclass(frozen=True)
class Action:
    """What the policy did: a text of `tokens` tokens out of at most `limit` (only length rewards need them), or an `array`."""

    text: str = ""
    tokens: int = 0
    limit: int = 0
    array: np.ndarray | None = None


@dataclass(frozen=True)
class Reply:
    """What an environment returns for one action.

    rewards: named components of this turn. done: whether the episode is over. messages: what is shown next (empty when done).
    failed: why a verifier broke or timed out ('' when it did not). truncated: the episode is cut off here, though not at its end.
    append: in the place of messages, text that goes on inside the policy's own turn (a tool's output), after which the policy
    goes on writing. observation: what is seen next, in tasks of arrays. keys: ids of the turn that this replies to (the state it
    was taken in, the kind of action it was), from which credit makes groups: integers, or anything hashable with a stable `repr`.
    """

    rewards: Mapping[str, float]
    done: bool = True
    messages: tuple[Message, ...] = ()
    failed: str = ""
    truncated: bool = False
    append: str = ""
    observation: np.ndarray | None = None
    keys: Mapping[str, Hashable] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """Where an episode stands, so that it can go on from there (`anypo.tasks.live.Live` takes and restores it).

    own: what the environment's `snapshot` returned. Where it has none, the `actions` taken since it was reset to `start` are
    replayed. rewards: components earned so far.
    """

    actions: tuple[Action, ...] = ()
    own: Any = None
    start: Any = None
    rewards: Mapping[str, float] = field(default_factory=dict)


class Environment(Protocol):
    """One episode of one problem. What follows is all that is needed; an environment may have more:

    ``step(action)`` with a single parameter gets the whole `Action`. ``reset(start=None)`` can begin elsewhere than at the beginning:
    at what its own ``snapshot()`` returned (plain data: numbers, texts, arrays and containers of these), or at whatever else
    control asks for; it returns what is shown there. Without ``snapshot`` an episode is restored by replaying its actions, so the
    environment must be deterministic; one that is not says ``restores = False``, best on the task, where it is read before
    anything is loaded.
    """

    def reset(self) -> tuple[Message, ...]:
        """The opening messages."""
        ...

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        """Take the policy's text as the action; `tokens` it has, of at most `limit` (only length rewards need them)."""
        ...


def restores(owner: Any) -> bool:
    """Whether a task's (or an environment's) episodes can be taken up again where they stood."""
    return bool(getattr(owner, "restores", True))


def worked(task: Any) -> bool:
    """Whether some of a task's first training problems have a worked solution."""
    return any(task.train(index).solution for index in range(min(len(task), 64)))


def hinted(task: Any) -> bool:
    """Whether some of a task's first training problems have hints."""
    return any(task.train(index).hints for index in range(min(len(task), 64)))


class Task(Protocol):
    """Problems with a way to act on them. Train and held-out problems come from disjoint seeds or files.

    A task may have a `scorer` (an `anypo.scoring.Scorer`, or its name) that says how a policy is scored on it and in which
    unit; without one it is the accuracy on held-out problems. A task whose problems are in memory says ``stored = True``: all of
    them are looked at before a run begins, not a few. A task whose episodes cannot be taken up again where they stood
    has the attribute ``restores = False`` (see `Environment`). One that knows how many turns an episode can take says so in `turns`: a
    run that plays fewer, or wants more, is told.
    """

    name: str
    #: reward components and their weights in the scalar reward
    weights: Mapping[str, float]
    #: the component that says right or wrong (evaluation accuracy is the mean of component >= 1 - 1e-9)
    outcome: str

    def __len__(self) -> int:
        """Number of training problems."""
        ...

    def train(self, index: int) -> Problem: ...

    def heldout(self, index: int) -> Problem: ...

    @property
    def n_heldout(self) -> int: ...

    def environment(self, problem: Problem) -> Environment: ...

    def describe(self) -> dict[str, Any]:
        """Provenance: source, configuration, verifier identity, seeds, content hashes."""
        ...
