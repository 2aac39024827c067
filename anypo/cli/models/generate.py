"""`anypo generate`: answers to prompts."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from anypo.cli.plugins import ChatArgs, Device, MaxNew, Trust


def register(app: typer.Typer) -> None:
    app.command()(generate)


def generate(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="run folder, model name, local path or hub id")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT…", help="what is asked; - for lines from stdin")],
    samples: Annotated[int, typer.Option("--samples", "-k", metavar="N", min=1, help="answers to every prompt")] = 1,
    temperature: Annotated[
        float | None, typer.Option(metavar="N", min=0.0, help="default: 0 for one sample, 1 for several")
    ] = None,
    max_new: MaxNew = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0)] = 0,
    chat_arg: ChatArgs = [],  # noqa: B006
    device: Device = "auto",
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a prompt")] = False,
) -> None:
    """Answer prompts with a run's policy or a model, in its own chat format.

    Example: anypo generate RUN "What is 12 + 30?" --samples 4
    """
    from anypo.cli.options import assignments
    from anypo.errors import UserError
    from anypo.trained import Speech, open_trained

    asked = [text for prompt in prompts for text in (_lines() if prompt == "-" else [prompt])]
    if not asked:
        raise UserError("there is no prompt; give one, or lines on standard input")
    trained = open_trained(model, assignments(chat_arg, "--chat-arg"), device, trust)
    heat = temperature if temperature is not None else float(samples > 1)
    answers = Speech(trained, heat, max_new, seed).answers(asked, samples)
    for number, (prompt, said) in enumerate(zip(asked, answers)):
        if as_json:
            print(json.dumps({"prompt": prompt, "answers": said}, ensure_ascii=False))
            continue
        if len(asked) > 1:
            print(f"{chr(10) if number else ''}> {prompt}")
        for place, answer in enumerate(said):
            print(f"[{place + 1}] {answer['text']}" if samples > 1 else answer["text"])


def _lines() -> list[str]:
    return [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
