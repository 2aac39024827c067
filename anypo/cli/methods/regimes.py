"""`anypo compare --regime`: which method when."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from anypo.compare.regimes import Map


def run(
    names: Sequence[str],
    regimes: str,
    base: str | None,
    seeds: int,
    out: Path | None,
    jobs: int,
    report: Path | None,
    as_json: bool,
) -> None:
    """Run the study, write its page, and show the map. `UserError` for an unknown method, regime or base."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from anypo.compare.regimes import chosen, found, study
    from anypo.compare.regimes.page import write_page
    from anypo.errors import UserError, unknown
    from anypo.run.record.console import new_console

    wanted = chosen(regimes)
    against = base or ("grpo" if "grpo" in names else names[0])
    if against not in names:
        raise unknown("method for --base", against, names)
    if seeds < 2:
        raise UserError(f"--seeds {seeds}: a map needs at least 2, so that a difference has an interval")
    place = out or Path("comparisons/regimes")
    console = new_console(stderr=as_json)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("runs", total=None)
        made = study(
            names,
            wanted,
            place / "runs",
            seeds,
            jobs,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    map_ = found(made, against)
    for page in filter(None, (place / "map.html", report)):
        page.parent.mkdir(parents=True, exist_ok=True)
        write_page(map_, page)
    (place / "map.json").write_text(json.dumps(map_.plain(), indent=1) + "\n")
    if as_json:
        print(json.dumps(map_.plain(), indent=2))
        return
    show(map_, console)
    console.print(f"\nreport   {place / 'map.html'}", highlight=False, markup=False, soft_wrap=True)


def show(found: Map, console: Console) -> None:
    """The map as a table, and what every circumstance says."""
    from rich.table import Table
    from rich.text import Text

    from anypo.compare.regimes.page import ordered, points, share

    title = f"gain over {found.base}, points of mean exact reward, {found.seeds} seeds; bold: certain"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("method", overflow="fold")
    for regime in found.regimes:
        table.add_column(regime, justify="right", no_wrap=True)
    for method in ordered(found):
        cells = []
        for regime in found.regimes:
            cell = found.cells.get((method, regime))
            if cell is None:
                cells.append(Text("–", style="dim"))
            elif method == found.base:
                cells.append(Text(share(cell.score), style="bold"))
            else:
                colour = ("green" if cell.gain > 0 else "red") if cell.certain else "dim"
                cells.append(
                    Text(
                        points(cell.gain) + (" =" if cell.same else ""),
                        style=f"bold {colour}" if cell.certain else colour,
                    )
                )
        table.add_row(method, *cells)
    console.print(table)
    for regime in found.regimes:
        console.print(f"{regime:<9} {found.said[regime]}", highlight=False, markup=False)
