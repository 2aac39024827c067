"""`anypo evaluate`: score a model or a run on held-out problems."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from anypo.cli.plugins import ChatArgs, Trust


def register(app: typer.Typer) -> None:
    app.command()(evaluate)


def evaluate(
    model: Annotated[str, typer.Argument(help="run folder, model name, local path or hub id")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="default: the run's own task, or sums")] = None,
    task_set: Annotated[list[str], typer.Option("--task-set", metavar="FIELD=VALUE")] = [],  # noqa: B006
    model_as: Annotated[
        list[str], typer.Option("--model-as", metavar="ROLE=MODEL", help="replaces the run's model in a role")
    ] = [],  # noqa: B006
    chat_arg: ChatArgs = [],  # noqa: B006
    size: Annotated[
        int | None,
        typer.Option(
            "--size", "-n", metavar="N", min=1, help="held-out problems or episodes (default: the run's, or 200)"
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", "-k", metavar="N", min=1, help="samples per problem; 1 is greedy")
    ] = 1,
    temperature: Annotated[float | None, typer.Option(help="default: 0 for one sample, 1 for several")] = None,
    max_new: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="most new tokens (default: the run's, or 64)")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="default: the run's, or 0")] = None,
    device: Annotated[
        str | None, typer.Option(help="where the weights are: auto, cpu, cuda, cuda:N or mps (default: the run's)")
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """The task's score with a 95 % interval: held-out accuracy (pass@k and maj@k from several samples), or the mean return."""
    from rich.table import Table

    from anypo.cli.options import assignments, named, roles
    from anypo.run.evaluation import evaluate as score
    from anypo.run.record.console import new_console
    from anypo.run.record.display import Display
    from anypo.scoring.mixture import OF_SOURCE
    from anypo.scoring.units import ACCURACY, amount

    console = new_console(stderr=as_json)
    with Display(console, f"anypo evaluate · {model}") as display:
        result = score(
            model,
            task=named(task),
            task_options=assignments(task_set, "--task-set"),
            model_as=roles(model_as),
            chat_args=assignments(chat_arg, "--chat-arg"),
            size=size,
            samples=samples,
            temperature=temperature,
            max_new=max_new,
            seed=seed,
            device=device,
            observer=display,
            trust=trust,
        )
    if as_json:
        print(json.dumps(result.summary(), indent=2))
        return
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=False)
    unit = result.unit
    around = f"95 % interval {amount(result.low, unit)} – {amount(result.high, unit)}, n = {result.n}"
    table.add_row(unit, amount(result.score, unit), around)
    for name, value in result.details.items():
        if name == "length":
            table.add_row("length", f"{value:.1f}", "tokens" if unit == ACCURACY else "decisions")
        elif name.startswith(OF_SOURCE):
            table.add_row(f"  {name.removeprefix(OF_SOURCE)}", amount(value, unit), "")
        elif samples > 1 or unit != ACCURACY:  # of one answer, pass@1 and majority are the accuracy
            table.add_row(f"maj@{samples}" if name == "majority" else name, amount(value, unit), "")
    console.print(table)
