"""Rows of the user's own data, each with the place to name in messages: files, saved data sets, data sets of a hub.

A value is checked where it is used (`column`), so that what a task does not read may hold anything.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import json
import math
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anypo.errors import UserError, brief, nearest
from anypo.files import sha256

ENDINGS = (".jsonl", ".parquet", ".csv")
Row = tuple[str, Mapping[str, Any]]

csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Data:
    """Where rows are: a file with one of `ENDINGS`, a folder that the `datasets` library saved or can read, or the id of a data set
    on a hub (``owner/name``); of the latter two the `split`, and the `config` where there are several."""

    name: str
    split: str = "train"
    config: str = ""

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def file(self) -> bool:
        return self.name.endswith(ENDINGS)

    @property
    def hub(self) -> bool:
        return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", self.name)) and not self.file and not self.path.exists()

    def __str__(self) -> str:
        return f"'{self.name}'" if self.file else f"'{self.name}' ({self.split})"

    def refuse(self) -> str | None:
        """Why it cannot be read, as far as that is known without reading it."""
        if self.file:
            return None if self.path.is_file() else f"there is no task file '{self.name}'"
        if not self.path.suffix and not self.path.exists() and not self.hub:
            return f"there is no task folder '{self.name}', and no file of that name"
        if not self.path.is_dir() and not self.hub:
            return f"task file '{self.name}' needs the ending {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        if importlib.util.find_spec("datasets") is None:
            return f"'{self.name}' is read by the package datasets, which is not installed: pip install 'anypo[data]'"
        return None

    def rows(self) -> Iterator[Row]:
        """Every row; `UserError` names the place of what is wrong."""
        if not self.file:
            return _tables(self, iter(_dataset(self).with_format("arrow").iter(1000)))
        return {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[self.path.suffix](self)

    def identity(self) -> dict[str, Any]:
        """Provenance: the path and a hash of the content, or the data set and its fingerprint."""
        if self.file:
            return {"path": self.name, "sha256": sha256(self.path)}
        found = {"dataset": self.name, "split": self.split, "config": self.config}
        return found | {"fingerprint": _dataset(self)._fingerprint}


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
        with data.path.open(encoding="utf-8-sig") as file:
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
    except OSError as error:
        raise UserError(f"{data} cannot be read: {error.strerror}") from None


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
            raise UserError(f"{where}: there is no column '{name}'.{nearest(name, _names(row))}")
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
