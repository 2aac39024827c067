"""Optional loggers beside the run folder: TensorBoard, Weights & Biases, trackio. Imported only when asked for."""

from __future__ import annotations

import hashlib
import importlib
import json
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Protocol

from anypo.errors import UserError, unknown
from anypo.files import strict

Rows = Sequence[Mapping[str, Any]]
"""Metrics of the steps that a run took before this session, in order."""


class Logger(Protocol):
    """Something that shows metrics elsewhere. Strings among them (a recipe's stage) are not numbers and are left out."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``<run>/tensorboard``. Every step is on the disk before the next begins; a resumed run purges what was logged
    after its checkpoint."""

    def __init__(self, run: Path, config: Mapping[str, Any], rows: Rows = ()) -> None:
        folder = run / "tensorboard"
        begun = folder.is_dir() and any(folder.iterdir())
        after = int(rows[-1]["step"]) + 1 if rows else 0
        writer = _need("tensorboard", "torch.utils.tensorboard").SummaryWriter
        self.writer = writer(log_dir=str(folder), purge_step=after if begun else None)
        for row in () if begun else rows:
            self.log(int(row["step"]), row)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        for name, value in numbers(metrics).items():
            if name != "step":
                self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of the project ``anypo``; a resumed run goes on in the same one. What the server has already is not sent again, and what
    it has not, is: offline, where it cannot be asked, the files of every session hold the whole run, and the newest are the ones to
    ``wandb sync``."""

    def __init__(self, run: Path, config: Mapping[str, Any], rows: Rows = ()) -> None:
        wandb = _need("wandb")
        self.run = wandb.init(
            project="anypo", name=run.name, id=_identity(run), resume="allow", dir=str(run), config=dict(config)
        )
        self.first = int(getattr(self.run, "step", 0) or 0)
        for row in rows:
            self.log(int(row["step"]), row)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if step >= self.first:
            self.run.log(numbers(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of the local trackio project ``anypo``, named as the run folder with a few letters of its own; a resumed run goes on in
    it, without the steps that it holds."""

    def __init__(self, run: Path, config: Mapping[str, Any], rows: Rows = ()) -> None:
        self.trackio = _need("trackio")
        name = f"{run.name}-{_identity(run)[:6]}"
        self.known = _steps("anypo", name)
        plain = json.loads(json.dumps(strict(config)))
        quiet = {"auto_log_gpu": False, "auto_log_cpu": False, "embed": False}
        with redirect_stdout(sys.stderr):
            self.trackio.init(project="anypo", name=name, config=plain, resume="allow", **quiet)
        for row in rows:
            self.log(int(row["step"]), row)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if step not in self.known:
            self.trackio.log({name: value for name, value in numbers(metrics).items() if name != "step"}, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self.trackio.finish()


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any], Rows], Logger]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}


def check_loggers(names: Sequence[str]) -> None:
    """Refuse, before any work is done, a logger that is unknown or whose package is missing (`UserError`)."""
    for name in names:
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)
        _need(name)


def open_loggers(names: Sequence[str], run: Path, config: Mapping[str, Any], rows: Rows = ()) -> list[Logger]:
    """The loggers of these names for the run folder `run`, which has taken the steps `rows`. Raises `UserError` as `check_loggers`
    does."""
    check_loggers(names)
    return [LOGGERS[name](run, config, rows) for name in names]


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that can be drawn."""
    return {name: value for name, value in metrics.items() if isinstance(value, (int, float))}


def _steps(project: str, name: str) -> set[int]:
    """The steps that a run of trackio holds."""
    with suppress(ImportError, AttributeError):  # its interface knows no history
        storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
        return {int(row["step"]) for row in storage.get_logs(project, name)}
    return set()


def _need(package: str, module: str = "") -> Any:
    try:
        importlib.import_module(package)
        return importlib.import_module(module or package)
    except ImportError:
        raise UserError(f"the logger '{package}' needs the package {package}: pip install {package}") from None


def _identity(run: Path) -> str:
    """The same for every session of one run folder, another for every other folder."""
    return hashlib.sha256(f"{socket.gethostname()}:{run.resolve()}".encode()).hexdigest()[:16]
