"""What an ingest counted: every row in is an event or a note out, or rejected with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Group
from rich.table import Table

from wardround.errors import WardroundError
from wardround.sources.mimic.mapping import Module

#: A table that loses more than this share of its rows is not the table that it claims to be.
REJECTED_SHARE = 0.5


@dataclass
class TableReport:
    """One table's ledger.

    Attributes:
        rows: in the file.
        kept: rows that gave events, or became a note or a detail of one.
        empty: rows in order that say nothing an event could (every value missing).
        mended: kept rows of which an end that preceded its start was mended.
        rejected: rows by reason; `rows = kept + empty + sum(rejected)`.
        first_row: for each reason, the first row of the file that has it (the header is row 1).
        events: events out, by their name in the map.
        untimed: events that kept rows lack because their time is missing.
        unfiled: events out of which it is not known when they could be read; the map's `unfiled`
            says what holds for them.
    """

    file: str
    rows: int = 0
    kept: int = 0
    empty: int = 0
    mended: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    first_row: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    untimed: dict[str, int] = field(default_factory=dict)
    unfiled: dict[str, int] = field(default_factory=dict)

    def reject(self, reason: str, rows: pl.Series) -> None:
        """Move kept rows (their places in the file; the header is row 1) to the rejected ones."""
        if len(rows):
            first = int(rows.min())  # type: ignore[arg-type]
            self.kept -= len(rows)
            self.rejected[reason] = self.rejected.get(reason, 0) + len(rows)
            self.first_row[reason] = min(first, self.first_row.get(reason, first))

    def check(self) -> None:
        """Refuse a table that is not what it claims to be.

        Raises:
            WardroundError: most of the rows were rejected.
        """
        rejected = sum(self.rejected.values())
        if rejected > REJECTED_SHARE * self.rows:
            reason, rows = max(self.rejected.items(), key=lambda item: item[1])
            raise WardroundError(
                f"{self.file}: {rejected:,} of {self.rows:,} rows cannot be used, {rows:,} because "
                f"{reason}; is it the right table of the right release?"
            )

    @property
    def notes(self) -> list[str]:
        """What is to be said of the table's rows and events."""
        return [
            *(
                f"{rows:,} {reason} (first: row {self.first_row[reason]})"
                for reason, rows in self.rejected.items()
            ),
            *([f"{self.mended:,} with a mended end"] if self.mended else []),
            *(
                f"{events:,} {name} not there for want of its time"
                for name, events in self.untimed.items()
            ),
            *(f"{events:,} {name} without a store time" for name, events in self.unfiled.items()),
        ]


@dataclass
class IngestReport:
    """The ledger of an ingest, kept in the store as `ingest-report.json`.

    Attributes:
        note_types: notes of the store by type.
        missing: tables and dictionaries that the source lacks.
        left_out: tables that were not chosen.
        unread: files of the source that no map reads.
        changed_files: files that are not what their publisher lists.
    """

    source: str
    source_version: str
    access: str
    subjects: int = 0
    stays: dict[str, int] = field(default_factory=dict)
    duplicate_stays: int = 0
    events: int = 0
    note_types: dict[str, int] = field(default_factory=dict)
    tables: dict[str, TableReport] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    changed_files: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def count_rows(staged: Path, names: list[str], file: Path) -> TableReport:
    """Count a staged table into its ledger.

    Raises:
        WardroundError: most of the rows were rejected.
    """
    counts = (
        pl.scan_parquet(staged)
        .group_by("event", "reason")
        .agg(
            pl.len(),
            pl.col("first", "unfiled").sum(),
            mended=(pl.col("first") & pl.col("mended")).sum(),
        )
        .collect(engine="streaming")
    )
    report = TableReport(str(file))
    for event, reason, rows, first, unfiled, mended in counts.sort("event", "reason").iter_rows():
        if reason is not None:
            report.rejected[reason] = rows
        elif event == -1:
            report.empty += rows
        elif event < 0:
            report.untimed[names[-2 - event]] = rows
        else:
            report.events[names[event]] = rows
            report.kept += first
            report.mended += mended
            if unfiled:
                report.unfiled[names[event]] = unfiled
    report.rows = report.kept + report.empty + sum(report.rejected.values())
    report.check()
    return report


def count_notes(staged: Path, name: str, file: Path) -> TableReport:
    """Count a staged table of notes, or of their details, into its ledger.

    Raises:
        WardroundError: most of the rows were rejected.
    """
    rows = pl.scan_parquet(staged, glob=False)
    unfiled = pl.col("unfiled") if "unfiled" in rows.collect_schema() else pl.lit(False)
    counts = (
        rows.group_by("reason")
        .agg(pl.len(), first=pl.col("row").min(), unfiled=unfiled.sum())
        .collect(engine="streaming")
    )
    report = TableReport(str(file))
    for reason, count, first, without in counts.sort("reason").iter_rows():
        report.rows += count
        if reason is None:
            report.kept = count
            report.unfiled = {name: without} if without else {}
        else:
            report.rejected[reason] = count
            report.first_row[reason] = first
    report.check()
    return report


def missing_tables(maps: Mapping[str, Module], present: Mapping[str, Any]) -> list[str]:
    """Tables and dictionaries of the maps that the source lacks, as `module/table`.

    A data set of its own that is absent as a whole is not missing.
    """
    named: dict[str, str] = {}
    for name, module in maps.items():
        if module.apart and not any(table in present for table in module.tables):
            continue
        named |= {table: name for table in module.tables}
        for dictionary in module.dictionaries:
            named.setdefault(dictionary.table, name)
    return [f"{module}/{table}" for table, module in named.items() if table not in present]


def format_report(report: IngestReport) -> Group:
    """The ledger for the terminal, and below it what there is to say."""
    table = Table(
        "Table",
        *("Rows", "Kept", "Empty", "Rejected", "Events"),
        title=(
            f"{report.source} {report.source_version} ({report.access}): "
            f"{report.subjects:,} subjects, {report.events:,} events in {report.seconds:.1f} s"
        ),
        title_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name, ledger in report.tables.items():
        numbers = [ledger.rows, ledger.kept, ledger.empty, sum(ledger.rejected.values())]
        numbers.append(sum(ledger.events.values()))
        table.add_row(name, *(f"{n:,}" for n in numbers))
    notes = [f"{name}: {'; '.join(t.notes)}" for name, t in report.tables.items() if t.notes]
    return Group(table, *notes, *_remarks(report))


def _remarks(report: IngestReport) -> list[str]:
    lines = ["Stays: " + ", ".join(f"{n:,} {kind}" for kind, n in report.stays.items())]
    if report.note_types:
        counts = ", ".join(f"{n:,} {kind}" for kind, n in sorted(report.note_types.items()))
        lines.append(f"Notes: {counts}")
    if report.duplicate_stays:
        lines.append(f"Stays listed again under the same id, left out: {report.duplicate_stays:,}")
    if report.missing:
        lines.append("Not in the source: " + ", ".join(report.missing))
    if report.left_out:
        lines.append("Left out by choice: " + ", ".join(report.left_out))
    if report.unread:
        lines.append("Not read, as no map has it: " + ", ".join(report.unread))
    if report.changed_files:
        lines.append("Differs from SHA256SUMS.txt: " + ", ".join(report.changed_files))
    return lines
