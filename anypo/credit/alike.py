"""How much two rollouts are alike: the runs of tokens that they share, whatever was right about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from anypo.data.records import Tokens, Trajectory


def alikeness(rollouts: Sequence[Trajectory], longest: int = 3) -> np.ndarray:
    """The share of n-grams that two rollouts have in common (Dice), n from 1 to `longest`, each as often as both have it: [S, S],
    1 for the same decisions, 0 without a common one."""
    counts = [ngrams(decided(t), longest) for t in rollouts]
    sizes = [sum(c.values()) for c in counts]
    out = np.eye(len(counts))
    for i, one in enumerate(counts):
        for j, other in enumerate(counts[:i]):
            total = sizes[i] + sizes[j]
            out[i, j] = out[j, i] = 2 * sum((one & other).values()) / total if total else 1.0
    return out


def clusters(rollouts: Sequence[Trajectory], least: float) -> np.ndarray:
    """The cluster of every rollout, int [S]: that of the first rollout before it that began one and is alike to it by `least`, or
    its own."""
    near = alikeness(rollouts)
    names: list[int] = []
    for i in range(len(rollouts)):
        begun = [j for j, name in enumerate(names) if name == j and near[i, j] >= least]
        names.append(begun[0] if begun else i)
    return np.array(names, dtype=np.int64)


def decided(trajectory: Trajectory) -> list[Hashable]:
    """What the policy decided, in order: tokens, or actions (to three decimals)."""
    if isinstance(trajectory.content, Tokens):
        return trajectory.content.tokens[trajectory.content.actions].tolist()  # type: ignore[no-any-return]
    return [np.round(np.asarray(a, dtype=np.float64), 3).tobytes() for a in trajectory.content.actions]


def ngrams(items: Sequence[Hashable], longest: int) -> Counter[tuple[Hashable, ...]]:
    """How often each run of 1 to `longest` items occurs."""
    return Counter(tuple(items[i : i + n]) for n in range(1, longest + 1) for i in range(len(items) - n + 1))
