"""How many different things were given or listed."""

from __future__ import annotations

import polars as pl

from wardround.store import known_at
from wardround.views.records import ROW, Records, number_rows, one_row_each


def distinct_count(
    records: Records,
    predictions: pl.DataFrame,
    name: str,
    *,
    codes: pl.Expr,
    identity: pl.Expr,
    this_stay: bool = False,
) -> pl.DataFrame:
    """Count the distinct identities among known events.

    Args:
        records: whose events to read.
        predictions: `subject_id`, `prediction_time`; with `this_stay` also `stay_id`.
        name: of the column.
        codes: filter on event rows.
        identity: what makes two events the same, over the event row; null is not counted.
        this_stay: read only events that carry the prediction's own `stay_id`.

    Returns:
        `name`: Int32; 0 without any event.
    """
    rows = number_rows(predictions, {"visit_id": "stay_id"} if this_stay else None)
    events = records.events().filter(codes)
    if this_stay:
        events = events.join(rows.lazy(), left_on="stay_id", right_on="visit_id", how="semi")
    events = events.select(
        "subject_id", "time", "available_time", "stay_id", identity.alias("identity")
    )
    known = known_at(events.drop_nulls("identity"), rows, stays=records.stays())
    if this_stay:
        known = known.filter(pl.col("stay_id") == pl.col("visit_id"))
    counts = known.group_by(ROW).agg(pl.col("identity").n_unique().alias(name))
    return one_row_each(rows, counts, {name: pl.Int32}, fill=0)
