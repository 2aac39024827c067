"""Observables: pure functions of series of numbers and of rows of rollouts. Nothing here knows a threshold."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations

import numpy as np
from scipy.stats import norm, spearmanr

from anypo.diagnose.evidence import Row, Series, decided, groups

# -- series ------------------------------------------------------------------------------------------------------------------


def level(series: Series) -> float:
    """Median of the last third: where a metric is now, whatever single steps did."""
    return float(np.median(series.values[-max(1, len(series) // 3) :]))


def worst(series: Series, low: bool = False) -> float:
    """The highest (lowest with `low`) of the medians of the three thirds: what was bad for a third of a run was bad, even if the
    run has come to rest since."""
    medians = [float(np.median(part)) for part in np.array_split(series.values, 3) if len(part)]
    return min(medians) if low else max(medians)


def ends(series: Series) -> tuple[float, float]:
    """Medians of the first and of the last quarter."""
    quarter = max(1, len(series) // 4)
    return float(np.median(series.values[:quarter])), float(np.median(series.values[-quarter:]))


def rise(series: Series) -> tuple[float, float]:
    """Mean of the last third less that of the first, and its standard error from the step-to-step noise.

    The noise variance is half the mean squared successive difference (von Neumann), which a slow trend does not inflate.
    """
    values = series.values
    third = max(1, len(values) // 3)
    noise = float((np.diff(values) ** 2).mean() / 2) if len(values) > 1 else 0.0
    return float(values[-third:].mean() - values[:third].mean()), math.sqrt(2 * noise / third)


def monotone(values: np.ndarray) -> float:
    """Spearman correlation with time, 0 where it is not defined."""
    if len(values) < 3 or np.ptp(values) == 0:
        return 0.0
    return float(spearmanr(np.arange(len(values)), values).statistic)


# -- groups ------------------------------------------------------------------------------------------------------------------


def split_degenerate(found: Sequence[Sequence[Row]], right: Callable[[Row], bool]) -> tuple[float, float]:
    """Shares of groups (of two or more) whose rewards are all equal: with all right, and with not all right."""
    sizes = [group for group in found if len(group) > 1]
    same = [group for group in sizes if len({row["reward"] for row in group}) == 1]
    solved = sum(all(right(row) for row in group) for group in same)
    return solved / max(1, len(sizes)), (len(same) - solved) / max(1, len(sizes))


def near_duplicates(found: Iterable[Sequence[Row]], similarity: float = 0.9) -> float:
    """Mean over groups of the share of pairs whose texts are equal or share `similarity` of their character trigrams (Jaccard)."""
    shares = []
    for group in found:
        grams = [_grams(row["text"] or "") for row in group]
        pairs = [len(a & b) >= similarity * len(a | b) for a, b in combinations(grams, 2)]
        shares += [float(np.mean(pairs))] if pairs else []
    return float(np.mean(shares)) if shares else math.nan


def _grams(text: str) -> frozenset[str]:
    return frozenset(text[i : i + 3] for i in range(max(1, len(text) - 2)))


def sign_flips(found: Iterable[Sequence[Row]], low: float, high: float) -> float:
    """Expected share of rollouts with a live advantage whose sign another draw of the baseline would turn.

    Given the group's mean m with standard error s = sd / sqrt(G), the true mean is about N(m, s^2), so reward r changes sides
    with probability Phi(-|r - m| / s). A reward at an end of the range [low, high] cannot: the mean never passes it.
    For normal rewards the exact share is arctan(1 / sqrt(G - 1)) / pi; estimating sd from the group makes this a fifth too small
    at G = 4 and a twentieth at G = 16.
    """
    chances = []
    for group in found:
        rewards = np.array([row["reward"] for row in group])
        if len(rewards) < 2 or not np.isfinite(rewards).all() or np.ptp(rewards) < 1e-9:
            continue
        gap = np.abs(rewards - rewards.mean())
        chance = norm.cdf(-gap / (rewards.std(ddof=1) / math.sqrt(len(rewards))))
        inside = (rewards > low + 1e-9) & (rewards < high - 1e-9)
        chances += np.where(inside, chance, 0.0).tolist()
    return float(np.mean(chances)) if chances else math.nan


def conflict(found: Iterable[Sequence[Row]], shuffles: int = 8) -> tuple[float, int]:
    """Cancellation between rollouts that make the same decision in the same place, relative to chance; and how many decisions.

    Decisions of a group with the same tokens before them and the same token have the same gradient of log pi, so only the sum
    of their advantages moves the weights: sum |A| - sum |sum A| over the decisions shared by some but not all of the group is
    lost. Divided by the same with the advantages dealt to the rollouts at random: 0 where shared decisions agree, 1 where
    what was decided says nothing about the advantage. nan where nothing is shared.
    """
    lost, chance, decisions = 0.0, 0.0, 0
    random = np.random.default_rng(0)
    for group in found:
        advantages = np.array([row["advantage"] for row in group], dtype=np.float64)
        if not np.isfinite(advantages).all() or np.ptp(advantages) < 1e-9:
            continue
        members: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, row in enumerate(group):
            tokens = decided(row)
            for end in range(1, len(tokens) + 1):
                members[tuple(tokens[:end])].append(number)
        shared = [who for who in members.values() if 1 < len(who) < len(group)]
        decisions += len(shared)
        dealt = [advantages] + [random.permutation(advantages) for _ in range(shuffles)]
        wasted = [sum(float(np.abs(a[who]).sum() - abs(a[who].sum())) for who in shared) for a in dealt]
        lost += wasted[0]
        chance += float(np.mean(wasted[1:]))
    return (lost / chance if chance > 1e-9 else math.nan), decisions


def length_correlation(found: Iterable[Sequence[Row]]) -> float:
    """Correlation of length and reward inside groups (both centred on their group's mean), nan without variation."""
    lengths, rewards = [], []
    for group in found:
        length, reward = np.array([(row["length"], row["reward"]) for row in group], dtype=np.float64).T
        if not np.isfinite(reward).all():
            continue
        lengths.append(length - length.mean())
        rewards.append(reward - reward.mean())
    if not lengths:
        return math.nan
    x, y = np.concatenate(lengths), np.concatenate(rewards)
    spread = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / spread if spread > 1e-12 else math.nan


# -- answers -----------------------------------------------------------------------------------------------------------------


def disagreements(rows: Iterable[Row], score: Callable[[Row], float]) -> tuple[float, int, list[Row]]:
    """Share of repeated answers to a prompt that got another verdict than the first time, how many repeats, and examples."""
    first: dict[Hashable, Row] = {}
    repeats, examples = 0, []
    for row in rows:
        key = (row["prompt"], row["text"], row["finish"])
        if row["failed"] or key not in first:
            first.setdefault(key, row)
            continue
        repeats += 1
        if abs(score(row) - score(first[key])) > 1e-9:
            examples.append(row)
    return len(examples) / max(1, repeats), repeats, examples


def one_answer_for_all(rows: Iterable[Row], right: Callable[[Row], bool]) -> tuple[float, int, str]:
    """The largest share of the distinct expected answers (with a rewarded rollout) for which one and the same text is rewarded;
    how many such expected answers there are; and that text."""
    wanted: dict[str, set[str]] = defaultdict(set)
    answers = set()
    for row in rows:
        if row["answer"] and right(row):
            answers.add(row["answer"])
            wanted[row["text"] or ""].add(row["answer"])
    if not answers:
        return math.nan, 0, ""
    text = max(wanted, key=lambda each: (len(wanted[each]), each))
    return len(wanted[text]) / len(answers), len(answers), text


def switches(
    steps: Sequence[Sequence[Row]], score: Callable[[Row], float], sure: float = 0.6
) -> tuple[float, int, list[Row]]:
    """Policy cliffs: of the prompts visited again while their reward stayed (within 0.1) and several answers tied for the best,
    the share whose sure favourite (at least `sure` of the rollouts) became another sure favourite; how many; examples."""
    past: dict[int, tuple[str, float, float]] = {}
    seen, moved, examples = 0, 0, []
    tied: dict[int, set[str]] = defaultdict(set)
    for rows in steps:
        for group in groups(rows):
            prompt, best = group[0]["prompt"], max(score(row) for row in group)
            favourite, count = Counter(row["text"] or "" for row in group).most_common(1)[0]
            mean = float(np.mean([score(row) for row in group]))
            tied[prompt] |= {row["text"] or "" for row in group if score(row) >= best - 1e-9 and best > 0}
            if count / len(group) < sure or len(group) < 3:
                continue
            if prompt in past and len(tied[prompt]) > 1 and abs(past[prompt][1] - mean) <= 0.1:
                seen += 1
                if past[prompt][0] != favourite:
                    moved += 1
                    examples += [row for row in group if row["text"] == favourite][:1]
            past[prompt] = favourite, mean, count
    return moved / max(1, seen), seen, examples


# -- cost and coverage -------------------------------------------------------------------------------------------------------


def idle(steps: Iterable[Sequence[Row]]) -> float:
    """Median over steps of 1 - mean length / longest length: the share of slots that wait for the longest rollout when a step's
    rollouts run side by side."""
    shares = []
    for rows in steps:
        lengths = np.array([row["length"] for row in rows], dtype=np.float64)
        if len(lengths) > 1 and lengths.max() > 0:
            shares.append(1 - lengths.mean() / lengths.max())
    return float(np.median(shares)) if shares else math.nan


def starvation(visits: Sequence[int], problems: int) -> float:
    """1 - distinct prompts / how many `len(visits)` uniform draws from `problems` would meet; below 0 where every prompt gets
    its turn."""
    expected = problems * -math.expm1(len(visits) * math.log1p(-1 / problems)) if problems > 1 else 1.0
    return 1 - len(set(visits)) / expected
