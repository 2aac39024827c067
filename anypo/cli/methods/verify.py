"""`anypo verify`: run the claims of systems and put what they measure beside what their papers report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    names: Annotated[list[str], typer.Argument(metavar="[NAME]...", help="systems to verify")] = [],  # noqa: B006
    family: Annotated[
        str | None, typer.Option(help="every claim of a family: baselines, objectives, credits, ...")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="every claim")] = False,
    acts: Annotated[
        bool, typer.Option("--acts", help="run the default composition until it does what its base would not")
    ] = False,
    real: Annotated[
        bool, typer.Option("--real", help="run a few steps with a real model or in a real environment")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="show the claims and stop")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", min=1, help="claims at the same time")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="only exercise the code; nothing is recorded")] = False,
    record_path: Annotated[
        Path | None,
        typer.Option("--record", help="folder where results are kept (default: anypo/claims/records in a checkout)"),
    ] = None,
    table: Annotated[Path | None, typer.Option(help="write the table of all systems to this Markdown file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the entries as JSON")] = False,
) -> None:
    """Reproduce published effects in small: base, ours, the statistic, its uncertainty, and the published figure beside it.

    Seeds are fixed before the run. A claim that raises is an error (exit code 1), never a verdict; one that does not reproduce is
    a result.
    """
    from anypo.claims import record
    from anypo.claims.verify import choose

    where = record_path or (record.DEFAULT if record.DEFAULT.is_dir() else None)
    if list_:
        _list(as_json)
        return
    if where is not None:
        record.read(where)  # what is no record is refused before anything runs
    if acts or real:
        _rung("acts" if acts else "real", names, every, where, as_json)
        return
    entries: list[dict[str, Any]] = []
    if names or family or every or table is None:
        entries = _run(choose(names, family, every), jobs, quick, where, as_json)
    if table is not None:
        from anypo.claims.table import write

        write(table, where or record.SHIPPED)
    if as_json:
        print(json.dumps(entries, indent=2))
    if any(entry["verdict"] == "error" for entry in entries):
        raise typer.Exit(1)


def _rung(rung: str, names: list[str], every: bool, where: Path | None, as_json: bool) -> None:
    """Whether each of these systems acts, or runs in earnest; recorded under the name of the rung."""
    from anypo.claims import record
    from anypo.claims.acts import acts
    from anypo.claims.real import real, runnable
    from anypo.errors import UserError
    from anypo.run.record.console import new_console
    from anypo.systems import find, methods

    measure, known = (acts, methods) if rung == "acts" else (real, runnable)
    chosen = sorted(known()) if every else [find(name, "method" if rung == "acts" else None).name for name in names]
    if not chosen:
        raise UserError("name the systems to run, or use --all")
    console, found = new_console(stderr=as_json), {}
    for name in chosen:
        found[name] = measure(name)
        console.print(f"{name}: {found[name]['said']}  ({found[name]['seconds']:.0f} s)", highlight=False, markup=False)
        if where is not None:
            record.note(where, name, rung, found[name])
    if as_json:
        print(json.dumps(found, indent=2))


def _run(claims: list[Any], jobs: int, quick: bool, where: Path | None, as_json: bool) -> list[dict[str, Any]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from anypo.claims import record
    from anypo.claims.verify import run_all
    from anypo.run.record.console import new_console

    console = new_console(stderr=as_json)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    entries = []
    expected = sum(claim.seconds for claim in claims) / jobs
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"verifying, about {expected:.0f} s", total=len(claims))
        for entry in run_all(claims, jobs, quick):
            entries.append(entry)
            progress.advance(task)
            if not as_json:
                _show(entry, console)
            if where is not None and not quick:
                record.write(where, {entry["name"]: entry})
    verdicts = [entry["verdict"] for entry in entries]
    if not as_json and len(entries) > 1:
        tally = ", ".join(f"{verdicts.count(v)} {v.replace('_', ' ')}" for v in dict.fromkeys(sorted(verdicts)))
        console.print(f"{len(entries)} claims: {tally}")
    if not as_json and where is not None and not quick:
        console.print(f"recorded in {where}", style="dim", highlight=False)
    return sorted(entries, key=lambda entry: str(entry["name"]))


COLOURS = {
    "reproduced": "green",
    "direction_only": "yellow",
    "not_reproduced": "red",
    "untested": "magenta",
    "error": "bold red",
}


def _show(entry: dict[str, Any], console: Any) -> None:
    from rich.table import Table

    from anypo.claims.table import number

    verdict = entry["verdict"]
    colour = COLOURS[verdict]
    mark = " (quick: not a result)" if entry["quick"] else ""
    console.print(f"[bold]{entry['name']}[/]  [{colour}]{verdict.replace('_', ' ')}[/]{mark}", highlight=False)
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    if verdict == "error":
        grid.add_row("error", entry["error"])
    else:
        grid.add_row(f"base ({entry['base_system']})", number(entry["base"]))
        grid.add_row("ours", number(entry["ours"]))
        grid.add_row(
            entry["metric"] or "effect",
            f"{number(entry['effect'])}  95 % [{number(entry['low'])}, {number(entry['high'])}]",
        )
        for control in entry.get("controls", ()):
            beaten = f"ours better by {number(control['effect'])}  95 % [{number(control['low'])}, {number(control['high'])}]"
            grid.add_row(control["name"], f"{number(control['mean'])}; {beaten}")
        if premise := entry.get("premise"):
            grid.add_row(
                "the bed", f"{premise['what']}: {premise['met']} of {premise['of']} (needed {premise['needed']:.0%})"
            )
        grid.add_row("statistic", entry["statistic"] + (f", p = {entry['p']:.3g}" if entry["p"] is not None else ""))
    grid.add_row("published", entry["published"])
    if entry["stand_in"]:
        grid.add_row("stand-in", entry["stand_in"])
    if entry.get("notes"):
        grid.add_row("notes", entry["notes"])
    grid.add_row(
        "cost", f"{entry['seconds']:.0f} s ({entry['cpu_seconds']:.0f} s of one core), seeds {entry.get('seeds', ())}"
    )
    console.print(grid)


def _list(as_json: bool) -> None:
    from rich.table import Table

    from anypo.claims import load
    from anypo.run.record.console import new_console

    claims = [claim for _, claim in sorted(load().items())]
    if as_json:
        print(
            json.dumps(
                [{"name": c.name, "family": c.family, "published": c.published, "seconds": c.seconds} for c in claims]
            )
        )
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("name", "family", "about", "published"):
        table.add_column(column, overflow="fold")
    for c in claims:
        table.add_row(c.name, c.family, f"{c.seconds:.0f} s", c.published)
    new_console().print(table)
    print(f"{len(claims)} claims")
