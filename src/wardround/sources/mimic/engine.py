"""DuckDB runs what the maps say. Everything that knows DuckDB is in this file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from wardround.errors import WardroundError
from wardround.sources.mimic.tables import SourceFile

_ROW = re.compile(r"(?:CSV Error on Line: |CSV parse error: Row #)(\d+)")
_FAULTS = {
    "Expected Number of Columns": "the row has another number of columns than the header",
    "CSV parse error: Expected": "a row has another number of columns than the header",
    "CSV parse error: Row": "the row has another number of columns than the header",
    "Invalid unicode": "not UTF-8 text",
    "invalid UTF8": "not UTF-8 text",
    "unterminated quote": "a quote is not closed",
    "Maximum line size": "the line is too long for a table row",
    "straddl": "a note is too long, or a quote is not closed",
    "CSV": "not a table of comma-separated values as PhysioNet writes them",
}
#: Notes are read in pieces of so many bytes; none may be longer.
NOTE_BYTES = 1 << 23
#: Rows that are buffered and read together.
ROW_GROUP, NOTE_ROW_GROUP = 122880, 2048
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

    def stage_notes(self, sql: str, target: Path, file: SourceFile) -> None:
        """As `stage`, for a table of notes, whose cells hold kilobytes with line ends in them.

        Arrow reads the file. DuckDB's reader does not always know whether one of its threads
        begins inside of quotes; with a single thread it holds all that it has read.
        """
        with self._cursor(file) as cursor:
            cursor.register(file.table, _read_notes(file))
            cursor.execute(_copy(sql, target, NOTE_ROW_GROUP))

    def keep(self, name: str, sql: str, file: SourceFile) -> None:
        """Evaluate a query into a table of the engine."""
        self._run(f'CREATE TABLE "{name}" AS {sql}', file)

    def stage(self, sql: str, target: Path, file: SourceFile) -> None:
        """Evaluate a query into a Parquet file."""
        self._run(_copy(sql, target, ROW_GROUP), file)

    def sort_by_subject(self, path: Path, file: SourceFile, *, notes: bool = False) -> None:
        """Reorder a staged file whose subjects are scattered, spilling to disk if need be."""
        if not _scattered(path):
            return
        target = path.with_suffix(".sorted")
        sql = f"FROM read_parquet({_quote(str(path))}) ORDER BY subject_id"
        self._run(_copy(sql, target, NOTE_ROW_GROUP if notes else ROW_GROUP), file)
        target.replace(path)

    def read(self, sql: str, file: SourceFile) -> pl.DataFrame:
        """Evaluate a query into memory."""
        with self._cursor(file) as cursor:
            return pl.DataFrame(cursor.sql(sql).to_arrow_table())

    def read_columns(self, file: SourceFile, columns: Sequence[str]) -> pl.DataFrame:
        """The distinct rows of these columns of a source file, as text."""
        names = ", ".join(f'"{name}"' for name in columns)
        return self.read(f'SELECT DISTINCT {names} FROM "{file.table}"', file)

    def repeated_notes(self, staged: Mapping[str, Path], file: SourceFile) -> pl.DataFrame:
        """`table`, `row` of notes whose note_id an earlier note of the staged tables has."""
        return self.read(
            'SELECT "table", "row" FROM (SELECT "table", "row", row_number() OVER '
            '(PARTITION BY note_id ORDER BY number, "row") AS n '
            f"FROM ({_staged_notes(staged)})) WHERE n > 1",
            file,
        )

    def stray_details(
        self, details: Path, notes: Mapping[str, Path], file: SourceFile
    ) -> pl.DataFrame:
        """`row` of staged details of which there is no note of that id and subject."""
        return self.read(
            f'SELECT "row" FROM read_parquet({_quote(str(details))}) d '
            f"WHERE reason IS NULL AND NOT EXISTS (SELECT 1 FROM ({_staged_notes(notes)}) n "
            "WHERE n.note_id = d.note_id AND n.subject_id = d.subject_id)",
            file,
        )

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
    if "GZIP" in text.upper() or "zlib" in text or "compressed stream" in text:
        return WardroundError(
            f"{file.path}: not a whole gzip file ({text.split(': ', 1)[-1].splitlines()[0]}); "
            "copy it from its source again"
        )
    row = _ROW.search(text)
    fault = next((said for sign, said in _FAULTS.items() if sign in text), text.splitlines()[0])
    where = f"{file.path}, row {row[1]}" if row else str(file.path)
    return WardroundError(f"{where}: {fault}; export the table again")


def _read_notes(file: SourceFile) -> pa.RecordBatchReader:
    """A file's rows as they come, every column text, what is empty null."""
    stream = pa.input_stream(
        str(file.path), compression="gzip" if file.path.suffix == ".gz" else None
    )
    schema = pa.schema([(name, pa.string()) for name in file.header])
    try:
        return pacsv.open_csv(
            stream,
            pacsv.ReadOptions(
                use_threads=False,
                block_size=NOTE_BYTES,
                column_names=list(file.header),
                skip_rows=1,
            ),
            pacsv.ParseOptions(newlines_in_values=True),
            pacsv.ConvertOptions(
                column_types=schema,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except (pa.ArrowInvalid, OSError) as error:
        if "Empty CSV file" in str(error):
            return pa.RecordBatchReader.from_batches(schema, [])
        raise duckdb.InvalidInputException(str(error)) from error


def _copy(sql: str, target: Path, row_group: int) -> str:
    return (
        f"COPY ({sql}) TO {_quote(str(target))} "
        f"(FORMAT parquet, COMPRESSION lz4, ROW_GROUP_SIZE {row_group})"
    )


def _staged_notes(staged: Mapping[str, Path]) -> str:
    return " UNION ALL ".join(
        f'SELECT {_quote(name)} AS "table", {number} AS number, "row", note_id, subject_id '
        f"FROM read_parquet({_quote(str(path))}) WHERE reason IS NULL"
        for number, (name, path) in enumerate(staged.items())
    )


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
