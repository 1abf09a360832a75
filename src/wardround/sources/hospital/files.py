"""MIMIC-IV v3.1's files: their columns, and writing them chunk by chunk."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import yaml


@cache
def columns(notes: bool = False) -> dict[str, list[str]]:
    """Columns of every file in their order: {"hosp/patients": ["subject_id", …], …}.

    Args:
        notes: with those of the notes.
    """
    text = (files("wardround.sources.hospital") / "columns.yaml").read_text()
    return {
        f"{module}/{table}": names.split(",")
        for module, tables in yaml.safe_load(text).items()
        if notes or module != "note"
        for table, names in tables.items()
    }


class TableFiles:
    """Open `.csv.gz` files below a folder; every table has its header, written or not."""

    def __init__(self, folder: Path, notes: bool = False) -> None:
        self._columns = columns(notes)
        self._raw: list[BufferedWriter] = []
        self._streams: dict[str, gzip.GzipFile] = {}
        self.rows = dict.fromkeys(self._columns, 0)
        for table, names in self._columns.items():
            path = folder / f"{table}.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = path.open("wb")
            self._raw.append(raw)
            # No name and no time inside: the same hospital is the same bytes.
            stream = gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0)
            stream.write((",".join(names) + "\n").encode())
            self._streams[table] = stream

    def write(self, table: str, frame: pl.DataFrame) -> None:
        """Append rows; columns that the frame does not have stay empty."""
        names = self._columns[table]
        unknown = set(frame.columns) - set(names)
        if unknown:
            raise KeyError(f"{table} has no column {sorted(unknown)[0]}")
        whole = frame.select(
            pl.col(name) if name in frame.columns else pl.lit(None, pl.String).alias(name)
            for name in names
        )
        text = whole.write_csv(include_header=False, datetime_format="%Y-%m-%d %H:%M:%S")
        self._streams[table].write(text.encode())
        self.rows[table] += len(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stream in self._streams.values():
            stream.close()
        for raw in self._raw:
            raw.close()
