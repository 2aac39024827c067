"""What truncated sampling left to choose from, decision by decision, so that the distribution sampled from is known after the
weights have moved: with S_t the kept set and z' the logits of any later weights, log pi(a) = z'_a - log sum over S_t of exp z'."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Kept:
    """`tokens`: the ids that were kept, one decision's after the other's, int32 [K]. `counts`: how many each of T decisions kept,
    int32 [T]; 0 says that nothing was left out, so that only truncated decisions take memory."""

    tokens: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(sets: Sequence[np.ndarray | None]) -> Kept | None:
        """From one array of ids per decision (None: all); None where no decision was truncated."""
        some = [np.asarray(ids, dtype=np.int32) for ids in sets if ids is not None and len(ids)]
        if not some:
            return None
        counts = np.array([0 if ids is None else len(ids) for ids in sets], dtype=np.int32)
        return Kept(np.concatenate(some), counts)

    @staticmethod
    def joined(pieces: Sequence[Kept | None], lengths: Sequence[int]) -> Kept | None:
        """Of decisions that follow each other, `lengths` of them in each piece."""
        if all(piece is None for piece in pieces):
            return None
        counts = [np.zeros(n, np.int32) if piece is None else piece.counts for piece, n in zip(pieces, lengths)]
        return Kept(np.concatenate([piece.tokens for piece in pieces if piece is not None]), np.concatenate(counts))

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The ids of every decision; none where all were kept."""
        ends = self.counts.cumsum()
        return (self.tokens[end - count : end] for end, count in zip(ends.tolist(), self.counts.tolist()))

    def part(self, begin: int, end: int) -> Kept | None:
        """Of the decisions `begin` to `end`."""
        return Kept.of(list(itertools.islice(self, begin, end)))

    def around(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The kept ids [K'] and the decision each belongs to, int64 [K'] (ascending), of the decisions whose token `chosen` [T] is
        among them. A token that was put there and could not have been drawn has its probability in the whole vocabulary."""
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        found = np.zeros(len(self.counts), dtype=bool)
        found[owner[self.tokens == np.asarray(chosen)[owner]]] = True
        return self.tokens[found[owner]], owner[found[owner]]

    def plain(self) -> dict[str, Any]:
        """As arrays (checkpoint safe); `Kept(**plain)` is the same again."""
        return {"tokens": self.tokens, "counts": self.counts}


__all__ = ["Kept"]
