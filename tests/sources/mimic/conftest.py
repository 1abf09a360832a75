"""MIMIC-IV's open demo, ingested once for all processes of a test session."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from wardround.sources.mimic import ingest_mimic
from wardround.store import PatientStore, open_store

# Tables of the demo that the tests read as text, in small, to compare with what was made of them.
Rows = Callable[[str], list[dict[str, str]]]


@pytest.fixture(scope="session")
def demo_sources(shared_data: Path) -> list[Path]:
    """The three folders of the demo: hosp and icu, the rebuilt chartevents, the rebuilt ED."""
    folders = [
        shared_data / "mimic-iv-demo" / "2.2",
        shared_data / "mimic-iv-demo" / "2.2-reconstructed",
        shared_data / "mimic-iv-ed-demo" / "derived-from-fhir-2.1.0",
    ]
    for folder in folders:
        if not folder.is_dir():
            pytest.skip(f"no MIMIC-IV demo at {folder}")
    return folders


@pytest.fixture(scope="session")
def demo(demo_sources: list[Path], once) -> PatientStore:
    """The demo as a store."""
    return open_store(once("demo-store", lambda path: ingest_mimic(demo_sources, path)))


@pytest.fixture(scope="session")
def demo_rows(demo_sources: list[Path]) -> Rows:
    """Rows of a table of the demo, such as `hosp/labevents`, by Python's own csv."""

    def read(table: str) -> list[dict[str, str]]:
        (path,) = (p for folder in demo_sources for p in folder.glob(f"{table}.csv.gz"))
        with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    return read
