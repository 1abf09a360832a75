"""How often a patient was here before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import polars as pl

from wardround.store import stays_known_at
from wardround.views.records import ROW, Records, number_rows, one_row_each

#: Stay kinds as feature names call them.
SHORT_KINDS = {"ed": "ed", "hospital": "hosp", "icu": "icu"}


def stay_counts(
    records: Records,
    predictions: pl.DataFrame,
    *,
    kinds: Sequence[str] = ("ed", "hospital", "icu"),
    days: Sequence[int] = (30, 90, 365),
    anchor: str = "prediction_time",
    going_on: bool = False,
) -> pl.DataFrame:
    """Count earlier stays by kind and window.

    A stay counts in a window of d days when 0 < anchor - its start <= d days. A stay that starts
    at the anchor itself does not count, be it the stay that the prediction is about or another:
    of two visits registered in the same second neither is the other's history.

    Args:
        records: whose stays to read.
        predictions: `subject_id`, `prediction_time`, and the anchor.
        kinds: of "ed", "hospital", "icu".
        days: window lengths.
        anchor: column with the moment from which to look back, not after the prediction time.
        going_on: count stays that have not ended by the anchor, too. The admission that an ED visit
            belongs to may have begun before the visit, and would give it away.

    Returns:
        `n_<ed|hosp|icu>_<days>d`, Int32, kinds before windows in the order given.
    """
    rows = number_rows(predictions, {"anchor": anchor})
    stays = records.stays().filter(pl.col("kind").is_in(list(kinds)))
    since = pl.col("anchor") - pl.col("start")
    counts = {
        f"n_{SHORT_KINDS[kind]}_{d}d": (
            (pl.col("kind") == kind) & (pl.col("since") <= timedelta(days=d))
        ).sum()
        for kind in kinds
        for d in days
    }
    features = (
        stays_known_at(stays, rows)
        .filter(pl.lit(going_on) | (pl.col("end") <= pl.col("anchor")))
        .select(ROW, "kind", since.alias("since"))
        .filter(pl.col("since") > timedelta(0), pl.col("since") <= timedelta(days=max(days)))
        .group_by(ROW)
        .agg(count.alias(name) for name, count in counts.items())
    )
    return one_row_each(rows, features, dict.fromkeys(counts, pl.Int32), fill=0)
