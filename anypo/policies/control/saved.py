"""Control policies in a folder: weights and buffers as one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from anypo.errors import UserError, brief

FILE = "policy.safetensors"
DESCRIPTION = "policy.json"
"""The configuration of the run that trained it, beside an exported policy."""


class Saved(nn.Module):
    """A network that writes itself into a folder and takes its weights from one."""

    def save(self, path: Path | str) -> None:
        """Write `FILE` into the folder `path`, whole or not at all."""
        from safetensors.torch import save_file

        from anypo.files import replace_file

        Path(path).mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().contiguous().clone() for name, value in self.state_dict().items()}
        replace_file(Path(path) / FILE, lambda temporary: save_file(state, temporary))

    def load(self, path: Path | str) -> None:
        """Take the weights that `save` wrote. `UserError` where there are none, or those of another shape."""
        from safetensors.torch import load_file

        file = Path(path) / FILE
        if not file.is_file():
            raise UserError(f"{path} holds no control policy ({FILE}); give a run that finished")
        try:
            self.load_state_dict(load_file(file))
        except (RuntimeError, ValueError, OSError) as error:
            reason = brief(error)
            raise UserError(
                f"the weights in {file} do not fit this policy ({reason}); use its task and policy settings"
            ) from None


def described(folder: Path) -> dict[str, Any] | None:
    """The configuration in the folder of an exported policy; None where there is none. `UserError` where it is damaged."""
    if not (folder / DESCRIPTION).is_file():
        return None
    try:
        config = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{folder / DESCRIPTION} is damaged (not a JSON object); export the run again")
    return config
