"""Staged notes and their details, on their way from the engine to the shards."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from wardround.sources.mimic.report import TableReport
from wardround.store import NOTE_SCHEMA

REPEATED = "note_id is there twice"
STRAY = "no note with this note_id"
NO_EVENTS = "the subject has no events"
DETAIL = pl.Struct({"name": pl.String, "value": pl.String, "ordinal": pl.Int32})


@dataclass
class StagedNotes:
    """Tables of notes and of their details as staged files, which rows of them count, and ledgers.

    Attributes:
        notes, details: staged files by table.
        refused: rows (the header is row 1) that another row speaks against, by table.
        reports: the tables' ledgers.
        counts: notes given out, by type.
    """

    notes: Mapping[str, Path] = field(default_factory=dict)
    details: Mapping[str, Path] = field(default_factory=dict)
    refused: Mapping[str, pl.Series] = field(default_factory=dict)
    reports: Mapping[str, TableReport] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def block(self, low: int, high: int, subjects: Collection[int] | pl.Series) -> pl.DataFrame:
        """The notes (`NOTE_SCHEMA`) of the subjects from `low` to `high`.

        Notes of others than `subjects` are rejected: a store has no subject without events.
        """
        found = [self._rows(name, path, low, high) for name, path in self.notes.items()]
        if not found:
            return pl.DataFrame(schema={name: pl.Null for name in NOTE_SCHEMA.names})
        known = pl.Series(subjects, dtype=pl.Int64).implode()
        parts = []
        for name, rows in zip(self.notes, found, strict=True):
            lost = rows.filter(~pl.col("subject_id").is_in(known))
            self.reports[name].reject(NO_EVENTS, lost["row"])
            parts.append(rows.filter(pl.col("subject_id").is_in(known)))
        # Stable: notes that share all of it stand in the order of the maps and of their files.
        notes = pl.concat(parts).sort("subject_id", "time", "note_seq", maintain_order=True)
        for kind, count in notes.group_by("note_type").len().sort("note_type").iter_rows():
            self.counts[kind] = self.counts.get(kind, 0) + count
        details = self._details(low, high)
        return notes.join(details, on="note_id", how="left", maintain_order="left").select(
            pl.col("details").fill_null(pl.lit([], pl.List(DETAIL)))
            if name == "details"
            else pl.col(name)
            for name in NOTE_SCHEMA.names
        )

    def _details(self, low: int, high: int) -> pl.DataFrame:
        empty = pl.DataFrame(schema={"note_id": pl.String, "details": pl.List(DETAIL)})
        listed = [
            self._rows(name, path, low, high)
            .group_by("note_id", maintain_order=True)
            .agg(details=pl.struct(*DETAIL.to_schema()))
            for name, path in self.details.items()
        ]
        return pl.concat([empty, *listed])

    def _rows(self, name: str, path: Path, low: int, high: int) -> pl.DataFrame:
        """The rows that count, in the order of the file."""
        rows = (
            pl.scan_parquet(path, glob=False)
            .filter(pl.col("subject_id").is_between(low, high), pl.col("reason").is_null())
            .collect()
        )
        refused = self.refused.get(name)
        if refused is not None and len(refused):
            rows = rows.filter(~pl.col("row").is_in(refused.implode()))
        return rows
