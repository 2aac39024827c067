"""Writing files so that a crash, a kill or a full disk leaves either the old content or the new one."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anypo.errors import UserError

REASONS = {
    errno.ENOSPC: "no space left on the disk; free some, or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another folder",
    errno.EFBIG: "files may not grow that large here; raise the limit (ulimit -f), or choose another folder",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine; close some programs",
    errno.EACCES: "permission denied; choose a folder you may write to",
    errno.EPERM: "permission denied; choose a folder you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOENT: "the folder is gone; it was moved or deleted, or it is a link to nowhere",
    errno.ESTALE: "the folder is gone from the server that it is on",
    errno.EISDIR: "there is a folder in its place; move that away",
    errno.EEXIST: "something else is in its place, perhaps a link to nowhere; move that away",
    errno.ENOTEMPTY: "there is a folder in its place; move that away",
    errno.ENOTDIR: "part of the path is a file; choose another folder",
    errno.ELOOP: "part of the path is a link to itself; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EINVAL: "the name is not one that this file system takes; choose another folder",
    errno.EBUSY: "the file system is busy with it; try again",
    errno.ETXTBSY: "the file system is busy with it; try again",
    errno.EIO: "the disk reports an error; look at the machine's log, and choose another disk",
    errno.ENXIO: "there is no such device; choose another folder",
    errno.ENODEV: "there is no such device; choose another folder",
    errno.ENOTCONN: "the file system is no longer connected; mount it again",
    errno.EHOSTDOWN: "the file system's server does not answer; try again",
    errno.ETIMEDOUT: "the file system's server does not answer; try again",
}
"""What a user can do about an operating-system error."""


def because(error: OSError) -> str:
    """What a user can do about it; the system's own words for an error that is not known."""
    return REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of the operating system into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {because(error)}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """The same for what is only read."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {because(error).removesuffix(ELSEWHERE)}") from error


ELSEWHERE = "; choose a folder you may write to"


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, read piece by piece."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then put it in the place of `path` in one step. Raises `UserError` (see `writing`)."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def replace_text(path: Path, text: str) -> None:
    """Replace the content of a text file in one step."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def append_line(path: Path, line: str) -> None:
    """Append a line and force it to the disk; on an error the file is left as it was."""
    with writing(path), open(path, "ab") as file:
        before = file.tell()
        try:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                os.truncate(path, before)
            raise


# -- JSON lines ------------------------------------------------------------------------------------------------------------


def encode(record: Mapping[str, Any]) -> str:
    """One line of JSON. Non-finite numbers become the strings "NaN", "Infinity", "-Infinity", which `decode` reads back."""
    return json.dumps(strict(record), ensure_ascii=False, allow_nan=False)


def decode(line: str) -> dict[str, Any]:
    """The record of one line. Raises `ValueError` when it is not a JSON object."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return {key: NON_FINITE.get(value, value) if isinstance(value, str) else value for key, value in record.items()}


NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def strict(value: Any) -> Any:
    """`value` with non-finite numbers spelt as strings, so that it is strictly JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every record of a JSON-lines file; a torn last line (the writer was killed) is left out, a missing file is empty.

    Raises `UserError` naming the line when another line is unreadable.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            records.append(decode(line.decode("utf-8")))
        except ValueError:
            if number == len(lines):
                break
            raise UserError(
                f"{path} line {number} is not a JSON object; delete that line, or restore the file from a copy"
            ) from None
    return records


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON-lines file in one step."""
    replace_text(path, "".join(encode(record) + "\n" for record in records))
