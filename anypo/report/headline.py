"""The first thing a report says: how good the policy was and became, and the numbers around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from anypo.report.curves import Curves, ends
from anypo.scoring.mixture import OF_SOURCE
from anypo.scoring.units import ACCURACY, amount, change

Evaluations = Sequence[Mapping[str, Any]]


def headline(found: Curves, evaluations: Evaluations, answered: Mapping[str, Any] | None) -> str:
    """Headline numbers: the held-out score first and last with intervals, or the reward where nothing was evaluated."""
    if not evaluations and not found.steps:
        return '<p class="empty">No step was completed and nothing was evaluated.</p>'
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in tiled(found))
    head = scores(evaluations, answered) if evaluations else reward(found)
    grid = f'<dl class="card tiles">{tiles}</dl>' if tiles else ""
    return f'<div class="result"><div class="card hero">{head}</div>{grid}</div>'


def scores(evaluations: Evaluations, answered: Mapping[str, Any] | None) -> str:
    """First and last score, the gain with its interval, and both intervals drawn."""
    first, last = evaluations[0], evaluations[-1]
    tones = ("var(--faint)", "var(--blue)") if first is not last else ("var(--blue)",)
    unit, ends = str(last["unit"]), scale(first, last)
    rows = "".join(interval(entry, tone, ends) for entry, tone in zip((first, last), tones))
    ticks = "".join(f"<span>{tick(ends, part / 4, unit)}</span>" for part in range(5))
    before = f'<span class="from">{large(first)}</span><span class="arrow">→</span>' if first is not last else ""
    said = (gain(first, last, answered) if first is not last else once(first)) + of_sources(first, last)
    return (
        f'<p class="eyebrow">Held-out {escape(unit)}</p><p class="big">{before}<span class="to">{large(last)}</span></p>'
        f'<p class="gain">{said}</p><div class="strip">{rows}<div class="ticks">{ticks}</div></div>'
    )


def of_sources(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """The score of every source of a mixture, first and last, as a sentence; '' where there is one task."""
    unit = str(last["unit"])
    names = [name for name in last if name.startswith(OF_SOURCE)]
    said = lambda entry, name: escape(amount(float(entry[name]), unit))
    change = lambda name: (
        f"{said(first, name)} → {said(last, name)}" if name in first and first is not last else said(last, name)
    )
    each = "; ".join(f"{escape(name.removeprefix(OF_SOURCE))} {change(name)}" for name in names)
    return f" By source: {each}." if each else ""


def once(entry: Mapping[str, Any]) -> str:
    count, unit = counted(entry), str(entry["unit"])
    label = escape(str(entry["label"]))
    low, high = (escape(amount(entry[key], unit)) for key in ("low", "high"))
    return f"Evaluated once ({label}): 95 % interval {low} to {high}, {count}."


def gain(first: Mapping[str, Any], last: Mapping[str, Any], answered: Mapping[str, Any] | None) -> str:
    unit, (low, high) = str(last["unit"]), gain_interval(first, last)
    rise, low_, high_ = (minus(change(value, unit)) for value in (last["score"] - first["score"], low, high))
    head = f"{rise} points" if unit == ACCURACY else rise
    said = f"<b>{head}</b> (95 % interval {low_} to {high_}) on {counted(last)}"
    if answered:
        said += f": {answered['counts']['fixed']} fixed, {answered['counts']['broken']} broken"
    return f"{said}."


def scale(first: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[float, float]:
    """Ends of the drawn scale: all of it for a share, else what the two intervals span."""
    if last["unit"] == ACCURACY:
        return 0.0, 1.0
    low, high = min(first["low"], last["low"]), max(first["high"], last["high"])
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def tick(ends: tuple[float, float], part: float, unit: str) -> str:
    value = ends[0] + part * (ends[1] - ends[0])
    return f"{100 * value:.0f}&thinsp;%" if unit == ACCURACY else minus(f"{value:.3g}")


def interval(entry: Mapping[str, Any], tone: str, ends: tuple[float, float] = (0.0, 1.0)) -> str:
    place = lambda value: 100 * min(1.0, max(0.0, (float(value) - ends[0]) / (ends[1] - ends[0])))
    low, high, at = (place(entry[key]) for key in ("low", "high", "score"))
    return (
        f'<span class="name">{escape(str(entry["label"]))}</span><div class="track" style="--tone: {tone}">'
        f'<span class="bar" style="left: {low:.2f}%; width: {high - low:.2f}%"></span>'
        f'<span class="dot" style="left: {at:.2f}%"></span></div>'
    )


def gain_interval(first: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[float, float]:
    """95 % interval of the difference of two scores from their own intervals by squared distances; of two proportions with Wilson
    intervals it is that of Newcombe (1998, method 10).

    It treats the two evaluations as independent; they ask the same problems, so the interval is rather too wide.
    """
    gain = last["score"] - first["score"]
    down = ((last["score"] - last["low"]) ** 2 + (first["high"] - first["score"]) ** 2) ** 0.5
    up = ((last["high"] - last["score"]) ** 2 + (first["score"] - first["low"]) ** 2) ** 0.5
    return gain - down, gain + up


def reward(found: Curves) -> str:
    shown = [f"{value:.3g}" for value in ends(found.values.get("reward/mean", []))]
    if not shown:
        return '<p class="eyebrow">Reward</p><p class="gain">No reward was recorded.</p>'
    first = f'<span class="from">{shown[0]}</span><span class="arrow">→</span>' if len(shown) == 2 else ""
    return (
        f'<p class="eyebrow">Mean reward while training</p><p class="big">{first}<span class="to">{shown[-1]}</span></p>'
        f'<p class="gain">{"First and last steps" if first else "The only step"}. No held-out evaluation was made, so this says '
        "nothing about problems the policy did not train on.</p>"
    )


def tiled(found: Curves) -> list[tuple[str, str]]:
    """Secondary numbers, each only where it was recorded."""

    def change(name: str, form: str, unit: str = "") -> str | None:
        shown = [f"{value:{form}}" for value in ends(found.values.get(name, []))]
        return " <i>→</i> ".join(shown) + unit if shown else None

    def total(name: str) -> float | None:
        known = [value for value in found.values.get(name, []) if value is not None]
        return sum(known) / len(known) * found.done if known else None

    seconds, tokens = total("time/step"), total("tokens/generated")
    speed = [value for value in found.values.get("rollout/tokens_per_second", []) if value is not None]
    memory = [value for value in found.values.get("memory/peak_gb", []) if value is not None]
    tiles = [
        ("Reward, first → last", change("reward/mean", ".3g")),
        ("Answer length", change("rollout/length", ".1f", " <small>tokens</small>")),
        ("Cut off by length", change("rollout/truncated", ".0%")),
        ("Entropy", change("policy/entropy", ".2f", " <small>nats</small>")),
        ("Time in training steps", duration(seconds) if seconds is not None else None),
        ("Tokens generated", f"{tokens:,.0f}" if tokens is not None else None),
        ("Sampling speed", f"{sum(speed) / len(speed):,.0f} <small>tokens/s</small>" if speed else None),
        ("Memory", f"{max(memory):.1f} <small>GiB</small>" if memory else None),
    ]
    return [(name, value) for name, value in tiles if value is not None]


def large(entry: Mapping[str, Any]) -> str:
    if entry["unit"] == ACCURACY:
        return f"{100 * entry['score']:.1f}<small>&thinsp;%</small>"
    return minus(amount(entry["score"], str(entry["unit"])))


def counted(entry: Mapping[str, Any]) -> str:
    return plural(int(entry["n"]), "held-out problem" if entry["unit"] == ACCURACY else "held-out episode")


def minus(text: str) -> str:
    """A number with a typographic minus sign."""
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    pieces = [(hours, "h"), (minutes, "min"), (rest, "s")]
    kept = [(count, unit) for count, unit in pieces if count][:2] or [(0, "s")]
    return " ".join(f"{count} <small>{unit}</small>" for count, unit in kept)


def plural(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
