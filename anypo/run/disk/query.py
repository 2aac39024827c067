"""SQL over a run folder: read-only, in memory, with DuckDB.

Views: ``rollouts`` (see `anypo.run.disk.rollouts`), ``aside`` (the same columns and ``why``: made and not trained on), ``answers``
(the same columns and ``label``: held-out evaluations), ``metrics`` (one row a step; ``reward/mean`` is the column ``reward_mean``)
and ``evaluations``.

A query may come from anywhere, a paste or a model. So the views are handed over as Arrow data, and DuckDB itself opens nothing:
no file, no network, no extension, no Python variable (`CLOSED`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from anypo.errors import UserError
from anypo.run.disk.rollouts import SCHEMA, WHY

Records = Sequence[Mapping[str, Any]]

DEFAULT = """\
select step, count(*) as rollouts, round(avg(reward), 3) as reward, round(stddev_pop(reward), 3) as spread,
       round(avg(length), 1) as length, round(avg((finish = 'length')::int), 3) as truncated,
       round(avg(trained::int), 3) as trained
from rollouts group by step order by step desc"""
"""What `anypo rollouts RUN` shows without a query: the newest steps first."""


CLOSED = (
    "set autoinstall_known_extensions = false",
    "set autoload_known_extensions = false",
    "set python_enable_replacements = false",
    "set temp_directory = ''",
    "set enable_external_access = false",
    "set lock_configuration = true",
)
"""Settings of every connection; the last one makes them final."""


def run(path: Path, records: Mapping[str, Records], text: str) -> pa.Table:
    """The result of one SELECT statement over the run at `path`. `records`: the views that are not Parquet files, by name.

    Raises `UserError` with DuckDB's reason, or naming a damaged file.
    """
    connection = duckdb.connect(":memory:")
    try:
        text.encode()  # a lone surrogate is no text
        statements = connection.extract_statements(text)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise UserError("the query must be one SELECT statement (a run folder is only read)")
        _views(connection, path, records)
        for setting in CLOSED:
            connection.execute(setting)
        return connection.sql(text).to_arrow_table()
    except (duckdb.Error, pa.ArrowException, OSError, RuntimeError, UnicodeError) as error:
        wrong_query = isinstance(error, (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException))
        bad = None if wrong_query else _damaged_file(path)
        raise bad or UserError(f"SQL: {_one_line(error)}") from None
    finally:
        connection.close()


def damaged(file: Path) -> UserError:
    """The refusal of an unreadable Parquet file."""
    return UserError(f"{file} is damaged (not a readable Parquet file); delete it, or restore it from a copy")


def _views(connection: Any, path: Path, records: Mapping[str, Records]) -> None:
    for name, schema in (("rollouts", SCHEMA), ("aside", pa.schema([WHY, *SCHEMA]))):
        steps = sorted((path / name).glob("*.parquet"))
        connection.register(name, _streamed(steps) if steps else schema.empty_table())
    answers = [_labelled(file) for file in sorted((path / "evaluations").glob("*.parquet"))]
    empty = pa.schema([LABEL, *SCHEMA]).empty_table()
    connection.register("answers", pa.concat_tables(answers, promote_options="permissive") if answers else empty)
    for name, entries in records.items():
        connection.register(name, _flat(entries))


LABEL = pa.field("label", pa.string())


def _streamed(files: Sequence[Path]) -> ds.Dataset:
    """The files as one table, read when and as far as a query asks; a column that some lack is null there."""
    schema = pa.unify_schemas([pq.read_schema(file) for file in files], promote_options="permissive")
    return ds.dataset([str(file) for file in files], schema=schema, format="parquet")


def _labelled(file: Path) -> pa.Table:
    table = pq.read_table(file)
    return table.add_column(0, LABEL, pa.array([file.stem.replace("-", " ")] * len(table), LABEL.type))


def _flat(records: Records) -> pa.Table:
    """Records as a table; a key that some lack is null there, and ``a/b`` becomes the column ``a_b``."""
    names = list(dict.fromkeys(name for record in records for name in record)) or ["step"]
    return pa.table({name.replace("/", "_"): _column([record.get(name) for record in records]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """Values of one type, or their texts."""
    plain = [json.dumps(value) if isinstance(value, dict) else value for value in values]
    try:
        return pa.array(plain)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if value is None else json.dumps(value, default=str) for value in values])


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
