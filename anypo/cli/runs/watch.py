"""`anypo watch`: a live page for runs, and requests to running ones."""

from __future__ import annotations

import html
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(watch)


def watch(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="[RUN_OR_FOLDER]...", help="runs, or folders with runs in them (default: runs)"),
    ] = [],  # noqa: B006
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one")] = 0,
    show: Annotated[bool, typer.Option("--open/--no-open", help="open the page in the browser")] = False,
    control: Annotated[bool, typer.Option("--control", help="let the page pause, save and stop runs")] = False,
    send: Annotated[
        str | None,
        typer.Option(metavar="ACTION", help="no page: ask the given runs to pause, resume, checkpoint or stop"),
    ] = None,
) -> None:
    """Show running and finished runs on a live web page, or ask running ones to pause, resume, checkpoint or stop.

    The page is served on this machine only (127.0.0.1), to whoever has its address with the token in it. It is read-only
    unless --control is given. A run answers between two of its steps; pausing does not change what comes out of it.

    Example: anypo watch runs --control; anypo watch runs/mine --send pause
    """
    if send is not None:
        _ask(places, send)
        return
    from anypo.errors import UserError
    from anypo.watch import Server

    for place in places:
        if not place.is_dir():
            raise UserError(f"there is no folder {place}; name a run, or a folder with runs in it")
    chosen = list(dict.fromkeys(places)) or [Path("runs")]
    with Server(chosen, port, control) as server:
        count = len(server.runs.listing()["runs"])
        mode = "runs can be controlled" if control else "read-only"
        typer.echo(
            f"watching {count} run{'' if count == 1 else 's'} in {', '.join(map(str, chosen))} ({mode}); Ctrl-C ends"
        )
        typer.echo(server.address)
        with tempfile.TemporaryDirectory() as private:
            if show:
                typer.launch(_door(Path(private), server.address))
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                typer.echo("stopped watching; runs go on", err=True)


def _ask(places: list[Path], action: str) -> None:
    from anypo.errors import UserError
    from anypo.run.disk.folder import RunFolder

    if not places:
        raise UserError(f"--send {action} needs the run it is for: anypo watch RUN --send {action}")
    for folder in [RunFolder.read(place) for place in places]:
        folder.ask(action)
        typer.echo(f"{folder.path}: {WILL[action]}")


WILL = {
    "pause": "pauses after the current step; --send resume goes on",
    "resume": "goes on",
    "checkpoint": "saves a checkpoint after the current step",
    "stop": "saves a checkpoint after the current step and stops; anypo resume goes on from there",
}
"""What a run does about a request."""


def _door(folder: Path, address: str) -> str:
    """A file only this user can read that leads to the address: a browser's command line is everybody's to read."""
    path = folder / "watch.html"
    path.touch(mode=0o600)
    path.write_text(f'<meta http-equiv="refresh" content="0; url={html.escape(address)}">', encoding="utf-8")
    os.chmod(path, 0o600)
    return path.as_uri()
