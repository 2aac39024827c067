"""Blocks of KV memory: reference counts, and a prefix tree that finds blocks already computed for the same tokens.

A block holds the keys and values of `size` consecutive positions, starting at a multiple of `size`. Sequences share blocks by
reference; nobody writes into a block that has another owner. The prefix tree is one more owner of the blocks of sequences that
have ended, the last one perhaps not full; its leaves are given up, least recently used first, when memory is short. What begins as
a block in the tree does and then goes on otherwise shares that block up to there, and copies it when it writes on; who goes on where
such a block ends, and has it with nobody but the tree, takes it back. Block 0 is never handed out: it absorbs padding rows.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

ROOT = 0

TOKEN = np.dtype(np.int64).itemsize
"""Bytes of a token in a key."""


class BlockPool:
    """`count` usable blocks of `size` tokens each."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._owners = [0] * (count + 1)
        self._free = list(range(1, count + 1))  # a heap: low numbers first keeps the touched memory small and dense
        self._tree: OrderedDict[tuple[int, bytes], int] = OrderedDict()
        self._place: dict[int, tuple[int, bytes]] = {}
        self._below: dict[int, list[bytes]] = {}  # the tokens of the blocks behind a block, sorted
        self._idle = 0

    @property
    def free(self) -> int:
        """Blocks nobody owns."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks the prefix tree holds (alone or with sequences)."""
        return len(self._tree)

    @property
    def idle(self) -> int:
        """Blocks only the prefix tree holds: they can be had by giving up leaves."""
        return self._idle

    def shared(self, block: int) -> bool:
        """Whether a write into `block` would be seen by somebody else."""
        return self._owners[block] > 1

    def reclaim(self, block: int, length: int) -> bool:
        """Whether an owner of `block` may write behind its first `length` tokens, the tree having let go of it where nobody else has
        it and it says no more than those."""
        if not self.shared(block):
            return True
        key = self._place.get(block)
        if key is None or self._owners[block] > 2 or self._below.get(block) or len(key[1]) > length * TOKEN:
            return False
        self._remove(key)
        return True

    def take(self) -> int | None:
        """A block with one owner, giving up a leaf of the prefix tree if need be; None when there is none to be had."""
        if not self._free and not self._give_up():
            return None
        block = heapq.heappop(self._free)
        self._owners[block] = 1
        return block

    def share(self, blocks: Sequence[int]) -> None:
        """One more owner for each."""
        for block in blocks:
            self._idle -= self._owners[block] == 1 and block in self._place
            self._owners[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One owner fewer for each; a block without owners is free."""
        for block in blocks:
            self._owners[block] -= 1
            self._idle += self._owners[block] == 1 and block in self._place
            if self._owners[block] == 0:
                heapq.heappush(self._free, block)
            elif self._owners[block] < 0:
                raise AssertionError(f"block {block} was released more often than shared")

    def match(self, tokens: np.ndarray) -> tuple[list[int], int]:
        """Blocks of the longest known beginning of `tokens`, shared with the caller, and how many tokens that is (the last block may
        go on otherwise behind them)."""
        found: list[int] = []
        parent = ROOT
        path = []
        for at in range(len(tokens) // self.size):
            key = (parent, tokens[at * self.size : (at + 1) * self.size].tobytes())
            block = self._tree.get(key)
            if block is None:
                break
            path.append(key)
            found.append(block)
            parent = block
        length = len(found) * self.size
        more, content = self._alike(parent, tokens[length : length + self.size])
        if more:
            path.append((parent, content))
            found.append(self._tree[parent, content])
        for key in reversed(path):  # parents last, so that a leaf is always older than its parent
            self._tree.move_to_end(key)
        self.share(found)
        return found, length + more

    def publish(self, tokens: np.ndarray, blocks: Sequence[int]) -> None:
        """Let later sequences find `blocks`, those of `tokens` [at most len(blocks) * size], in order; nobody may write into them
        any more, unless after `reclaim`."""
        parent = ROOT
        path = []
        for at, block in enumerate(blocks):
            piece = tokens[at * self.size : (at + 1) * self.size]
            key = (parent, piece.tobytes())
            known = self._tree.get(key)
            if known is None:
                if block in self._place or self._alike(parent, piece)[0] == len(piece):
                    break
                known = block
                self.share((block,))
                self._tree[key], self._place[block] = block, key
                insort(self._below.setdefault(parent, []), key[1])
            path.append(key)
            parent = known
        for key in reversed(path):
            self._tree.move_to_end(key)

    def _alike(self, parent: int, tokens: np.ndarray) -> tuple[int, bytes]:
        """Of the blocks behind `parent` the one that has most tokens at its beginning in common with `tokens`: how many, and its
        tokens (none where there is no such block)."""
        known = self._below.get(parent, [])
        place = bisect_left(known, tokens.tobytes())
        best, content = 0, b""
        for other in known[
            max(0, place - 1) : place + 1
        ]:  # of sorted words a neighbour has the longest beginning in common
            n = min(len(tokens), len(other) // TOKEN)
            differ = np.flatnonzero(np.frombuffer(other, tokens.dtype, n) != tokens[:n])
            common = int(differ[0]) if len(differ) else n
            if common > best:
                best, content = common, other
        return best, content

    def _remove(self, key: tuple[int, bytes]) -> None:
        """Take a leaf out of the prefix tree."""
        block = self._tree.pop(key)
        self._idle -= self._owners[block] == 1
        del self._place[block]
        known = self._below[key[0]]
        del known[bisect_left(known, key[1])]
        self.release((block,))

    def forget(self) -> None:
        """Empty the prefix tree (the weights changed)."""
        blocks = list(self._tree.values())
        self._tree.clear()
        self._place.clear()
        self._below.clear()
        self._idle = 0
        self.release(blocks)

    def _give_up(self) -> bool:
        """Free the least recently used leaf that only the tree owns."""
        for key, block in self._tree.items():
            if self._owners[block] == 1 and not self._below.get(block):
                self._remove(key)
                return True
        return False
