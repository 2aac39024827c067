"""Rows of the user's own data, each with the place to name in messages: files, saved data sets, data sets of a hub.

A value is checked where it is used (`column`), so that what a task does not read may hold anything.
"""

from __future__ import annotations

import csv
import functools
import glob
import gzip
import hashlib
import importlib.util
import json
import math
import os
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anypo.errors import UserError, brief, nearest
from anypo.files import sha256

ENDINGS = (".jsonl", ".parquet", ".csv", ".json", ".ndjson", ".jsonl.gz")
"""How the names of files end; capital letters are as good."""

MOST = 50_000
"""Files and folders below a folder that is a data set."""

Row = tuple[str, Mapping[str, Any]]

csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Data:
    """Where rows are: a file with one of `ENDINGS`, several (a pattern with ``*``, names with commas between), a folder that the
    `datasets` library saved or can read, or the id of a data set on a hub (``owner/name``); of the latter two the `split`, and the
    `config` where there are several."""

    name: str
    split: str = "train"
    config: str = ""

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def file(self) -> bool:
        return self.name.lower().endswith(ENDINGS)

    @functools.cached_property
    def files(self) -> tuple[str, ...]:
        """The files that the name means, a pattern's in alphabetical order."""
        pieces = (
            [piece.strip() for piece in self.name.split(",")]
            if "," in self.name and not self.path.exists()
            else [self.name]
        )
        found: list[str] = []
        for piece in pieces:
            several = "*" in piece and not Path(piece).exists()
            found += sorted(glob.glob(piece, recursive=True)) if several else [piece]
        return tuple(dict.fromkeys(found))

    @property
    def hub(self) -> bool:
        return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", self.name)) and not self.file and not self.path.exists()

    def __str__(self) -> str:
        return f"'{self.name}'" if self.file else f"'{self.name}' ({self.split})"

    def refuse(self) -> str | None:
        """Why it cannot be read, as far as that is known without reading it."""
        if self.file:
            lost = next((file for file in self.files or (self.name,) if not Path(file).is_file()), None)
            return None if lost is None else f"there is no task file '{lost}'"
        if not self.path.suffix and not self.path.exists() and not self.hub:
            return f"there is no task folder '{self.name}', and no file of that name"
        if not self.path.is_dir() and not self.hub:
            return f"task file '{self.name}' needs the ending {', '.join(ENDINGS[:2])} or {ENDINGS[2]}"
        if importlib.util.find_spec("datasets") is None:
            return f"'{self.name}' is read by the package datasets, which is not installed: pip install 'anypo[data]'"
        return None

    def rows(self) -> Iterator[Row]:
        """Every row; `UserError` names the place of what is wrong."""
        if not self.file:
            return _tables(self, iter(_dataset(self).with_format("arrow").iter(1000)))
        if len(self.files) > 1:
            return (row for file in self.files for row in Data(file).rows())
        data = self if self.files == (self.name,) else Data(self.files[0])
        return {".csv": _csv, ".parquet": _parquet, ".json": _json}.get(self.path.suffix.lower(), _jsonl)(data)

    def identity(self) -> dict[str, Any]:
        """Provenance: the path and a hash of the content, or the data set and its fingerprint."""
        if self.file and len(self.files) > 1:
            return {"path": self.name, "files": {file: sha256(Path(file)) for file in self.files}}
        if self.file:
            return {"path": self.name, "sha256": sha256(Path(self.files[0]))}
        found = {"dataset": self.name, "split": self.split, "config": self.config}
        return found | {"fingerprint": _dataset(self)._fingerprint}


@dataclass(frozen=True, eq=False)
class Held(Data):
    """Rows that are in memory: mappings, or a data set of the `datasets` library."""

    held: Any = ()

    def __str__(self) -> str:
        return f"'{self.name}'"

    def refuse(self) -> str | None:
        return None

    def rows(self) -> Iterator[Row]:
        for number, row in enumerate(self.held, start=1):
            if not isinstance(row, Mapping):
                raise UserError(f"{self} row {number} is a {type(row).__name__}, not a mapping of columns to values")
            yield f"{self} row {number}", row

    def identity(self) -> dict[str, Any]:
        if fingerprint := getattr(self.held, "_fingerprint", None):
            return {"dataset": self.name, "fingerprint": fingerprint}
        digest = hashlib.sha256()
        for row in self.held:
            digest.update(json.dumps(dict(row), sort_keys=True, default=str).encode(errors="replace"))
        return {"rows": len(self.held), "sha256": digest.hexdigest()}


def _crowded(folder: Path) -> bool:
    """Whether there are more than `MOST` files and folders below it: the `datasets` library looks at each, for hours in a home."""
    count = 0
    for _, folders, files in os.walk(folder):
        count += len(folders) + len(files)
        if count > MOST:
            return True
    return False


def saved(name: str) -> bool:
    """Whether a folder of that name was written by the `datasets` library."""
    return any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json"))


@functools.lru_cache(maxsize=4)
def _dataset(data: Data) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        if saved(data.name):
            found = datasets.load_from_disk(data.name)
            if isinstance(found, datasets.Dataset):
                return found
            if data.split not in found:
                raise UserError(f"'{data.name}' has no split '{data.split}'.{nearest(data.split, found)}")
            return found[data.split]
        if data.path.is_dir() and _crowded(data.path):
            raise UserError(
                f"the folder '{data.name}' holds more than {MOST:,} files, too many to look for data in; name that of the data"
            )
        return datasets.load_dataset(data.name, data.config or None, split=data.split)
    except UserError:
        raise
    except Exception as error:  # the library raises whatever its readers do
        reason = brief(error)
        if data.hub and isinstance(error, (ConnectionError, FileNotFoundError)):
            fetch = "; HF_HUB_OFFLINE=0 lets it be fetched" if datasets.config.HF_HUB_OFFLINE else ""
            raise UserError(
                f"there is no folder '{data.name}', and the data set of that id is not in the cache or not reachable{fetch} ({reason})"
            ) from None
        raise UserError(f"the data set {data} cannot be read: {reason}") from None


def _jsonl(data: Data) -> Iterator[Row]:
    number = 0
    try:
        opened: Any = gzip.open if data.name.lower().endswith(".gz") else open
        with opened(data.name, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{data} line {number}"
                try:
                    row = json.loads(line, parse_int=_integer)
                except json.JSONDecodeError as error:
                    raise UserError(f"{where} is not JSON: {error.msg} at column {error.colno}") from None
                except RecursionError:
                    raise UserError(f"{where} is not usable JSON: it is nested too deeply") from None
                if not isinstance(row, dict):
                    raise UserError(f"{where} is a JSON {type(row).__name__}, not an object with columns")
                yield where, row
    except UnicodeDecodeError as error:
        raise UserError(f"{data} is not UTF-8 text after line {number}: {error.reason}") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{data} cannot be read: {getattr(error, 'strerror', None) or brief(error)}") from None


def _json(data: Data) -> Iterator[Row]:
    """A list of objects, or lines of them under the wrong ending."""
    try:
        text = data.path.read_text(encoding="utf-8-sig")
        if not text.lstrip().startswith("["):
            yield from _jsonl(data)
            return
        rows = json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise UserError(f"{data} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise UserError(f"{data} is not usable JSON: it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{data} is not UTF-8 text: {error.reason}") from None
    except OSError as error:
        raise UserError(f"{data} cannot be read: {error.strerror}") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{data} row {number} is a JSON {type(row).__name__}, not an object with columns")
        yield f"{data} row {number}", row


class _Long(str):
    """The digits of an integer that Python does not convert."""


def _integer(digits: str) -> int | _Long:
    return int(digits) if len(digits) <= 4000 else _Long(digits)


def _csv(data: Data) -> Iterator[Row]:
    line = 0
    try:
        with data.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            for name in header:
                if header.count(name) > 1:
                    raise UserError(f"{data} has two columns '{name}'")
            line = reader.line_num
            for cells in reader:
                where, line = f"{data} line {line + 1}", reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UserError(f"{where} has {len(cells)} cells for the {len(header)} columns of the first line")
                yield where, {name: cell or None for name, cell in zip(header, cells)}
    except csv.Error as error:
        raise UserError(f"{data} is no CSV after line {line}: {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{data} is not UTF-8 text after line {line}: {error.reason}") from None
    except OSError as error:
        raise UserError(f"{data} cannot be read: {error.strerror}") from None


def _parquet(data: Data) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(data.path) as file:
            for where, row in _tables(data, file.iter_batches()):
                number += 1
                yield where, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: a column whose name is no UTF-8
        reason = brief(error)
        raise UserError(f"{data} is damaged or no Parquet file (after row {number}): {reason}") from None


def _tables(data: Data, tables: Iterator[Any]) -> Iterator[Row]:
    number = 0
    for table in tables:
        try:
            values = table.to_pylist()
        except (ValueError, OverflowError):
            raise UserError(_unreadable(data, table, number)) from None
        for row in values:
            number += 1
            yield f"{data} row {number}", row


def _unreadable(data: Data, table: Any, before: int) -> str:
    """Which value of a table Python cannot hold: a date beyond the year 9999, a text that is not UTF-8."""
    for index in range(table.num_rows):
        for name in table.column_names if hasattr(table, "column_names") else table.schema.names:
            try:
                table.column(name)[index].as_py()
            except (ValueError, OverflowError) as error:
                reason = brief(error)
                return f"{data} row {before + index + 1}: column '{name}' cannot be read: {reason}"
    return f"{data} cannot be read after row {before}"


def column(row: Mapping[str, Any], name: str, where: str) -> Any:
    """The value of a column, checked; dots reach inside ("reward_model.ground_truth", "turns.0.text")."""
    value: Any = row
    for step in [name] if name in row else name.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            none = "; where there are no answers, say --task-set 'answer=\"\"'" if name == "answer" else ""
            hint = f" Another one is named with --task-set {name}=COLUMN{none}." if name in ("prompt", "answer") else ""
            raise UserError(f"{where}: there is no column '{name}'.{nearest(name, _names(row))}{hint}")
    if value is None:
        raise UserError(f"{where}: column '{name}' is empty")
    if wrong := unsound(value):
        raise UserError(f"{where}: column '{name}' holds {wrong}")
    return value


def optional(row: Mapping[str, Any], name: str, where: str) -> Any:
    """The value of a column, checked, or None where there is none."""
    return None if row.get(name) is None else column(row, name, where)


def columns(template: str, row: Mapping[str, Any], where: str) -> None:
    """Check the columns that a template names (`UserError`); those that are not there are left to whoever fills it in."""
    for _, name, _, _ in string.Formatter().parse(template):
        if name:
            optional(row, name, where)


def unsound(value: Any) -> str | None:
    """What in a value no answer and no prompt may hold, or None."""
    if isinstance(value, _Long):
        return f"a number of {len(value):,} digits, which is too long; write it as a text"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, which is no number"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"half a character ({value[error.start]!r}, a lone surrogate)"
        return None
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return next((wrong for one in inside if (wrong := unsound(one))), None)


def text(value: Any, name: str, where: str) -> str:
    """A value as an answer: texts as they are, whole numbers without a point, structures as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        raise UserError(f"{where}: column '{name}' holds a {type(value).__name__}, not a text or a number") from None


def _names(row: Mapping[str, Any]) -> list[str]:
    nested = [f"{name}.{inner}" for name, value in row.items() if isinstance(value, Mapping) for inner in value]
    return [*map(str, row), *nested]
