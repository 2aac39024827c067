"""Packing: many token sequences as one prefix tree, every shared token once.

Sequences sorted lexicographically share their longest prefixes with their neighbours, so "the tokens a sequence does not
share with the one before it", written one sequence after the other, is the prefix tree of all of them in preorder. Whatever
the shape (a prompt and its group, forks of forks, a header common to all prompts, nothing in common at all), token u is an
ancestor-or-self of token t exactly when ``u <= t < end[u]``. Shared-prefix training of groups (arXiv:2506.05433) is the
two-level case and packing of unrelated sequences the one-level case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Packed:
    """The prefix tree of S sequences with N distinct tokens, in preorder.

    tokens: ids, [N]. depth: position of each token on its path (its rotary position), [N]. end: one past the last token of
    each token's subtree, [N]. paths: for each sequence the tree index of every token of it, [L_s] each.
    """

    tokens: Array
    depth: Array
    end: Array
    paths: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def ancestors(self, token: int) -> Array:
        """Tree indices of the proper ancestors of `token`, root first, [depth of token]."""
        before = np.arange(token)
        return before[self.end[:token] > token]


def lexicographic(sequences: Sequence[Array]) -> list[int]:
    """The order that puts sequences beside those they share the longest prefix with (a prefix before what extends it)."""
    keys = [np.ascontiguousarray(sequence, dtype=">i8").tobytes() for sequence in sequences]
    return sorted(range(len(keys)), key=keys.__getitem__)


def common_prefix(a: Array, b: Array) -> int:
    """Number of leading tokens that `a` and `b` share."""
    shortest = min(len(a), len(b))
    differ = np.flatnonzero(a[:shortest] != b[:shortest])
    return int(differ[0]) if len(differ) else shortest


def pack(sequences: Sequence[Array]) -> Packed:
    """The prefix tree of `sequences` (integer arrays [L_s] of non-negative token ids; empty ones are allowed)."""
    tokens: list[Array] = []
    depth: list[Array] = []
    end = np.zeros(sum(len(sequence) for sequence in sequences), dtype=np.int64)
    paths: list[Array] = [np.zeros(0, dtype=np.int64)] * len(sequences)
    previous, path, used = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 0
    for index in lexicographic(sequences):
        sequence = np.asarray(sequences[index], dtype=np.int64)
        shared = common_prefix(previous, sequence)
        end[path[shared:]] = used  # the branch that was open until here ends
        fresh = len(sequence) - shared
        path = np.concatenate([path[:shared], np.arange(used, used + fresh)])
        tokens.append(sequence[shared:])
        depth.append(np.arange(shared, len(sequence)))
        paths[index] = path
        previous, used = sequence, used + fresh
    end[path] = used
    return Packed(joined(tokens), joined(depth), end[:used], tuple(paths))


def micro_batches(sequences: Sequence[Array], budget: int) -> list[Array]:
    """Cut `sequences` into index arrays whose prefix trees have at most `budget` tokens each (at least one sequence each).

    Neighbours in lexicographic order stay together, so little of the sharing is lost at the cuts.
    """
    pieces: list[list[int]] = []
    previous, used = np.zeros(0, dtype=np.int64), 0
    for index in lexicographic(sequences):
        sequence = np.asarray(sequences[index])
        fresh = len(sequence) - common_prefix(previous, sequence)
        if not pieces or used + fresh > budget:
            pieces.append([])
            used, fresh = 0, len(sequence)
        pieces[-1].append(index)
        previous, used = sequence, used + fresh
    return [np.sort(np.array(piece, dtype=np.int64)) for piece in pieces]


def padded_batches(lengths: Sequence[int], budget: int) -> list[Array]:
    """Cut sequences of the given lengths into index arrays of at most `budget` tokens each after padding to the longest."""
    pieces: list[list[int]] = []
    for index in np.argsort(lengths, kind="stable").tolist():
        if not pieces or lengths[index] * (len(pieces[-1]) + 1) > budget:
            pieces.append([])
        pieces[-1].append(index)
    return [np.sort(np.array(piece, dtype=np.int64)) for piece in pieces]


def joined(arrays: list[Array]) -> Array:
    """Their concatenation; empty for none."""
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)
