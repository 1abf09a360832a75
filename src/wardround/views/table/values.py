"""Last known values of measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import polars as pl

from wardround.store import known_at
from wardround.views.records import ROW, Records, code_in, number_rows, one_row_each


@dataclass(frozen=True)
class Measure:
    """What to read of an event: its code, and the value as an expression over the event row."""

    code: str
    value: pl.Expr = field(default_factory=lambda: pl.col("numeric_value"))


def last_values(
    records: Records,
    predictions: pl.DataFrame,
    measures: Mapping[str, Measure],
    *,
    this_stay: bool = False,
    lookback: timedelta | None = None,
    dtype: pl.DataType | type[pl.DataType] = pl.Float32,
) -> pl.DataFrame:
    """The last known value of each measure.

    Last is by `time`, then by `available_time`; of several values with the same two times the
    greatest counts, whatever the order of the rows. Nulls never hide an earlier value.

    Args:
        records: whose events to read.
        predictions: `subject_id`, `prediction_time`; with `this_stay` also `stay_id`.
        measures: {name of the column: measure}.
        this_stay: read only events that carry the prediction's own `stay_id`.
        lookback: read only events after prediction time - lookback.
        dtype: type of all columns.

    Returns:
        One column a measure; null where nothing was known.
    """
    rows = number_rows(predictions, {"visit_id": "stay_id"} if this_stay else None)
    scope = ["stay_id"] if this_stay else []
    events = records.events().filter(code_in([m.code for m in measures.values()]))
    if this_stay:
        events = events.join(rows.lazy(), left_on="stay_id", right_on="visit_id", how="semi")
    # One line for each moment: fewer lines to join, and none is known before another.
    moments = (
        events.select(
            "subject_id",
            *scope,
            "time",
            "available_time",
            *(
                pl.when(pl.col("code") == m.code).then(m.value).alias(name)
                for name, m in measures.items()
            ),
        )
        .group_by("subject_id", *scope, "time", "available_time")
        .agg(pl.col(list(measures)).max())
    )
    known = known_at(moments, rows, lookback, records.stays())
    if this_stay:
        known = known.filter(pl.col("stay_id") == pl.col("visit_id"))
    last = (
        known.sort("time", "available_time")
        .group_by(ROW)
        .agg(pl.col(list(measures)).last(ignore_nulls=True))
    )
    return one_row_each(rows, last, dict.fromkeys(measures, dtype))
