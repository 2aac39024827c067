"""`anypo train`: train a policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anypo.cli.plugins import ChatArgs, Trust
from anypo.cli.rooms import Control, Filter, Generate, Replay, rooms
from anypo.errors import UserError

if TYPE_CHECKING:
    from anypo.run.settings.config import RunConfig


def register(app: typer.Typer) -> None:
    app.command()(train)


def train(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN.yaml", help="run file: all of a run or some of it; or a run folder, to run it again"
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="named method (default: grpo); `anypo systems list` shows all")
    ] = None,
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
            help="a reasoning-gym dataset, a .jsonl/.parquet file, a Gymnasium id, minari:NAME or {mix: \\[sums, gcd]} (default: one that suits the model)",
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="verifier (default), or without labels: majority (the rollouts' vote), confidence, judge (a model's)"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="optimisation steps")] = None,
    epochs: Annotated[
        float | None, typer.Option(metavar="N", help="passes over the training problems, instead of --steps")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            "-b",
            metavar="MEASURE=AMOUNT",
            help="or how much it may spend: tokens=1M, trained=1M, minutes=30, updates=500 or rollouts=5000",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="what ends it early: score>=0.9, policy/entropy<=0.1, plateau, ...")
    ] = None,
    control: Control = None,
    generate: Generate = None,
    filter_: Filter = [],  # noqa: B006
    replay: Replay = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="PATH=VALUE", help="replace any part or field of the method")
    ] = [],  # noqa: B006
    task_set: Annotated[list[str], typer.Option("--task-set", metavar="FIELD=VALUE", help="task configuration")] = [],  # noqa: B006
    chat_arg: ChatArgs = [],  # noqa: B006
    config: Annotated[
        Path | None, typer.Option(help="the same as RUN.yaml: a run file, an algorithm, a recipe, a run's config.yaml")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder (default: runs/<time>-<system>-<model>)")] = None,
    init: Annotated[str | None, typer.Option(help="start from the final weights of this run folder")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="of everything random (default: 0)")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16")] = None,
    device: Annotated[
        str | None, typer.Option(help="where the weights are: auto (default), cpu, cuda, cuda:N or mps")
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option(help="LoRA rank, or {rank: 16, alpha: 32, targets: \\[q_proj, v_proj], bits: 4}; 0 trains all weights"),
    ] = None,
    overlong: Annotated[
        str | None,
        typer.Option(help="what becomes of prompts that do not fit in the context: refuse (default), drop or truncate"),
    ] = None,
    sft_steps: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="supervised warm-start steps on task solutions")
    ] = None,
    eval_size: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="held-out problems before and after")
    ] = None,
    eval_every: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="also evaluate every so many steps")
    ] = None,
    save_every: Annotated[int | None, typer.Option(metavar="N", min=1, help="checkpoint every so many steps")] = None,
    save_minutes: Annotated[
        float | None, typer.Option(metavar="N", min=0, help="and checkpoint every so many minutes")
    ] = None,
    keep: Annotated[int | None, typer.Option(metavar="N", min=1, help="checkpoints kept (default: 2)")] = None,
    keep_best: Annotated[
        bool | None, typer.Option("--keep-best", help="keep the weights of the best held-out score, in RUN/best")
    ] = None,
    beside: Annotated[
        bool | None, typer.Option("--beside/--no-beside", help="measure in every step how far the run is from its base")
    ] = None,
    logger: Annotated[list[str], typer.Option(help="tensorboard, wandb or trackio")] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything, print the whole run as a run file, and stop")
    ] = False,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result (or the dry run) as JSON")] = False,
) -> None:
    """Train a policy: supervised warm start (optional), reinforcement learning, evaluation before and after, report."""
    from anypo.cli.names.index import refuse

    chosen = rooms(control, generate, filter_, replay)
    if file is None and config is None:
        refuse(system, [*chosen, *(pair.partition("=")[0].strip() for pair in set_ if "=" in pair)], task)
    from anypo.cli.options import assignments, named, roles, valued
    from anypo.run.settings.written import Written, read

    if file is not None and config is not None:
        raise UserError(f"two run files are named: {file} and --config {config}; name one")
    place = file or config
    written = read(place, trust) if place is not None else Written()
    resolved = written.resolve(
        system,
        chosen | assignments(set_, "--set"),
        roles(model_as),
        lambda said: typer.echo(f"anypo: {said}", err=True),
        model=model,
        task=named(task),
        task_options=assignments(task_set, "--task-set") or None,
        chat_args=assignments(chat_arg, "--chat-arg") or None,
        reward=reward,
        steps=steps,
        epochs=epochs,
        budget=budget,
        until=valued(until, "--until"),
        seed=seed,
        init=init,
        dtype=dtype,
        device=device,
        lora=valued(lora, "--lora"),
        overlong=overlong,
        sft_steps=sft_steps,
        eval_size=eval_size,
        eval_every=eval_every,
        save_every=save_every,
        save_minutes=save_minutes,
        keep=keep,
        keep_best=keep_best,
        beside=beside,
        loggers=tuple(logger) or None,
    )
    if dry_run:
        _rehearse(resolved, as_json)
        return
    from anypo.cli.terminal.outcome import watch
    from anypo.run.session import train as run

    target = out or (Path(written.out) if written.out else None)
    watch(
        lambda observer: run(resolved, out=target, observer=observer),
        f"{resolved.system} · {resolved.model} · {resolved.task}",
        as_json,
    )


def _rehearse(config: RunConfig, as_json: bool) -> None:
    """Check a run as far as that needs no weights, and print it as a file that begins it."""
    import json

    import yaml

    from anypo.run.settings.rehearsal import rehearse

    notes, plain = rehearse(config), config.model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps(plain, indent=2))
        return
    for said in notes:
        typer.echo(f"# {said}")
    if plain["epochs"] or plain["budget"]:
        plain.pop("steps")  # they follow
    if "sft_steps" in plain.pop("filled"):  # nobody asked for them, so the file does not either
        plain.pop("sft_steps")
    typer.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)
