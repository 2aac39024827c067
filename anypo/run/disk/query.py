"""SQL over a run folder: read-only, in memory, with DuckDB.

Views: ``rollouts`` (see `anypo.run.disk.rollouts`), ``answers`` (the same columns and ``label``: held-out evaluations), ``metrics``
(one row a step; ``reward/mean`` is the column ``reward_mean``) and ``evaluations``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from anypo.errors import UserError
from anypo.run.disk.rollouts import SCHEMA

Records = Sequence[Mapping[str, Any]]

DEFAULT = """\
select step, count(*) as rollouts, round(avg(reward), 3) as reward, round(stddev_pop(reward), 3) as spread,
       round(avg(length), 1) as length, round(avg((finish = 'length')::int), 3) as truncated,
       round(avg(trained::int), 3) as trained
from rollouts group by step order by step"""
"""What `anypo rollouts RUN` shows without a query."""


def run(path: Path, records: Mapping[str, Records], text: str) -> pa.Table:
    """The result of one SELECT statement over the run at `path`. `records`: the views that are not Parquet files, by name.

    Raises `UserError` with DuckDB's reason, or naming a damaged file.
    """
    connection = duckdb.connect(":memory:")
    try:
        statements = connection.extract_statements(text)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise UserError("the query must be one SELECT statement (a run folder is only read)")
        _views(connection, path, records)
        return connection.sql(text).to_arrow_table()
    except duckdb.Error as error:
        wrong_query = isinstance(error, (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException))
        bad = None if wrong_query else _damaged_file(path)
        raise bad or UserError(f"SQL: {_one_line(error)}") from None
    finally:
        connection.close()


def damaged(file: Path) -> UserError:
    """The refusal of an unreadable Parquet file."""
    return UserError(f"{file} is damaged (not a readable Parquet file); delete it, or restore it from a copy")


def _views(connection: Any, path: Path, records: Mapping[str, Records]) -> None:
    steps = sorted(str(file) for file in (path / "rollouts").glob("*.parquet"))
    if steps:
        connection.from_parquet(steps, union_by_name=True).create_view("rollouts")
    else:
        connection.register("rollouts", SCHEMA.empty_table())
    answers = sorted(str(file) for file in (path / "evaluations").glob("*.parquet"))
    if answers:
        connection.from_parquet(answers, union_by_name=True, filename=True).create_view("answer_files")
    else:
        connection.register("answer_files", SCHEMA.append(pa.field("filename", pa.string())).empty_table())
    connection.execute(
        "create view answers as select replace(parse_filename(filename, true), '-', ' ') as label, "
        "* exclude (filename) from answer_files"
    )
    for name, entries in records.items():
        connection.register(name, _flat(entries))


def _flat(records: Records) -> pa.Table:
    """Records as a table; a key that some lack is null there, and ``a/b`` becomes the column ``a_b``."""
    names = list(dict.fromkeys(name for record in records for name in record)) or ["step"]
    columns = {name: [record.get(name) for record in records] for name in names}
    return pa.table(
        {
            name.replace("/", "_"): [json.dumps(v) if isinstance(v, dict) else v for v in c]
            for name, c in columns.items()
        }
    )


def _damaged_file(path: Path) -> UserError | None:
    """The first Parquet file of the run that cannot be read through, as a refusal."""
    for file in sorted(path.glob("*/*.parquet")):
        try:
            pq.read_table(file)
        except (pa.ArrowException, OSError):
            return damaged(file)
    return None


def _one_line(error: Exception) -> str:
    """DuckDB's message without the drawing of the query under it."""
    return " ".join(str(error).split("\n\nLINE ")[0].split())
