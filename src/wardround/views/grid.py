"""Vital signs of an ED visit on an hourly grid, packed once for sequence models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import polars as pl

from wardround.store import PatientStore, known_at
from wardround.views.records import (
    ROW,
    Records,
    by_shard,
    code_in,
    number_rows,
    visit_times,
)
from wardround.views.table.cleaning import clean_vital, parse_pain

CHANNELS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "pain")
CODES = {f"ED//VITALSIGN//{channel.upper()}": channel for channel in CHANNELS}
HOUR = 3600
Method = Literal["last", "mean", "linear"]


@dataclass(frozen=True)
class HourlyGrid:
    """Padded sequences, one a prediction.

    Attributes:
        values: float32, shape (n, hours, channels). Within a row's length a channel is either
            complete or, when it was never measured, all NaN; beyond the length it is 0.
        lengths: int64, shape (n,), each from 1 to `hours`.
        channels: names of the last axis.
    """

    values: np.ndarray
    lengths: np.ndarray
    channels: tuple[str, ...] = CHANNELS


@dataclass(frozen=True)
class ChannelMedians:
    """Fills channels that were never measured with the medians of the training rows.

    Attributes:
        medians: float32, shape (channels,); 0 for a channel that no training row has.
    """

    medians: np.ndarray

    @classmethod
    def fit(cls, grid: HourlyGrid, rows: np.ndarray) -> ChannelMedians:
        """Learn medians over all hours of the rows in the boolean mask `rows`: training rows."""
        hours = np.arange(grid.values.shape[1]) < grid.lengths[rows, None]
        measured = grid.values[rows][hours]
        medians = np.zeros(len(grid.channels), np.float32)
        for channel, column in enumerate(measured.T):
            numbers = column[~np.isnan(column)]
            if len(numbers):
                medians[channel] = np.median(numbers)
        return cls(medians)

    def transform(self, grid: HourlyGrid) -> HourlyGrid:
        """Return a grid without NaN."""
        return replace(grid, values=np.where(np.isnan(grid.values), self.medians, grid.values))


def hourly_vitals(
    store: PatientStore,
    index: pl.DataFrame,
    *,
    method: Method = "last",
    max_hours: int = 24,
) -> HourlyGrid:
    """Lay the charted vital signs of each visit on an hourly grid from its start to t.

    A visit of m minutes has floor(m / 60) + 1 hours. Hour h holds, of the cleaned values that
    were known at t,

    - "last": the last one charted in [start + h, start + h + 1) hours,
    - "mean": their mean,
    - "linear": the linear interpolation at start + h hours, as in the benchmark,

    and where there is none, the value of the last hour before that has one, else of the first
    hour after. Values charted before the start count as earlier hours. Of two values charted in
    the same second "last" takes the one available later, then the greater; "linear" their mean.
    Of a visit with more than `max_hours` hours the last ones are kept.

    Args:
        store: any patient store.
        index: `subject_id`, `prediction_time`, `stay_id` of ED stays.
        method: what stands in an hour.
        max_hours: longest sequence.

    Returns:
        A grid with NaN where a channel was never measured; see `ChannelMedians`.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}, got {method!r}")
    if max_hours < 1:
        raise ValueError(f"max_hours must be at least 1, got {max_hours}")
    visits = visit_times(store, index)
    elapsed = (visits["prediction_time"] - visits["start"]).dt.total_seconds().to_numpy()
    total = elapsed // HOUR + 1
    lengths = np.minimum(total, max_hours).astype(np.int64)
    width = int(lengths.max(initial=1))
    visits = visits.with_columns(first_hour=pl.Series(total - lengths), length=pl.Series(lengths))

    def block(records: Records, rows: pl.DataFrame) -> pl.DataFrame:
        values = _fill(_points(records, rows, method), rows, width, method == "linear")
        flat = values.reshape(len(rows), width * len(CHANNELS))
        dtype = pl.Array(pl.Float32, flat.shape[1])
        return pl.DataFrame({"grid": pl.Series(flat, dtype=dtype)})

    wanted = code_in(list(CODES))
    flat = by_shard(store, visits, block, codes=wanted, what="Hourly vitals")["grid"].to_numpy()
    return HourlyGrid(flat.reshape(len(index), width, len(CHANNELS)), lengths)


def _points(records: Records, visits: pl.DataFrame, method: Method) -> pl.DataFrame:
    """Known clean measurements: row, channel, seconds since the start of the visit, value."""
    keys = number_rows(visits, {"visit_id": "stay_id", "visit_start": "start"})
    channel = pl.col("code").replace_strict(CODES, return_dtype=pl.String)
    raw = (
        pl.when(channel == "pain")
        .then(pl.coalesce(parse_pain(pl.col("text_value")), "numeric_value"))
        .otherwise("numeric_value")
    )
    clean = pl.coalesce(pl.when(channel == name).then(clean_vital(raw, name)) for name in CHANNELS)
    events = (
        records.events()
        .filter(code_in(list(CODES)))
        .join(keys.lazy(), left_on="stay_id", right_on="visit_id", how="semi")
        .select(
            "subject_id",
            "time",
            "available_time",
            "stay_id",
            channel.alias("channel"),
            clean.alias("value"),
        )
        .drop_nulls("value")
    )
    seconds = (pl.col("time") - pl.col("visit_start")).dt.total_seconds()
    if method != "linear":  # an hour's one value stands at its beginning
        seconds = seconds // HOUR * HOUR
    value = pl.col("value")
    return (
        known_at(events, keys, stays=records.stays())
        .filter(pl.col("stay_id") == pl.col("visit_id"))
        .sort("time", "available_time", "value")
        .group_by(pl.col(ROW).cast(pl.Int64), "channel", seconds.alias("seconds"))
        .agg(value.last() if method == "last" else value.mean())
        .sort(ROW, "seconds")
        .collect()
    )


def _fill(points: pl.DataFrame, visits: pl.DataFrame, width: int, interpolate: bool) -> np.ndarray:
    """Look each hour up among its visit's points; shape (n, width, channels)."""
    grid = np.zeros((len(visits), width, len(CHANNELS)), np.float32)
    lengths = visits["length"].to_numpy()
    row = np.repeat(np.arange(len(visits)), lengths)
    hour = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    at = (hour + np.repeat(visits["first_hour"].to_numpy(), lengths)) * HOUR
    for channel, name in enumerate(CHANNELS):
        of_channel = points.filter(pl.col("channel") == name)
        grid[row, hour, channel] = _look_up(
            of_channel[ROW].to_numpy(),
            of_channel["seconds"].to_numpy(),
            of_channel["value"].to_numpy(),
            row,
            at,
            interpolate=interpolate,
        )
    return grid


def _look_up(
    row: np.ndarray,
    seconds: np.ndarray,
    value: np.ndarray,
    at_row: np.ndarray,
    at: np.ndarray,
    *,
    interpolate: bool,
) -> np.ndarray:
    """Value at (at_row, at) from points sorted by (row, seconds).

    Before a row's first point its value, after its last point that one's, NaN in a row without
    points; in between the earlier neighbour's value or the interpolation of both.
    """
    if not len(row):
        return np.full(len(at), np.nan, np.float32)
    span = np.int64(1) << 36  # seconds: two thousand years
    after = np.searchsorted(row * span + seconds, at_row * span + at, side="right")
    before = np.maximum(after - 1, 0)
    after = np.minimum(after, len(row) - 1)
    has_before = (row[before] == at_row) & (seconds[before] <= at)
    has_after = (row[after] == at_row) & (seconds[after] > at)
    filled = np.where(has_before, value[before], np.where(has_after, value[after], np.nan))
    if interpolate:
        gap = np.where(has_before & has_after, seconds[after] - seconds[before], 1)
        share = np.where(has_before & has_after, (at - seconds[before]) / gap, 0)
        filled = filled + share * (value[after] - value[before])
    return filled.astype(np.float32)
