"""`anypo measure`: a number about a run, with its interval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(measure)


def measure(
    name: Annotated[str, typer.Argument(help="a measure; `anypo systems list --kind measure` shows all")],
    run: Annotated[Path, typer.Argument(help="run folder")],
    set_: Annotated[list[str], typer.Option("--set", metavar="FIELD=VALUE", help="settings of the measure")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Estimate, 95 % interval, number of observations and unit of a measure, from what a run left on the disk."""
    from rich.table import Table

    from anypo.cli.options import assignments, changed
    from anypo.files import strict
    from anypo.run.disk.folder import RunFolder
    from anypo.run.record.console import new_console
    from anypo.systems import find

    chosen = changed(find(name, "measure").build(), assignments(set_, "--set"))
    found = chosen.of(RunFolder.read(run))
    if as_json:
        print(json.dumps(strict({"measure": name, "run": str(run), **found.plain()}), indent=2))
        return
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=False)
    shown = (lambda v: f"{100 * v:.1f} %") if found.unit == "share" else (lambda v: f"{v:.4g}")
    around = f"95 % interval {shown(found.low)} to {shown(found.high)}"
    table.add_row(name, shown(found.value), f"{around}, n = {found.n}, unit {found.unit}")
    for detail, value in found.details.items():
        table.add_row(detail, shown(value), "")
    new_console().print(table)
