"""Small patient stores from hand-written rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from wardround.store import (
    CODE_SCHEMA,
    EVENT_SCHEMA,
    STAY_SCHEMA,
    PatientStore,
    StoreWriter,
    open_store,
)


def _moment(time: str | datetime | None) -> datetime | None:
    return datetime.fromisoformat(time) if isinstance(time, str) else time


def _frame(rows: list[dict[str, Any]], schema: pa.Schema) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=pl.DataFrame(schema.empty_table()).schema)


class StoreBuilder:
    """Collects events and stays; `write` makes a store of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = itertools.count()
        self.events: list[dict[str, Any]] = []
        self.stays: list[dict[str, Any]] = []

    def event(self, subject_id: int, time: str | datetime | None, code: str, **values: Any) -> None:
        """Add an event, available at its own time unless told."""
        row = dict.fromkeys(EVENT_SCHEMA.names) | {"subject_id": subject_id, "code": code}
        row |= {"time": _moment(time), "available_time": _moment(time)} | values
        row["available_time"] = _moment(row["available_time"])
        self.events.append(row)

    def stay(
        self,
        subject_id: int,
        stay_id: int,
        start: str | datetime,
        end: str | datetime | None,
        kind: str = "ed",
        **values: Any,
    ) -> None:
        """Add a stay."""
        row = dict.fromkeys(STAY_SCHEMA.names) | {"subject_id": subject_id, "stay_id": stay_id}
        row |= {"kind": kind, "start": _moment(start), "end": _moment(end), "died": False}
        self.stays.append(row | values)

    def index(self, *stay_ids: int, at: str = "start") -> pl.DataFrame:
        """Predictions for ED stays (all unless told), at their start or end."""
        visits = {s["stay_id"]: s for s in self.stays if s["kind"] == "ed"}
        rows = [
            {"subject_id": visits[i]["subject_id"], "prediction_time": visits[i][at], "stay_id": i}
            for i in (stay_ids or visits)
        ]
        schema = {
            "subject_id": pl.Int64,
            "prediction_time": pl.Datetime("us"),
            "stay_id": pl.Int64,
        }
        return pl.DataFrame(rows, schema=schema)

    def write(self) -> PatientStore:
        """Write two shards: even and odd subjects."""
        events = _frame(self.events, EVENT_SCHEMA)
        return write_store(
            self._path / str(next(self._numbers)), events, _frame(self.stays, STAY_SCHEMA)
        )


def write_store(path: Path, events: pl.DataFrame, stays: pl.DataFrame) -> PatientStore:
    events = events.sort("subject_id", "time", nulls_last=False, maintain_order=True)
    splits = events.select(pl.col("subject_id").unique()).with_columns(split=pl.lit("train"))
    with StoreWriter(path) as writer:
        for number in (0, 1):
            writer.write_shard(f"train/{number}", events.filter(pl.col("subject_id") % 2 == number))
        writer.finish(
            codes=_frame([], CODE_SCHEMA),
            stays=stays,
            splits=splits,
            provenance={"source": "test", "source_version": "1", "access": "synthetic"},
            dataset={"dataset_name": "test", "dataset_version": "1"},
        )
    return open_store(path)


@pytest.fixture(scope="module")
def new_builder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], StoreBuilder]:
    """Makes builders of stores, each in a folder of its own."""
    return lambda: StoreBuilder(tmp_path_factory.mktemp("views"))


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PatientStore]:
    """Writes a store from a frame of events and one of stays."""
    return lambda events, stays: write_store(tmp_path_factory.mktemp("views") / "s", events, stays)
