"""The page of a comparison: styles, scripts and data inside, nothing loaded from anywhere.

The leaderboard and every table are written here as escaped HTML; charts are drawn by the script from the data in the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from anypo.compare.report import tables
from anypo.compare.report.data import finite, page_data
from anypo.compare.report.words import duration, quantity
from anypo.report.page import asset, embedded, section
from anypo.scoring.units import ACCURACY, amount

if TYPE_CHECKING:
    from anypo.compare.board import Board
    from anypo.compare.comparison import Comparison

SCORES = {
    ACCURACY: (
        "Accuracy",
        "pass@1: the share of right answers among sampled ones (temperature 1) to held-out problems, the same problems and "
        "the same random numbers for every run.",
    ),
}

READING = (
    (
        "Score and interval",
        "Interquartile mean of the runs' scores at the end of the budget: the mean without the lowest and the highest quarter "
        "of the runs. The 95 % interval resamples runs within each task (Agarwal et al., arXiv:2108.13264).",
    ),
    (
        "Place",
        "The best and the worst place a method may have: only methods whose whole interval lies above it come before it for "
        "sure. Overlapping intervals are ties, whatever the order of the rows.",
    ),
    (
        "Beats the baseline",
        "The chance that one run of the method ends above one run of the baseline, ties counting half, with Newcombe's "
        "95 % interval. At 50 % the two are alike. With many methods, one in twenty such intervals excludes 50 % by chance.",
    ),
    (
        "Equal conditions",
        "All runs of a seed see the same prompts in the same order (unless the method chooses them), start from the same weights "
        "and stop after the step that spends the budget. Learning rate and sizes are shared; everything else is the "
        "method's own published default, so a method may do better when tuned.",
    ),
)


def page(found: Comparison) -> str:
    """The report as one HTML page."""
    board = found.board
    last = [r for r in found.records if "rung" not in r or r["rung"] == max(x["rung"] for x in found.records)]
    data = page_data(board, last) | {"rungs": _rungs(found)}
    parts = {
        "Result": ("result", f'<section id="result" aria-label="Result">{tables.headline(board)}</section>'),
        "Search": ("search", _search(found)),
        "Leaderboard": ("leaderboard", _leaderboard(found)),
        "Budget": ("budget", _curves(data, board)),
        "Parts": ("parts", _effects(found)),
        "Measures": ("measures", _measures(found)),
        "Training": ("training", _training()),
        "Methods": ("methods", _methods(found)),
        "Reading": ("reading", _reading(board.unit)),
        "Provenance": ("provenance", _provenance(found)),
    }
    parts = {name: part for name, part in parts.items() if part[1]}
    task = ", ".join(found.tasks)
    what = "compositions" if found.search else "variants" if board.effects else "methods"
    heading = f"{len(found.contenders)} {what if len(found.contenders) > 1 else what[:-1]} on {task}"
    version = found.about.get("code", {}).get("version", "")
    return Template(_own("page.html")).substitute(
        title=escape(f"{heading} · anypo"),
        heading=escape(heading),
        style=asset("style.css") + _own("compare.css"),
        facts="".join(f"<span>{escape(fact)}</span>" for fact in _facts(found)),
        nav="".join(f'<a href="#{anchor}">{name}</a>' for name, (anchor, _) in parts.items()),
        sections="\n".join(html for _, html in parts.values()),
        footer=escape(f"anypo {version}".strip() + " · this page needs no network"),
        data=embedded(data),
        script=asset("numbers.js") + _own("compare.js"),
    )


def _own(name: str) -> str:
    return files("anypo.compare.report").joinpath(name).read_text(encoding="utf-8")


def _facts(found: Comparison) -> list[str]:
    board, about = found.board, found.about
    budget = board.budget
    seeds = max(len(row.runs) for row in board.rows) // max(1, len(found.tasks))
    each = "in all" if found.search else "a run"
    whole = found.settings.budget.amount if found.search else budget.amount
    out = [
        found.settings.model,
        f"{quantity(whole, budget.measure)} {each}",
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}",
        f"{about.get('cells', len(found.records))} runs",
    ]
    if about.get("cell_seconds"):
        out.append(f"{duration(about['cell_seconds'])} of one core")
    if about.get("created"):
        out.append(str(about["created"]).replace("T", " ").removesuffix("Z")[:16] + " UTC")
    return out


def _leaderboard(found: Comparison) -> str:
    board = found.board
    thresholds = ", ".join(
        amount(value, board.unit) + (f" on {task}" if len(board.thresholds) > 1 else "")
        for task, value in board.thresholds.items()
        if value == value
    )
    about = (
        f"Held-out {board.unit} after {quantity(board.budget.amount, board.budget.measure)}: dots are runs, bars 95 % intervals, the "
        f"dashed line is the start ({amount(board.start, board.unit)})."
    )
    if thresholds:
        about += f" 'Time' and 'tokens' are medians until {thresholds} was reached."
    return section("leaderboard", "Leaderboard", tables.leaderboard(board), about)


def _curves(data: Mapping[str, Any], board: Board) -> str:
    about = (
        f"Interquartile mean over runs. The Pareto front joins the best {board.unit} that any method had reached for what was "
        "spent. Choose a measure; press a method to show or hide it."
    )
    if not data["curves"]:
        return ""
    body = '<div id="budget-charts"></div>'
    return section("budget", f"{board.unit.capitalize()} against budget", body, about)


def _effects(found: Comparison) -> str:
    if not found.board.effects:
        return ""
    about = (
        f"How far each level moves the {found.board.unit} from the mean over all combinations, and what a pair of levels adds to "
        "the sum of both. Bars are 95 % t intervals; p tests that all deviations of a factor are zero."
    )
    return section("parts", "Which part helped", '<div id="effects" class="charts"></div>', about)


def _measures(found: Comparison) -> str:
    about = "Means over runs at the end of the budget; degenerate groups in the last fifth of training. Press a heading to sort."
    return section("measures", "Every measure", tables.measures(found.board), about)


def _training() -> str:
    about = "Step metrics, averaged over runs, against what was spent of the budget."
    return section("training", "While training", '<div id="training-charts" class="charts small"></div>', about)


def _methods(found: Comparison) -> str:
    about = f"Parts and fields in which each method differs from {found.board.base}, as they were run."
    body = tables.differences(found.contenders, found.board.base, [row.label for row in found.board.rows])
    return section("methods", "How the methods differ", body, about) if body else ""


def _reading(unit: str) -> str:
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>"
        for name, text in (SCORES.get(unit, _scored(unit)), *READING)
    )
    return section("reading", "How to read this", f'<dl class="card reading">{items}</dl>')


def _scored(unit: str) -> tuple[str, str]:
    return (
        unit.capitalize(),
        f"The mean {unit} of sampled held-out episodes, with the same random numbers for every run.",
    )


def _provenance(found: Comparison) -> str:
    return section("provenance", "Provenance", tables.provenance(found))


def _rungs(found: Comparison) -> Any:
    if found.search is None:
        return None
    return finite([{"budget": str(r.budget), "scores": r.scores, "survivors": r.survivors} for r in found.search.rungs])


def _search(found: Comparison) -> str:
    if found.search is None:
        return ""
    about = (
        "Successive halving: every rung trains its contenders from the start on an equal budget, and the better half goes on "
        "with a larger one. The leaderboard below ranks the last rung. The winner was chosen for its score, so that score "
        "flatters it: compare best.yaml with the base on fresh seeds before trusting it."
    )
    return section(
        "search",
        "The search",
        f'<div id="rungs" class="card"></div>{tables.rungs(found.search, found.board.unit)}',
        about,
    )
