"""Opening and reading a patient store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from wardround.errors import WardroundError
from wardround.progress import track
from wardround.store.asof import known_at, notes_known_at, stays_known_at
from wardround.store.atomic import recover
from wardround.store.schema import EVENT_SCHEMA, NOTE_SCHEMA

T = TypeVar("T")


@dataclass(frozen=True)
class PatientStore:
    """A patient store on disk: a MEDS dataset, its stays, its notes and where it came from.

    Cheap to build and to send to another process: it holds paths, not data.
    """

    path: Path
    provenance: dict[str, Any] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """A hash of the store's content: equal data, equal fingerprint."""
        return str(self.provenance["fingerprint"])

    @property
    def access(self) -> str:
        """How the data may be used: `open`, `credentialed` or `synthetic`."""
        return str(self.provenance["access"])

    @property
    def shards(self) -> list[str]:
        """Shard names such as `train/0`. Each holds whole subjects and fits in memory."""
        return list(self.provenance["shards"])

    def events(self, shards: Sequence[str] | None = None) -> pl.LazyFrame:
        """All rows, whatever is later than any prediction: for labels and counts only.

        Features read through `known_at`.
        """
        names = self.shards if shards is None else list(shards)
        if not names:
            return pl.from_arrow(EVENT_SCHEMA.empty_table()).lazy()  # type: ignore[union-attr]
        files = [self.path / "data" / f"{name}.parquet" for name in names]
        return pl.scan_parquet(files, glob=False)

    @property
    def has_notes(self) -> bool:
        """Whether there is any note."""
        return bool(self.note_counts)

    @property
    def note_counts(self) -> dict[str, int]:
        """How many notes each shard holds; shards without any are not named."""
        return dict(self.provenance.get("notes", {}))

    def notes(
        self,
        note_type: str | Sequence[str] | None = None,
        *,
        shards: Sequence[str] | None = None,
    ) -> pl.LazyFrame:
        """All notes (`NOTE_SCHEMA`), whenever they could be read: for labels and corpora only.

        Features read through `notes_known_at`.

        Args:
            note_type: notes of this type, or of these types, alone.
            shards: read these alone; a subject's notes lie in the shard of its events.

        Returns:
            By shard ordered by subject, time and `note_seq`; no rows where the store has no notes.
        """
        wanted = self.shards if shards is None else list(shards)
        counts = self.note_counts
        files = [self.path / "notes" / f"{name}.parquet" for name in wanted if name in counts]
        if not files:
            return pl.from_arrow(NOTE_SCHEMA.empty_table()).lazy()  # type: ignore[union-attr]
        found = pl.scan_parquet(files, glob=False)
        if note_type is None:
            return found
        types = [note_type] if isinstance(note_type, str) else list(note_type)
        return found.filter(pl.col("note_type").is_in(types))

    def stays(self) -> pl.LazyFrame:
        """All stays (`STAY_SCHEMA`), with their ends and outcomes: for cohorts and labels."""
        return pl.scan_parquet(self.path / "stays.parquet", glob=False)

    def codes(self) -> pl.LazyFrame:
        """Code metadata (`CODE_SCHEMA`)."""
        return pl.scan_parquet(self.path / "metadata" / "codes.parquet", glob=False)

    def splits(self) -> pl.DataFrame:
        """`subject_id`, `split` for every subject of the store."""
        return pl.read_parquet(self.path / "metadata" / "subject_splits.parquet", glob=False)

    def known_at(
        self,
        predictions: pl.LazyFrame | pl.DataFrame,
        *,
        codes: pl.Expr | None = None,
        lookback: timedelta | None = None,
        columns: Sequence[str] | None = None,
        shards: Sequence[str] | None = None,
    ) -> pl.LazyFrame:
        """Each prediction's events as known at its time; see `wardround.store.known_at`.

        Args:
            predictions: `subject_id`, `prediction_time` and key columns.
            codes: a filter on event rows, applied while reading.
            lookback: drop dated events older than this.
            columns: event columns to read besides `subject_id`, `time` and `available_time`.
            shards: read these alone.
        """
        events = self.events(shards)
        if codes is not None:
            events = events.filter(codes)
        if columns is not None:
            wanted = dict.fromkeys(["subject_id", "time", "available_time", *columns])
            events = events.select(list(wanted))
        return known_at(events, predictions, lookback, self.stays())

    def notes_known_at(
        self,
        predictions: pl.LazyFrame | pl.DataFrame,
        *,
        note_type: str | Sequence[str] | None = None,
        lookback: timedelta | None = None,
        columns: Sequence[str] | None = None,
        shards: Sequence[str] | None = None,
    ) -> pl.LazyFrame:
        """Each prediction's notes as known at its time; see `wardround.store.notes_known_at`.

        Args:
            predictions: `subject_id`, `prediction_time` and key columns.
            note_type: notes of this type, or of these types, alone.
            lookback: drop notes charted before.
            columns: note columns to read besides `subject_id`, `time` and `available_time`.
            shards: read these alone.
        """
        notes = self.notes(note_type, shards=shards)
        if columns is not None:
            wanted = dict.fromkeys(["subject_id", "time", "available_time", *columns])
            notes = notes.select(list(wanted))
        return notes_known_at(notes, predictions, lookback, self.stays())

    def stays_known_at(self, predictions: pl.LazyFrame | pl.DataFrame) -> pl.LazyFrame:
        """Each prediction's stays as known at its time; see `wardround.store.stays_known_at`."""
        return stays_known_at(self.stays(), predictions)

    def map_shards(
        self, function: Callable[[str], T], *, jobs: int = 1, what: str = "Shards"
    ) -> list[T]:
        """Call `function` with every shard's name; results in the order of `shards`.

        Args:
            function: must be picklable when `jobs` is not 1.
            jobs: worker processes, as in joblib; the joblib backend in force is respected.
            what: the title of the progress bar.
        """
        import joblib  # takes a tenth of what the other imports take together

        work = joblib.Parallel(n_jobs=jobs, return_as="generator")(
            joblib.delayed(function)(shard) for shard in self.shards
        )
        return list(track(work, what, total=len(self.shards)))

    def verify(self) -> None:
        """Read every file and compare its hash with the provenance; raise on a difference."""
        for name, expected in track(self.provenance["store_files"].items(), "Verifying"):
            with (self.path / name).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != expected["sha256"]:
                raise WardroundError(
                    f"{self.path / name} has changed since it was written; ingest the source again"
                )


def open_store(path: str | Path) -> PatientStore:
    """Open a store that `wardround ingest` finished.

    Raises:
        WardroundError: nothing there, not a store of ours, or files missing or cut short.
    """
    path = Path(path)
    recover(path)
    if not path.is_dir():
        raise WardroundError(
            f"{path}: no such folder; make a store with `wardround ingest SOURCE {path}`"
        )
    provenance_file = path / "provenance.json"
    if not provenance_file.is_file():
        kind = (
            "a MEDS dataset without the store's provenance.json"
            if (path / "metadata" / "dataset.json").is_file()
            else "not a patient store (it has no provenance.json)"
        )
        raise WardroundError(f"{path} is {kind}; make one with `wardround ingest SOURCE DEST`")
    try:
        provenance = json.loads(provenance_file.read_text())
        files = {name: entry["bytes"] for name, entry in provenance["store_files"].items()}
        _ = provenance["fingerprint"], provenance["access"], provenance["shards"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WardroundError(
            f"{provenance_file} is damaged ({type(error).__name__}: {error}); "
            "ingest the source again"
        ) from error
    for name, size in files.items():
        file = path / name
        if not file.is_file():
            raise WardroundError(
                f"the store {path} is incomplete: {name} is missing; ingest the source again"
            )
        if file.stat().st_size != size:
            raise WardroundError(
                f"the store {path} is damaged: {name} has {file.stat().st_size:,} bytes, "
                f"expected {size:,}; ingest the source again"
            )
    return PatientStore(path, provenance)
