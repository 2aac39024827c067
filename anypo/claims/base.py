"""Claims: what a paper reports, as a small experiment that runs, with its uncertainty and the published figure beside it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np

from anypo.claims.statistics import fisher_exact, paired_interval, sign_test
from anypo.parts import folder
from anypo.plugins import look_up, register

Verdict = Literal["reproduced", "direction_only", "not_reproduced", "untested"]
"""What came of a claim. untested: the bed did not let the effect show, or not let it fail, so nothing is known."""
T = TypeVar("T")


@dataclass(frozen=True)
class Premise:
    """Why a bed can show the effect: what must happen to the base there, in `met` of `of` runs, at least in the share `needed`."""

    what: str
    met: int
    of: int
    needed: float = 0.4

    @property
    def holds(self) -> bool:
        return self.met >= self.needed * self.of > 0


def fails(runs: Sequence[bool], what: str) -> Premise:
    """The failure that the method repairs happens to the base, by run: in at least four of ten."""
    return Premise(what, sum(map(bool, runs)), len(runs), 0.4)


def learns(
    before: Sequence[float], after: Sequence[float], ceiling: float, by: float = 0.05, what: str = ""
) -> Premise:
    """The base learns (`after` lies above `before` by at least `by`) and stays below `ceiling`, in at least eight of ten runs: what is
    better can be seen, and what is worse, too. Negate both sides of a quantity that is to fall."""
    met = sum(bool(b + by <= a <= ceiling) for b, a in zip(before, after, strict=True))
    return Premise(what or f"the base rises by {by:g} and stays below {ceiling:g}", met, len(after), 0.8)


@dataclass(frozen=True)
class Control:
    """Another explanation of an effect: its mean, and how far ours is better than it, with the 95 % interval."""

    name: str
    mean: float
    effect: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """What a claim measured.

    base / ours: the metric of the base method and of the system. effect: the quantity the verdict rests on (usually ours - base),
    with its 95 % interval [low, high]; statistic: what effect is and how its uncertainty was found, in words; p: of a test,
    where one was made. seeds: those behind the numbers, chosen before the run. least: the smallest effect that matters, fixed
    beforehand. controls: other explanations of the effect that ours had to beat, too. premise: whether the bed let it show.
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
    least: float = 0.0
    controls: tuple[Control, ...] = ()
    premise: Premise | None = None

    def plain(self) -> dict[str, Any]:
        """JSON-safe: non-finite numbers become None."""
        safe = lambda v: None if isinstance(v, float) and not math.isfinite(v) else v
        out: dict[str, Any] = {key: safe(value) for key, value in asdict(self).items()}
        out["controls"] = [{key: safe(value) for key, value in vars(control).items()} for control in self.controls]
        return out


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


# -- outcomes -------------------------------------------------------------------------------------------------------------------


def judge(effect: float, low: float, high: float, least: float = 0.0) -> Verdict:
    """The effect is claimed to be positive: reproduced when its whole interval is and it is no smaller than `least`, direction only
    when just the estimate is positive."""
    if low > 0 and effect >= least:
        return "reproduced"
    return "direction_only" if effect > 0 else "not_reproduced"


def weaker(*verdicts: Verdict) -> Verdict:
    """The least favourable of several verdicts that must all hold."""
    order: tuple[Verdict, ...] = ("untested", "not_reproduced", "direction_only", "reproduced")
    return min(verdicts, key=order.index)


def compare(
    base: Sequence[float],
    ours: Sequence[float],
    metric: str,
    run: ClaimRun,
    *,
    larger: bool = True,
    least: float = 0.0,
    controls: Mapping[str, Sequence[float]] | None = None,
    premise: Premise | None = None,
) -> Outcome:
    """Paired comparison by seed: the mean difference with its interval (`paired_interval`), and a sign test. The claim is that ours is
    larger (or smaller, with `larger=False`).

    least: the smallest effect that matters; one below it is a direction at most. controls: by name, the metric of what would explain
    the effect without the method; ours must beat each of them as it must beat the base. premise: where it does not hold,
    the claim is untested, whatever the numbers.
    """
    sign = 1.0 if larger else -1.0
    gains = [sign * (o - b) for b, o in zip(base, ours, strict=True)]
    low, high = paired_interval(gains)
    effect = float(np.mean(gains))
    if not all(math.isfinite(gain) for gain in gains):
        run.note("some runs gave non-finite numbers; these count against the claim")
        effect, low, high = -math.inf, -math.inf, -math.inf
    verdict = judge(effect, low, high, least)
    others = tuple(_control(name, values, ours, sign) for name, values in (controls or {}).items())
    verdict = weaker(verdict, *(judge(other.effect, other.low, other.high) for other in others))
    if premise is not None and not premise.holds:
        verdict = "untested"
    low, high, effect = (low, high, effect) if larger else (-high, -low, -effect)
    wins = sum(gain > 0 for gain in gains)
    return Outcome(
        base=float(np.mean(base)), ours=float(np.mean(ours)), effect=effect, low=low, high=high, verdict=verdict,
        metric=metric, p=sign_test(gains), seeds=run.seeds, notes=" ".join(run.notes), least=least, controls=others,
        premise=premise,
        statistic=f"mean paired difference over {len(gains)} seeds, {wins} of {len(gains)} in the claimed direction",
    )  # fmt: skip


def _control(name: str, values: Sequence[float], ours: Sequence[float], sign: float) -> Control:
    gains = [sign * (o - c) for c, o in zip(values, ours, strict=True)]
    low, high = paired_interval(gains)
    if not all(map(math.isfinite, gains)):
        low = high = -math.inf
    return Control(name, float(np.mean(values)), float(np.mean(gains)), low, high)


def sooner(
    base: Sequence[float], ours: Sequence[float], metric: str, run: ClaimRun, *, most: float, **more: Any
) -> Outcome:
    """Paired comparison of what a run needs until it reaches a goal (steps, tokens): the claim is that ours needs less. inf for one
    that never does: it is lost, counted as `most` (no less than what any run may need), and ours may lose no more runs than the base.
    more: `least`, `controls`, `premise` of `compare`."""
    lost = [sum(not math.isfinite(value) for value in side) for side in (base, ours)]
    capped = lambda side: [min(float(value), most) for value in side]
    more["controls"] = {name: capped(values) for name, values in more.get("controls", {}).items()}
    run.note(f"never there: {lost[0]} (base), {lost[1]} (ours) of {len(base)} runs.")
    found = compare(capped(base), capped(ours), metric, run, larger=False, **more)
    return found if lost[1] <= lost[0] else replace(found, verdict=weaker(found.verdict, "not_reproduced"))


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
