"""`anypo report`: write the report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(report)


def report(
    run: Annotated[Path, typer.Argument(help="run folder (running, finished or killed)")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the HTML file (default: RUN/report.html)")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="open it in the browser")] = False,
) -> None:
    """Write the report of a run: one HTML file that needs no network."""
    from anypo.report import write_report

    path = write_report(run, output)
    typer.echo(str(path))
    if show:
        typer.launch(path.resolve().as_uri())
