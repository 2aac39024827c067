"""Running something long in the terminal and showing what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.table import Table

from anypo.run.record.console import new_console
from anypo.scoring.mixture import OF_SOURCE
from anypo.scoring.units import ACCURACY, amount, change

if TYPE_CHECKING:
    from rich.console import Console

    from anypo.run.record.observer import Observer
    from anypo.run.result import Result
    from anypo.scoring import Evaluation


def watch(work: Callable[[Observer], Result], title: str, as_json: bool) -> None:
    """Run `work` under the live display and print its result as a table or as JSON."""
    from anypo.run.record.display import Display

    console = new_console(stderr=as_json)
    with Display(console, f"anypo train · {title}") as display:
        result = work(display)
    if as_json:
        print(json.dumps(result.summary(), indent=2))
    else:
        show(result, console)


def show(result: Result, console: Console) -> None:
    """The closing table, where things are, and what to try next."""
    table = Table(title="held-out", title_justify="left", box=None, padding=(0, 3, 0, 0))
    for name in ("", "before", "after", "change"):
        table.add_column(name, justify="left" if not name else "right")
    before, after = result.before, result.after
    if before is not None and after is not None:
        unit, gain = after.unit, change(after.score - before.score, after.unit)
        said = f"[bold]{gain} points[/]" if unit == ACCURACY else f"[bold]{gain}[/]"
        table.add_row(unit, amount(before.score, unit), amount(after.score, unit), said)
        table.add_row("95 % interval", *(_interval(one) for one in (before, after)), f"n = {after.n}")
        for name in (name for name in after.details if name.startswith(OF_SOURCE)):
            numbers = [one.details.get(name, float("nan")) for one in (before, after)]
            said = change(numbers[1] - numbers[0], unit) + (" points" if unit == ACCURACY else "")
            table.add_row(f"  {name.removeprefix(OF_SOURCE)}", *(amount(value, unit) for value in numbers), said)
        if "length" in after.details:
            name, counted = ("answer length", "tokens") if unit == ACCURACY else ("length", "decisions")
            table.add_row(name, f"{before.length:.1f}", f"{after.length:.1f}", counted)
        console.print(table)
    if result.base:
        console.print(f"{result.base}\n", highlight=False, markup=False)
    console.print(f"run folder  {result.path}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"report      {result.path / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    console.print("\ntry next", style="bold")
    for suggestion in result.suggestions():
        console.print(f"  {suggestion}", highlight=False, markup=False, soft_wrap=True)


def _interval(result: Evaluation) -> str:
    return f"{amount(result.low, result.unit)} – {amount(result.high, result.unit)}"
