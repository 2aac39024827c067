"""The embedded engine: samples from the trainer's own weights, in process.

    submit / generate ─► scheduler (who runs, in which memory) ─► backend (the layers) ─► vocabulary (the draw) ─► handles

What is guaranteed. A token is drawn by inverting the cumulative distribution at a uniform number that depends only on the
request's seed and the token's position in its sequence (prompt included), so continuing a finished prefix in a new request with
the same seed goes on as if it had never stopped. On the fast path in float32 on CPU every row's arithmetic is fixed by its
tokens and positions: batch size, order, neighbours, prefix reuse, forks, pauses, eviction and recomputation give bit-identical
logits, log-probabilities and tokens wherever the matrix library computes a row the same way in products of any (multiple of
four) number of rows; `product.row_invariant` tells whether it does on this machine. Elsewhere (general path, GPU, reduced precision)
logits may differ in the last bits, and a token then changes only if its uniform number falls that close to a boundary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anypo.engine import guard
from anypo.engine.architecture import Architecture
from anypo.engine.base import Completion, Limit, Request, Seen, Tally, Watch
from anypo.engine.local import random, trial
from anypo.engine.local.backend import Backend, PagedBackend, Work
from anypo.engine.local.handle import DONE, PAUSED, Event, Handle, Observer
from anypo.engine.local.model.general import GeneralBackend
from anypo.engine.local.model.recomputing import RecomputingBackend
from anypo.engine.local.scheduler import Scheduler
from anypo.engine.local.vocabulary import Drawn, Wish
from anypo.engine.output import linear
from anypo.engine.product import ROWS
from anypo.engine.training import TrainingForward
from anypo.errors import UserError

PAGED, CACHED, CACHED_ALONE = "with paged memory", "with a cache", "with a cache, one sequence at a time"
RECOMPUTING = "without memory, computing every sequence again for every token"
"""Paths by name; what `LocalEngine.path` says."""


@dataclass
class Stats:
    """Counts since the engine was made. computed: tokens run through the layers; reused: prompt tokens whose keys and values
    were found; sampled: tokens drawn; evictions: times memory was taken from a handle."""

    steps: int = 0
    computed: int = 0
    reused: int = 0
    sampled: int = 0
    evictions: int = 0


@dataclass(frozen=True)
class _Draw:
    """`handle` draws its token at `position` from hidden state `row`, or takes the one forced on it (-1: none)."""

    handle: Handle
    row: int
    position: int
    forced: int


class LocalEngine:
    """Samples from `model` (any transformers causal LM; Llama-like ones take the fast path).

    version: the policy version, or a callable that tells it; stamped on every token. A changed version, or parameters changed in
    place, empties the prefix cache; handles in progress keep their keys and values.
    kv_tokens: memory budget for keys and values, in tokens. block: tokens per memory block. max_running: most sequences at
    once. max_rows: most tokens per forward step. fast=False forces the general path.
    path: the way that was found right when the engine was made (`anypo.engine.guard`): with paged memory, with a cache, with a cache
    one sequence at a time, or computing every sequence again for every token. `UserError` when none is.
    exact: True when the sampled log-probabilities are the trainer's own for the same weights, up to rounding in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        version: Callable[[], int] | int = 0,
        *,
        kv_tokens: int = 32768,
        block: int = 32,
        max_running: int = 256,
        max_rows: int = 512,
        fast: bool = True,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._dropout = True
        self._version = version if callable(version) else lambda: version
        arch = Architecture.of(model) if fast else None
        with self._evaluating():
            self.path, self.backend = _backend(model, arch, kv_tokens, block)
        self.fast = self.path == PAGED
        self._dropout = arch is None or not arch.plain or not self.fast
        self._parameters = list(model.parameters())
        self.exact = all(p.dtype in (torch.float32, torch.float64) for p in self._parameters)
        self.kv_tokens = kv_tokens
        text = _text_config(model)
        self.context = int(getattr(text, "max_position_embeddings", None) or 1 << 30)
        self.vocabulary = int(text.vocab_size)
        self.eos = frozenset(end_tokens(model, tokenizer))
        never = _never(tokenizer, model.get_input_embeddings().num_embeddings, self.eos)  # type: ignore[operator]
        if never:
            device = self._parameters[0].device
            self.backend.vocabulary.never = torch.tensor(never, device=device)
        self.scheduler = Scheduler(self.backend, max_running, max_rows)
        self.stats, self.tally = Stats(), Tally()
        self._weights = self._signature()

    def beside(self, policy: Any) -> LocalEngine:
        """An engine with a cache of its own for a copy of the policy."""
        twin = LocalEngine(policy.model, policy.tokenizer, lambda: policy.version, kv_tokens=self.kv_tokens)
        twin.tally = self.tally
        return twin

    # -- the Sampler interface -----------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Continue every request; results in the order of the requests. Raises `UserError` for a request that cannot run."""
        return self._played([functools.partial(self.submit, request) for request in requests])

    def watched(self, requests: Sequence[Request], watch: Watch, state: int = -1) -> list[Completion]:
        """`generate` under a watch, which may give requests up while they run; `state` is the decision whose hidden state it sees
        (-1: none; the fast path only)."""
        news: list[Seen] = []

        def told(place: int) -> Observer:
            def observe(handle: Handle, event: Event) -> None:
                news.append(Seen(place, event.token, event.position + 1, event.finish, event.hidden))
                handle.observe_hidden = event.position + 1 == state

            return observe

        def look(handles: Sequence[Handle]) -> None:
            for place in watch(news):
                handles[place].cancel()
            news.clear()

        begin = [functools.partial(self.submit, r, told(place), hidden=state == 0) for place, r in enumerate(requests)]
        return self._played(begin, look)

    def _played(
        self, begin: Sequence[Callable[[], Handle]], look: Callable[[Sequence[Handle]], None] = lambda handles: None
    ) -> list[Completion]:
        """What has begun, sampled to its end, with a `look` at it after every step; where anything is raised, all is given up."""
        handles: list[Handle] = []
        try:
            with self._evaluating():
                for submit in begin:
                    handles.append(submit())
                while not all(handle.done for handle in handles):
                    self.step()
                    look(handles)
        except BaseException:
            for handle in handles:
                handle.cancel()
            raise
        return [handle.completion() for handle in handles]

    # -- handles -------------------------------------------------------------------------------------------------------

    def submit(
        self, request: Request, observer: Observer | None = None, *, top: int = 0, hidden: bool = False
    ) -> Handle:
        """Queue a request. `observer(handle, event)` hears every token (see `Event`), with the `top` most probable tokens and the
        hidden state if wanted; it may fork, pause, cancel, stop or force."""
        self._check(request)
        handle = Handle(self, request, observer, top, hidden)
        self.scheduler.add(handle)
        return handle

    def step(self) -> list[Handle]:
        """Advance by one forward pass; the handles that ended in it. Does nothing when all is done or paused."""
        self._refresh()
        work = self.scheduler.next()
        if not work:
            return []
        with self._evaluating(), torch.inference_mode():
            rows = self.backend.run(work)
            draws = self._draws(work)
            drawn = self._draw(rows, draws) if draws else None
        self._count(work, draws)
        return self._deliver(draws, drawn, rows) if drawn is not None else []

    def run(self) -> None:
        """Step until everything that is not paused is done."""
        while self.scheduler:
            self.step()

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.scheduler)

    # -- one step ------------------------------------------------------------------------------------------------------

    def _draws(self, work: Sequence[Work]) -> list[_Draw]:
        """Who draws from which row; the twins of a prompt that is done draw from its leader's."""
        draws, row = [], 0
        for item in work:
            handle = item.handle
            for k in range(item.wanted):
                forced = handle._forced[k] if k < len(handle._forced) else -1
                draws.append(_Draw(handle, row + k, handle._length + k, forced))
            row += item.wanted
            if item.wanted and not len(handle):
                self.scheduler.publish(handle, whole=True)
                draws += [
                    _Draw(twin, row - 1, twin._length, twin._forced[0] if twin._forced else -1)
                    for twin in self.scheduler.join(handle)
                ]
        return draws

    def _draw(self, rows: Tensor, draws: Sequence[_Draw]) -> Drawn:
        keys = np.array([draw.handle._key for draw in draws], dtype=np.uint64)
        uniform = random.uniforms(keys, np.array([draw.position for draw in draws]))
        wishes = [
            Wish(draw.handle.sampling, float(u), draw.forced, draw.handle.observe_top)
            for draw, u in zip(draws, uniform)
        ]
        where = [draw.row for draw in draws]
        where += [0] * (-len(where) % ROWS)
        if where != list(range(rows.shape[0])):
            rows = rows[torch.tensor(where, device=rows.device)]
        return self.backend.vocabulary.draw(rows, wishes)

    def _deliver(self, draws: Sequence[_Draw], drawn: Drawn, rows: Tensor) -> list[Handle]:
        """Append the tokens, tell the observers, and end what has ended."""
        version, ended = int(self._version()), []
        columns = zip(
            draws,
            *(c.tolist() for c in (drawn.token, drawn.logp, drawn.entropy, drawn.log_mass)),
            drawn.kept,
            drawn.top,
        )
        for draw, token, logp, entropy, log_mass, kept, top in columns:
            handle = draw.handle
            if handle.state == DONE:
                continue
            handle._append(token, logp, entropy, log_mass, version, kept)
            finish = self._finish(handle, token)
            if handle.observer is not None:
                hidden = rows[draw.row].float().cpu().numpy().copy() if handle.observe_hidden and self.fast else None
                place = len(handle) - 1
                handle.observer(handle, Event(token, place, logp, entropy, log_mass, version, finish, top, hidden))
            if finish:
                self._end(handle, finish)
            if handle.state == DONE:
                ended.append(handle)
        return ended

    def _finish(self, handle: Handle, token: int) -> str:
        if token in self.eos:
            return "stop"
        stops = handle.sampling.stop
        if stops:
            window = max(len(text) for text in stops) + 8  # a token is at least one character, or part of one
            begin = handle.prompt_length - handle.request.begun
            tail = self.tokenizer.decode(handle._tokens[max(begin, handle._length - window) : handle._length])
            if any(text in tail for text in stops):
                return "stop"
        return "length" if handle._length >= handle.limit else ""

    def _count(self, work: Sequence[Work], draws: Sequence[_Draw]) -> None:
        stats = self.stats
        stats.steps += 1
        stats.computed += sum(len(item.tokens) for item in work)
        stats.sampled += len(draws)
        self.tally.drawn += sum(draw.forced < 0 for draw in draws)
        stats.reused, stats.evictions = self.scheduler.reused, self.scheduler.evictions

    # -- what handles ask for ------------------------------------------------------------------------------------------

    def _adopt(self, parent: Handle, children: Sequence[Handle]) -> None:
        for child in children:
            self._check(child.request)
            length = min(parent._cached, child._length - 1)
            if parent._memory is not None and length:
                self.backend.fork(parent, child, length)
                child._epoch = parent._epoch
            self.scheduler.add(child)

    def _pause(self, handle: Handle) -> None:
        if handle.state not in (DONE, PAUSED):
            self.scheduler.park(handle)

    def _resume(self, handle: Handle, keep_kv: bool) -> None:
        if handle.state != PAUSED:
            return
        self.scheduler.remove(handle)
        if not keep_kv:
            self.backend.drop(handle)
        self.scheduler.add(handle)

    def _end(self, handle: Handle, finish: str) -> None:
        if handle.state != DONE:
            handle.finish = finish
            self.scheduler.end(handle)

    # -- weights -------------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Notice new weights."""
        if self._signature() != self._weights:
            self.backend.settle()
            self._weights = self._signature()
            self.scheduler.new_weights()

    def _signature(self) -> tuple[int, int]:
        """Changes with the version, when a parameter is changed in place, and when its storage moves."""
        return int(self._version()), sum(p._version + p.data_ptr() for p in self._parameters)

    def _check(self, request: Request) -> None:
        """Refuse what cannot run."""
        sampling, length = request.sampling, len(request.tokens)
        if not length:
            raise UserError(
                "a request has no tokens; a prompt needs at least one (the beginning-of-sequence token will do)"
            )
        if not 0 <= int(np.min(request.tokens)) <= int(np.max(request.tokens)) < self.vocabulary:
            raise UserError(
                f"a prompt has token {int(np.max(request.tokens))} but the model's vocabulary is 0 to {self.vocabulary - 1}; "
                "use the tokenizer that belongs to the model"
            )
        if sampling.max_new < 1:
            raise UserError(f"max_new is {sampling.max_new}; ask for at least one token")
        if not (
            sampling.temperature >= 0 and 0 < sampling.top_p <= 1 and sampling.top_k >= 0 and 0 <= sampling.min_p <= 1
        ):
            raise UserError(
                f"temperature {sampling.temperature}, top_p {sampling.top_p}, top_k {sampling.top_k}, min_p {sampling.min_p} is "
                "not a way to sample; temperature and top_k must be 0 or more, top_p in (0, 1], min_p in [0, 1]"
            )
        if length >= self.context:
            raise UserError(
                f"a prompt has {length} tokens but the model's context is {self.context}; shorten it or choose another model"
            )
        if min(length + sampling.max_new, self.context) + 2 * self.backend.size > self.kv_tokens:
            raise UserError(
                f"a request of {length} prompt and {sampling.max_new} new tokens exceeds the memory budget "
                f"kv_tokens={self.kv_tokens}; raise engine.kv_tokens or lower max_new"
            )

    def longest(self, max_new: int) -> Limit:
        """The longest prompt that `max_new` tokens may be sampled after."""
        if self.context + 2 * self.backend.size <= self.kv_tokens:
            return Limit(self.context - 1, f"the model's context is {self.context:,}", "choose another model")
        most = min(self.context - 1, self.kv_tokens - 2 * self.backend.size - max_new)
        why = f"engine.kv_tokens={self.kv_tokens} with max_new={max_new} leaves room for {max(0, most):,}"
        return Limit(most, why, "raise engine.kv_tokens or lower generate.max_new")

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Dropout off where the layers have any."""
        training = self._dropout and self.model.training
        if training:
            self.model.eval()
        try:
            yield
        finally:
            if training:
                self.model.train()


def _backend(model: nn.Module, arch: Architecture | None, kv_tokens: int, block: int) -> tuple[str, Backend]:
    """The fastest backend that gives what plain passes of `model` give, and its name."""
    paths: dict[str, Callable[[], Backend]] = {}
    if arch is not None:
        paths[PAGED] = lambda: PagedBackend(arch, kv_tokens, block)
    paths[CACHED] = lambda: GeneralBackend(model, kv_tokens)
    paths[CACHED_ALONE] = lambda: GeneralBackend(model, kv_tokens, together=False)
    paths[RECOMPUTING] = lambda: RecomputingBackend(TrainingForward(model).network, kv_tokens)
    return guard.choose("sampling", model, paths, _gap)


def _gap(backend: Backend, reference: guard.Reference) -> float:
    if not isinstance(backend, PagedBackend):
        return trial.gap(backend, reference)
    if not linear(backend.arch.model):
        return math.inf
    graphs, backend.captured = backend.captured, None  # they run the same layers, and take seconds to record
    found = trial.gap(backend, reference)
    backend.captured = graphs
    return found


def _text_config(model: Any) -> Any:
    """What is configured of the part that reads and writes text."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).config.get_text_config()


def _never(tokenizer: Any, size: int, ends: frozenset[int]) -> list[int]:
    """Ids below `size` that stand for no text: those the tokenizer does not know (vocabularies are padded to round numbers), and the
    padding token where it ends nothing."""
    if not hasattr(tokenizer, "get_vocab"):
        return []
    known = set(tokenizer.get_vocab().values()) - ({tokenizer.pad_token_id} - ends)
    return [token for token in range(size) if token not in known] if known & set(range(size)) else []


def end_tokens(model: nn.Module, tokenizer: Any) -> set[int]:
    """End-of-sequence tokens of the tokenizer and of the model's generation config."""
    found = [
        getattr(tokenizer, "eos_token_id", None),
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
    ]
    flat = [token for entry in found for token in (entry if isinstance(entry, list | tuple) else [entry])]
    return {int(token) for token in flat if token is not None}
