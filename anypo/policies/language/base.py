"""The base that an adapter stands on, named so that it is found again after a move and known by its weights."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anypo.data.digest import sha256
from anypo.errors import UserError

FILE = "base.json"
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Base:
    """model: a model name, a hub id, or a folder (in an adapter's folder relative to it). seed: what random weights were drawn from.
    dtype and sha256: of its weights."""

    model: str
    seed: int = 0
    dtype: str = ""
    sha256: str = ""

    @staticmethod
    def of(model: str, seed: int, policy: Any) -> Base:
        """The base `model` that was loaded as `policy`."""
        kind = str(next(iter(policy.parameters())).dtype).removeprefix("torch.")
        return Base(model, seed, kind, sha256(policy.state_dict()))

    def write(self, folder: Path, place: Path) -> None:
        """Name this base in the adapter `folder`, which is to stand at `place`: in peft's own file, and in ``base.json``."""
        local = Path(self.model).expanduser()
        model = os.path.relpath(local.resolve(), place.resolve()) if local.is_dir() else self.model
        peft = json.loads((folder / ADAPTER).read_text(encoding="utf-8")) | {"base_model_name_or_path": model}
        (folder / ADAPTER).write_text(json.dumps(peft, indent=2) + "\n", encoding="utf-8")
        (folder / FILE).write_text(json.dumps(asdict(self) | {"model": model}, indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Base:
        """The base of the adapter in `folder`, a relative path resolved where it leads to a folder."""
        found = Base(str(json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]))
        if (folder / FILE).is_file():
            found = Base(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        near = folder / found.model
        moved = found.model.startswith(".") and near.is_dir()
        return Base(str(near.resolve()) if moved else found.model, found.seed, found.dtype, found.sha256)

    def check(self, policy: Any, adapter: Path) -> None:
        """`UserError` where the weights loaded as `policy` are not those the adapter was trained on, as far as that is known."""
        loaded = Base.of(self.model, self.seed, policy)
        if self.sha256 and loaded.dtype == self.dtype and loaded.sha256 != self.sha256:
            raise UserError(
                f"the adapter {adapter} was trained on other weights than those of {self.model} (sha256 {self.sha256[:12]}, here "
                f"{loaded.sha256[:12]}); put its base there, or name it in {adapter / FILE}"
            )
