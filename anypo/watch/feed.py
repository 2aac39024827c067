"""The metrics of a run, read as they are appended: each look reads only what came since the last one."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from anypo.files import decode

MOST = 2000
"""Most steps in one answer; who asks again gets the rest."""


class Feed:
    """One metrics file, followed while it grows.

    `generation` counts how often the file was found to be another one than before (a resumed run forgets the steps after its
    checkpoint): what was read under an older generation no longer holds. `damaged`: numbers of the lines that are not records.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        self._forget()

    def _forget(self) -> None:
        self.steps: list[int] = []
        self.records: list[dict[str, Any]] = []
        self.damaged: list[int] = []
        self._lines, self._offset, self._tail = 0, 0, b""

    def refresh(self) -> None:
        """Read the complete lines that are new; a line without its end is still being written and is left for later."""
        try:
            with open(self.path, "rb") as file:
                if not self._continues(file):
                    self._forget()
                    self.generation += 1
                file.seek(self._offset)
                new = file.read()
        except OSError:  # not there yet, or the folder has just gone
            new = b""
            if self._offset and not self.path.exists():
                self._forget()
                self.generation += 1
        whole = new[: new.rfind(b"\n") + 1]
        if whole:
            self._read(whole.split(b"\n")[:-1])
            self._offset += len(whole)

    def _continues(self, file: BinaryIO) -> bool:
        """Whether what was read is still at its place: the last line read is compared, since a file can be replaced unseen."""
        file.seek(self._offset - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _read(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self._lines += 1
            self._tail = line + b"\n"
            record = _record(line) if line else None
            if record is not None and record["step"] > (self.steps[-1] if self.steps else -1):
                self.steps.append(record["step"])
                self.records.append(record)
            elif record is None and line:
                self.damaged.append(self._lines)

    def after(self, step: int, generation: int | None = None) -> dict[str, Any]:
        """What is known beyond `step` as columns: ``values[name][i]`` belongs to ``steps[i]``, None where it is absent or not
        finite (``broken[name]`` lists the steps where it was recorded but not finite). Everything from the beginning, with
        ``reset``, when `generation` is not the file's own."""
        reset = generation != self.generation
        begin = 0 if reset else bisect_right(self.steps, step)
        steps, records = self.steps[begin : begin + MOST], self.records[begin : begin + MOST]
        names = sorted(
            {name for record in records for name, value in record.items() if name != "step" and _real(value)}
        )
        values = {name: [_finite(record.get(name)) for record in records] for name in names}
        if "time/step" in values:
            values["time/other"] = [_other(record) for record in records]
        broken = {
            name: [
                s for s, record in zip(steps, records) if _real(record.get(name)) and not math.isfinite(record[name])
            ]
            for name in names
        }
        return {
            "generation": self.generation,
            "reset": reset,
            "steps": steps,
            "values": values,
            "broken": {name: where for name, where in broken.items() if where},
            "more": begin + MOST < len(self.steps),
            "problem": self.problem(),
        }

    def problem(self) -> str:
        """A sentence about lines that could not be read, or nothing."""
        if not self.damaged:
            return ""
        some = ", ".join(map(str, self.damaged[:5])) + (", …" if len(self.damaged) > 5 else "")
        return f"{self.path.name}: line {some} is not a JSON object with a step and is left out."


def tail(path: Path, size: int = 60_000) -> tuple[list[dict[str, Any]], bool]:
    """The records among the last `size` bytes of a metrics file, and whether a line there is no record: enough to list a run
    without reading all of it."""
    try:
        with open(path, "rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - size)
            file.seek(begin)
            lines = file.read().split(b"\n")[1 if begin else 0 : -1]  # what is cut at either end is not a line
    except OSError:
        return [], False
    records = [record for line in lines if line and (record := _record(line)) is not None]
    return records, len(records) < sum(map(bool, lines))


def newest(records: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The last finite value of a metric."""
    return next((value for record in reversed(records) if (value := _finite(record.get(name))) is not None), None)


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None when it is not a JSON object with a step."""
    try:
        record = decode(line.decode("utf-8"))
        return record | {"step": int(record["step"])}
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _other(record: Mapping[str, Any]) -> float | None:
    """Time of a step that no room accounts for."""
    total = _finite(record.get("time/step"))
    if total is None:
        return None
    rooms = (
        _finite(value) or 0.0 for name, value in record.items() if name.startswith("time/") and name != "time/step"
    )
    return max(0.0, total - sum(rooms))


def _real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(value: Any) -> float | None:
    return float(value) if _real(value) and math.isfinite(value) else None
