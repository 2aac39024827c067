"""`anypo compare`: which method, for this model and task, under this budget."""

from __future__ import annotations

import json
import math
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anypo.cli.plugins import ChatArgs, Device
from anypo.cli.rooms import Control, Filter, Generate, Replay, rooms

if TYPE_CHECKING:
    from rich.console import Console

    from anypo.compare import Comparison


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    methods: Annotated[str, typer.Argument(metavar="METHOD,METHOD,...", help="names or algorithm files (.yaml)")],
    model: Annotated[str, typer.Option("--model", "-m", help="smollm2-135m, tiny, a local path or a hub id")] = "tiny",
    task: Annotated[
        str, typer.Option("--task", "-t", help="one task, or several separated by commas; {mix: \\[sums, gcd]} is one")
    ] = "chain_sum",
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            "-b",
            help="of a run (of a search: in all): tokens, trained, seconds, minutes, updates or rollouts",
        ),
    ] = "tokens=200k",
    seeds: Annotated[int | None, typer.Option(help="runs of every method (default: 5; in a search 1)")] = None,
    vary: Annotated[
        list[str], typer.Option("--vary", metavar="SLOT=A,B", help="cross every method with these parts or values")
    ] = [],  # noqa: B006
    search: Annotated[
        str | None, typer.Option(help="halving: look for a good composition, starting from METHOD")
    ] = None,
    count: Annotated[int, typer.Option(metavar="N", min=2, help="compositions that a search starts with")] = 16,
    regime: Annotated[
        str | None,
        typer.Option(
            help="which method when: all, or fresh, reuse, stale, sparse, small, mismatch, long (on an exact bed, no model)"
        ),
    ] = None,
    base: Annotated[str | None, typer.Option(help="the method others are measured against (default: grpo)")] = None,
    threshold: Annotated[float | None, typer.Option(help="score whose time and tokens are reported")] = None,
    control: Control = None,
    generate: Generate = None,
    filter_: Filter = [],  # noqa: B006
    replay: Replay = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="PATH=VALUE", help="for every method that has the field")
    ] = [],  # noqa: B006
    task_set: Annotated[list[str], typer.Option("--task-set", metavar="FIELD=VALUE", help="task configuration")] = [],  # noqa: B006
    chat_arg: ChatArgs = [],  # noqa: B006
    sft_steps: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="supervised warm start shared by all runs")
    ] = None,
    eval_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="held-out problems of an evaluation")
    ] = None,
    evaluations: Annotated[int | None, typer.Option(metavar="N", min=1, help="evaluations over the budget")] = None,
    samples: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="sampled answers to each held-out problem")
    ] = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="folder (default: below comparisons/, named by conditions)")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", metavar="N", min=1, help="runs at a time (default: one per core; one on an accelerator)"
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="also write the leaderboard to this file")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="also write the report to this file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Compare methods at an equal budget: leaderboard with intervals and ties, report, CSV and Parquet.

    The same command goes on where it was stopped. Exit code 1 when some runs failed.
    """
    from anypo import compare as room
    from anypo.cli.options import assignments, listed
    from anypo.errors import UserError, unknown
    from anypo.run.record.console import new_console

    names = [name.strip() for name in methods.split(",") if name.strip()]
    if regime is not None:
        from anypo.cli.methods import regimes

        regimes.run(names, regime, base, seeds or 6, out, jobs or os.cpu_count() or 1, report, as_json)
        return
    if search is not None and search != "halving":
        raise unknown("search", search, ["halving"])
    if search is not None and len(names) != 1:
        raise UserError("--search halving starts from one method, e.g. anypo compare grpo --search halving --count 16")
    if search is not None and base is not None:
        raise UserError("--base has no meaning in a search: it starts from the method that is named")
    options: dict[str, Any] = {
        "vary": vary,
        "changes": rooms(control, generate, filter_, replay) | assignments(set_, "--set"),
        "task_options": assignments(task_set, "--task-set") or None,
        "threshold": threshold,
        "out": out,
        "jobs": jobs,
        "sft_steps": sft_steps,
        "eval_size": eval_size,
        "evaluations": evaluations,
        "samples": samples,
        "device": device,
        "chat_args": assignments(chat_arg, "--chat-arg") or None,
    }
    tasks = listed(task)
    console = new_console(stderr=as_json)
    from anypo.cli.terminal.cells import Display

    with Display(console) as display:
        options["watcher"] = display
        if search is not None:
            found = room.search(names[0], model, tasks, budget, count=count, seeds=seeds or 1, **options)
        else:
            found = room.compare(names, model, tasks, budget, seeds=seeds or 5, base=base, **options)
    _also(found, csv, report)
    if as_json:
        print(json.dumps(found.summary(), indent=2))
    else:
        show(found, console)
    if found.failures:
        raise typer.Exit(1)


def _also(found: Comparison, csv: Path | None, report: Path | None) -> None:
    from anypo.compare.export import write_csv
    from anypo.compare.report import write_report

    if csv is not None:
        write_csv(found.board, csv)
    if report is not None:
        write_report(found, report)


def show(found: Comparison, console: Console) -> None:
    """The leaderboard, effects and notes, and where everything is."""
    from rich.text import Text

    console.print(leaderboard(found, wide=console.width >= WIDE))
    if found.board.effects:
        console.print(effects(found))
    for note in found.board.notes:
        console.print(Text.assemble(("• ", "yellow"), note))
    console.print(f"\nreport   {found.path / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"folder   {found.path}  (leaderboard.csv, cells.parquet, curves.parquet)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if found.search is not None:
        best = found.path / "best.yaml"
        console.print(f"winner   {found.search.winner.label}  ({best})", highlight=False, markup=False, soft_wrap=True)
        console.print("\ntry next", style="bold")
        both, on = f"{found.search.base},{best}", ",".join(found.tasks)
        again = ["anypo", "compare", both, "--model", found.settings.model, "--task", on, "--seeds", "5"]
        console.print(f"  {shlex.join(again)}", highlight=False, markup=False, soft_wrap=True)


WIDE = 125
"""Columns that the whole leaderboard needs; a narrower terminal gets the first part of it."""


def leaderboard(found: Comparison, wide: bool = True) -> Any:
    """The leaderboard as a table for the terminal; without the diagnostics unless `wide`."""
    from rich.table import Table
    from rich.text import Text

    from anypo.compare.report.words import duration, percent, place, quantity, short
    from anypo.scoring.units import amount

    board = found.board
    k, unit = board.k, board.unit
    reached = ", ".join(amount(value, unit) for value in board.thresholds.values())
    table = Table(
        title=f"held-out {unit} after {quantity(board.budget.amount, board.budget.measure)}, from {amount(board.start, unit)}",
        title_justify="left",
        caption=f"time and tokens: until {reached}" if reached != "–" else None,
        caption_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("place")
    table.add_column("method", overflow="fold")
    names = [unit, "95 %", f"beats {board.base}", "time", "tokens"]
    if wide:
        names += ["greedy", f"pass@{k}", f"maj@{k}", "diff.", "entropy", "length", "equal", "GiB"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in board.rows:
        beats, means = row.beats_base, row.means
        colour = "green" if beats.low > 0.5 else "red" if beats.high < 0.5 else ""
        ends = (row.score.low, row.score.high)
        around = "–".join(amount(end, unit).removesuffix(" %") for end in ends) if row.score.known else "–"
        cells = (
            place(row.rank),
            Text(row.label, style="bold"),
            amount(row.score.value, unit),
            around,
            Text("base" if row.label == board.base else percent(beats.value, 0), style=colour),
            duration(row.seconds_to),
            short(row.tokens_to),
            amount(means["greedy"], unit, 0),
            percent(means["pass_at_k"], 0),
            percent(means["maj_at_k"], 0),
            percent(means["diversity"], 0),
            "–" if math.isnan(means["entropy"]) else f"{means['entropy']:.2f}",
            f"{means['length']:.1f}",
            percent(means["degenerate"], 0),
            f"{means['peak_gb']:.2f}",
        )
        table.add_row(*cells[: 2 + len(names)])
    return table


def effects(found: Comparison) -> Any:
    """Main effects and interactions, in points of accuracy or in the unit of the score."""
    from rich.table import Table

    from anypo.scoring.units import ACCURACY, change

    unit = found.board.unit
    counted = "points" if unit == ACCURACY else unit
    table = Table(title=f"\neffects, {counted}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name, justify in (
        ("factor", "left"),
        ("level", "left"),
        ("effect", "right"),
        ("95 %", "right"),
        ("p", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for effect in found.board.effects:
        for number, (level, found_) in enumerate(effect.levels.items()):
            around = f"{change(found_.low, unit)} to {change(found_.high, unit)}" if found_.known else "–"
            name = " × ".join(effect.factors) if number == 0 else ""
            p = f"{effect.p:.3f}" if number == 0 and effect.p == effect.p else ""
            table.add_row(name, " × ".join(level), change(found_.value, unit), around, p)
    return table
