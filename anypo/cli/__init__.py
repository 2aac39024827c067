"""The command line. Every command is a few lines around a documented Python call."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from anypo.errors import shown

if TYPE_CHECKING:
    import typer

COMMANDS = (
    "runs.train",
    "runs.resume",
    "runs.evaluate",
    "models.generate",
    "models.chat",
    "models.export",
    "methods.compare",
    "runs.diagnose",
    "runs.watch",
    "methods.systems",
    "runs.report",
    "runs.rollouts",
    "methods.estimators",
    "methods.measure",
    "methods.solve",
    "methods.verify",
)
"""The modules of the commands, in the order of the help."""


def main() -> None:
    """Entry point: 0 on success, 2 for bad input (one sentence, no traceback), 128 + the signal's number when stopped by one (130:
    Ctrl-C), 1 for a bug of the library (one sentence, the traceback in a file)."""
    if not any(word.split("=")[0] == "--push" for word in sys.argv):  # the one thing that is asked of a hub
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from anypo.errors import Interrupted, Killed, UserError

    _show_notes()
    try:
        application()(prog_name="anypo")
    except UserError as error:
        _stop(str(error), 2)
    except Interrupted as error:
        _stop(str(error), error.code)
    except Killed as error:
        _stop(str(error), error.code)
    except KeyboardInterrupt:
        _stop("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno is None:
            _our_fault(error)
        from anypo.files import because

        place = shown(str(error.filename)) if error.filename else "while writing"
        _stop(f"{place}: {because(error)}", 2)
    except Exception as error:
        _our_fault(error)


def application() -> typer.Typer:
    """The commands, with their options."""
    import typer

    from anypo.cli.plugins import offer

    app = typer.Typer(
        name="anypo",
        help="Any policy, any policy optimisation: every method is a composition of nine parts.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in COMMANDS:
        importlib.import_module(f"anypo.cli.{name}").register(app)
    offer(app)
    return app


def _show_notes() -> None:
    """Notes in one line each, without the place in the code that said them."""
    from anypo.errors import Note

    whole = warnings.showwarning

    def show(message: Any, category: Any, *where: Any, **more: Any) -> None:
        if issubclass(category, Note):
            print(f"anypo: {message}", file=sys.stderr)
        else:
            whole(message, category, *where, **more)

    warnings.showwarning = show


def _our_fault(error: Exception) -> NoReturn:
    """The last net: whatever else happens is a bug of the library, said in a sentence, with the traceback in a file."""
    import shlex
    import tempfile
    import traceback

    if isinstance(error, MemoryError):
        _stop("there is not enough memory for this", 1)
    said = shown(str(error))[1:-1]
    kind = f"{type(error).__name__}: {said}" if said else type(error).__name__
    text = f"{shlex.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="anypo-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
        where = f"its traceback is in {file.name}"
    except OSError:
        print(text, file=sys.stderr)
        where = "its traceback is above"
    _stop(f"this is a bug of ours, not a mistake of yours ({kind}); {where}, please report it", 1)


def _stop(message: str, code: int) -> NoReturn:
    text = f"anypo: {message}"
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"), file=sys.stderr)
    sys.exit(code)
