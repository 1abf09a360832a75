"""A hospital of two chunks: its files, and the chunks that they were written from."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from wardround.sources.hospital import generate_hospital
from wardround.sources.hospital.catalogue import load_catalogue
from wardround.sources.hospital.chunk import CHUNK, Chunk

SEED, PATIENTS = 5, 3_000

Table = Callable[[str], pl.DataFrame]


@pytest.fixture(scope="session")
def files(once: Any) -> Path:
    """3,000 patients: a whole chunk and a half."""
    return once("hospital-3000", lambda path: generate_hospital(path, patients=PATIENTS, seed=SEED))


@pytest.fixture(scope="session")
def table(files: Path) -> Table:
    """A table of `files` such as `ed/triage`, times parsed."""

    @cache
    def read(name: str) -> pl.DataFrame:
        path = files / f"{name}.csv.gz"
        return pl.read_csv(path, try_parse_dates=True, infer_schema_length=20_000)

    return read


@pytest.fixture(scope="session")
def oracle(files: Path) -> Table:
    """A table of `files`' oracle."""
    return lambda name: pl.read_parquet(files / "oracle" / f"{name}.parquet")


@pytest.fixture(scope="session")
def chunks() -> list[Chunk]:
    """What the simulator knew when it wrote `files`."""
    counts = [CHUNK, PATIENTS - CHUNK]
    return [Chunk.draw(load_catalogue(), SEED, number, n) for number, n in enumerate(counts)]


@pytest.fixture(scope="session")
def many() -> list[Chunk]:
    """40,000 patients that nobody writes down."""
    return [Chunk.draw(load_catalogue(), 1, number, CHUNK) for number in range(20)]
