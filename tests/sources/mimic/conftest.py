"""The open demo as its files have it, read without our code."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from wardround.sources.mimic.mapping import load_maps

# Tables of the demo that the tests read as text, in small, to compare with what was made of them.
Rows = Callable[[str], list[dict[str, str]]]


@pytest.fixture(scope="session")
def demo_rows(demo_sources: list[Path]) -> Rows:
    """Rows of a table of the demo, such as `hosp/labevents`, by Python's own csv."""

    def read(table: str) -> list[dict[str, str]]:
        (path,) = (p for folder in demo_sources for p in folder.glob(f"{table}.csv.gz"))
        with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    return read


Source = Callable[[dict[str, list[dict[str, object]]]], Path]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Write a small source by hand: rows by table, with every column that the maps read."""
    declared = {
        f"{name}/{table}": [
            *spec.columns,
            *(
                d.text
                for d in module.dictionaries
                if d.table == table and d.text not in spec.columns
            ),
        ]
        for name, module in load_maps().items()
        for table, spec in module.tables.items()
    }
    patients = [{"subject_id": 1, "gender": "F", "anchor_age": 50, "anchor_year": 2150}]

    def write(tables: dict[str, list[dict[str, object]]]) -> Path:
        folder = tmp_path / "source"
        for name, rows in {"hosp/patients": patients, **tables}.items():
            header = declared.get(name)
            path = folder / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, header or list(rows[0]), restval="")
                writer.writeheader()
                writer.writerows({"subject_id": 1, **row} if header else row for row in rows)
        return folder

    return write
