"""The packages themselves: three tiny steps, killed behind the checkpoint, resumed, and the files read back."""

from __future__ import annotations

import json
import math
import sys
import time

import pytest

import anypo
from anypo.run.disk.folder import RunFolder
from anypo.run.record.loggers import open_loggers

TINY = {"model": "tiny", "task": "chain_sum", "sft_steps": 0, "eval_size": 0, "save_every": 1, "keep": 5, "seed": 0}
SMALL = {"control.prompts": 2, "control.samples": 2, "generate.max_new": 4}
ODD = {"step": 3, "stage": "warm", "nothing": None, "infinite": math.inf, "reward/mean": 0.5}
"""What metrics may hold: strings are left out."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:  # it reads the folder when imported
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "run"


def tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("reward/mean")]


def wandb(run):
    """The history of the newest session's file."""
    from wandb.proto import wandb_internal_pb2

    file = max(run.glob("wandb/offline-run-*/*.wandb"), key=lambda found: found.stat().st_mtime_ns)
    history: list[tuple[int, float]] = []
    ended = False
    deadline = time.monotonic() + 20
    while not ended and time.monotonic() < deadline:  # its service may write on for a moment after the run has finished
        history, ended = _history(file, wandb_internal_pb2)
    return history


def _history(file, wandb_internal_pb2):
    history, ended = [], False
    for record in records(file.read_bytes()):
        found = wandb_internal_pb2.Record()
        found.ParseFromString(record)
        if found.WhichOneof("record_type") == "history":
            row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in found.history.item}
            history.append((int(row["_step"]), row["reward/mean"]))
        ended |= found.WhichOneof("record_type") == "exit"
    return history, ended


def records(data):
    """The records of a file of LevelDB's log format: blocks of 32 KiB, each piece with checksum, length and kind before it; seven
    bytes of a header come first."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last piece
            yield whole
            whole = b""


def trackio(run):
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("anypo")
    return [(row["step"], row["reward/mean"]) for row in SQLiteStorage.get_logs("anypo", name)]


@pytest.mark.parametrize("read", [tensorboard, wandb, trackio])
def test_a_resumed_run_shows_every_step_once(place, read):
    pytest.importorskip(read.__name__)
    anypo.train("grpo", set=SMALL, out=place, loggers=(read.__name__,), steps=2, **TINY)
    newest = place / "checkpoints" / "step-000002"
    newest.rename(place / "gone")  # as if killed before it was saved: the second step is taken again
    anypo.resume(place, steps=3)
    rows = RunFolder.read(place).metrics()
    shown = read(place)
    assert [step for step, _ in shown] == [1, 2, 3]
    assert [value for _, value in shown] == pytest.approx([row["reward/mean"] for row in rows])


@pytest.mark.parametrize("read", [tensorboard, wandb, trackio])
def test_a_logger_opened_late_is_told_what_came_before_and_no_strings(place, read):
    pytest.importorskip(read.__name__)
    place.mkdir()
    before = [{**ODD, "step": 1}, {**ODD, "step": 2}]
    (logger,) = open_loggers([read.__name__], place, {"seed": 1, "none": None, "most": math.inf}, before)
    logger.log(3, ODD)
    logger.close()
    assert read(place) == [(1, 0.5), (2, 0.5), (3, 0.5)]
