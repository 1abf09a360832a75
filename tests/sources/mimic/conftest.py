"""The open demo as its files have it, read without our code."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

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
