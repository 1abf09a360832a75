"""What a view reads, and how its rows stay in the order of the predictions.

A building block of a view is a function over (records, predictions) that gives one row for each
prediction, in the order of `predictions`. It reads the records through `wardround.store.known_at`
and `stays_known_at` and nothing else. Events may be *grouped* before that, as long as the rows of
one group share both their times: the rule keeps or drops them together either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from wardround.errors import WardroundError
from wardround.store import PatientStore, stays_known_at

#: Number of a prediction's row; the key on which every block aggregates.
ROW = "prediction_row"


class Records(Protocol):
    """Events and stays of some subjects: a whole store, or the part that a shard holds."""

    def events(self) -> pl.LazyFrame:
        """Rows of `EVENT_SCHEMA`."""

    def stays(self) -> pl.LazyFrame:
        """Rows of `STAY_SCHEMA`."""


@dataclass(frozen=True)
class LoadedRecords:
    """Records held in memory, so that several blocks read a shard once."""

    event_frame: pl.DataFrame
    stay_frame: pl.DataFrame

    def events(self) -> pl.LazyFrame:
        """Rows of `EVENT_SCHEMA`, the wanted codes only."""
        return self.event_frame.lazy()

    def stays(self) -> pl.LazyFrame:
        """Rows of `STAY_SCHEMA`."""
        return self.stay_frame.lazy()


def by_shard(
    store: PatientStore,
    predictions: pl.DataFrame,
    block: Callable[[Records, pl.DataFrame], pl.DataFrame],
    *,
    codes: pl.Expr,
    what: str,
) -> pl.DataFrame:
    """Run `block` shard after shard and put its rows back in the order of `predictions`.

    Each shard is read once, and of it only the rows that `codes` keeps of the subjects asked for,
    so memory is bounded by a shard and not by the store.

    Args:
        store: any patient store.
        predictions: one row a prediction; needs `subject_id`.
        block: a building block; called once a shard with the predictions of its subjects, and
            once more, without events, for subjects of whom the store holds no such row.
        codes: filter on event rows.
        what: the title of the progress bar.
    """
    numbered = predictions.with_row_index(ROW)
    subjects = predictions.select(pl.col("subject_id").unique())
    stays = store.stays().join(subjects.lazy(), on="subject_id", how="semi").collect()

    def run(events: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
        records = LoadedRecords(events, stays.join(rows, on="subject_id", how="semi"))
        features = block(records, rows.drop(ROW))
        return pl.concat([rows.select(ROW), features], how="horizontal")

    def one(shard: str) -> pl.DataFrame | None:
        wanted = store.events([shard]).filter(codes)
        events = wanted.join(subjects.lazy(), on="subject_id", how="semi").collect()
        rows = numbered.join(events, on="subject_id", how="semi")
        return run(events, rows) if len(rows) else None

    parts = [part for part in store.map_shards(one, what=what) if part is not None]
    done = pl.concat([numbered.select(ROW).clear(), *(part.select(ROW) for part in parts)])
    rest = numbered.join(done, on=ROW, how="anti")
    if len(rest) or not parts:
        parts.append(run(store.events([]).collect(), rest))
    return pl.concat(parts).sort(ROW).drop(ROW)


def number_rows(predictions: pl.DataFrame, keys: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Keys of predictions as `known_at` takes them.

    Args:
        predictions: `subject_id`, `prediction_time` and the columns named in `keys`.
        keys: further columns to carry along, as {name in the result: name in `predictions`}.

    Returns:
        `prediction_row`, `subject_id`, `prediction_time` and the keys.

    Raises:
        WardroundError: a column is missing.
    """
    wanted = {"subject_id": "subject_id", "prediction_time": "prediction_time", **(keys or {})}
    require_columns(predictions, wanted.values())
    return predictions.select(
        pl.int_range(pl.len(), dtype=pl.UInt32).alias(ROW),
        *(pl.col(source).alias(name) for name, source in wanted.items()),
    )


def require_columns(frame: pl.DataFrame, names: Iterable[str]) -> None:
    """Raise a `WardroundError` that names the columns missing from a predictions frame."""
    missing = [name for name in dict.fromkeys(names) if name not in frame.columns]
    if missing:
        raise WardroundError(
            f"predictions lack the columns {', '.join(missing)} (found: "
            f"{', '.join(frame.columns)}); pass a cohort's index"
        )


def one_row_each(
    rows: pl.DataFrame, features: pl.LazyFrame, columns: Mapping[str, Any], fill: Any = None
) -> pl.DataFrame:
    """Bring aggregated features into the order of the predictions.

    Args:
        rows: what `number_rows` gave.
        features: at most one line for each `prediction_row`.
        columns: name and polars type of the columns to return, in order.
        fill: the value of a prediction without a line; null unless told.

    Returns:
        `columns`, as many rows as `rows`.
    """
    joined = rows.lazy().select(ROW).join(features, on=ROW, how="left", maintain_order="left")
    cast = [pl.col(name).cast(dtype) for name, dtype in columns.items()]
    result = joined.select(cast).collect()
    return result if fill is None else result.fill_null(fill)


def visit_times(records: Records, predictions: pl.DataFrame, kind: str = "ed") -> pl.DataFrame:
    """Add `start` and `end` of the stay that each prediction is about.

    Args:
        records: whose stays to read.
        predictions: `subject_id`, `prediction_time`, `stay_id`.
        kind: "ed", "hospital" or "icu".

    Returns:
        `predictions` with `start` and `end` (replaced where there), timestamps; `end` is null
        where the stay was going on at the prediction time.

    Raises:
        WardroundError: a prediction's stay is unknown or begins after the prediction time.
    """
    keys = number_rows(predictions, {"visit_id": "stay_id"})
    stays = records.stays().filter(pl.col("kind") == kind)
    found = (
        stays_known_at(stays, keys)
        .filter(pl.col("stay_id") == pl.col("visit_id"))
        .select(ROW, "start", "end")
        .unique(ROW)
    )
    times = {"start": pl.Datetime("us"), "end": pl.Datetime("us")}
    visits = one_row_each(keys, found, times)
    lost = predictions.filter(visits["start"].is_null())
    if len(lost):
        raise WardroundError(
            f"{len(lost)} of {len(predictions)} predictions have no {kind} stay that had begun "
            f"by then (first: stay_id {lost['stay_id'][0]} of subject {lost['subject_id'][0]}); "
            "take index and store from the same source"
        )
    return predictions.drop("start", "end", strict=False).hstack(visits)


def code_in(codes: Sequence[str]) -> pl.Expr:
    """Filter for rows with one of these codes."""
    return pl.col("code").is_in(list(codes))
