"""The report as one HTML page: styles, scripts and data inside, nothing loaded from anywhere.

What is static is written here as escaped HTML; curves, rollouts and answers travel as JSON and are drawn by the scripts, which
insert text only as text.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import yaml

from anypo.errors import UserError
from anypo.files import read_lines, strict
from anypo.report import charts, composition, sample, tree
from anypo.report.curves import Curves, curves
from anypo.report.headline import headline, plural
from anypo.run.beside import last_stage, sentence, standing
from anypo.run.disk.folder import RunFolder
from anypo.run.disk.names import WARNINGS
from anypo.run.disk.trust import recall
from anypo.scoring.units import ACCURACY


def page(folder: RunFolder) -> str:
    """The report of a run folder. The same folder gives the same text."""
    config, manifest, status = folder.config(), folder.manifest(), folder.status()
    recall(config)
    evaluations, found = folder.evaluations(), curves(folder.metrics())
    first, last = (evaluations[0], evaluations[-1]) if evaluations else (None, None)
    units = {str(entry["unit"]) for entry in evaluations}
    data: dict[str, Any] = {
        "curves": vars(found),
        "evaluations": evaluations,
        "sections": charts.sections(found, units),
        "rollouts": sample.rollouts(folder),
        "answers": compared(folder, manifest, first, last),
    }
    parts = {
        "Result": f'<section id="result" aria-label="Result">{headline(found, evaluations, data["answers"])}</section>',
        "Method": section(
            "method", "What was run", composition.draw(config), sentence(standing(last_stage(folder.metrics())))
        ),
        **drawn(data["sections"], found, units),
        "Diagnosis": diagnosis(folder),
        "Rollouts": rollouts(data["rollouts"], folder.rollout_steps()),
        "Tree": branches(folder),
        "Answers": answers(data["answers"]),
        "Provenance": provenance(config, manifest),
    }
    parts = {name: html for name, html in parts.items() if html}
    names = {"Result": "result", "Method": "method", "Curves": "curves-0", "Rollouts": "rollouts", "Answers": "answers"}
    names |= {"Tree": "tree", "Diagnosis": "diagnosis", "Provenance": "provenance"}
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
        script="".join(asset(name) for name in ("numbers.js", "charts.js", "browse.js")),
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
    early = config.get("recipe") or (config.get("until") or {}).get("part", "never") != "never"
    ended = early and status["state"] == "finished"  # before its steps are over
    out = [
        f'<span class="state {escape(status["state"])}">{escape(status["state"])}</span>',
        escape(str(config.get("model", ""))),
        plural(done, "step") if not planned or planned == done or ended else f"{done} of {planned} steps",
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


# -- the other sections --------------------------------------------------------------------------------------------------------


def drawn(sections: Sequence[Mapping[str, Any]], found: Curves, units: Collection[str]) -> dict[str, str]:
    """A section for every group of charts; the scripts fill in the charts."""
    out = {}
    for number, group in enumerate(sections):
        note = ""
        if number == 0 and len(found.steps) > 60:
            each = f"the mean of {found.bin} steps" if found.bin > 1 else "each step"
            note = f" Thin lines show {each}, bold lines a moving average."
        if group["folded"]:
            title = f"{group['title']} ({len(group['charts'])})"
            grid = f'<div class="charts small" data-charts="{number}"></div>'
            content = f"<details><summary>{escape(title)}</summary>{grid}</details>"
            absent = charts.missing(found, units)
            out[group["title"]] = f'<section id="curves-{number}">{content}{without(absent)}</section>'
        else:
            content = f'<div class="charts" data-charts="{number}"></div>'
            out[group["title"]] = section(f"curves-{number}", group["title"], content, group["about"] + note)
    return out


def without(absent: Sequence[str]) -> str:
    if not absent:
        return ""
    names = ", ".join(name if name[:2].isupper() else name.lower() for name in absent)
    return f'<p class="absent">Not recorded by this method: {escape(names)}.</p>'


def rollouts(chosen: Sequence[Mapping[str, Any]], steps: Sequence[int]) -> str:
    if not chosen:
        return ""
    shown = len({rollout["step"] for rollout in chosen})
    about = f"A sample from {shown} of {plural(len(steps), 'step')}: whole groups, those with the most different rewards first. "
    about += "Point at a token for its numbers. Every rollout is in the run folder: anypo rollouts RUN."
    return section("rollouts", "Rollouts", '<div id="rollout-list"></div>', about)


def branches(folder: RunFolder) -> str:
    """The tree of one prompt of the newest step; '' where nothing forked."""
    try:
        found = tree.shown(folder)
    except UserError:  # no rollouts, none that fork, or a damaged file
        return ""
    about = f"One prompt of step {found.step}: {found.about()}. Another: anypo rollouts RUN --tree --group N."
    asked = f'<p class="asked">{escape(tree.line(found.problem, 400))}</p>'
    return section("tree", "Tree", f'<article class="card tree">{asked}{tree.html(found.top)}</article>', about)


def compared(
    folder: RunFolder, manifest: Mapping[str, Any], first: Mapping[str, Any] | None, last: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Answers of the first and the last evaluation side by side, where they are right or wrong."""
    if first is None or last is None or first is last or last["unit"] != ACCURACY:
        return None
    found = sample.answers(folder, first["label"], last["label"], str(manifest.get("task", {}).get("outcome", "")))
    return found and found | {"labels": [str(first["label"]).capitalize(), str(last["label"]).capitalize()]}


def answers(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    about = "The same held-out problems, answered greedily before and after training."
    if len(found["rows"]) < found["total"]:
        about += f" {len(found['rows'])} of {found['total']} are shown."
    return section("answers", "Held-out answers", '<div id="answer-list"></div>', about)


def diagnosis(folder: RunFolder) -> str:
    """What the run's live diagnosis said, step by step, each with the command that would change it; '' where it said nothing."""
    found = read_lines(folder.path / WARNINGS) if (folder.path / WARNINGS).exists() else []
    rows = "".join(
        f'<tr><th scope="row">step {escape(str(entry.get("step", "")))}</th><td>{escape(str(entry.get("severity", "")))}: '
        f"{escape(str(entry.get('title') or entry.get('pathology', '')))}</td><td>{escape(str(entry.get('evidence', '')))}"
        f"{_lever(entry)}</td></tr>"
        for entry in found
    )
    about = (
        f"What was seen while the run went on. All of it, at its end: anypo diagnose {shlex.quote(folder.path.name)}"
    )
    return section("diagnosis", "Diagnosis", f"<table>{rows}</table>", about) if rows else ""


def _lever(entry: Mapping[str, Any]) -> str:
    levers = entry.get("levers") or ()
    command = next((str(lever.get("command", "")) for lever in levers if isinstance(lever, Mapping)), "")
    return f"<br><code>{escape(command)}</code>" if command else ""


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
