"""The page: one HTML document with styles and scripts inside; what it shows comes from the JSON interface as data."""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files
from string import Template

from anypo.report import charts
from anypo.report.page import asset as report_asset
from anypo.report.page import embedded


def page(control: bool, nonce: str) -> str:
    """The document. `nonce`: the word that lets its own scripts run, and no others (Content-Security-Policy)."""
    data = {
        "control": control,
        "sections": [
            {"title": title, "about": about, "charts": [asdict(chart) for chart in drawn]}
            for title, about, drawn in charts.SECTIONS
        ],
        "meanings": charts.MEANINGS,
        "rollouts": [],
        "answers": None,
    }
    scripts = [report_asset("numbers.js"), report_asset("browse.js")]
    scripts += [asset(name) for name in ("chart.js", "panels.js", "live.js")]
    return Template(asset("page.html")).substitute(
        nonce=nonce,
        style=report_asset("style.css") + asset("watch.css"),
        data=embedded(data),
        script="".join(scripts),
    )


def asset(name: str) -> str:
    return files("anypo.watch").joinpath(name).read_text(encoding="utf-8")
