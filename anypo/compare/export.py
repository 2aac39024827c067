"""A comparison as files for other programs: the leaderboard as CSV, cells and curves as Parquet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anypo.compare.board import Board, Row
from anypo.files import replace_file, replace_text
from anypo.scoring.units import ACCURACY

Records = Sequence[Mapping[str, Any]]


def row(entry: Row, unit: str = ACCURACY) -> dict[str, Any]:
    """A row of the leaderboard as flat plain data, scores named by their unit; what is unknown is None."""
    plain = {
        "method": entry.label,
        "rank_best": entry.rank[0],
        "rank_worst": entry.rank[1],
        "runs": len(entry.runs),
        f"{unit}_iqm": entry.score.value,
        f"{unit}_low": entry.score.low,
        f"{unit}_high": entry.score.high,
        "beats_base": entry.beats_base.value,
        "beats_base_low": entry.beats_base.low,
        "beats_base_high": entry.beats_base.high,
        "reached_threshold": entry.reached,
        "tokens_to_threshold": entry.tokens_to,
        "seconds_to_threshold": entry.seconds_to,
        **{f"mean_{name}": value for name, value in entry.means.items()},
        **{f"spent_{name}": value for name, value in entry.spent.items()},
    }
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in plain.items()}


def write_csv(board: Board, path: Path) -> None:
    """One line a method, best first; empty where unknown."""
    text = io.StringIO()
    rows = [row(entry, board.unit) for entry in board.rows]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_text(path, text.getvalue())


def write_parquet(records: Records, folder: Path) -> None:
    """`cells.parquet`: one row a cell, with final measures and costs. `curves.parquet`: one row an evaluation."""
    _table(folder / "cells.parquet", [cell(record) for record in records])
    points = [identity(record) | point for record in records for point in record["curve"]]
    _table(folder / "curves.parquet", points)


def cell(record: Mapping[str, Any]) -> dict[str, Any]:
    return (
        identity(record)
        | {f"final_{name}": value for name, value in record["final"].items()}
        | {f"spent_{name}": value for name, value in record["spent"].items()}
        | {"steps": record["steps"], "wall": record.get("wall"), "k": record.get("k")}
        | {f"factor_{name}": level for name, level in record["factors"].items()}
    )


def identity(record: Mapping[str, Any]) -> dict[str, Any]:
    own = {"method": record["label"], "task": record["task"], "seed": record["seed"]}
    return own | ({"rung": record["rung"]} if "rung" in record else {})


def _table(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for entry in rows for name in entry))
    table = pa.Table.from_pylist([{name: entry.get(name) for name in names} for entry in rows])
    replace_file(path, lambda temporary: pq.write_table(table, temporary))
