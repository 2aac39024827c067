"""The diagnosis as one self-contained HTML page: findings, their curves and rollouts, the levers to paste."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from anypo.diagnose.detector import ORDER, Finding
from anypo.files import replace_text
from anypo.report.curves import Curves, curves
from anypo.report.page import asset, embedded, section
from anypo.run.disk.folder import RunFolder

STYLE = """
.levers pre { overflow-x: auto; margin: .2rem 0 .8rem; padding: .5rem .7rem; }
.levers { margin-top: .8rem; } .reason { opacity: .75; }
.severity { border-radius: .6rem; padding: .1rem .6rem; font-size: .8em; font-weight: 600; }
.severe { background: #c2255c; color: #fff; } .warning { background: #e8a33d; color: #221a00; }
table.findings td, table.findings th { text-align: left; padding: .25rem .8rem .25rem 0; vertical-align: top; }
"""


def write_page(run: Path | str, findings: Sequence[Finding], output: Path) -> Path:
    """Write the page of `findings` about the run folder `run`. Raises `UserError` when it cannot be written."""
    folder = RunFolder.read(run)
    replace_text(output, page(folder, findings))
    return output


def page(folder: RunFolder, findings: Sequence[Finding]) -> str:
    """The page as text. The same run gives the same text."""
    config, found = folder.config(), curves(folder.metrics())
    bad = [one for one in findings if one.severity in ("severe", "warning")]
    data = {
        "curves": vars(found),
        "evaluations": [],
        "sections": [{"title": one.detector.title, "charts": _charts(one, found)} for one in bad],
        "rollouts": [],
        "answers": None,
    }
    parts = [_problem(number, one) for number, one in enumerate(bad)]
    if not bad:
        parts.append('<p class="card">Nothing that was measured is out of its limits.</p>')
    rest = [one for one in findings if one not in bad]
    heading = f"{config.get('system', 'custom')} on {config.get('task', 'a task')}"
    count = {name: sum(one.severity == name for one in findings) for name in ORDER}
    return Template(asset("page.html")).substitute(
        title=escape(f"diagnosis of {heading} · anypo"),
        heading=escape(f"Diagnosis: {heading}"),
        style=asset("style.css") + STYLE,
        facts="".join(f"<span>{number} {name}</span>" for name, number in count.items()),
        banner="",
        nav='<a href="#rest">Everything else</a>',
        sections="\n".join([*parts, _rest(rest)]),
        footer="this page needs no network",
        data=embedded(data),
        script="".join(asset(name) for name in ("numbers.js", "charts.js", "browse.js")),
    )


def _charts(one: Finding, found: Curves) -> list[dict[str, object]]:
    """A chart for every curve of the detector that the run recorded."""
    return [
        {
            "title": name,
            "meaning": "",
            "series": [{"name": name, "label": name.split("/")[-1]}],
            "unit": "",
            "floor": None,
            "ceiling": None,
            "draw": "lines",
            "evaluations": "",
        }
        for name in one.detector.curves
        if name in found.values
    ]


def _problem(number: int, one: Finding) -> str:
    rollouts = "".join(
        f"<li>step {row['step']}, group {row['group_id']}, rollout {row['sample']}, reward {row['reward']:.3g}: "
        f"<code>{escape(row['text'])}</code></li>"
        for row in one.rollouts
    )
    levers = "".join(f"<p>{escape(why)}</p><pre class='card'>{escape(text)}</pre>" for why, text in one.levers)
    limit = one.detector.limit
    content = (
        f'<p><span class="severity {one.severity}">{one.severity}</span> {escape(one.evidence)}</p>'
        f'<p class="reason">Measured: {escape(one.detector.observable)}; a warning from {limit.warning:g}, severe from '
        f"{limit.severe:g}, because {escape(one.detector.why)}.</p>"
        f'<div class="charts" data-charts="{number}"></div>'
        + (f"<ul>{rollouts}</ul>" if rollouts else "")
        + (f'<div class="levers"><h3>Levers</h3>{levers}</div>' if levers else "")
    )
    return section(f"finding-{one.detector.name}", one.detector.title, content)


def _rest(findings: Sequence[Finding]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one.detector.title)}</td><td>{one.severity}</td><td>{escape(one.evidence)}</td></tr>"
        for one in findings
    )
    return section("rest", "Everything else", f'<div class="card"><table class="findings">{rows}</table></div>')
