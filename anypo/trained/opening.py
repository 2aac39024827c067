"""A run folder or a model, opened as a language policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anypo import policies
from anypo.engine import device as devices
from anypo.errors import UserError, note
from anypo.last import latest
from anypo.run.disk.folder import RunFolder
from anypo.run.disk.names import CONFIG
from anypo.run.settings.config import RunConfig

MODEL = "model"


@dataclass(frozen=True)
class Trained:
    """A policy with the configuration of the run that trained it, where there is one."""

    policy: Any
    config: RunConfig | None = None


def recorded(spec: str | Path, trust: bool = False) -> RunConfig | None:
    """The configuration of a run folder; None where `spec` is no run. `UserError` where the run has no final weights, or names code
    from elsewhere without `trust` (its task may: it is not made)."""
    run = Path(spec).expanduser()
    if not (run / CONFIG).is_file():
        return None
    config = RunConfig.recorded(RunFolder.read_config(run), trust, unused=("task", "task_options"))
    if not (run / MODEL).is_dir():
        raise UserError(f"the run {run} has no final weights yet; finish it with: anypo resume {run}")
    return config


def acts(config: RunConfig | None) -> bool:
    """Whether the policy of a run takes actions instead of speaking."""
    return config is not None and config.composition().policy.part != "given"


def open_trained(
    spec: str | Path,
    chat_args: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    trust: bool = False,
) -> Trained:
    """The language policy of a run folder (its final weights, with the arguments of its chat template, each replaced by that of
    `chat_args`), a model name, a folder or a hub id, in float32, on `device` (as `anypo.engine.device.resolve` takes it). What loading
    had to say is noted. trust: use what a folder from elsewhere names. Raises `UserError` where it does not speak."""
    spec = latest(spec)
    config = recorded(spec, trust)
    if acts(config):
        raise UserError(f"the policy of the run {spec} takes actions and does not speak; try: anypo evaluate {spec}")
    chat = dict(config.chat_args if config else {}) | dict(chat_args or {})
    where = Path(spec).expanduser() / MODEL if config else spec
    place = devices.resolve(device) if isinstance(device, str) else device
    policy = policies.load(where, device=place, chat=chat)
    for said in policy.notes:
        note(said)
    return Trained(policy, config)
