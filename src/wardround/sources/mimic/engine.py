"""DuckDB runs what the maps say. Everything that knows DuckDB is in this file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import polars as pl
import pyarrow.parquet as pq

from wardround.errors import WardroundError
from wardround.sources.mimic.tables import SourceFile

_ROW = re.compile(r"CSV Error on Line: (\d+)")
_FAULTS = {
    "Expected Number of Columns": "the row has another number of columns than the header",
    "Invalid unicode": "not UTF-8 text",
    "unterminated quote": "a quote is not closed",
    "Maximum line size": "the line is too long for a table row",
}
#: Row groups whose subjects overlap this much make reading by subject slow; sort them first.
OVERLAP = 4.0


class Engine:
    """An embedded DuckDB with bounded memory that spills below `folder`."""

    def __init__(self, folder: Path, *, memory_limit: str, threads: int | None) -> None:
        self.folder = folder
        self._connection = duckdb.connect()
        self._running: set[duckdb.DuckDBPyConnection] = set()
        self._stopped = False
        settings = {
            "memory_limit": memory_limit,
            "temp_directory": str(folder / "spill"),
            # A lookup is the hashed side of a join, and the file streams past it in its order.
            "disabled_optimizers": "build_side_probe_side",
            "enable_progress_bar": "false",
        }
        if threads:
            settings["threads"] = str(threads)
        for name, value in settings.items():
            try:
                self._connection.execute(f"SET {name} = '{value}'")
            except duckdb.Error as error:
                raise WardroundError(f"{name} {value!r}: {str(error).splitlines()[0]}") from error

    @property
    def threads(self) -> int:
        """How many threads run queries."""
        return int(self._connection.sql("SELECT current_setting('threads')").fetchall()[0][0])

    def stop(self) -> None:
        """End the running queries, and refuse further ones; for use from another thread."""
        self._stopped = True
        for cursor in list(self._running):
            cursor.interrupt()

    def close(self) -> None:
        """Release the memory."""
        self._connection.close()

    def add_subjects(self, subjects: pl.Series) -> None:
        """Make the table of known subjects that the maps join."""
        frame = pl.DataFrame({"subject_id": subjects}).to_arrow()
        self._connection.register("subjects_frame", frame)
        self._connection.execute("CREATE TABLE subjects AS SELECT * FROM subjects_frame")

    def add_file(self, file: SourceFile) -> None:
        """Make a source file readable as a table of text columns under its table's name."""
        columns = ", ".join(f"{_quote(name)}: 'VARCHAR'" for name in file.header)
        self._connection.execute(
            f'CREATE VIEW "{file.table}" AS SELECT * FROM read_csv({_quote(str(file.path))}, '
            f"columns = {{{columns}}}, header = true, delim = ',', quote = '\"', "
            "escape = '\"', nullstr = '', auto_detect = false, strict_mode = true)"
        )

    def keep(self, name: str, sql: str, file: SourceFile) -> None:
        """Evaluate a query into a table of the engine."""
        self._run(f'CREATE TABLE "{name}" AS {sql}', file)

    def stage(self, sql: str, target: Path, file: SourceFile) -> None:
        """Evaluate a query into a Parquet file."""
        self._run(
            f"COPY ({sql}) TO {_quote(str(target))} "
            "(FORMAT parquet, COMPRESSION lz4, ROW_GROUP_SIZE 122880)",
            file,
        )

    def sort_by_subject(self, path: Path, file: SourceFile) -> None:
        """Reorder a staged file whose subjects are scattered, spilling to disk if need be."""
        if not _scattered(path):
            return
        target = path.with_suffix(".sorted")
        self._run(
            f"COPY (FROM read_parquet({_quote(str(path))}) ORDER BY subject_id) TO "
            f"{_quote(str(target))} (FORMAT parquet, COMPRESSION lz4, ROW_GROUP_SIZE 122880)",
            file,
        )
        target.replace(path)

    def read(self, sql: str, file: SourceFile) -> pl.DataFrame:
        """Evaluate a query into memory."""
        with self._cursor(file) as cursor:
            return pl.DataFrame(cursor.sql(sql).to_arrow_table())

    def read_columns(self, file: SourceFile, columns: Sequence[str]) -> pl.DataFrame:
        """The distinct rows of these columns of a source file, as text."""
        names = ", ".join(f'"{name}"' for name in columns)
        return self.read(f'SELECT DISTINCT {names} FROM "{file.table}"', file)

    def _run(self, sql: str, file: SourceFile) -> None:
        with self._cursor(file) as cursor:
            cursor.execute(sql)

    @contextmanager
    def _cursor(self, file: SourceFile) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own for this thread; what it raises is told in terms of `file`."""
        cursor = self._connection.cursor()
        self._running.add(cursor)
        try:
            if self._stopped:
                raise duckdb.InterruptException("the engine was stopped")
            yield cursor
        except (duckdb.InvalidInputException, duckdb.IOException) as error:
            raise _source_error(error, file) from error
        except duckdb.OutOfMemoryException as error:
            raise WardroundError(
                f"{file.path}: the engine ran out of memory; give it more with --memory"
            ) from error
        finally:
            self._running.discard(cursor)
            cursor.close()


def compile_sql(expression: ir.Table) -> str:
    """An expression in DuckDB's SQL. Not for several threads at once."""
    # DuckDB merges nested selects itself; Ibis takes half its time to do so.
    fuse, ibis.options.sql.fuse_selects = ibis.options.sql.fuse_selects, False
    try:
        return str(ibis.to_sql(expression, dialect="duckdb", pretty=False))
    finally:
        ibis.options.sql.fuse_selects = fuse


def _source_error(error: duckdb.Error, file: SourceFile) -> WardroundError:
    text = str(error)
    if "GZIP" in text.upper():
        return WardroundError(
            f"{file.path}: not a whole gzip file ({text.split(': ', 1)[-1].splitlines()[0]}); "
            "copy it from its source again"
        )
    row = _ROW.search(text)
    fault = next((said for sign, said in _FAULTS.items() if sign in text), text.splitlines()[0])
    where = f"{file.path}, row {row[1]}" if row else str(file.path)
    return WardroundError(f"{where}: {fault}; export the table again")


def _scattered(path: Path) -> bool:
    metadata = pq.read_metadata(path)
    spans, low, high = 0, None, None
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(0).statistics
        if statistics is None or not statistics.has_min_max:
            continue
        spans += statistics.max - statistics.min
        low = statistics.min if low is None else min(low, statistics.min)
        high = statistics.max if high is None else max(high, statistics.max)
    return low is not None and high is not None and spans > OVERLAP * max(high - low, 1)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
