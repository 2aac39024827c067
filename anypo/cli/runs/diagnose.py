"""`anypo diagnose`: what went wrong in a run, how one can tell, and what to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anypo.cli.plugins import Trust

if TYPE_CHECKING:
    from anypo.diagnose import Finding

STYLES = {"severe": "bold red", "warning": "yellow", "healthy": "green", "not measured": "dim"}


def register(app: typer.Typer) -> None:
    app.command()(diagnose)


def diagnose(
    run: Annotated[Path, typer.Argument(help="run folder (running, finished or killed)")],
    as_json: Annotated[bool, typer.Option("--json", help="everything, as JSON")] = False,
    html: Annotated[Path | None, typer.Option(help="write a self-contained HTML page with the plots")] = None,
    every: Annotated[bool, typer.Option("--all", help="also show what is healthy or was not measured")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit code 1 when something is severe")] = False,
    attribution: Annotated[
        bool, typer.Option("--attribution", help="which rollouts and tokens moved the weights in --step")
    ] = False,
    step: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="the step of --attribution (default: the last)")
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option("--recompute", help="for --attribution: take the steps since the last checkpoint before --step again"),
    ] = False,
    probe: Annotated[bool, typer.Option("--probe", help="does the model tell that it is being tested?")] = False,
    size: Annotated[int, typer.Option(metavar="N", min=4, help="held-out problems of --probe")] = 32,
    trust: Trust = False,
) -> None:
    """Name what is wrong with a run, show the evidence, and give the commands that change it.

    Exit code 0 whenever it ran; with --strict, 1 when something is severe.
    """
    from anypo.errors import UserError

    if step is not None and not attribution:
        raise UserError("--step chooses the step of --attribution; add --attribution")
    if recompute and not attribution:
        raise UserError("--recompute is for the weights that --attribution looks at; add --attribution")
    if html is not None and (attribution or probe):
        raise UserError("--html is the page of the detectors; leave out --attribution and --probe")
    if attribution or probe:
        _look_inside(run, step, attribution, recompute, probe, size, trust, as_json)
        return
    from anypo.diagnose import diagnose as find

    findings = find(run)
    if html is not None:
        from anypo.diagnose.page import write_page

        write_page(run, findings, html)
    if as_json:
        from anypo.files import strict as plain

        print(json.dumps(plain([found.plain() for found in findings]), indent=1))
    else:
        _show(findings, every)
        if html is not None:
            print(html)
    if strict and any(found.severity == "severe" for found in findings):
        raise typer.Exit(1)


def _show(findings: list[Finding], every: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from anypo.run.record.console import new_console

    console = new_console()
    shown = [found for found in findings if every or found.severity in ("severe", "warning")]
    if shown:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("pathology")
        table.add_column("severity", no_wrap=True)
        table.add_column("evidence", overflow="fold")
        for found in shown:
            style = STYLES[found.severity]
            table.add_row(escape(found.detector.title), f"[{style}]{found.severity}[/]", escape(found.evidence))
        console.print(table)
    for found in shown:
        if found.levers:
            console.print(f"\n[bold]{found.detector.title}[/]  [dim]{escape(found.detector.why)}[/]", highlight=False)
            for row in found.rollouts[:1]:
                where = (
                    f"step {row['step']}, group {row['group_id']}, rollout {row['sample']}, reward {row['reward']:.3g}"
                )
                console.print(f"  e.g. {where}: {escape(repr(row['text']))}", style="dim", highlight=False)
            for why, command in found.levers:
                console.print(f"  [dim]# {escape(why)}[/]", highlight=False)
                console.print(f"  {escape(command)}", highlight=False, soft_wrap=True)
    count = {name: sum(found.severity == name for found in findings) for name in STYLES}
    console.print("\n" * bool(shown) + ", ".join(f"{number} {name}" for name, number in count.items()), style="dim")


def _look_inside(
    run: Path,
    step: int | None,
    attribution: bool,
    recompute: bool,
    probe: bool,
    size: int,
    trust: bool,
    as_json: bool,
) -> None:
    """The two looks that load the model."""
    from anypo.files import strict as plain

    out: dict[str, Any] = {}
    if attribution:
        from anypo.diagnose.attribution import attribute

        tell = lambda count: typer.echo(f"{count} step{'s' * (count > 1)} taken again", err=True)
        found = attribute(run, step, trust, recompute, tell)
        out["attribution"] = found.plain()
        if not as_json:
            _show_attribution(found)
    if probe:
        from anypo.diagnose.probe import audit_run

        audit = audit_run(run, size, trust)
        out["probe"] = audit.plain()
        if not as_json:
            _show_probe(audit)
    if as_json:
        print(json.dumps(plain(out), indent=1))


def _show_attribution(found: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    from anypo.run.record.console import new_console

    console = new_console()
    for note in found.notes:
        console.print(escape(note), style="dim", highlight=False)
    console.print(
        f"step {found.step}: gradient norm {found.norm:.4g}; {found.against:.0%} of the rollouts pull against the step; "
        f"{found.cancelled:.0%} of their pull cancels",
        highlight=False,
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("group", "rollout", "reward", "advantage", "norm", "share", "cosine"):
        table.add_column(name, justify="right")
    table.add_column("strongest tokens", overflow="fold")
    for row in found.rollouts[:20]:
        tokens = " ".join(f"{piece!r} {coefficient:+.2g}" for piece, coefficient in row.strongest(4))
        table.add_row(
            str(row.group), str(row.sample), f"{row.reward:.3g}", f"{row.advantage:+.3g}", f"{row.norm:.3g}",
            f"{row.share:+.1%}", f"{row.cosine:+.2f}", escape(tokens),
        )  # fmt: skip
    console.print(table)


def _show_probe(audit: Any) -> None:
    from anypo.run.record.console import new_console

    console = new_console()
    for line in audit.lines():
        console.print(line, highlight=False)
