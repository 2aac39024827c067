"""The command line. Every command is a few lines around a documented Python call."""

from __future__ import annotations

import errno
import importlib
import os
import sys

COMMANDS = (
    "train",
    "resume",
    "evaluate",
    "compare",
    "diagnose",
    "watch",
    "systems",
    "report",
    "rollouts",
    "estimators",
    "measure",
    "solve",
    "verify",
)


def main() -> None:
    """Entry point: 0 on success, 2 for bad input (one sentence, no traceback), 128 + the signal's number when stopped by one."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import typer

    from anypo.cli.plugins import offer
    from anypo.errors import Interrupted, Killed, UserError

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
    try:
        app()
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
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        _stop(
            f"{error.strerror}: {error.filename or 'while writing'}; free space or choose another folder with --out", 2
        )


def _stop(message: str, code: int) -> None:
    print(f"anypo: {message}", file=sys.stderr)
    sys.exit(code)
