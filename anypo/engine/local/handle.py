"""A continuation in progress: what it has produced, and what may be done to it while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from anypo.data.kept import Kept
from anypo.engine.base import Completion, Request, Sampling
from anypo.engine.local import random
from anypo.errors import UserError

WAITING, RUNNING, PAUSED, DONE = "waiting", "running", "paused", "done"


@dataclass(frozen=True)
class Event:
    """One token, told to the observer right after it was appended (before the handle's memory is given up if it ended).

    position: index among the new tokens. logp, entropy, log_mass: as in `Completion`. version: policy version. finish: '' while
    the handle goes on. top: (ids, log-probabilities before truncation) of the `observe_top` most probable tokens.
    hidden: the normed last hidden state [hidden] the token was drawn from, when asked for.
    """

    token: int
    position: int
    logp: float
    entropy: float
    log_mass: float
    version: int
    finish: str
    top: tuple[np.ndarray, np.ndarray] | None = None
    hidden: np.ndarray | None = None


Observer = Callable[["Handle", Event], None]


class Owner(Protocol):
    """What a handle asks of the engine that made it. context: longest sequence, in tokens."""

    context: int

    def _adopt(self, parent: Handle, children: list[Handle]) -> None: ...
    def _pause(self, handle: Handle) -> None: ...
    def _resume(self, handle: Handle, keep_kv: bool) -> None: ...
    def _end(self, handle: Handle, finish: str) -> None: ...


class Handle:
    """Made by `LocalEngine.submit` and `fork`. Advances when the engine steps; every method may be called at any time,
    also by an observer."""

    def __init__(
        self, engine: Owner, request: Request, observer: Observer | None, observe_top: int, observe_hidden: bool
    ) -> None:
        self.request, self.observer = request, observer
        self.observe_top, self.observe_hidden = observe_top, observe_hidden
        self.state, self.finish = WAITING, ""
        self.parent: Handle | None = None
        self.fork_position = -1
        self.prompt_length = len(request.tokens)
        self.limit = min(self.prompt_length + request.sampling.max_new, engine.context)
        self._tokens = np.empty(self.limit, dtype=np.int64)
        self._tokens[: self.prompt_length] = request.tokens
        self._length = self.prompt_length
        self._logp: list[float] = []
        self._entropy: list[float] = []
        self._log_mass: list[float] = []
        self._kept: list[np.ndarray | None] = []
        self._version: list[int] = []
        self._forced: list[int] = []
        self._key = random.key(request.seed)
        self._engine = engine
        self._children = 0
        self._twins: list[Handle] = []
        self._cached = 0  # tokens whose keys and values are in memory
        self._memory: Any = None  # the backend's: blocks, or a cache
        self._epoch = -1  # which weights they are of

    def __len__(self) -> int:
        """New tokens so far."""
        return self._length - self.prompt_length

    @property
    def done(self) -> bool:
        return self.state == DONE

    @property
    def sampling(self) -> Sampling:
        return self.request.sampling

    @property
    def tokens(self) -> np.ndarray:
        """New tokens so far, [T]."""
        return self._tokens[self.prompt_length : self._length].copy()

    @property
    def context(self) -> np.ndarray:
        """Prompt and new tokens so far."""
        return self._tokens[: self._length].copy()

    def completion(self) -> Completion:
        """What there is so far (`finish` is '' for a handle that is not done)."""
        return Completion(
            self.tokens,
            np.array(self._logp, dtype=np.float32),
            np.array(self._entropy, dtype=np.float32),
            np.array(self._log_mass, dtype=np.float32),
            np.array(self._version, dtype=np.int64),
            self.finish,
            Kept.of(self._kept),
        )

    def fork(
        self,
        n: int = 1,
        at: int | None = None,
        *,
        sampling: Sampling | None = None,
        observer: Observer | None = None,
    ) -> list[Handle]:
        """`n` handles that share the first `at` new tokens (default: all so far) and go on with random numbers of their own.

        Keys and values are shared, not computed again. `sampling` (max_new counts from the prompt) and `observer` default to
        this handle's. A child's seed is the parent's with `at` and a serial number behind, so it depends on nothing else.
        """
        at = len(self) if at is None else at
        if not 0 <= at <= len(self):
            raise UserError(
                f"cannot fork at position {at}: the handle has {len(self)} new tokens; choose 0 to {len(self)}"
            )
        children = []
        for _ in range(n):
            request = dataclasses.replace(
                self.request,
                seed=(*self.request.seed, at, self._children),
                sampling=sampling or self.request.sampling,
            )
            self._children += 1
            child = Handle(self._engine, request, observer or self.observer, self.observe_top, self.observe_hidden)
            if child.limit <= self.prompt_length + at:
                raise UserError(
                    f"cannot fork at position {at} with max_new {request.sampling.max_new}: nothing is left to sample; "
                    "raise max_new (it counts from the prompt)"
                )
            child.parent, child.fork_position = self, at
            child._length = self.prompt_length + at
            child._tokens[: child._length] = self._tokens[: child._length]
            child._logp, child._entropy = self._logp[:at], self._entropy[:at]
            child._log_mass, child._version = self._log_mass[:at], self._version[:at]
            child._kept = self._kept[:at]
            children.append(child)
        self._engine._adopt(self, children)
        return children

    def pause(self) -> None:
        """Stop after the current token. Memory is kept unless others need it (then it is computed again on resume)."""
        self._engine._pause(self)

    def resume(self, keep_kv: bool = True) -> None:
        """Go on after `pause`. keep_kv=False computes all keys and values again with the current weights."""
        self._engine._resume(self, keep_kv)

    def cancel(self) -> None:
        """End with finish 'cancelled'; what was produced stays readable."""
        self._engine._end(self, "cancelled")

    def stop(self) -> None:
        """End with finish 'stop', as if the policy had ended here."""
        self._engine._end(self, "stop")

    def force(self, tokens: Sequence[int] | np.ndarray) -> None:
        """Append these tokens instead of sampling; their log-probabilities are recorded as if they had been sampled."""
        if self.done:
            raise UserError("cannot force tokens on a handle that has ended; fork it first")
        self._forced.extend(int(token) for token in tokens)

    def _append(
        self, token: int, logp: float, entropy: float, log_mass: float, version: int, kept: np.ndarray | None = None
    ) -> None:
        self._tokens[self._length] = token
        self._length += 1
        self._logp.append(logp)
        self._entropy.append(entropy)
        self._log_mass.append(log_mass)
        self._kept.append(kept)
        self._version.append(version)
        if self._forced:
            self._forced.pop(0)
