"""Groups of diagnoses that were coded before."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from wardround.store import known_at
from wardround.views.records import ROW, Records, number_rows, one_row_each

#: Billing diagnoses of hospital stays; an ED visit's own are `ED//DIAGNOSIS//ICD//…`.
DIAGNOSIS_PREFIX = "DIAGNOSIS//ICD//"


def prior_diagnosis_groups(
    records: Records,
    predictions: pl.DataFrame,
    groups: pl.DataFrame,
    *,
    lookback: timedelta | None = None,
    before: str = "prediction_time",
) -> pl.DataFrame:
    """Whether a diagnosis of each group was known strictly before a moment.

    Args:
        records: whose events to read.
        predictions: `subject_id` and the column named by `before`.
        groups: `code` (event codes, unique) and one Boolean column a group, at least one.
        lookback: ignore diagnoses dated at or before that moment - lookback.
        before: column with the moment; not after the prediction time. A diagnosis that becomes
            available at this very moment does not count.

    Returns:
        One Int8 column a group, 0 or 1, in the order of `groups`.
    """
    rows = number_rows(predictions.with_columns(prediction_time=before))
    names = [name for name in groups.columns if name != "code"]
    # One line for each moment (in billing data: a discharge) says all that it made known.
    moments = (
        records.events()
        .select("subject_id", "time", "available_time", "code")
        .join(groups.filter(pl.any_horizontal(names)).lazy(), on="code")
        .group_by("subject_id", "time", "available_time")
        .agg(pl.col(names).any())
    )
    flags = (
        known_at(moments, rows, lookback)
        .filter(pl.col("available_time") < pl.col("prediction_time"))
        .group_by(ROW)
        .agg(pl.col(names).any())
    )
    return one_row_each(rows, flags, dict.fromkeys(names, pl.Int8), fill=0)
