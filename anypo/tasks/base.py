"""Tasks are environments: a question with a verifier is the one-step case of reset/step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from anypo.data.records import prompt_id


@dataclass(frozen=True)
class Problem:
    """One item of a task. `messages` is a chat (role/content mappings); `solution` a worked answer text for supervised
    warm starts (empty if the task has none); `prompt` the stable id of the question (see `anypo.data.records.prompt_id`)."""

    prompt: int
    messages: tuple[Mapping[str, str], ...]
    answer: str = ""
    solution: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def ask(cls, question: str, answer: str = "", solution: str = "", **metadata: Any) -> Self:
        """A question in one user message; the id is that of its text."""
        return cls(prompt_id(question), ({"role": "user", "content": question},), answer, solution, metadata)


@dataclass(frozen=True)
class Reply:
    """What an environment returns for one action: named reward components of this turn, whether the episode is over, and
    the messages shown next (empty when done). `failed` names why a verifier broke or timed out ('' when it did not)."""

    rewards: Mapping[str, float]
    done: bool = True
    messages: tuple[Mapping[str, str], ...] = ()
    failed: str = ""


class Environment(Protocol):
    """One episode of one problem."""

    def reset(self) -> tuple[Mapping[str, str], ...]:
        """The opening messages."""
        ...

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        """Take the policy's text as the action; `tokens` it has, of at most `limit` (only length rewards need them)."""
        ...


class Task(Protocol):
    """Problems with a way to act on them. Train and held-out problems come from disjoint seeds or files.

    A task may have a `scorer` (an `anypo.evaluate.Scorer`, or its name) that says how a policy is scored on it and in which
    unit; without one it is the accuracy on held-out problems.
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
