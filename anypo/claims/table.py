"""docs/systems.md: every registered system beside what was published and what was last measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anypo.algorithm import Algorithm
from anypo.claims import load, record
from anypo.claims.rungs import rungs, unfinished
from anypo.systems import SYSTEMS, System, methods

VERDICTS = {
    "reproduced": "reproduced",
    "direction_only": "direction only",
    "not_reproduced": "**not reproduced**",
    "untested": "*untested here*",
    "error": "error",
}


def markdown(entries: Mapping[str, Any]) -> str:
    """The page, from the registry and the entries of the record."""
    claims, tests = load(), record.exact()
    shown = {name: rungs(s.kind, entries.get(name, {}), tests.get(name, ())) for name, s in SYSTEMS.items()}
    entries = {name: entry for name, entry in entries.items() if "verdict" in entry}
    lines = [
        "# Systems",
        "",
        "Every named method, what it changes against its base, and the effect its claim measured beside the one its paper reports.",
        "Written by `anypo verify --table` from the registry and the last recorded verification; `anypo verify NAME` runs a row.",
        "*Reproduced*: the whole 95 % interval lies on the claimed side (or the identity holds), against controls, too.",
        "*Direction only*: the estimate does. *Untested here*: the bed gave the effect no chance to show, or to fail.",
        "*Of an older claim*: the claim was rewritten since, and has not been run again; the numbers are those of the old one.",
        "",
        "The last four columns are the rungs of [claims](claims.md): tests against an independent derivation, whether the default run",
        "does what its base would not, the verdict, and a run with a real model or in a real environment.",
        "",
    ]
    for family in sorted({system.family for system in SYSTEMS.values()}):
        lines += [f"## {family}", "", *_header()]
        for name, system in sorted(SYSTEMS.items()):
            if system.family == family:
                lines.append(_row(system, claims.get(name), entries.get(name), shown[name]))
        lines.append("")
    counts: dict[str, int] = {}
    for name in SYSTEMS:
        verdict = shown[name]["claim"] if name in entries else "not run" if name in claims else "no claim"
        counts[verdict] = counts.get(verdict, 0) + 1
    tally = ", ".join(f"{VERDICTS.get(k, k).strip('*')}: {v}" for k, v in sorted(counts.items()))
    short = {name: lacking for name, found in sorted(shown.items()) if (lacking := unfinished(found))}
    done = f"{len(SYSTEMS)} systems, {len(SYSTEMS) - len(short)} with all four rungs. {tally}."
    return "\n".join([*lines, done, "", *_unfinished(short)])


def _unfinished(short: Mapping[str, list[str]]) -> list[str]:
    """What each unfinished system lacks, by rung."""
    lines = ["## Unfinished", ""]
    for rung in ("exact", "acts", "claim", "real"):
        names = [f"`{name}`" for name, lacking in short.items() if rung in lacking]
        lines += [f"- without *{rung}* ({len(names)}): {', '.join(names) or 'none'}"]
    return [*lines, ""]


MARKS = {"acts": "✓", "ran": "✓", "not run": "–"}
"""How a rung is shown in its column, where not by its own word."""


def _header() -> list[str]:
    columns = [
        "system",
        "paper",
        "delta against its base",
        "measured (base → ours)",
        "effect [95 %]",
        "published",
        "exact",
        "acts",
        "claim",
        "real",
    ]
    return ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]


def _row(system: System, claim: Any, entry: Mapping[str, Any] | None, shown: Mapping[str, Any]) -> str:
    measured = effect = ""
    verdict = "not yet run" if claim is not None else "no claim"
    if entry is not None:
        verdict = VERDICTS[entry["verdict"]] + (", *of an older claim*" if entry.get("outdated") else "")
        if entry["verdict"] == "error":
            measured = entry["error"]
        else:
            metric = f"{entry['metric']}: " if entry["metric"] else ""
            measured = f"{metric}{number(entry['base'])} → {number(entry['ours'])} (against {entry['base_system']})"
            effect = f"{number(entry['effect'])} [{number(entry['low'])}, {number(entry['high'])}]"
            for control in entry.get("controls", ()):
                measured += f"; {control['name']}: {number(control['mean'])}"
            if entry["stand_in"]:
                measured += f"; stand-in: {entry['stand_in']}"
    published = claim.published if claim is not None else ""
    paper = f"[{system.paper}]({link(system.paper)})" if system.paper else ""
    exact = str(len(shown["exact"]) or "–")
    acts, real = (MARKS.get(shown[rung], shown[rung]) for rung in ("acts", "real"))
    cells = [
        f"`{system.name}` {system.title}",
        paper,
        delta(system),
        measured,
        effect,
        published,
        exact,
        acts,
        verdict,
        real,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def link(paper: str) -> str:
    """Where a source is read, as the registry spells it: an arXiv number, a DOI after the authors, an address."""
    if "doi:" in paper:
        return "https://doi.org/" + paper.partition("doi:")[2]
    return paper.replace("arXiv:", "https://arxiv.org/abs/") if paper.startswith("arXiv:") else f"https://{paper}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def delta(system: System) -> str:
    """The parts and fields in which a system differs from its base, as dotted paths."""
    if system.kind != "method":
        return f"({system.article} {system.kind})"
    if system.base not in methods() or system.base == system.name:
        return "(base of its own)"
    changes = list(differences(SYSTEMS[system.base].algorithm(), system.algorithm()))
    return "; ".join(f"`{path}` = {value}" for path, value in changes) or "none"


def differences(base: Algorithm, ours: Algorithm) -> Iterator[tuple[str, str]]:
    """Paths at which two compositions differ; below a replaced part only the part is named."""
    yield from _compare("", base.dump(), ours.dump())


def _compare(path: str, base: Any, ours: Any) -> Iterator[tuple[str, str]]:
    if base == ours or path == "name":
        return
    if isinstance(base, dict) and isinstance(ours, dict) and base.get("part") == ours.get("part"):
        for key in ours:
            yield from _compare(f"{path}.{key}" if path else key, base.get(key), ours[key])
        return
    yield path, _short(ours)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("part", "…"))
    if isinstance(value, list):
        return "[" + ", ".join(_short(item) for item in value) + "]"
    return str(value)


def write(page: Path, folder: Path = record.SHIPPED) -> None:
    """Regenerate the page from the record in `folder`, where records of claims that are others by now are marked first."""
    for name, entry in record.read(folder).items():
        claim = load().get(name)
        old = "verdict" in entry and (claim is None or entry.get("what") != claim.description)
        if old != bool(entry.get("outdated")):
            kept = {key: value for key, value in entry.items() if key != "outdated"}
            record.write(folder, {name: kept | ({"outdated": True} if old else {})})
    page.write_text(markdown(record.read(folder)))
