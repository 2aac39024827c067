"""Numbers of an evaluation: accuracies with intervals, pass@k, majority@k."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927), 95 % by default; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values with Student's interval; an unbounded interval below two values. `ValueError` without any."""
    from scipy.stats import t

    if not len(values):
        raise ValueError("no values have no mean")
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples is right, from `correct` of n samples:
    1 - C(n - c, k) / C(n, k) (Chen et al., arXiv:2107.03374). Needs k <= n."""
    if k > n:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {n}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority_at_k(answers: Sequence[str | None], right: Sequence[bool]) -> float:
    """1 if the most frequent answer is right; ties share the credit.

    Right answers are one answer, however they are written: the verifier found each equal to the problem's. A wrong one that is
    None (there is no answer in the text) is no vote.
    """
    counts = Counter(True if well else answer for answer, well in zip(answers, right) if well or answer is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    return float(counts[True] == most) / sum(count == most for count in counts.values())
