"""`anypo export`: write what was trained for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from anypo.cli.plugins import Trust


def register(app: typer.Typer) -> None:
    app.command()(export)


def export(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="run folder, model name, local path or hub id")],
    out: Annotated[Path, typer.Argument(help="the new folder")],
    adapter: Annotated[
        bool, typer.Option("--adapter/--merged", help="the adapter of a LoRA run alone, or merged into its base")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16 (default: as the weights are stored)")] = "",
    untied: Annotated[
        bool,
        typer.Option("--untied", help="the output embedding apart from the input's, for a server that a run updates"),
    ] = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="also a GGUF file, by llama.cpp's converter")] = False,
    push: Annotated[str, typer.Option(metavar="REPO", help="upload it to this repository of the hub, too")] = "",
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Write a run's policy or a model as a folder that transformers loads (docs/export.md).

    Example: anypo export RUN mine --dtype bfloat16
    """
    from anypo.trained import export as write

    done = write(model, out, adapter=adapter, dtype=dtype, untied=untied, gguf=gguf, push=push, trust=trust)
    if as_json:
        print(json.dumps({"path": str(done.path), "what": done.what, "pushed": done.pushed, "notes": done.notes}))
        return
    print(f"{done.path}: {done.what}")
    for note in done.notes:
        print(f"  {note}")
    if done.pushed:
        print(f"  pushed to {done.pushed}")
