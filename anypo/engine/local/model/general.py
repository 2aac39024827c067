"""Any transformers causal language model, through its own forward and cache: the path for what the fast one does not know.

Prompts run one by one; sequences that each need one more token run as one left-padded batch, whose cache is kept as long as its
members stay the same. Models whose cache is more than keys and values of all positions (sliding windows, recurrent states), or
that padding disturbs, run one sequence at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anypo.engine.local.backend import Work
from anypo.engine.local.handle import Handle
from anypo.engine.local.vocabulary import Vocabulary
from anypo.engine.training.networks import accepted

Pairs = list[tuple[Tensor, Tensor]]


class _Batch:
    """A cache several handles share: row i belongs to handles[i] and starts with pad[i] positions of padding."""

    def __init__(self, handles: list[Handle], cache: Any, pad: list[int]) -> None:
        self.handles, self.cache, self.pad = handles, cache, pad

    def pairs(self, handle: Handle) -> Pairs:
        row = next(i for i, member in enumerate(self.handles) if member is handle)
        window = slice(self.pad[row], self.pad[row] + handle._cached)
        return [
            (layer.keys[row : row + 1, :, window], layer.values[row : row + 1, :, window])
            for layer in self.cache.layers
        ]


class GeneralBackend:
    """A handle's memory is a list of (keys, values) [1, kv heads, cached, D] per layer, the `_Batch` it is a row of, or (for
    caches of other kinds, or together=False) the model's cache object."""

    size = 1

    def __init__(self, model: Any, kv_tokens: int, together: bool = True) -> None:
        self.model, self.budget = model, kv_tokens
        self.vocabulary = Vocabulary(None)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # adapters hide what it takes
        names = accepted(base)
        self._takes_positions = "position_ids" in names
        self._keep_logits = "logits_to_keep" in names
        from transformers.cache_utils import DynamicLayer  # takes seconds, and only language models need it

        self._plain = together and all(type(layer) is DynamicLayer for layer in self._cache().layers)
        self._held: dict[int, int] = {}

    def spare(self) -> int:
        return self.budget - self.used()

    def used(self) -> int:
        return sum(self._held.values())

    def find(self, handle: Handle) -> None:
        handle._memory, handle._cached = None, 0

    def grow(self, handle: Handle, length: int) -> bool:
        if self.used() - self._held.get(id(handle), 0) + length > self.budget:
            return False
        self._held[id(handle)] = length
        return True

    def drop(self, handle: Handle) -> None:
        self._held.pop(id(handle), None)
        handle._memory, handle._cached = None, 0

    def fork(self, parent: Handle, child: Handle, length: int) -> None:
        if self._plain:
            pairs = self._pairs(parent)
            child._memory = [(k[:, :, :length], v[:, :, :length]) for k, v in pairs]
        elif length == parent._cached:
            child._memory = copy.deepcopy(parent._memory)
        else:
            return
        child._cached = length
        self._held[id(child)] = length

    def publish(self, handle: Handle, whole: bool) -> None:
        """Nothing is shared between requests on this path."""

    def forget(self) -> None:
        """Nothing is shared between requests on this path."""

    def settle(self) -> None:
        """Parameters are only ever used through the model."""

    def chunk(self, handle: Handle, rows: int) -> int:
        return rows

    def run(self, work: Sequence[Work]) -> Tensor:
        together = [w for w in work if self._plain and len(w.tokens) == 1 and w.handle._cached and w.wanted == 1]
        rows: dict[int, Tensor] = {}
        for w in work:
            if len(together) < 2 or w not in together:
                rows[id(w)] = self._alone(w)
        if len(together) > 1:
            for w, logits in zip(together, self._together(together)):
                rows[id(w)] = logits[None]
        return torch.cat([rows[id(w)] for w in work if w.wanted]) if any(w.wanted for w in work) else torch.empty(0)

    def _alone(self, work: Work) -> Tensor:
        """Logits [wanted, V] of one sequence."""
        handle, device = work.handle, next(self.model.parameters()).device
        cache = handle._memory if not self._plain and handle._memory is not None else self._cache()
        if self._plain and handle._cached:
            for layer, (k, v) in enumerate(self._pairs(handle)):
                cache.update(k, v, layer)
        total = handle._cached + len(work.tokens)
        extra: dict[str, Any] = {}
        if self._takes_positions:
            extra["position_ids"] = torch.arange(handle._cached, total, device=device)[None]
        if self._keep_logits:
            extra["logits_to_keep"] = max(1, work.wanted)
        logits = self.model(
            input_ids=torch.from_numpy(work.tokens).to(device)[None],
            attention_mask=torch.ones(1, total, dtype=torch.int64, device=device),
            past_key_values=cache,
            use_cache=True,
            **extra,
        ).logits[0]
        handle._memory = [(layer.keys, layer.values) for layer in cache.layers] if self._plain else cache
        handle._cached = total
        return logits[len(logits) - work.wanted :].float()

    def _together(self, work: Sequence[Work]) -> Tensor:
        """Logits [n, V] of one more token each."""
        handles, device = [w.handle for w in work], next(self.model.parameters()).device
        batch = handles[0]._memory
        same = (
            isinstance(batch, _Batch)
            and len(batch.handles) == len(handles)
            and all(a is b and b._memory is batch for a, b in zip(batch.handles, handles))
            and len({pad + handle._cached for pad, handle in zip(batch.pad, handles)}) == 1
        )
        if not same:
            batch = self._join(handles)
        longest = max(handle._cached for handle in handles) + 1
        place = torch.arange(longest, device=device)
        mask = (place >= torch.tensor(batch.pad, device=device)[:, None]).long()
        extra = {}
        if self._takes_positions:
            extra["position_ids"] = torch.tensor([[handle._cached] for handle in handles], device=device)
        logits = self.model(
            input_ids=torch.tensor([[int(w.tokens[0])] for w in work], device=device),
            attention_mask=mask,
            past_key_values=batch.cache,
            use_cache=True,
            **extra,
        ).logits[:, -1]
        for handle in handles:
            handle._memory = batch
            handle._cached += 1
        return logits.float()

    def _join(self, handles: list[Handle]) -> _Batch:
        """One cache of all, left-padded to the longest."""
        longest = max(handle._cached for handle in handles)
        pad = [longest - handle._cached for handle in handles]
        rows = [self._pairs(handle) for handle in handles]
        cache = self._cache()
        for layer in range(len(rows[0])):
            k, v = ([nn.functional.pad(row[layer][i], (0, 0, p, 0)) for row, p in zip(rows, pad)] for i in (0, 1))
            cache.update(torch.cat(k), torch.cat(v), layer)
        return _Batch(handles, cache, pad)

    def _pairs(self, handle: Handle) -> Pairs:
        memory = handle._memory
        if isinstance(memory, _Batch):
            return memory.pairs(handle)
        return [(k[:, :, : handle._cached], v[:, :, : handle._cached]) for k, v in memory]

    def _cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)
