"""Fixtures that many rooms share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from filelock import FileLock
from hypothesis import settings

from wardround.sources.hospital import generate_hospital
from wardround.sources.mimic import ingest_mimic
from wardround.store import (
    CODE_SCHEMA,
    EVENT_SCHEMA,
    STAY_SCHEMA,
    PatientStore,
    StoreWriter,
    open_store,
    split_subjects,
)

# Tables load on first use, and test machines are noisy: a deadline would time that, not the code.
settings.register_profile("wardround", deadline=None)
settings.load_profile("wardround")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of open data sets that tests may read; skips where there is none."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WARDROUND_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no open data at {folder}; set WARDROUND_SHARED")
    return folder


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder once, whichever of xdist's processes asks first."""

    def make(name: str, build: Callable[[Path], object]) -> Path:
        folder = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            folder = folder.parent
        with FileLock(folder / f"{name}.lock"):
            if not (folder / name).exists():
                build(folder / name)
        return folder / name

    return make


@dataclass(frozen=True)
class Hospital:
    """A generated hospital: its store, and the files that the store was made from."""

    files: Path
    store: PatientStore

    def table(self, name: str) -> list[dict[str, Any]]:
        """Rows of a source table such as `ed/edstays`, times parsed."""
        path = self.files / f"{name}.csv.gz"
        return pl.read_csv(path, try_parse_dates=True, infer_schema_length=None).to_dicts()

    def oracle(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.files / "oracle" / f"{name}.parquet")


@pytest.fixture(scope="session")
def hospital(once: Once) -> Hospital:
    """300 patients in shards of 40."""
    files = once("hospital", lambda path: generate_hospital(path, patients=300, seed=3))
    store = once("hospital-store", lambda path: ingest_mimic([files], path, subjects_per_block=40))
    return Hospital(files, open_store(store))


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
def demo(demo_sources: list[Path], once: Once) -> PatientStore:
    """The demo as a store."""
    return open_store(once("demo-store", lambda path: ingest_mimic(demo_sources, path)))


StoreMaker = Callable[..., PatientStore]


@pytest.fixture
def make_store(tmp_path: Path) -> StoreMaker:
    """Write a small store from rows: dicts with any of the columns of events and stays."""

    def make(
        events: list[dict[str, object]] | pl.DataFrame,
        stays: list[dict[str, object]] | pl.DataFrame = (),  # type: ignore[assignment]
        name: str = "store",
        shards: int = 1,
    ) -> PatientStore:
        frame = pl.DataFrame(
            events, schema=dict(pl.from_arrow(EVENT_SCHEMA.empty_table()).schema)
        ).with_columns(available_time=pl.coalesce("available_time", "time"))
        frame = frame.sort("subject_id", "time", maintain_order=True, nulls_last=False)
        subjects = frame["subject_id"].unique().sort()
        splits = pl.DataFrame({"subject_id": subjects, "split": split_subjects(subjects)})
        placed = frame.join(splits, on="subject_id", maintain_order="left").with_columns(
            shard=pl.col("split") + "/" + (pl.col("subject_id") % shards).cast(pl.String)
        )
        with StoreWriter(tmp_path / name, overwrite=True) as writer:
            for (shard,), rows in sorted(placed.group_by("shard", maintain_order=True)):
                writer.write_shard(shard, rows.drop("split", "shard"))
            counts = frame.group_by("code").agg(count=pl.len().cast(pl.Int64)).sort("code")
            writer.finish(
                codes=counts.with_columns(
                    description=pl.lit(None, pl.String),
                    parent_codes=pl.lit(None, pl.List(pl.String)),
                ).select(CODE_SCHEMA.names),
                stays=pl.DataFrame(
                    stays, schema=dict(pl.from_arrow(STAY_SCHEMA.empty_table()).schema)
                ),
                splits=splits,
                provenance={"source": "test", "source_version": "0", "access": "synthetic"},
                dataset={"dataset_name": "test"},
            )
        return open_store(tmp_path / name)

    return make
