"""Options of several commands: ``--plugin``, accepted before the command and after it, by every command; ``--trust``, of those that
run what a folder names; ``--chat-arg`` and ``--max-new``, of those that speak; ``--device``, of those that load weights."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from anypo.cli.names.completion import attach, completing
from anypo.last import latest

Plugins = Annotated[
    list[str],
    typer.Option(
        "--plugin", metavar="MODULE", help="import a module or .py file of your own first (repeat; or ANYPO_PLUGINS)"
    ),
]

ChatArgs = Annotated[
    list[str],
    typer.Option(
        "--chat-arg",
        metavar="NAME=VALUE",
        help="argument of the chat template, e.g. enable_thinking=false; replaces a run's",
    ),
]

Device = Annotated[str, typer.Option(help="where the weights are: auto, cpu, cuda, cuda:N or mps")]

MaxNew = Annotated[int | None, typer.Option(metavar="N", min=1, help="most new tokens (default: the run's, or 256)")]

Trust = Annotated[
    bool, typer.Option("--trust", help="run the code that the run folder names, though it was not begun by you here")
]


def _say_version(asked: bool) -> None:
    if asked:
        from anypo import __version__

        typer.echo(f"anypo {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", is_eager=True, callback=_say_version, help="say it and stop")]


def offer(app: typer.Typer) -> None:
    """Give `app` and every command below it the option; what it names is imported before the command begins."""
    given: list[str] = []

    @app.callback()
    def begin(plugins: Plugins = [], version: Version = False) -> None:  # noqa: B006
        given.extend(plugins)

    _offer(app, given)


def _offer(app: typer.Typer, given: Sequence[str]) -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        command.callback = _with_option(command.callback, given)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        _offer(group.typer_instance, given)


def _with_option(command: Callable[..., Any], given: Sequence[str]) -> Callable[..., Any]:
    """`command` with one option more, as its signature says to typer."""

    @functools.wraps(command)
    def run(*arguments: Any, plugins: Sequence[str], **keywords: Any) -> Any:
        from anypo import plugins as loading

        loading.chosen()
        for name in (*given, *plugins):
            loading.plugin(name)
        return command(*arguments, **{name: latest(value) for name, value in keywords.items()})

    signature = inspect.signature(command, eval_str=True)
    if completing():
        attach(command.__name__, signature)
    option = inspect.Parameter("plugins", inspect.Parameter.KEYWORD_ONLY, default=[], annotation=Plugins)
    full = signature.replace(parameters=[*signature.parameters.values(), option])
    run.__signature__ = full  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in full.parameters.items()}
    return run
