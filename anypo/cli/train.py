"""`anypo train`: train a policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from anypo.cli.plugins import ChatArgs


def register(app: typer.Typer) -> None:
    app.command()(train)


def train(
    system: Annotated[
        str, typer.Option("--system", "-s", help="named method; `anypo systems list` shows all")
    ] = "grpo",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="smollm2-135m (default for text), tiny, a local path or a hub id"),
    ] = None,
    model_as: Annotated[
        list[str],
        typer.Option(
            "--model-as", metavar="ROLE=MODEL", help="another model in a role, e.g. teacher=PATH or judge=self"
        ),
    ] = [],  # noqa: B006
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="a reasoning-gym dataset, a .jsonl/.parquet file, a Gymnasium id or minari:NAME (default: one that suits the model)",
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="verifier (default), or without labels: majority (the rollouts' vote), confidence, judge (a model's)"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="optimisation steps")] = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="PATH=VALUE", help="replace any part or field of the method")
    ] = [],  # noqa: B006
    task_set: Annotated[list[str], typer.Option("--task-set", metavar="FIELD=VALUE", help="task configuration")] = [],  # noqa: B006
    chat_arg: ChatArgs = [],  # noqa: B006
    config: Annotated[
        Path | None, typer.Option(help="algorithm or recipe as YAML, or a run's config.yaml, instead of --system")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder (default: runs/<time>-<system>-<model>)")] = None,
    init: Annotated[str | None, typer.Option(help="start from the final weights of this run folder")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16")] = None,
    device: Annotated[str, typer.Option(help="where the weights are: auto, cpu, cuda, cuda:N or mps")] = "auto",
    lora: Annotated[int | None, typer.Option(min=0, help="LoRA rank; 0 trains all weights")] = None,
    sft_steps: Annotated[int | None, typer.Option(min=0, help="supervised warm-start steps on task solutions")] = None,
    eval_size: Annotated[int | None, typer.Option(min=0, help="held-out problems before and after")] = None,
    eval_every: Annotated[int | None, typer.Option(min=0, help="also evaluate every so many steps")] = None,
    save_every: Annotated[int | None, typer.Option(min=1, help="checkpoint every so many steps")] = None,
    beside: Annotated[
        bool, typer.Option("--beside/--no-beside", help="measure in every step how far the run is from its base")
    ] = True,
    logger: Annotated[list[str], typer.Option(help="tensorboard, wandb or trackio")] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the resolved configuration and stop")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Train a policy: supervised warm start (optional), reinforcement learning, evaluation before and after, report."""
    from anypo.cli.options import assignments, roles
    from anypo.cli.terminal.outcome import watch
    from anypo.reading import text_of
    from anypo.run.config import resolve
    from anypo.run.methods import read
    from anypo.run.session import train as run

    method = read(text_of(config, "algorithm file")) if config is not None else system
    settings = {
        "task_options": assignments(task_set, "--task-set") or None,
        "chat_args": assignments(chat_arg, "--chat-arg") or None,
        "reward": reward,
        "steps": steps,
        "seed": seed,
        "init": init,
        "dtype": dtype,
        "device": device,
        "lora": lora,
        "sft_steps": sft_steps,
        "eval_size": eval_size,
        "eval_every": eval_every,
        "save_every": save_every,
        "beside": beside,
        "loggers": tuple(logger) or None,
    }
    changes = assignments(set_, "--set")
    resolved = resolve(method, model, changes, roles(model_as), task=task, **settings)
    if dry_run:
        resolved.load_plugins()
        resolved.parse_tasks()
        typer.echo(json.dumps(resolved.model_dump(), indent=2))
        return
    watch(
        lambda observer: run(resolved, out=out, observer=observer),
        f"{resolved.system} · {resolved.model} · {resolved.task}",
        as_json,
    )
