"""`anypo solve`: run an exact planner on its bed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from anypo.exact.planning import Plan


def register(app: typer.Typer) -> None:
    app.command()(solve)


def solve(
    name: Annotated[str, typer.Argument(help="a planner; `anypo systems list --kind planner` shows all")],
    set_: Annotated[
        list[str], typer.Option("--set", metavar="PATH=VALUE", help="settings of the planner and of its bed")
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Solve a planner's process exactly: value of every state and action, the policy, and how it was found."""
    from anypo.cli.options import assignments, changed
    from anypo.files import strict
    from anypo.run.record.console import new_console
    from anypo.systems import find

    plan = changed(find(name, "planner").build(), assignments(set_, "--set")).plan()
    if as_json:
        print(json.dumps(strict({"planner": name, **plan.plain()}), indent=2))
    else:
        show(plan, new_console())


def show(plan: Plan, console: Console) -> None:
    """Values of states and actions, the rounds, and the result."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("state", no_wrap=True)
    for head in ("V", *(f"Q {action}" for action in plan.action_names)):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("action", no_wrap=True)
    for state, v, q, best in zip(plan.state_names, plan.values.tolist(), plan.q.tolist(), plan.policy.tolist()):
        cells = [Text(f"{x:.4f}", style="bold" if action == best else "") for action, x in enumerate(q)]
        table.add_row(state, f"{v:.4f}", *cells, plan.action_names[best])
    console.print(table)
    if plan.rounds:
        rounds = Table(box=None, padding=(0, 2, 0, 0), title="\nrounds", title_justify="left")
        for head in plan.rounds[0]:
            rounds.add_column(head, justify="right", no_wrap=True)
        for row in plan.rounds:
            rounds.add_row(*(f"{value:.6g}" for value in row.values()))
        console.print(rounds)
    console.print(f"\n{plan.says}", highlight=False, soft_wrap=True)
