"""`anypo chat`: a conversation in the terminal, or through a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from anypo.cli.plugins import ChatArgs, Device, MaxNew, Trust

if TYPE_CHECKING:
    from anypo.trained import Conversation


def register(app: typer.Typer) -> None:
    app.command()(chat)


def chat(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="run folder, model name, local path or hub id")],
    temperature: Annotated[float, typer.Option(metavar="N", min=0.0, help="0 is greedy")] = 1.0,
    max_new: MaxNew = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0)] = 0,
    chat_arg: ChatArgs = [],  # noqa: B006
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Talk with a run's policy or a model: a line is a turn, /new begins again, Ctrl-D or Ctrl-C leaves."""
    from anypo.cli.options import assignments
    from anypo.trained import Conversation, Speech, open_trained

    trained = open_trained(model, assignments(chat_arg, "--chat-arg"), device, trust)
    talk = Conversation(Speech(trained, temperature, max_new, seed))
    sign = "> " if sys.stdin.isatty() else ""
    try:
        while True:
            line = input(sign).strip()
            if line == "/new":
                talk.begin()
            elif line:
                _turn(talk, line)
    except (EOFError, KeyboardInterrupt):
        if sign:
            print()


def _turn(talk: Conversation, line: str) -> None:
    """One turn, in a conversation begun anew where the old one is full."""
    from anypo.errors import UserError

    try:
        talk.say(line, _show)
    except UserError as error:
        if not talk.history:
            raise
        print(f"anypo: {error}; it begins anew", file=sys.stderr)
        talk.begin()
        talk.say(line, _show)
    print(flush=True)


def _show(piece: str) -> None:
    print(piece, end="", flush=True)
