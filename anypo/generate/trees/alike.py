"""How alike two stretches of tokens are: edit distance, shared endings, longest common subsequence."""

from __future__ import annotations

from collections.abc import Sequence


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Fewest insertions, deletions and substitutions that make one of the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def shared_ending(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest ending of one that occurs anywhere in the other; the larger of the two directions."""
    return max(_ending_in(a, b), _ending_in(b, a))


def _ending_in(a: Sequence[int], b: Sequence[int]) -> int:
    best = 0
    for end in range(1, len(b) + 1):
        n = 0
        while n < min(end, len(a)) and a[-1 - n] == b[end - 1 - n]:
            n += 1
        best = max(best, n)
    return best


def common_subsequence(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(a: Sequence[int], b: Sequence[int]) -> float:
    """F1 of the longest common subsequence, 0 for empty stretches."""
    return 2 * common_subsequence(a, b) / (len(a) + len(b)) if len(a) and len(b) else 0.0
