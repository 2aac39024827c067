"""`anypo resume`: go on where a run stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anypo.cli.plugins import Trust


def register(app: typer.Typer) -> None:
    app.command()(resume)


def resume(
    run: Annotated[Path, typer.Argument(help="run folder")],
    steps: Annotated[int | None, typer.Option(help="train up to this many steps instead of the planned number")] = None,
    epochs: Annotated[float | None, typer.Option(metavar="N", help="or up to so many passes over the data in all")] = None,
    budget: Annotated[str | None, typer.Option(metavar="MEASURE=AMOUNT", help="or until it has spent so much in all")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="where the weights are: auto, cpu, cuda, cuda:N or mps (default: as the run was told)"),
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="go on although problems, judges, tokenizer or template are no longer those it began with",
        ),
    ] = False,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Continue an interrupted run from its last checkpoint; on CPU it ends bit for bit where it would have ended."""
    from anypo.cli.terminal.outcome import watch
    from anypo.run.session import resume as go_on

    work = lambda observer: go_on(
        run,
        steps=steps,
        epochs=epochs,
        budget=budget,
        device=device,
        accept_changes=accept_changes,
        observer=observer,
        trust=trust,
    )
    watch(work, f"resume {run}", as_json)
