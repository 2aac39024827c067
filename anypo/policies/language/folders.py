"""Folders that appear whole or not at all, and whose content can be told from a damaged one."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from anypo.files import sha256, sync, writing

SEAL = "checksums.json"


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """A new temporary folder that takes the place of `path` when the block ends well, and vanishes when it does not.

    Raises `UserError` when the disk is full or the folder cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            folder.chmod(0o777 & ~_umask())
            with _system_errors():
                yield folder
            for file in folder.rglob("*"):
                if file.is_file():  # safetensors makes files that nobody else may read
                    file.chmod(0o666 & ~_umask())
                sync(file)
            old = folder.with_suffix(".old")
            if path.exists():
                os.rename(path, old)
            os.rename(folder, path)
            sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def seal(folder: Path) -> None:
    """Record the size and SHA-256 of every file of `folder` in the file ``checksums.json``."""
    files = {file.name: _describe(file) for file in sorted(folder.iterdir()) if file.name != SEAL}
    (folder / SEAL).write_text(json.dumps(files, indent=2))


def damage(folder: Path) -> str:
    """What is wrong with a sealed folder, or an empty string: every file must have its recorded size and checksum."""
    try:
        files = json.loads((folder / SEAL).read_text())
        for name, expected in files.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"] or _describe(file) != expected:
                return f"{name} has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{SEAL} is missing or unreadable"
    return ""


def _describe(file: Path) -> dict[str, int | str]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


@contextmanager
def _system_errors() -> Iterator[None]:
    """safetensors reports the operating system's errors in words only."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), errno.errorcode.get(int(number[1]), "")) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
