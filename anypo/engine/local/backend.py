"""Memory and computation behind the scheduler: paged blocks for models the library knows, transformers' caches for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from anypo.engine.architecture import Architecture
from anypo.engine.local.blocks import BlockPool
from anypo.engine.local.handle import Handle
from anypo.engine.local.model.captured import CapturedDecode
from anypo.engine.local.model.paged import PagedModel
from anypo.engine.local.model.plan import Feed, build, row_multiple
from anypo.engine.local.vocabulary import Vocabulary


@dataclass(eq=False)
class Work:
    """Run `tokens` of `handle` behind what it has cached; the last `wanted` of them predict tokens."""

    handle: Handle
    tokens: np.ndarray
    wanted: int


class Backend(Protocol):
    """What the scheduler needs. Memory is counted in cells of `size` tokens."""

    size: int
    vocabulary: Vocabulary

    def spare(self) -> int:
        """Cells that can be had without taking any from a handle."""
        ...

    def find(self, handle: Handle) -> None:
        """Give a handle without memory what is already computed for a prefix of its tokens."""
        ...

    def grow(self, handle: Handle, length: int) -> bool:
        """Make room to write keys and values up to `length` tokens; False (nothing changed that matters) when there is none."""
        ...

    def drop(self, handle: Handle) -> None:
        """Give up a handle's memory."""
        ...

    def fork(self, parent: Handle, child: Handle, length: int) -> None:
        """Let `child` share the first `length` cached tokens of `parent`."""
        ...

    def publish(self, handle: Handle, whole: bool) -> None:
        """Let `find` see what `handle` has cached: `whole` cells only, or all of it, into which it then writes no more."""
        ...

    def forget(self) -> None:
        """The weights changed: `find` must see nothing computed before."""
        ...

    def chunk(self, handle: Handle, rows: int) -> int:
        """How many of `rows` tokens to run at once for this handle."""
        ...

    def run(self, work: Sequence[Work]) -> Tensor:
        """Rows for `vocabulary`, the wanted ones of all work in order (padding may follow); advances what is cached."""
        ...

    def used(self) -> int:
        """Cells that handles hold."""
        ...

    def settle(self) -> None:
        """Called when weights changed or moved, outside inference mode: repair views of parameters whose storage moved."""
        ...


class PagedBackend:
    """The fast path (see `paged` and `blocks`). A handle's memory is its list of blocks."""

    MOST_PARTIALS = 1 << 25
    """Numbers in the partial outputs of one layer (128 MB in float32)."""

    def __init__(self, arch: Architecture, kv_tokens: int, size: int) -> None:
        self.arch, self.size = arch, size
        count = max(1, kv_tokens // size)
        self.pool = BlockPool(count, size)
        self.model = PagedModel(arch, count, size)
        self.vocabulary = Vocabulary(arch.head)
        self.captured = CapturedDecode(self.model) if arch.device.type == "cuda" else None
        self._multiple = row_multiple(size, arch.head_dim)

    def spare(self) -> int:
        return self.pool.free + self.pool.idle

    def used(self) -> int:
        return self.pool.count - self.pool.free - self.pool.idle

    def find(self, handle: Handle) -> None:
        handle._memory, handle._cached = self.pool.match(handle._tokens[: handle._length - 1])

    def grow(self, handle: Handle, length: int) -> bool:
        blocks: list[int] = handle._memory
        for at in range(handle._cached // self.size, len(blocks)):
            if not self.pool.reclaim(blocks[at], handle._cached - at * self.size):
                fresh = self.pool.take()
                if fresh is None:
                    return False
                self.model.copy(blocks[at], fresh)
                self.pool.release((blocks[at],))
                blocks[at] = fresh
        while len(blocks) * self.size < length:
            fresh = self.pool.take()
            if fresh is None:
                return False
            self.model.clear(fresh)
            blocks.append(fresh)
        return True

    def drop(self, handle: Handle) -> None:
        if handle._memory is not None:
            self.pool.release(handle._memory)
        handle._memory, handle._cached = None, 0

    def fork(self, parent: Handle, child: Handle, length: int) -> None:
        child._memory = parent._memory[: -(-length // self.size)]
        child._cached = length
        self.pool.share(child._memory)

    def publish(self, handle: Handle, whole: bool) -> None:
        length = min(handle._cached, handle._length)
        length -= length % self.size if whole else 0
        self.pool.publish(handle._tokens[:length], handle._memory[: -(-length // self.size)])

    def forget(self) -> None:
        self.pool.forget()
        self.model.renew()
        self.vocabulary.renew()

    def settle(self) -> None:
        self.arch.fuse()

    def chunk(self, handle: Handle, rows: int) -> int:
        per_row = self.arch.heads * self.arch.head_dim * (handle._length // self.size + 1)
        return max(1, min(rows, self.MOST_PARTIALS // per_row))

    def run(self, work: Sequence[Work]) -> Tensor:
        arch = self.arch
        feeds = [Feed(w.tokens, w.handle._cached, w.handle._memory, w.wanted) for w in work]
        if self.captured is not None and all(len(feed.tokens) == feed.wanted == 1 for feed in feeds):
            hidden = self.captured.forward(feeds)
        else:
            plan = build(feeds, self.size, arch.heads, arch.kv_heads, self._multiple, arch.device, arch.dtype)
            hidden = self.model.forward(plan)
        for w in work:
            w.handle._cached += len(w.tokens)
        return hidden
