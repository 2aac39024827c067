"""The engine of the enumerable policy: exact sampling, at any staleness and with any mismatch one asks for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from anypo.data.kept import Kept
from anypo.engine.base import Completion, Request, Seen, Tally, Watch
from anypo.errors import UserError
from anypo.exact.graph import END, EOS, uniforms
from anypo.exact.policy import EnumerablePolicy

Versions = Literal["single", "mixed", "partial"]
"""Who samples under lag k: every token k updates behind; each sequence 0..k behind (uniformly); or rollouts resumed across
updates, whose first token is k updates behind and whose last possible token is current."""


class EnumerableSampler:
    """Samples from `policy` as it was `lag` steps ago (a step begins with `forget()`, which the trainer calls).

    noise: standard deviation of a Gaussian error of the sampler's logits, fixed for each policy version: an engine that does
    not compute quite what the trainer computes. Satisfies `anypo.engine.base.Sampler`.
    """

    def __init__(
        self, policy: EnumerablePolicy, lag: int = 0, noise: float = 0.0, versions: Versions = "single", seed: int = 0
    ) -> None:
        self.policy, self.lag, self.noise, self.versions, self.seed = policy, lag, noise, versions, seed
        self.exact, self.tally = noise == 0.0, Tally()
        self._kept: deque[tuple[int, np.ndarray]] = deque(maxlen=lag + 1)

    def beside(self, policy: EnumerablePolicy) -> EnumerableSampler:
        """A sampler of a copy of the policy, with the same past behind it."""
        twin = EnumerableSampler(policy, self.lag, self.noise, self.versions, self.seed)
        twin._kept, twin.tally = self._kept.copy(), self.tally
        return twin

    def forget(self) -> None:
        """A step begins: remember the weights of this moment, drop those older than `lag` steps."""
        self._kept.append(self._snapshot())

    def _snapshot(self) -> tuple[int, np.ndarray]:
        with torch.no_grad():
            logits = self.policy.logits().numpy().reshape(-1, self.policy.graph.vocabulary).copy()
        if self.noise:
            generator = np.random.default_rng([self.seed, self.policy.version])
            logits += self.noise * generator.standard_normal(logits.shape)
        return self.policy.version, logits

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Continue every request; identical whatever else is in the call."""
        return self._sampled(requests, None)

    def watched(self, requests: Sequence[Request], watch: Watch, state: int = -1) -> list[Completion]:
        """`generate` under a watch, which may give requests up while they run; a table has no hidden states."""
        return self._sampled(requests, watch)

    def _sampled(self, requests: Sequence[Request], watch: Watch | None) -> list[Completion]:
        if not requests:
            return []
        if any(request.sampling.stop for request in requests):
            raise UserError("the enumerable policy has no stop strings; leave generate.stop empty")
        if self.lag == 0 or not self._kept:
            self._kept.clear()
            self._kept.append(self._snapshot())
        graph = self.policy.graph
        starts = [self._start(request.tokens) for request in requests]
        prompt, node, code = (np.array(column) for column in zip(*starts))
        told = self.policy.copied(code) if code.any() else None
        depth = graph.depth().numpy()
        heat = np.array([request.sampling.temperature for request in requests])
        limit = np.array([request.sampling.max_new for request in requests])
        width = int(min(limit.max(), graph.horizon))
        begun = np.array([request.begun for request in requests])
        draws = uniforms([request.seed for request in requests], width + 1 + int(begun.max()))
        age = self._ages(draws[:, -1], width)
        number = np.array([version for version, _ in self._kept])
        tables = np.stack([logits for _, logits in self._kept])
        child = np.concatenate([graph.child.numpy(), np.full((1, graph.vocabulary), END)])
        shape = (len(requests), width)
        tokens, logp = np.full(shape, END), np.zeros(shape)
        entropy, mass, version = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64)
        kept: list[list[np.ndarray | None]] = [[] for _ in requests]
        lengths, given_up = np.zeros(len(requests), dtype=np.int64), np.zeros(len(requests), dtype=bool)
        every = np.arange(len(requests))
        for t in range(width):
            live = (node != END) & (lengths == t) & (t < limit) & ~given_up
            if not live.any():
                break
            slot = len(self._kept) - 1 - np.minimum(age[:, t], len(self._kept) - 1)
            logits = tables[slot, prompt * graph.states + np.maximum(node, 0)]
            if told is not None:
                logits = logits + told[every, depth[np.maximum(node, 0)]]
            p, entropy[:, t] = _softmax(logits, heat * _factors(logits, requests))
            p, mass[:, t] = _truncate(p, requests)
            cut = mass[:, t] < 0
            for i in np.flatnonzero(live & cut):
                kept[i].append(np.flatnonzero(p[i]))
            for i in np.flatnonzero(live & ~cut):
                kept[i].append(None)
            drawn = draws[every, begun + t][:, None]
            chosen = np.minimum((p.cumsum(1) <= drawn * p.sum(1, keepdims=True)).sum(1), p.shape[1] - 1)
            logp[:, t] = np.log(np.maximum(np.take_along_axis(p, chosen[:, None], 1)[:, 0], 1e-300))
            tokens[:, t], version[:, t] = np.where(live, chosen, END), number[slot]
            lengths += live
            node = np.where(live, child[node, chosen], node)
            if watch is not None:
                over = (node == END) | (lengths >= limit)
                ended = ["" if not over[i] else "stop" if chosen[i] == EOS else "length" for i in every]
                lost = list(watch([Seen(int(i), int(chosen[i]), t + 1, ended[i]) for i in np.flatnonzero(live)]))
                given_up[[i for i in lost if not over[i]]] = True
        self.tally.drawn += int(lengths.sum())
        return [
            Completion(
                tokens[i, :n].copy(), logp[i, :n].copy(), entropy[i, :n].copy(), mass[i, :n].copy(), version[i, :n].copy(),
                "cancelled" if given_up[i] else "stop" if n and tokens[i, n - 1] == EOS else "length", Kept.of(kept[i]),
            )
            for i, n in enumerate(lengths.tolist())
        ]  # fmt: skip

    def _start(self, tokens: np.ndarray) -> tuple[int, int, int]:
        """The prompt and the state that a request begins in, and the code of what it shows."""
        graph = self.policy.graph
        code, prompt = divmod(int(tokens[0]) - graph.vocabulary, self.policy.prompts)
        if code < 0:
            raise UserError(f"a request to the enumerable policy must begin with a prompt token, not {int(tokens[0])}")
        state = 0
        for token in tokens[1:].tolist():
            state = int(graph.child[state, token]) if state != END else END
        return prompt, state, code

    def _ages(self, draw: np.ndarray, width: int) -> np.ndarray:
        """Updates behind of every token, [S, width]."""
        if self.versions == "partial":
            falling = self.lag - np.arange(width) * self.lag // max(1, self.policy.graph.horizon - 1)
            return np.tile(falling, (len(draw), 1))
        oldest = (
            np.floor(draw * (self.lag + 1)).astype(np.int64)
            if self.versions == "mixed"
            else np.full(len(draw), self.lag)
        )
        return np.tile(oldest[:, None], (1, width))


def _factors(logits: np.ndarray, requests: Sequence[Request]) -> np.ndarray:
    """What every request's adaptive temperature makes of its own at these logits, [S]."""
    factors = np.ones(len(requests))
    rows = [i for i, request in enumerate(requests) if request.sampling.heat is not None]
    if rows:
        entropy = _softmax(logits[rows], np.ones(len(rows)))[1]
        for i, own in zip(rows, entropy):
            factors[i] = requests[i].sampling.heat.factor(own)  # type: ignore[union-attr]
    return factors


def _softmax(logits: np.ndarray, heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities at temperature `heat` [S] (0: all mass on the best token) and their entropy."""
    scaled = logits / np.where(heat > 0, heat, 1.0)[:, None]
    p = np.exp(scaled - scaled.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p = np.where(heat[:, None] > 0, p, np.eye(logits.shape[1])[logits.argmax(1)])
    return p, -(p * np.log(np.maximum(p, 1e-300))).sum(1)


def _truncate(p: np.ndarray, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
    """Top-k, top-p and min-p truncation, renormalised, and the log of the mass that was kept."""
    sampling = [request.sampling for request in requests]
    if all(s.top_k == 0 and s.top_p >= 1 and s.min_p <= 0 for s in sampling):
        return p, np.zeros(len(p))
    order = np.argsort(-p, axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, 1)
    before = ranked.cumsum(1) - ranked
    top_k = np.array([s.top_k or p.shape[1] for s in sampling])[:, None]
    top_p = np.array([s.top_p for s in sampling])[:, None]
    min_p = np.array([s.min_p for s in sampling])[:, None]
    keep = (np.arange(p.shape[1]) < top_k) & (before < top_p) & (ranked >= min_p * ranked[:, :1])
    kept = np.zeros_like(p)
    np.put_along_axis(kept, order, np.where(keep, ranked, 0.0), 1)
    mass = kept.sum(1)
    return kept / mass[:, None], np.log(mass)
