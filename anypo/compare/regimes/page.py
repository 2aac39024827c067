"""The map as one page, as Markdown and as a table for the terminal."""

from __future__ import annotations

import html
import json
import math
from importlib import resources
from typing import Any

from anypo import __version__
from anypo.compare.regimes.conditions import REGIMES
from anypo.compare.regimes.findings import Cell, Map
from anypo.compare.regimes.study import RATES, STEPS, TRIALS


def points(value: float) -> str:
    """A difference of rewards in points, with its sign."""
    return "–" if math.isnan(value) else f"{100 * value:+.1f}"


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


def ordered(found: Map) -> list[str]:
    """The methods by their mean gain, the base where it falls."""
    gain = lambda method: [found.cells[method, r].gain for r in found.regimes if (method, r) in found.cells]
    return sorted(found.methods, key=lambda m: (-sum(gain(m)) / max(1, len(gain(m))), m))


def write_page(found: Map, path: Any) -> None:
    """Write the page to `path`."""
    style = resources.files(__package__).joinpath("map.css").read_text()
    head = "".join(f'<th title="{html.escape(REGIMES[r].what)}">{html.escape(r)}</th>' for r in found.regimes)
    rows = "".join(_row(found, method) for method in ordered(found))
    said = "".join(
        f"<dt>{r}</dt><dd>{html.escape(REGIMES[r].what)}: {html.escape(found.said[r])}</dd>" for r in found.regimes
    )
    data = json.dumps(found.plain()).replace("<", "\\u003c")
    rates = " or ".join(f"{rate:g}" for rate in RATES)
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Which method when</title><style>{style}</style></head><body><main>
<h1>Which method when</h1>
<p>Gain over <b>{html.escape(found.base)}</b> in points of mean exact reward over {STEPS} steps, paired by seed, {found.seeds} seeds,
with the 95 % interval. Filled: certain, however many methods were tried (Holm). “=” was the same computation as another method.
Everything else is equal: questions, rollouts, optimiser, updates a step; the learning rate is {rates}, whichever was better for the
method on {TRIALS} other seeds.</p>
<div class="scroll"><table><thead><tr><th>method</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>
<h2>What the circumstances say</h2><dl>{said}</dl>
<p class="small">The world: an enumerable policy with features that questions share, whose expected reward is known exactly.
anypo {__version__}.</p>
</main><script type="application/json" id="data">{data}</script></body></html>
"""
    )


def _row(found: Map, method: str) -> str:
    cells = "".join(_cell(found, method, regime) for regime in found.regimes)
    return f'<tr><th scope="row">{html.escape(method)}</th>{cells}</tr>'


def _cell(found: Map, method: str, regime: str) -> str:
    cell = found.cells.get((method, regime))
    if cell is None:
        return f'<td class="none" title="{html.escape(found.refused.get((method, regime), ""))}">not here</td>'
    if method == found.base:
        return f'<td class="base">{share(cell.score)}</td>'
    tone = _tone(cell)
    strong = min(1.0, abs(cell.gain) / 0.15)
    same = f"the same computation as {', '.join(cell.same)}" if cell.same else ""
    title = f"{share(cell.score)}, at the end {share(cell.final)}, learning rate {cell.rate:g}; {same or f'p = {cell.p:.2g}'}"
    mark = " =" if cell.same else ""
    lost = f'<span class="lost">{cell.lost} lost</span>' if cell.lost else ""
    return (
        f'<td class="{tone}" style="--strength:{strong:.2f}" title="{html.escape(title)}">{points(cell.gain)}{mark}'
        f"<small>{points(cell.low)} … {points(cell.high)}</small>{lost}</td>"
    )


def _tone(cell: Cell) -> str:
    if not cell.certain:
        return "open"
    return "up" if cell.gain > 0 else "down"


def markdown(found: Map) -> str:
    """The map as a Markdown table: gains in points, certain ones bold."""
    lines = ["| method | " + " | ".join(found.regimes) + " |", "| --- |" + " ---: |" * len(found.regimes)]
    for method in ordered(found):
        cells = []
        for regime in found.regimes:
            cell = found.cells.get((method, regime))
            if cell is None:
                cells.append("not here")
            elif method == found.base:
                cells.append(share(cell.score))
            else:
                text = points(cell.gain) + (" =" if cell.same else "")
                cells.append(f"**{text}**" if cell.certain else text)
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


__all__ = ["markdown", "ordered", "points", "share", "write_page"]
