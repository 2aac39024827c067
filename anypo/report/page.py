"""The report as one HTML page: styles, scripts and data inside, nothing loaded from anywhere.

What is static is written here as escaped HTML; curves, rollouts and answers travel as JSON and are drawn by the scripts, which
insert text only as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import yaml

from anypo.report import charts, composition, sample
from anypo.report.curves import Curves, curves, ends
from anypo.run.files import strict
from anypo.run.folder import RunFolder


def page(folder: RunFolder) -> str:
    """The report of a run folder. The same folder gives the same text."""
    config, manifest, status = folder.config(), folder.manifest(), folder.status()
    evaluations, found = folder.evaluations(), curves(folder.metrics())
    first, last = (evaluations[0], evaluations[-1]) if evaluations else (None, None)
    data = {
        "curves": vars(found),
        "evaluations": evaluations,
        "sections": charts.sections(found, bool(evaluations)),
        "rollouts": sample.rollouts(folder),
        "answers": compared(folder, manifest, first, last),
    }
    parts = {
        "Result": result(found, evaluations, data["answers"]),
        "Method": section("method", "What was run", composition.draw(config)),
        **drawn(data["sections"], found, bool(evaluations)),
        "Rollouts": rollouts(data["rollouts"], folder.rollout_steps()),
        "Answers": answers(data["answers"]),
        "Provenance": provenance(config, manifest),
    }
    parts = {name: html for name, html in parts.items() if html}
    names = {"Result": "result", "Method": "method", "Curves": "curves-0", "Rollouts": "rollouts", "Answers": "answers"}
    names["Provenance"] = "provenance"
    anchors = {name: anchor for name, anchor in names.items() if f'id="{anchor}"' in "".join(parts.values())}
    heading = f"{config.get('system', 'custom')} on {config.get('task', 'a task')}"
    return Template(asset("page.html")).substitute(
        title=escape(f"{heading} · anypo"),
        heading=escape(heading),
        style=asset("style.css"),
        facts="".join(f"<span>{fact}</span>" for fact in facts(config, manifest, status, found)),
        banner=banner(status, found, config),
        nav="".join(f'<a href="#{anchor}">{name}</a>' for name, anchor in anchors.items()),
        sections="\n".join(parts.values()),
        footer=escape(f"anypo {manifest.get('code', {}).get('version', '')}".strip() + " · this page needs no network"),
        data=embedded(data),
        script=asset("charts.js") + asset("browse.js"),
    )


def asset(name: str) -> str:
    return files("anypo.report").joinpath(name).read_text(encoding="utf-8")


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that is safe inside a script element: no character in it can end the element or open a comment."""
    text = json.dumps(strict(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def section(anchor: str, title: str, content: str, about: str = "") -> str:
    intro = f'<p class="about">{escape(about)}</p>' if about else ""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{intro}{content}</section>'


# -- header ------------------------------------------------------------------------------------------------------------------


def facts(
    config: Mapping[str, Any], manifest: Mapping[str, Any], status: Mapping[str, Any], found: Curves
) -> list[str]:
    """What the run is, in a line."""
    planned, done = config.get("steps"), found.done
    out = [
        f'<span class="state {escape(status["state"])}">{escape(status["state"])}</span>',
        escape(str(config.get("model", ""))),
        f"{done} of {planned} steps" if planned and planned != done else plural(done, "step"),
        f"seed {escape(str(config.get('seed', '–')))}",
    ]
    if manifest.get("created"):
        out.append(escape(str(manifest["created"]).replace("T", " ").removesuffix("Z")[:16]) + " UTC")
    if len(status["sessions"]) > 1:
        out.append(f"resumed {plural(len(status['sessions']) - 1, 'time')}")
    return out


def banner(status: Mapping[str, Any], found: Curves, config: Mapping[str, Any]) -> str:
    """A sentence about a run that did not reach its end."""
    done = found.done
    text = {
        "failed": f"The run failed after {plural(done, 'step')}: {status['reason'] or 'no reason was recorded'}",
        "killed": f"The run was killed after {plural(done, 'step')}; 'anypo resume' goes on from its last checkpoint.",
        "interrupted": f"The run was stopped after {plural(done, 'step')}; 'anypo resume' goes on from there.",
    }.get(status["state"], "")
    broken = sorted({step for steps in found.broken.values() for step in steps})
    if broken:
        names = ", ".join(sorted(found.broken))
        some = ", ".join(str(step) for step in broken[:6]) + (", …" if len(broken) > 6 else "")
        text = f"{text} Not a finite number at step {some}: {names}.".strip()
    return f'<p class="card banner">{escape(text)}</p>' if text else ""


def plural(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


# -- result ------------------------------------------------------------------------------------------------------------------


def result(found: Curves, evaluations: Sequence[Mapping[str, Any]], answered: Mapping[str, Any] | None) -> str:
    """Headline numbers: held-out accuracy first and last with intervals, or the reward where nothing was evaluated."""
    if not evaluations and not found.steps:
        return section("result", "Result", '<p class="empty">No step was completed and nothing was evaluated.</p>')
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in tiled(found))
    head = accuracy(evaluations, answered) if evaluations else reward(found)
    grid = f'<dl class="card tiles">{tiles}</dl>' if tiles else ""
    return f'<section id="result" aria-label="Result"><div class="result"><div class="card hero">{head}</div>{grid}</div></section>'


def accuracy(evaluations: Sequence[Mapping[str, Any]], answered: Mapping[str, Any] | None) -> str:
    first, last = evaluations[0], evaluations[-1]
    rows = "".join(
        interval(entry, tone) for entry, tone in ((first, "var(--faint)"), (last, "var(--blue)"))[: len(evaluations)]
    )
    ticks = "".join(f"<span>{tick}&thinsp;%</span>" for tick in (0, 25, 50, 75, 100))
    strip = f'<div class="strip">{rows}<div class="ticks">{ticks}</div></div>'
    if len(evaluations) == 1:
        said = f"Evaluated once ({escape(str(first['label']))}): 95 % interval {percent(first['low'])} to {percent(first['high'])}, "
        said += f"{plural(int(first['n']), 'held-out problem')}."
        return f'<p class="eyebrow">Held-out accuracy</p><p class="big">{large(first)}</p><p class="gain">{said}</p>{strip}'
    low, high = gain_interval(first, last)
    gain = last["accuracy"] - first["accuracy"]
    said = f"<b>{points(gain)} points</b> (95 % interval {points(low)} to {points(high)}) on {plural(int(last['n']), 'held-out problem')}"
    if answered:
        said += f": {answered['counts']['fixed']} fixed, {answered['counts']['broken']} broken"
    return (
        f'<p class="eyebrow">Held-out accuracy</p><p class="big"><span class="from">{large(first)}</span>'
        f'<span class="arrow">→</span><span class="to">{large(last)}</span></p><p class="gain">{said}.</p>{strip}'
    )


def interval(entry: Mapping[str, Any], tone: str) -> str:
    low, high, at = (100 * min(1.0, max(0.0, float(entry[key]))) for key in ("low", "high", "accuracy"))
    return (
        f'<span class="name">{escape(str(entry["label"]))}</span><div class="track" style="--tone: {tone}">'
        f'<span class="bar" style="left: {low:.2f}%; width: {high - low:.2f}%"></span>'
        f'<span class="dot" style="left: {at:.2f}%"></span></div>'
    )


def gain_interval(first: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[float, float]:
    """95 % interval of the difference of two proportions from their Wilson intervals (Newcombe 1998, method 10).

    It treats the two evaluations as independent; they ask the same problems, so the interval is rather too wide.
    """
    gain = last["accuracy"] - first["accuracy"]
    down = ((last["accuracy"] - last["low"]) ** 2 + (first["high"] - first["accuracy"]) ** 2) ** 0.5
    up = ((last["high"] - last["accuracy"]) ** 2 + (first["accuracy"] - first["low"]) ** 2) ** 0.5
    return gain - down, gain + up


def reward(found: Curves) -> str:
    pair = ends(found.values.get("reward/mean", []))
    if pair is None:
        return '<p class="eyebrow">Reward</p><p class="gain">No reward was recorded.</p>'
    return (
        f'<p class="eyebrow">Mean reward while training</p><p class="big"><span class="from">{pair[0]:.3g}</span>'
        f'<span class="arrow">→</span><span class="to">{pair[1]:.3g}</span></p>'
        '<p class="gain">First and last steps of training. No held-out evaluation was made, so this is not yet evidence '
        "of generalisation.</p>"
    )


def tiled(found: Curves) -> list[tuple[str, str]]:
    """Secondary numbers, each only where it was recorded."""

    def change(name: str, form: str, unit: str = "") -> str | None:
        pair = ends(found.values.get(name, []))
        return f"{pair[0]:{form}} <i>→</i> {pair[1]:{form}}{unit}" if pair else None

    def total(name: str) -> float | None:
        known = [value for value in found.values.get(name, []) if value is not None]
        return sum(known) / len(known) * found.done if known else None

    seconds, tokens = total("time/step"), total("tokens/generated")
    speed = [value for value in found.values.get("rollout/tokens_per_second", []) if value is not None]
    memory = [value for value in found.values.get("memory/peak_gb", []) if value is not None]
    tiles = [
        ("Reward, first → last steps", change("reward/mean", ".3g")),
        ("Answer length", change("rollout/length", ".1f", " <small>tokens</small>")),
        ("Cut off by the length limit", change("rollout/truncated", ".0%")),
        ("Entropy", change("policy/entropy", ".2f", " <small>nats</small>")),
        ("Time in training steps", duration(seconds) if seconds is not None else None),
        ("Tokens generated", f"{tokens:,.0f}" if tokens is not None else None),
        ("Sampling speed", f"{sum(speed) / len(speed):,.0f} <small>tokens/s</small>" if speed else None),
        ("Memory", f"{max(memory):.1f} <small>GiB</small>" if memory else None),
    ]
    return [(name, value) for name, value in tiles if value is not None]


def large(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['accuracy']:.1f}<small>&thinsp;%</small>"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    pieces = [(hours, "h"), (minutes, "min"), (rest, "s")]
    kept = [(count, unit) for count, unit in pieces if count][:2] or [(0, "s")]
    return " ".join(f"{count} <small>{unit}</small>" for count, unit in kept)


# -- the other sections --------------------------------------------------------------------------------------------------------


def drawn(sections: Sequence[Mapping[str, Any]], found: Curves, has_evaluations: bool) -> dict[str, str]:
    """A section for every group of charts; the scripts fill in the charts."""
    out = {}
    for number, group in enumerate(sections):
        note = ""
        if number == 0 and found.bin > 1:
            note = f" Each point is the mean of {found.bin} steps."
        if group["folded"]:
            title = f"{group['title']} ({len(group['charts'])})"
            content = f'<details><summary>{escape(title)}</summary><div class="charts small" data-charts="{number}"></div></details>'
            absent = charts.missing(found, has_evaluations)
            out[group["title"]] = f'<section id="curves-{number}">{content}{without(absent)}</section>'
        else:
            content = f'<div class="charts" data-charts="{number}"></div>'
            out[group["title"]] = section(f"curves-{number}", group["title"], content, group["about"] + note)
    return out


def without(absent: Sequence[str]) -> str:
    if not absent:
        return ""
    names = ", ".join(name.lower() for name in absent)
    return f'<p class="absent">Not recorded, because no part of this method computes it: {escape(names)}.</p>'


def rollouts(chosen: Sequence[Mapping[str, Any]], steps: Sequence[int]) -> str:
    if not chosen:
        return ""
    shown = len({rollout["step"] for rollout in chosen})
    about = f"A sample from {shown} of {plural(len(steps), 'step')}: whole groups, those with the most different rewards first. "
    about += "Point at a token for its numbers. Every rollout is in the run folder: anypo rollouts RUN."
    return section("rollouts", "Rollouts", '<div id="rollout-list"></div>', about)


def compared(
    folder: RunFolder, manifest: Mapping[str, Any], first: Mapping[str, Any] | None, last: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Answers of the first and the last evaluation side by side."""
    if first is None or last is None or first is last:
        return None
    found = sample.answers(folder, first["label"], last["label"], str(manifest.get("task", {}).get("outcome", "")))
    return found and found | {"labels": [str(first["label"]).capitalize(), str(last["label"]).capitalize()]}


def answers(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    about = "The same held-out problems, answered greedily before and after. These never appear in training."
    if len(found["rows"]) < found["total"]:
        about += f" {len(found['rows'])} of {found['total']} are shown."
    return section("answers", "Held-out answers", '<div id="answer-list"></div>', about)


def provenance(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Who supplied what, the command, the whole configuration and manifest."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name).capitalize())}</th><td>{escape(str(value))}</td></tr>'
        for name, value in (manifest.get("supplied") or {}).items()
    )
    who = f'<div class="card who"><table><tbody>{rows}</tbody></table></div>' if rows else ""
    command = f'<pre class="card">{escape(str(manifest["command"]))}</pre>' if manifest.get("command") else ""
    texts = {
        "Configuration (config.yaml)": yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
        "Manifest (manifest.json)": json.dumps(manifest, indent=2, ensure_ascii=False) if manifest else "",
    }
    folds = "".join(
        f'<details class="card"><summary>{title}</summary><pre>{escape(text)}</pre></details>'
        for title, text in texts.items()
        if text
    )
    return section("provenance", "Provenance", f'<div class="provenance">{who}{command}{folds}</div>')
