"""Writing a patient store: beside its place, then moved there whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import meds
import numpy as np
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from wardround import __version__
from wardround.errors import WardroundError
from wardround.store.atomic import put_in_place, recover, remove
from wardround.store.schema import (
    CODE_SCHEMA,
    EVENT_SCHEMA,
    NOTE_SCHEMA,
    SPLIT_SCHEMA,
    SPLITS,
    STAY_SCHEMA,
)

ROW_GROUP = 1 << 18
#: Of notes, of which one may take ten kilobytes and more.
NOTE_ROW_GROUP = 1 << 11


def _building(dest: Path) -> Path:
    return dest.with_name(f".{dest.name}.building")


class StoreWriter:
    """Builds a store in a hidden folder beside `dest`, and puts it in place when finished.

    Use as a context manager. Leaving the block without `finish`, or with an exception, removes
    the hidden folder; a killed process leaves it behind, and the next writer clears it. Either
    way `dest` is what it was before.

    Args:
        dest: where the store will stand.
        overwrite: replace a store that stands there. A folder that is not a store is never
            replaced.

    Raises:
        WardroundError: `dest` is taken, or another live process is writing it.
    """

    def __init__(self, dest: str | Path, *, overwrite: bool = False) -> None:
        self.dest = Path(dest).absolute()
        self._overwrite = overwrite
        self._folder = _building(self.dest)
        self._files: dict[str, dict[str, Any]] = {}
        self._shards: dict[str, dict[str, int]] = {}
        self._notes: dict[str, int] = {}
        self._subjects: dict[str, np.ndarray] = {}
        self._scribe = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    @property
    def workdir(self) -> Path:
        """Room for staging files, on the destination's disk; gone when the store is finished."""
        return self._folder / "staging"

    def __enter__(self) -> StoreWriter:
        recover(self.dest)
        if self.dest.exists():
            if not self._overwrite:
                raise WardroundError(f"{self.dest} exists; choose another folder or pass --force")
            is_empty = self.dest.is_dir() and not any(self.dest.iterdir())
            if not is_empty and not (self.dest / "provenance.json").is_file():
                raise WardroundError(
                    f"{self.dest} exists and is not a patient store; it is left alone, "
                    "choose another folder"
                )
        self._claim()
        (self._folder / "data").mkdir()
        (self._folder / "metadata").mkdir()
        self.workdir.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scribe.shutdown(cancel_futures=True)
        remove(self._folder)

    def _claim(self) -> None:
        owner = self._folder / "writer.pid"
        if self._folder.exists():
            if _is_alive(owner):
                raise WardroundError(
                    f"process {owner.read_text()} is already writing {self.dest}; "
                    "wait for it or stop it"
                )
            remove(self._folder)
        self._folder.mkdir(parents=True)
        owner.write_text(str(os.getpid()))

    def write_shard(self, name: str, events: pl.DataFrame | pa.Table) -> None:
        """Write whole subjects' events.

        The file is written while the caller prepares the next shards; a failure to write it is
        raised by a later call or by `finish`.

        Args:
            name: `<split>/<number>`.
            events: `EVENT_SCHEMA`, ordered by (subject_id, time) with static rows first.
        """
        split, _, number = name.partition("/")
        if split not in SPLITS or not number.isdigit():
            raise ValueError(f"shard names look like train/0, got {name!r}")
        table = _conform(events, EVENT_SCHEMA, f"shard {name}")
        subjects = _check_order(table, name)
        self._drain(len(SPLITS) - 1)
        self._pending.append(self._scribe.submit(self._write, f"data/{name}.parquet", table))
        self._subjects[name] = subjects
        self._shards[name] = {"rows": table.num_rows, "subjects": len(subjects)}

    def write_notes(self, name: str, notes: pl.DataFrame | pa.Table) -> None:
        """Write the notes of a shard's subjects; a shard without any needs no call.

        Args:
            name: a shard whose events are written.
            notes: `NOTE_SCHEMA`, ordered by (subject_id, time, note_seq).
        """
        if name not in self._subjects:
            raise ValueError(f"notes of the shard {name}, whose events are not written")
        table = _conform(notes, NOTE_SCHEMA, f"notes of shard {name}")
        if not table.num_rows:
            return
        _check_notes(table, self._subjects[name], name)
        self._drain(len(SPLITS) - 1)
        file = f"notes/{name}.parquet"
        self._pending.append(self._scribe.submit(self._write, file, table, NOTE_ROW_GROUP))
        self._notes[name] = table.num_rows

    def finish(
        self,
        *,
        codes: pl.DataFrame,
        stays: pl.DataFrame,
        splits: pl.DataFrame,
        provenance: dict[str, Any],
        dataset: dict[str, Any],
        report: dict[str, Any] | None = None,
    ) -> None:
        """Write the metadata and move the store to its place.

        Args:
            codes: `CODE_SCHEMA`.
            stays: `STAY_SCHEMA`.
            splits: `subject_id`, `split`; must name exactly the subjects of the shards.
            provenance: `source`, `source_version`, `access` and whatever else tells where the
                data came from; shards, hashes and the fingerprint are added here.
            dataset: MEDS dataset metadata (`dataset_name`, `dataset_version`, …).
            report: what ingest counted, kept as `ingest-report.json`.
        """
        if provenance.get("access") not in ("open", "credentialed", "synthetic"):
            raise ValueError(f"access must be open, credentialed or synthetic: {provenance}")
        self._drain(0)
        split_table = _conform(splits.sort("subject_id"), SPLIT_SCHEMA, "splits")
        self._check_subjects(split_table)
        self._write("metadata/codes.parquet", _conform(codes, CODE_SCHEMA, "codes"))
        self._write("metadata/subject_splits.parquet", split_table)
        self._write("stays.parquet", _conform(stays, STAY_SCHEMA, "stays"))
        created = datetime.now(UTC).isoformat(timespec="seconds")
        metadata = {
            "etl_name": "wardround",
            "etl_version": __version__,
            "meds_version": meds.__version__,
            "created_at": created,
            "raw_source_id_columns": ["hadm_id", "stay_id"],
            "other_extension_columns": ["available_time"],
            **dataset,
        }
        meds.DatasetMetadataSchema(**metadata)
        (self._folder / "metadata" / "dataset.json").write_text(json.dumps(metadata, indent=1))
        if report is not None:
            (self._folder / "ingest-report.json").write_text(json.dumps(report, indent=1))
        contents = "".join(f"{n} {f['sha256']}\n" for n, f in sorted(self._files.items()))
        complete = {
            **provenance,
            "wardround_version": __version__,
            "created_at": created,
            "shards": self._shards,
            **({"notes": self._notes} if self._notes else {}),
            "store_files": self._files,
            "fingerprint": hashlib.sha256(contents.encode()).hexdigest(),
        }
        (self._folder / "provenance.json").write_text(json.dumps(complete, indent=1))
        remove(self.workdir)
        remove(self._folder / "writer.pid")
        put_in_place(self._folder, self.dest)

    def _drain(self, waiting: int) -> None:
        """Wait until at most so many shards are left to write: memory holds no more of them."""
        while len(self._pending) > waiting:
            self._pending.popleft().result()

    def _write(self, name: str, table: pa.Table, row_group: int = ROW_GROUP) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd", row_group_size=row_group)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        self._files[name] = {"bytes": path.stat().st_size, "sha256": digest}

    def _check_subjects(self, splits: pa.Table) -> None:
        written = (
            np.concatenate([*self._subjects.values()]) if self._subjects else np.empty(0, np.int64)
        )
        unique = np.unique(written)
        if len(unique) != len(written):
            raise ValueError("a subject's events may lie in one shard only")
        named = pl.Series(splits["subject_id"]).to_numpy()
        if len(named) != len(unique) or (named != unique).any():
            raise ValueError(
                f"splits name {len(named)} subjects, the shards hold {len(unique)}; "
                "the two must be the same"
            )


def _is_alive(owner: Path) -> bool:
    """Whether the process that wrote `owner` runs; one that began later has its id by chance."""
    try:
        pid = int(owner.read_text())
        return pid != os.getpid() and psutil.Process(pid).create_time() <= owner.stat().st_mtime
    except (OSError, ValueError, psutil.Error):
        return False


def _conform(frame: pl.DataFrame | pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """Select and cast to `schema`, refusing missing columns and forbidden nulls."""
    table = frame.to_arrow() if isinstance(frame, pl.DataFrame) else frame
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{what}: columns missing: {', '.join(missing)}")
    table = table.select(schema.names)
    columns = [
        _plain(table[field.name], what).cast(field.type, safe=not pa.types.is_float32(field.type))
        for field in schema
    ]
    for field, column in zip(schema, columns, strict=True):
        if not field.nullable and column.null_count:
            raise ValueError(f"{what}: {column.null_count} nulls in {field.name}")
    return pa.Table.from_arrays(columns, schema=schema)


def _plain(column: pa.ChunkedArray, what: str) -> pa.ChunkedArray:
    """MEDS wants plain strings: undo dictionary encoding and string views."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column


def _check_order(table: pa.Table, name: str) -> np.ndarray:
    """Return the distinct subjects, ascending; refuse rows out of order."""
    # By polars: what Arrow has for both columns imports pandas, which takes 0.2 s.
    subject = pl.Series(table["subject_id"]).to_numpy()
    # Static rows come first: a null sorts below every date.
    time = pl.Series(table["time"]).to_physical().fill_null(-(1 << 63)).to_numpy()
    same = subject[1:] == subject[:-1]
    wrong = (subject[1:] < subject[:-1]) | (same & (time[1:] < time[:-1]))
    if wrong.any():
        row = int(wrong.argmax()) + 1
        raise ValueError(f"shard {name}: row {row} is out of (subject_id, time) order")
    starts = np.flatnonzero(np.concatenate([[len(subject) > 0], ~same]))
    return subject[starts[: len(subject)]] if len(subject) else subject


def _check_notes(table: pa.Table, subjects: np.ndarray, name: str) -> None:
    """Refuse notes out of order, of other subjects, twice there, or known before their time."""
    _check_order(table, f"{name} of notes")
    notes = pl.DataFrame(
        {c: pl.Series(table[c]) for c in ("subject_id", "time", "note_seq", "note_id")}
    )
    same = pl.all_horizontal(pl.col("subject_id", "time") == pl.col("subject_id", "time").shift())
    known = pl.Series(table["available_time"])
    faults = {
        "out of (subject_id, time, note_seq) order": notes.select(
            same & (pl.col("note_seq") < pl.col("note_seq").shift())
        ).to_series(),
        "of a subject without events there": ~notes["subject_id"].is_in(pl.Series(subjects)),
        "there twice": notes["note_id"].is_duplicated(),
        "known before its time": known < notes["time"],
    }
    for fault, wrong in faults.items():
        if wrong.any():
            note = notes["note_id"].filter(wrong.fill_null(False))[0]
            raise ValueError(f"shard {name}: note {note} is {fault}")
