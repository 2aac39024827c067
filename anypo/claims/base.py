"""Claims: what a paper reports, as a small experiment that runs, with its uncertainty and the published figure beside it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from anypo.parts import folder
from anypo.plugins import look_up, register

Verdict = Literal["reproduced", "direction_only", "not_reproduced"]
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a claim measured.

    base / ours: the metric of the base method and of the system. effect: the quantity the verdict rests on (usually ours - base),
    with its 95 % interval [low, high]; statistic: what effect is and how its uncertainty was found, in words; p: of a test,
    where one was made. seeds: those behind the numbers, chosen before the run.
    """

    base: float
    ours: float
    effect: float
    low: float
    high: float
    verdict: Verdict
    metric: str = ""
    statistic: str = ""
    p: float | None = None
    notes: str = ""
    seeds: tuple[int, ...] = ()

    def plain(self) -> dict[str, Any]:
        """JSON-safe: non-finite numbers become None."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


@dataclass
class ClaimRun:
    """Handed to a claim: its seeds, and a place for remarks. `quick` asks for the smallest run that exercises the code
    (its verdict is never recorded)."""

    seeds: tuple[int, ...]
    quick: bool = False
    notes: list[str] = field(default_factory=list)

    def each(self, experiment: Callable[[int], T]) -> list[T]:
        """`experiment(seed)` for every seed, in order."""
        return [experiment(seed) for seed in self.seeds]

    def steps(self, count: int) -> int:
        """`count`, or a tenth of it (at least 2) in a quick run."""
        return max(2, count // 10) if self.quick else count

    def note(self, text: str) -> None:
        """A remark that goes into the record."""
        self.notes.append(text)


@dataclass(frozen=True)
class Claim:
    """A registered claim. `description` is the docstring: what is compared, on what, and what the paper says."""

    name: str
    run: Callable[[ClaimRun], Outcome]
    published: str
    family: str
    base: str
    seconds: float
    seeds: int
    stand_in: str
    description: str

    def run_seeds(self, quick: bool = False) -> tuple[int, ...]:
        """The seeds of every run of this claim: fixed by its name, not by its results."""
        offset = sum(ord(letter) * 31**place for place, letter in enumerate(self.name)) % 100_000
        return tuple(offset + k for k in range(2 if quick else self.seeds))


CLAIMS: dict[str, Claim] = {}


def claim(
    name: str, *, published: str, base: str = "grpo", seconds: float = 30.0, seeds: int = 8, stand_in: str = ""
) -> Callable[[Callable[[ClaimRun], Outcome]], Callable[[ClaimRun], Outcome]]:
    """Register the claim of the system `name`.

    published: the figure the paper reports, in words. base: what it is compared with. seconds: expected cost on two cores.
    seeds: how many paired runs. stand_in: what replaces a model or world of the paper. The family is the module's folder, that of
    the system.
    """

    def known(run: Callable[[ClaimRun], Outcome]) -> Callable[[ClaimRun], Outcome]:
        text = inspect.cleandoc(run.__doc__ or "")
        about = Claim(name, run, published, folder(run), base, seconds, seeds, stand_in, text)
        register(CLAIMS, "claim", name, about, run)
        return run

    return known


def find(name: str) -> Claim:
    """The claim of that name; `UserError` with the nearest spelling otherwise."""
    return look_up(CLAIMS, "claim", name, "`anypo verify --list` shows all.")


# -- statistics -----------------------------------------------------------------------------------------------------------------


def paired_bootstrap(differences: Sequence[float], draws: int = 10_000, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of paired differences, resampling pairs. (nan, nan) without pairs."""
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        return math.nan, math.nan
    index = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(values[index].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_interval(differences: Sequence[float], draws: int = 10_000, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of paired differences: the hull of the bootstrap's and Student's. With the handful of seeds a claim can
    afford the bootstrap alone is too narrow; Student's alone is wrong for skewed differences. (nan, nan) below two pairs."""
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return math.nan, math.nan
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    low, high = paired_bootstrap(differences, draws, level)
    return min(low, float(values.mean()) - half), max(high, float(values.mean()) + half)


def sign_test(differences: Sequence[float]) -> float:
    """One-sided exact p-value that positive differences are no more likely than negative ones (zeros dropped)."""
    positive = sum(d > 0 for d in differences)
    trials = sum(d != 0 for d in differences)
    return sum(math.comb(trials, k) for k in range(positive, trials + 1)) / 2**trials


def fisher_exact(base: int, base_of: int, ours: int, ours_of: int) -> float:
    """One-sided exact p-value that `ours` of `ours_of` is no rarer than `base` of `base_of` (Fisher 1934): the hypergeometric
    chance of as few or fewer events among ours."""
    events, total = base + ours, base_of + ours_of
    ways = math.comb(total, events)
    smallest = max(0, events - base_of)
    return sum(math.comb(ours_of, k) * math.comb(base_of, events - k) for k in range(smallest, ours + 1)) / ways


# -- outcomes -------------------------------------------------------------------------------------------------------------------


def judge(effect: float, low: float, high: float) -> Verdict:
    """The effect is claimed to be positive: reproduced when its whole interval is, direction only when just the estimate is."""
    if low > 0:
        return "reproduced"
    return "direction_only" if effect > 0 else "not_reproduced"


def weaker(*verdicts: Verdict) -> Verdict:
    """The least favourable of several verdicts that must all hold."""
    order: tuple[Verdict, ...] = ("not_reproduced", "direction_only", "reproduced")
    return min(verdicts, key=order.index)


def compare(
    base: Sequence[float], ours: Sequence[float], metric: str, run: ClaimRun, *, larger: bool = True
) -> Outcome:
    """Paired comparison by seed: the mean difference with its interval (`paired_interval`), and a sign test. The claim is that ours is
    larger (or smaller, with `larger=False`)."""
    sign = 1.0 if larger else -1.0
    gains = [sign * (o - b) for b, o in zip(base, ours, strict=True)]
    low, high = paired_interval(gains)
    effect = float(np.mean(gains))
    if not all(math.isfinite(gain) for gain in gains):
        run.note("some runs gave non-finite numbers; these count against the claim")
        effect, low, high = -math.inf, -math.inf, -math.inf
    low, high, effect = (low, high, effect) if larger else (-high, -low, -effect)
    verdict = judge(sign * effect, low if larger else -high, high if larger else -low)
    wins = sum(gain > 0 for gain in gains)
    return Outcome(
        base=float(np.mean(base)), ours=float(np.mean(ours)), effect=effect, low=low, high=high, verdict=verdict,
        metric=metric, p=sign_test(gains), seeds=run.seeds, notes=" ".join(run.notes),
        statistic=f"mean paired difference over {len(gains)} seeds, {wins} of {len(gains)} in the claimed direction",
    )  # fmt: skip


def not_worse(
    base: Sequence[float], ours: Sequence[float], margin: float, metric: str, run: ClaimRun, *, larger: bool = True
) -> Outcome:
    """Paired non-inferiority: ours is worse by less than `margin` (chosen before the run)."""
    sign = 1.0 if larger else -1.0
    found = compare([b - sign * margin for b in base], ours, metric, run, larger=larger)
    shift = -sign * margin
    return Outcome(
        **{
            **found.__dict__,
            "base": float(np.mean(base)),
            "effect": found.effect + shift,
            "low": found.low + shift,
            "high": found.high + shift,
            "statistic": f"{found.statistic}; not worse by more than {margin:g}",
        }
    )


def fewer_events(
    base: Sequence[bool], ours: Sequence[bool], metric: str, run: ClaimRun, level: float = 0.05
) -> Outcome:
    """Events (collapses, spikes, violations) by run are rarer with ours: difference of rates, bootstrap interval, Fisher's test."""
    p = fisher_exact(sum(base), len(base), sum(ours), len(ours))
    rates = float(np.mean(base)), float(np.mean(ours))
    generator = np.random.default_rng(0)
    draws = [
        generator.choice(np.asarray(list(side), dtype=float), size=(10_000, len(side))).mean(1) for side in (base, ours)
    ]
    low, high = np.quantile(draws[1] - draws[0], [0.025, 0.975])
    effect = rates[1] - rates[0]
    verdict: Verdict = "reproduced" if p < level else "direction_only" if effect < 0 else "not_reproduced"
    return Outcome(
        base=rates[0], ours=rates[1], effect=effect, low=float(low), high=float(high), verdict=verdict, metric=metric, p=p,
        seeds=run.seeds, notes=" ".join(run.notes), statistic=f"difference of rates, one-sided Fisher p = {p:.3g}",
    )  # fmt: skip


def identity(error: float, tolerance: float, metric: str, run: ClaimRun, *, base: float = 0.0) -> Outcome:
    """A mathematical identity: the largest error is below `tolerance`."""
    verdict: Verdict = "reproduced" if error <= tolerance else "not_reproduced"
    return Outcome(
        base=base, ours=error, effect=error, low=error, high=error, verdict=verdict, metric=metric,
        seeds=run.seeds, notes=" ".join(run.notes), statistic=f"largest error, tolerance {tolerance:g}",
    )  # fmt: skip
