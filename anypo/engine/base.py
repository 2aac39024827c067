"""The engine interface: who samples, and what one sampled continuation looks like."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from anypo.data.kept import Kept


@dataclass(frozen=True)
class Heat:
    """A temperature for every decision, from the entropy H (nats) of the untempered distribution: the request's temperature times
    1 + width h, where h in [-1, 1] is log H around `centre` in units of `spread`, times `above` on the uncertain side and `below`
    on the confident one (HAPO's adaptive temperature)."""

    width: float
    centre: float
    spread: float
    above: float
    below: float

    def factor(self, entropy: np.ndarray) -> np.ndarray:
        """Factor on the temperature for entropies [N], [N]."""
        level = (np.log(np.maximum(entropy, 1e-6)) - self.centre) / (self.spread + 1e-6)
        return 1 + self.width * np.clip(level * np.where(level > 0, self.above, self.below), -1.0, 1.0)


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. top_k 0, top_p 1 and min_p 0 switch truncation off; temperature 0 is greedy.

    max_new: most new tokens. stop: strings that end the text (they stay in the tokens, and end the completion at once).
    heat: a further factor on the temperature for every decision (embedded engine and enumerable policy only).
    """

    max_new: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    heat: Heat | None = None


@dataclass(frozen=True)
class Request:
    """One continuation wanted. `seed` = (run seed, prompt id, visit, role, sample index, ...): with the token position it keys the
    counter-based random numbers, so the result does not depend on what else is in the batch. begun: how many of the tokens are the
    answer's own, from an earlier request with the same seed: this one goes on as if that one had never stopped (random numbers
    continue behind them, and stop strings may begin in them); `sampling.max_new` counts what is still to come."""

    tokens: np.ndarray
    sampling: Sampling
    seed: tuple[int, ...]
    tag: Any = None
    begun: int = 0


@dataclass(frozen=True)
class Completion:
    """What came back: arrays over the T new tokens (the end-of-sequence token included when it was sampled).

    logp / entropy: of the distribution sampled from (after temperature and truncation for logp; after temperature for
    entropy), in nats. log_mass: log of the mass kept by truncation; kept: the tokens it left (None: all, or the engine cannot
    tell). version: policy version per token. finish: 'stop' (EOS or stop string), 'length', 'cancelled'.
    """

    tokens: np.ndarray
    logp: np.ndarray
    entropy: np.ndarray
    log_mass: np.ndarray
    version: np.ndarray
    finish: str
    kept: Kept | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def first(self, length: int) -> Completion:
        """Its first `length` tokens, cut off there."""
        cut = lambda column: column[:length]
        return Completion(
            cut(self.tokens),
            cut(self.logp),
            cut(self.entropy),
            cut(self.log_mass),
            cut(self.version),
            "length",
            None if self.kept is None else self.kept.part(0, length),
        )

    def plain(self) -> dict[str, Any]:
        """As arrays and plain values (checkpoint safe); `Completion.restored` is the same again."""
        columns = {name: getattr(self, name) for name in ("tokens", "logp", "entropy", "log_mass", "version", "finish")}
        return columns | {"kept": None if self.kept is None else self.kept.plain()}

    @staticmethod
    def restored(saved: Mapping[str, Any]) -> Completion:
        """The completion that `plain` described."""
        kept = saved["kept"]
        return Completion(**{**saved, "kept": None if kept is None else Kept(**kept)})


@dataclass(frozen=True)
class Seen:
    """One more token of a request that is being sampled.

    place: which of the requests. length: its new tokens so far, this one included. finish: '' while it goes on. hidden: the last
    hidden state [hidden] that the token was drawn from, where it was asked for and the engine has one.
    """

    place: int
    token: int
    length: int
    finish: str
    hidden: np.ndarray | None = None


Watch = Callable[[Sequence[Seen]], Collection[int]]
"""Told after every step of the engine what is new; returns the places of requests to be given up (those that have ended stay)."""


@dataclass(frozen=True)
class Limit:
    """The longest prompt that can be sampled from, in tokens. why: what sets it, a clause; advice: what would raise it."""

    tokens: int
    why: str
    advice: str


@dataclass
class Tally:
    """How many decisions were drawn, by a sampler and by those of copies that it made: what a step has cost."""

    drawn: int = 0


class Sampler(Protocol):
    """Any engine: the embedded one, an OpenAI-compatible server, an enumerable policy.

    One that can sample from a copy of its policy has a method ``beside(copy)``: a sampler of that copy, as this one stands.
    One that counts has a `Tally`, ``tally``, which it shares with those.
    One whose requests can be watched (feature ``watched`` of the engine) has a method ``watched(requests, watch, state)``: `generate`
    with a `Watch` that may give requests up, which come back with what they have and the finish 'cancelled'; `state` is the
    decision (from 0) whose hidden state the watch wants to see.
    """

    #: True when sampled log-probabilities are provably the trainer's own for the same weights.
    exact: bool

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Continue every request; results in the order of the requests."""
        ...
