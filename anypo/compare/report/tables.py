"""The written parts of the page: headline, leaderboard, measures, differences between methods, provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

import yaml

from anypo.compare.board import Board, Row
from anypo.compare.plan import Contender
from anypo.compare.report.words import duration, percent, place, short
from anypo.scoring.units import ACCURACY, amount, difference

if TYPE_CHECKING:
    from anypo.compare.comparison import Comparison
    from anypo.compare.search import Search


def headline(board: Board) -> str:
    """Where the best method started and ended, and what a reader must know."""
    best = board.rows[0]
    runs = f"{len(best.runs)} {'run' if len(best.runs) == 1 else 'runs'}"
    unit = board.unit
    known = f" (95 % interval {amount(best.score.low, unit)} to {amount(best.score.high, unit)})"
    interval = known if best.score.known else ""
    others = [label for label in board.tied if label != best.label]
    also = f", tied with {escape(others[0] if len(others) == 1 else f'{len(others)} others')}" if others else ""
    head = (
        f'<p class="eyebrow">Best held-out {escape(unit)}: {escape(best.label)}{also}</p>'
        f'<p class="big"><span class="from">{_large(board.start, unit)}</span><span class="arrow">→</span>'
        f'<span class="to">{_large(best.score.value, unit)}</span></p>'
        f'<p class="gain"><b>{_gain(best.score.value - board.start, unit)}</b> by {escape(best.label)}, {runs}{interval}.</p>'
        f'<dl class="also">{"".join(_also(board))}</dl>'
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in board.notes) or "<li>Nothing out of the ordinary.</li>"
    return (
        f'<div class="result"><div class="card hero">{head}</div>'
        f'<div class="card notes"><h3>What to know</h3><ul>{notes}</ul></div></div>'
    )


def _also(board: Board) -> Iterator[str]:
    """Who is best in other respects, as far as it is known."""
    respects: list[tuple[str, Any, Any]] = [
        ("Least time to the threshold", lambda r: -r.seconds_to, lambda r: duration(r.seconds_to)),
        ("Fewest tokens to the threshold", lambda r: -r.tokens_to, lambda r: short(r.tokens_to)),
        (f"Highest pass@{board.k}", lambda r: r.means["pass_at_k"], lambda r: percent(r.means["pass_at_k"])),
        (f"Highest greedy {board.unit}", lambda r: r.means["greedy"], lambda r: amount(r.means["greedy"], board.unit)),
    ]
    for name, value, text in respects:
        known = [row for row in board.rows if value(row) == value(row) and row.reached > 0.5]
        if len(known) > 1:
            best = max(known, key=value)
            yield f"<div><dt>{escape(name)}</dt><dd>{escape(best.label)} <small>{escape(text(best))}</small></dd></div>"


def leaderboard(board: Board) -> str:
    """One row a method: place, score with its interval drawn, chance to beat the baseline, cost of the threshold."""
    low, high, ticks = scale(board)
    at = lambda value: 100 * (value - low) / (high - low)
    rows = "".join(_row(row, board, at) for row in board.rows)
    marks = "".join(f'<span style="left:{at(t):.2f}%">{_tick(t, board.unit)}</span>' for t in ticks)
    lines = "".join(f'<i style="left:{at(t):.2f}%"></i>' for t in ticks)
    heads = ("place", "method", board.unit, "", f"beats {board.base}", "time", "tokens")
    titles = "".join(
        f'<span role="columnheader">{escape(name)}</span>'
        if name
        else f'<span class="ticks" role="columnheader" aria-label="runs and interval">{marks}</span>'
        for name in heads
    )
    return (
        f'<div class="card board" role="table" aria-label="leaderboard"><div class="board-head" role="row">{titles}</div>'
        f'<div class="board-lines" aria-hidden="true"><div>{lines}</div></div>{rows}</div>'
    )


def _row(row: Row, board: Board, at: Any) -> str:
    score, beats = row.score, row.beats_base
    dots = "".join(f'<b style="left:{at(run):.2f}%"></b>' for run in row.runs)
    bar = (
        f'<em style="left:{at(score.low):.2f}%;width:{max(0.3, at(score.high) - at(score.low)):.2f}%"></em>'
        if score.known
        else ""
    )
    shown = lambda value: amount(value, board.unit)
    interval = f"{shown(score.value)}, 95 % {shown(score.low)} to {shown(score.high)}"
    said = f"{interval}; runs {', '.join(shown(run) for run in row.runs)}"
    is_base = row.label == board.base
    chance = "baseline" if is_base else percent(beats.value, 0)
    around = "" if is_base or not beats.known else f"<small>{100 * beats.low:.0f}–{100 * beats.high:.0f}</small>"
    clear = "" if is_base or not beats.known else " up" if beats.low > 0.5 else " down" if beats.high < 0.5 else ""
    reached = "" if row.reached in (0.0, 1.0) else f"<small>{percent(row.reached, 0)} of runs</small>"
    return (
        f'<div class="board-row" role="row" data-method="{escape(row.label)}"><span class="place" role="cell">{place(row.rank)}</span>'
        f'<span class="name" role="cell"><span>{_label(row.label)}</span></span>'
        f'<span class="score" role="cell">{shown(score.value)}</span>'
        f'<span class="forest" role="cell" title="{escape(said)}"><u style="left:{at(board.start):.2f}%"></u>{bar}{dots}'
        f'<s style="left:{at(score.value):.2f}%"></s></span>'
        f'<span class="beats{clear}" role="cell" data-name="beats {escape(board.base)}">{chance}{around}</span>'
        f'<span class="cost" role="cell" data-name="time">{duration(row.seconds_to)}{reached}</span>'
        f'<span class="cost" role="cell" data-name="tokens">{short(row.tokens_to)}</span></div>'
    )


def scale(board: Board) -> tuple[float, float, list[float]]:
    """Ends of the common axis and its ticks: every run, interval and the start lie inside."""
    values = [board.start, *(v for row in board.rows for v in (*row.runs, row.score.low, row.score.high) if v == v)]
    low, high = min(values), max(values)
    span = max(high - low, 0.02)
    if board.unit == ACCURACY:
        step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5) if span / s <= 6)
    else:
        size = 10.0 ** math.floor(math.log10(span / 6))
        step = next(s * size for s in (1, 2, 5, 10) if span / (s * size) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return first * step, last * step, [i * step for i in range(first, last + 1)]


Column = tuple[str, str, Any]
"""Heading, what it means, and a function from a row to (value, text)."""


def measures(board: Board) -> str:
    """Two sortable tables: every measure of the answers, and every cost."""
    k = board.k
    shown = lambda r: (r.score.value, amount(r.score.value, board.unit))
    greedy = lambda r: (r.means["greedy"], amount(r.means["greedy"], board.unit))
    answers: list[Column] = [
        ("pass@1", "sampled answers", shown),
        ("greedy", "most likely answers", greedy),
        (f"pass@{k}", f"any of {k} right", lambda r: _as_percent(r.means["pass_at_k"])),
        (f"maj@{k}", f"most frequent of {k} right", lambda r: _as_percent(r.means["maj_at_k"])),
        ("diversity", f"different answers among {k}", lambda r: _as_percent(r.means["diversity"], 0)),
        ("entropy", "nats a token", lambda r: _plain(r.means["entropy"])),
        ("length", "tokens an answer", lambda r: _plain(r.means["length"])),
        ("degenerate", "groups with equal rewards", lambda r: _as_percent(r.means["degenerate"], 0)),
    ]
    if board.unit != ACCURACY:
        scores: list[Column] = [(board.unit, "sampled", shown), ("greedy", "most likely actions", greedy)]
        answers = [*scores, *answers[5:]]
    costs: list[Column] = [
        ("generated", "tokens", lambda r: (r.spent["tokens"], short(r.spent["tokens"]))),
        ("trained", "tokens", lambda r: (r.spent["trained"], short(r.spent["trained"]))),
        ("updates", "optimiser steps", lambda r: (r.spent["updates"], short(r.spent["updates"]))),
        ("training", "time in steps", lambda r: (r.spent["seconds"], duration(r.spent["seconds"]))),
        ("run", "with loading and evaluation", lambda r: (r.spent["wall"], duration(r.spent["wall"]))),
        ("memory", "peak, GiB", lambda r: _plain(r.means["peak_gb"])),
    ]
    return f'<div class="stack">{_sortable(board, answers)}{_sortable(board, costs)}</div>'


def _sortable(board: Board, columns: Sequence[Column]) -> str:
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(name)}</button><small>{escape(what)}</small></th>'
        for name, what, _ in columns
    )
    body = "".join(
        f'<tr data-method="{escape(row.label)}"><th scope="row">{_label(row.label)}</th>'
        + "".join(_cell(*show(row)) for _, _, show in columns)
        + "</tr>"
        for row in board.rows
    )
    return (
        '<div class="card scroll" tabindex="0"><table class="sortable"><thead><tr><th scope="col" aria-sort="none">'
        f'<button type="button">method</button></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def differences(contenders: Sequence[Contender], base: str, order: Sequence[str]) -> str:
    """For every method, the paths at which its composition differs from the baseline's, with both values."""
    known = {c.label: dict(_flat(c.algorithm)) for c in contenders}
    if base not in known or len(known) < 2:
        return ""
    rows = []
    for label in [label for label in order if label in known and label != base]:
        items = "".join(_difference(path, *pair) for path, pair in sorted(_changed(known[base], known[label]).items()))
        rows.append(
            f'<tr><th scope="row">{_label(label)}</th><td><ul class="diff">{items or "<li>nothing</li>"}</ul></td></tr>'
        )
    return f'<div class="card who methods"><table><tbody>{"".join(rows)}</tbody></table></div>'


def rungs(found: Search, unit: str = ACCURACY) -> str:
    """Scores of every contender, rung by rung."""
    head = "".join(f'<th scope="col">{escape(str(r.budget))}<small>a run</small></th>' for r in found.rungs)
    labels = sorted(found.rungs[0].scores, key=lambda label: [-_reach(r.scores, label) for r in reversed(found.rungs)])
    body = "".join(
        f'<tr><th scope="row">{_label(label)}</th>'
        + "".join(
            _cell(r.scores.get(label, math.nan), amount(r.scores.get(label, math.nan), unit)) for r in found.rungs
        )
        + "</tr>"
        for label in labels
    )
    table = f'<table><thead><tr><th scope="col">composition</th>{head}</tr></thead><tbody>{body}</tbody></table>'
    fold = f'<div class="card scroll" tabindex="0">{table}</div>'
    return f'<details class="fold"><summary>Every score of every rung</summary>{fold}</details>'


def provenance(found: Comparison) -> str:
    """Command, conditions, code and machine, failures, and the compositions as they were run."""
    about, shared = found.about, asdict(found.settings)
    code, machine = about.get("code", {}), about.get("machine", {})
    commit = f" at commit {code['commit'][:12]}" if code.get("commit") else ""
    rows = {
        "Code": f"anypo {code.get('version', '')}{commit}" + (", with local changes" if code.get("modified") else ""),
        "Machine": ", ".join(str(machine[key]) for key in ("processor", "system") if machine.get(key))
        + (f", {machine['cores']} cores, {machine['memory_gb']} GiB" if machine.get("cores") else ""),
        "Conditions": ", ".join(
            f"{key} {value}" for key, value in (shared | {"budget": str(found.settings.budget)}).items()
        ),
    }
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows.items()
        if value.strip(", ")
    )
    failed = "".join(f"{escape(name)}: {escape(reason)}\n" for name, reason in found.failures.items())
    command = f'<pre class="card">{escape(str(about["command"]))}</pre>' if about.get("command") else ""
    folds = {
        f"Failed runs ({len(found.failures)})": failed,
        "Compositions as they were run": escape(
            yaml.safe_dump(
                {c.label: _lists(c.algorithm) for c in found.contenders}, sort_keys=False, allow_unicode=True
            )
        ),
        "Thresholds by task": escape(json.dumps({k: v for k, v in found.board.thresholds.items() if v == v}, indent=1)),
    }
    said = "".join(
        f'<details class="card"><summary>{escape(title)}</summary><pre>{text}</pre></details>'
        for title, text in folds.items()
        if text
    )
    return (
        f'<div class="provenance">{command}<div class="card who"><table><tbody>{body}</tbody></table></div>{said}</div>'
    )


# -- small pieces ----------------------------------------------------------------------------------------------------------


def _label(label: str) -> str:
    """A label whose words may break apart."""
    return " ".join(f"<span>{escape(word)}</span>" for word in label.split())


def _large(score: float, unit: str) -> str:
    return f"{100 * score:.1f}<small>&thinsp;%</small>" if unit == ACCURACY else amount(score, unit)


def _gain(value: float, unit: str) -> str:
    return difference(value, unit, sign="+").replace("-", "−")


def _tick(value: float, unit: str) -> str:
    return f"{100 * value:.0f} %" if unit == ACCURACY else f"{value:.3g}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def _cell(value: float, text: str) -> str:
    return f'<td data-value="{value:.10g}">{escape(text)}</td>' if value == value else "<td>–</td>"


def _as_percent(value: float, places: int = 1) -> tuple[float, str]:
    return value, percent(value, places)


def _plain(value: float) -> tuple[float, str]:
    return value, f"{value:.2f}" if value == value else "–"


def _reach(scores: Mapping[str, float], label: str) -> float:
    value = scores.get(label, math.nan)
    return value if value == value else -1.0


def _flat(plain: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every part name and plain field, the method's own name left out."""
    if isinstance(plain, Mapping):
        for key, value in plain.items():
            if path or key != "name":
                yield from _flat(
                    value, f"{path}.{key}" if path and key != "part" else path if key == "part" else str(key)
                )
    elif isinstance(plain, (list, tuple)) and any(isinstance(item, Mapping) for item in plain):
        for number, item in enumerate(plain):
            yield from _flat(item, f"{path}.{number}")
    else:
        yield path, plain


def _changed(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Paths whose values differ. What is inside a part that differs itself is left out, and an empty list is no difference
    to a list that is not there."""
    out: dict[str, tuple[Any, Any]] = {}
    for path in sorted({*base, *own}, key=lambda p: (p.count("."), p)):
        before, after = (None if side.get(path) in ([], ()) else side.get(path) for side in (base, own))
        inside = any(path.rsplit(".", n)[0] in out for n in range(1, path.count(".") + 1))
        if before != after and not inside:
            out[path] = (before, after)
    return out


def _difference(path: str, before: Any, after: Any) -> str:
    old = "" if before is None else f"<del>{escape(_value(before))}</del> → "
    new = f"<b>{escape(_value(after))}</b>" if after is not None else "<b>none</b>"
    return f'<li><span class="slot">{escape(path)}</span> {old}{new}</li>'


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value) or "none"
    return str(value)


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
