"""What an ingest counted: every row in is an event out or a rejected row, with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
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
        kept: rows that gave events.
        empty: rows in order that say nothing an event could (every value missing).
        rejected: rows by reason; `rows = kept + empty + sum(rejected)`.
        first_row: for each reason, the first row of the file that has it (the header is row 1).
        events: events out, by their name in the map.
    """

    file: str
    rows: int = 0
    kept: int = 0
    empty: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    first_row: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)


@dataclass
class IngestReport:
    """The ledger of an ingest, kept in the store as `ingest-report.json`."""

    source: str
    source_version: str
    access: str
    subjects: int = 0
    stays: dict[str, int] = field(default_factory=dict)
    duplicate_stays: int = 0
    events: int = 0
    tables: dict[str, TableReport] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
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
        .agg(pl.len(), pl.col("first").sum())
        .collect(engine="streaming")
    )
    report = TableReport(str(file))
    for event, reason, rows, first in counts.sort("event", "reason").iter_rows():
        if reason is not None:
            report.rejected[reason] = rows
        elif event < 0:
            report.empty += rows
        else:
            report.events[names[event]] = rows
            report.kept += first
    rejected = sum(report.rejected.values())
    report.rows = report.kept + report.empty + rejected
    if rejected > REJECTED_SHARE * report.rows:
        reason, rows = max(report.rejected.items(), key=lambda item: item[1])
        raise WardroundError(
            f"{file}: {rejected:,} of {report.rows:,} rows cannot be used, {rows:,} because "
            f"{reason}; is it the right table of the right release?"
        )
    return report


def missing_tables(maps: Mapping[str, Module], present: Mapping[str, Any]) -> list[str]:
    """Tables and dictionaries of the maps that the source lacks, as `module/table`."""
    named: dict[str, str] = {}
    for name, module in maps.items():
        named |= {table: name for table in module.tables}
        for dictionary in module.dictionaries:
            named.setdefault(dictionary.table, name)
    return [f"{module}/{table}" for table, module in named.items() if table not in present]


def format_report(report: IngestReport) -> Table:
    """The ledger for the terminal."""
    table = Table(
        "Table",
        *("Rows", "Kept", "Empty", "Rejected", "Events"),
        "Why",
        title=(
            f"{report.source} {report.source_version} ({report.access}): "
            f"{report.subjects:,} subjects, {report.events:,} events in {report.seconds:.1f} s"
        ),
        caption=_caption(report),
    )
    for column in table.columns[1:6]:
        column.justify = "right"
    for name, ledger in report.tables.items():
        why = "; ".join(
            f"{rows:,} {reason} (first: row {ledger.first_row[reason]})"
            for reason, rows in ledger.rejected.items()
        )
        numbers = [ledger.rows, ledger.kept, ledger.empty, sum(ledger.rejected.values())]
        numbers.append(sum(ledger.events.values()))
        table.add_row(name, *(f"{n:,}" for n in numbers), why)
    return table


def _caption(report: IngestReport) -> str:
    lines = ["Stays: " + ", ".join(f"{n:,} {kind}" for kind, n in report.stays.items())]
    if report.duplicate_stays:
        lines.append(f"Stays listed again under the same id, left out: {report.duplicate_stays:,}")
    if report.missing:
        lines.append("Not in the source: " + ", ".join(report.missing))
    if report.changed_files:
        lines.append("Differs from SHA256SUMS.txt: " + ", ".join(report.changed_files))
    return "\n".join(lines)
