"""`anypo rollouts`: look at the rollouts of a run with SQL."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    app.command()(rollouts)


def rollouts(
    run: Annotated[Path, typer.Argument(help="run folder")],
    query: Annotated[
        str, typer.Argument(help="one SELECT over rollouts, aside, answers, metrics, evaluations", metavar="SQL")
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=0, help="rows shown in the table; 0 shows all")
    ] = 40,
    as_json: Annotated[bool, typer.Option("--json", help="every row, as JSON")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="every row, as CSV")] = False,
    as_tree: Annotated[bool, typer.Option("--tree", help="the rollouts of one prompt as the tree they are")] = False,
    step: Annotated[int | None, typer.Option(metavar="N", help="with --tree: which step; the newest by default")] = None,
    group: Annotated[
        int | None, typer.Option(metavar="N", help="with --tree: which group of the step; that of most forks by default")
    ] = None,
) -> None:
    """Ask the rollouts of a run with SQL (DuckDB); without a query, a summary of every step.

    Views: rollouts (one row a rollout), aside (made and not trained on, with why), answers (held-out answers, with a label),
    metrics (one row a step; reward/mean is the column reward_mean), evaluations. "describe rollouts" lists the columns; rewards['correct'] is a named reward.

    With --tree: a prompt's rollouts as branches of what they share, with the decisions where they part, the advantage of every
    stretch, what was pruned and how many tokens were shared.

    Example: anypo rollouts RUN "select text, reward from rollouts where step = 5 order by reward desc"
    """
    from anypo.errors import UserError
    from anypo.run.disk.folder import RunFolder
    from anypo.run.disk.query import DEFAULT

    if as_json and as_csv:
        raise UserError("--json and --csv exclude each other; choose one")
    if as_tree:
        if query or as_csv:
            raise UserError("--tree shows one group and takes no query and no --csv; choose one")
        return _tree(RunFolder.read(run), step, group, as_json)
    if step is not None or group is not None:
        raise UserError("--step and --group belong to --tree; in a query write where step = N and group_id = N")
    folder = RunFolder.read(run)
    table = folder.sql(query or DEFAULT)
    columns = [_values(column) for column in table.columns]
    rows = [dict(zip(table.column_names, values)) for values in zip(*columns)]
    if as_json:
        from anypo.files import strict

        print(json.dumps(strict(rows), ensure_ascii=False, default=str))
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(table.column_names)
        writer.writerows([_cell(row[name]) for name in table.column_names] for row in rows)
    else:
        _show(table.column_names, rows, limit)
        if not query:
            _tell_aside(folder)


def _tree(folder: Any, step: int | None, group: int | None, as_json: bool) -> None:
    """Show one group as a tree."""
    from rich.text import Text
    from rich.tree import Tree

    from anypo.files import strict
    from anypo.report import tree
    from anypo.run.record.console import new_console

    found = tree.shown(folder, step, group)
    if as_json:
        told = {name: getattr(found, name) for name in ("step", "group", "problem", "rollouts", "decisions", "sampled")}
        print(json.dumps(strict(told | {"branches": [s.told() for s in found.top]}), ensure_ascii=False))
        return

    def hang(home: Tree, stretches: list[tree.Stretch]) -> None:
        for stretch in stretches:
            label = Text(tree.line(stretch.text) or "(nothing more)", style="dim" if stretch.given_up else "")
            good = (stretch.advantage or 0.0) > 0
            style = "green" if good else "red" if (stretch.advantage or 0.0) < 0 else "dim"
            hang(home.add(label.append(f"  {tree.weighed(stretch)}", style=style)), stretch.branches)

    whole = Tree(Text(tree.line(found.problem, 200), style="bold"))
    hang(whole, found.top)
    console = new_console()
    console.print(whole)
    console.print(f"step {found.step}, group {found.group}: {found.about()}", style="dim")
    if found.measured:
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in found.measured.items())
        console.print(f"the whole step: {numbers}", style="dim")


def _tell_aside(folder: Any) -> None:
    """Say how many rollouts the table above does not count."""
    from anypo.run.record.console import new_console

    counts = folder.sql("select why, count(*) as n from aside group by why order by why").to_pylist()
    if counts:
        told = " and ".join(f"{row['n']} by the {row['why']}" for row in counts)
        new_console().print(f"set aside, not trained on: {told} (the view aside)", style="dim", highlight=False)


def _values(column: Any) -> list[Any]:
    """A column in Python, or as text where Python has no such value: an infinite date, a map whose keys are lists."""
    try:
        return list(column.to_pylist(maps_as_pydicts="lossy"))
    except (ArithmeticError, ValueError, TypeError):
        import duckdb
        import pyarrow as pa

        return [text for (text,) in duckdb.from_arrow(pa.table({"x": column})).project("x::varchar").fetchall()]


def _show(names: list[str], rows: list[dict[str, Any]], limit: int) -> None:
    from rich.table import Table
    from rich.text import Text

    from anypo.run.record.console import new_console

    shown = rows[:limit] if limit else rows
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        numeric = all(isinstance(row[name], (int, float)) or row[name] is None for row in shown)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in shown:
        table.add_row(*(Text(_readable(row[name])) for name in names))
    console = new_console()
    console.print(table)
    console.print(f"{len(shown)} of {len(rows)} rows" if len(shown) < len(rows) else f"{len(rows)} rows", style="dim")


def _cell(value: Any) -> Any:
    """A value as one CSV field: lists and maps as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else value


def _readable(value: Any) -> str:
    """A value as a short piece of text: numbers to four digits, long lists cut."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + ", ".join(_readable(item) for item in value[:12]) + (", …]" if len(value) > 12 else "]")
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(item)}" for key, item in value.items())
    return str(value)
