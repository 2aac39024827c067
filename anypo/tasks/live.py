"""An environment in use: checked replies, and a state that can be stored and restored.

Environments are code of the user. Whatever one raises or returns that is no reply costs its own trajectory, by name, and
nothing else; only a `UserError` (it names a mistake in the run's own settings) ends the run.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anypo.data.content import Message, pieces
from anypo.errors import UserError, shown
from anypo.tasks.base import Action, Environment, Problem, Reply, State, Task, restores
from anypo.tasks.worker import place, reason

OWN_KEYS = frozenset({"turn", "position", "sample", "prompt", "group", "sequence", "episode"})
"""Keys that every rollout has of its own (`anypo.data.batch`)."""


NOTHING: tuple[Message, ...] = ({"role": "user", "content": "(nothing to see)"},)
"""What is shown where an environment that cannot begin was to say how."""


@dataclass
class Live:
    """One episode of `problem`. `rewards`: what was earned so far, by component; `taken`: the actions since the reset."""

    task: Task
    problem: Problem
    environment: Any = None
    start: Any = None
    taken: list[Action] = field(default_factory=list)
    rewards: dict[str, float] = field(default_factory=dict)

    def reset(self, start: Any = None) -> tuple[Message, ...]:
        """Begin, and return what is shown: at the beginning, at a `State`, or at a `start` of the environment's own kind.

        An environment that cannot begin replies with its failure to whatever is done. Raises `UserError` where the environment
        knows no start but its own, or cannot be restored.
        """
        if isinstance(start, State):
            return self._restore(start)
        self.start, self.taken, self.rewards = start, [], {}
        try:
            self.environment = self.task.environment(self.problem)
            if start is None:
                return _shown(self.environment.reset())
            self._takes_a_start()
            return _shown(self.environment.reset(start))
        except UserError:
            raise
        except Exception as error:
            self.environment = Broken(f"environment: reset: {reason(error)}")
            return self.problem.messages or NOTHING

    def heard(self, action: Action, reply: Reply) -> None:
        """Keep account of an action that was taken and of its reply."""
        self.taken.append(action)
        for name, value in reply.rewards.items():
            self.rewards[name] = self.rewards.get(name, 0.0) + value

    def step(self, action: Action) -> Reply:
        """Take one action (see `attempt`)."""
        reply = attempt(self.environment, action)
        self.heard(action, reply)
        return reply

    @property
    def stores(self) -> bool:
        """Whether the environment stores its own state."""
        return hasattr(self.environment, "snapshot")

    def snapshot(self) -> State:
        """Where the episode stands. Raises `UserError` for an environment that cannot be restored."""
        self._can_be_restored()
        if self.stores:
            return State(own=self.environment.snapshot(), rewards=dict(self.rewards))
        return State(tuple(self.taken), start=self.start, rewards=dict(self.rewards))

    def _restore(self, state: State) -> tuple[Message, ...]:
        if state.own is not None:
            shown = self.reset(state.own)
            self._can_be_restored()
            self.rewards = dict(state.rewards)
            return shown
        shown = self.reset(state.start)
        self._can_be_restored()
        for action in state.actions:
            reply = self.step(action)
            if reply.failed and not isinstance(self.environment, Broken):
                self.environment = Broken(f"environment: replayed: {reply.failed.removeprefix('environment: ')}")
            shown = (*shown, {"role": "assistant", "content": action.text + reply.append}, *reply.messages)
        return shown

    def _can_be_restored(self) -> None:
        if not (restores(self.task) and restores(self.environment)):
            raise UserError(
                f"the episodes of task '{self.task.name}' cannot be taken up again where they stood (it says restores = False), "
                "which this method does; choose another task or method"
            )

    def _takes_a_start(self) -> None:
        try:
            inspect.signature(self.environment.reset).bind(None)
        except TypeError:
            raise UserError(
                f"the environments of task '{self.task.name}' begin at their beginning only; to begin elsewhere they need "
                "reset(start)"
            ) from None


def posed(task: Task, side: Callable[[int], Problem], index: int) -> Problem:
    """Problem `index` of `side` (`task.train` or `task.heldout`). Nothing goes on without it, so a task that raises, or gives
    something else, is a `UserError` with the place in its code."""
    try:
        problem = side(index)
        if not hasattr(problem, "prompt"):
            raise TypeError(f"it gave a {type(problem).__name__}, not a Problem")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"task '{task.name}' could not give problem {index}: {reason(error)}") from error
    return problem


@dataclass(frozen=True)
class Broken:
    """Stands in for an environment that could not begin."""

    reason: str

    def reset(self) -> tuple[Message, ...]:
        return ()

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        return Reply({}, failed=self.reason)


def attempt(environment: Environment, action: Action) -> Reply:
    """The environment's reply to an action, checked. Whatever it raises, or returns that is no reply, becomes a failed one with
    the reason; a `UserError` is passed on."""
    try:
        whole = (action,) if _takes_action(environment) else (action.text, action.tokens, action.limit)
        return _checked(environment.step(*whole))  # type: ignore[arg-type]
    except UserError:
        raise
    except Exception as error:
        said = reason(error)
        return Reply({}, failed=f"environment: {said}{'' if place(error) else made(environment)}")


def made(environment: Any) -> str:
    """` (file, line N)`: where the step of an environment is written."""
    code = getattr(getattr(type(environment), "step", None), "__code__", None)
    return f" ({code.co_filename}, line {code.co_firstlineno})" if code is not None else ""


def _takes_action(environment: Environment) -> bool:
    try:
        inspect.signature(environment.step).bind("", 0, 0)
    except TypeError:
        return True
    except ValueError:  # nothing is known about its parameters
        return False
    return False


def _checked(reply: Any) -> Reply:
    if not isinstance(reply, Reply):
        raise TypeError(f"step returned a {type(reply).__name__}, not a Reply")
    if not isinstance(reply.rewards, Mapping):
        raise TypeError(f"the rewards are a {type(reply.rewards).__name__}, not a mapping of names to numbers")
    for name, value in reply.rewards.items():
        if isinstance(value, str) or not math.isfinite(value):
            raise ValueError(f"reward '{name}' is {shown(value)}")
    taken = set(reply.keys) & OWN_KEYS
    if taken:
        raise ValueError(f"the key '{min(taken)}' is every rollout's own; give it another name")
    _shown(reply.messages)
    if reply.append and reply.messages:
        raise ValueError("a reply either appends to the policy's turn or shows messages, not both")
    if not isinstance(reply.append, str):
        raise TypeError(f"what is appended is a {type(reply.append).__name__}, not a text")
    return reply


def _shown(messages: Any) -> tuple[Message, ...]:
    """The messages, checked."""
    found = tuple(messages)
    for message in found:
        if not isinstance(message, Mapping) or "content" not in message:
            raise TypeError(f"{shown(message)} is no message (a mapping with role and content)")
        pieces(message)
    return found
