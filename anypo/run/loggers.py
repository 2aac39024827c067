"""Optional loggers beside the run folder: TensorBoard, Weights & Biases, trackio. Imported only when asked for."""

from __future__ import annotations

import hashlib
import importlib
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from anypo.errors import UserError, unknown


class Logger(Protocol):
    """Something that shows metrics elsewhere."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``<run>/tensorboard``."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        self.writer = _need("tensorboard", "torch.utils.tensorboard").SummaryWriter(log_dir=str(run / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if name != "step":
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of the project ``anypo``; a resumed run goes on in the same one."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        self.run = _need("wandb").init(
            project="anypo", name=run.name, id=_identity(run), resume="allow", dir=str(run), config=dict(config)
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of the local trackio project ``anypo``."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        self.trackio = _need("trackio")
        self.trackio.init(project="anypo", name=run.name, config=dict(config))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.trackio.log(dict(metrics), step=step)

    def close(self) -> None:
        self.trackio.finish()


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any]], Logger]] = {
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


def open_loggers(names: Sequence[str], run: Path, config: Mapping[str, Any]) -> list[Logger]:
    """The loggers of these names for the run folder `run`. Raises `UserError` as `check_loggers` does."""
    check_loggers(names)
    return [LOGGERS[name](run, config) for name in names]


def _need(package: str, module: str = "") -> Any:
    try:
        importlib.import_module(package)
        return importlib.import_module(module or package)
    except ImportError:
        raise UserError(f"the logger '{package}' needs the package {package}: pip install {package}") from None


def _identity(run: Path) -> str:
    """The same for every session of one run folder, another for every other folder."""
    return hashlib.sha256(f"{socket.gethostname()}:{run.resolve()}".encode()).hexdigest()[:16]
