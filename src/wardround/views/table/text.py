"""Flags for phrases in a short text."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from wardround.views.records import Records
from wardround.views.table.values import Measure, last_values


def text_flags(
    records: Records,
    predictions: pl.DataFrame,
    code: str,
    patterns: Mapping[str, str],
    *,
    this_stay: bool = False,
) -> pl.DataFrame:
    """Whether the last known text of `code` matches each pattern.

    Args:
        records: whose events to read; the text is their `text_value`.
        predictions: `subject_id`, `prediction_time`; with `this_stay` also `stay_id`.
        code: events to read.
        patterns: {name of the column: regular expression}, matched anywhere, in any case.
        this_stay: read only events that carry the prediction's own `stay_id`.

    Returns:
        One Int8 column a pattern, 0 or 1; 0 where there is no text, which mentions nothing.
    """
    measure = {"text": Measure(code, pl.col("text_value"))}
    text = last_values(records, predictions, measure, this_stay=this_stay, dtype=pl.String)
    return text.select(
        pl.col("text").str.contains(f"(?i){pattern}").fill_null(False).cast(pl.Int8).alias(name)
        for name, pattern in patterns.items()
    )
