"""Age and gender."""

from __future__ import annotations

import polars as pl

from wardround.store import known_at
from wardround.views.records import ROW, Records, code_in, number_rows, one_row_each

BIRTH = "MEDS_BIRTH"
#: The benchmark's coding: labels in alphabetical order.
GENDERS = {"GENDER//F": 0, "GENDER//M": 1}


def age(
    records: Records, predictions: pl.DataFrame, anchor: str = "prediction_time"
) -> pl.DataFrame:
    """Age as year of the anchor less year of birth.

    De-identification leaves only the year of birth true in MIMIC, so a finer age would be made
    up.

    Args:
        records: whose events to read.
        predictions: `subject_id`, `prediction_time`, and the anchor.
        anchor: column with the moment to count to, not after the prediction time.

    Returns:
        `age`: Int32, years; null without a birth event.
    """
    rows = number_rows(predictions, {"anchor": anchor})
    births = records.events().filter(pl.col("code") == BIRTH)
    births = births.select("subject_id", "time", "available_time")
    years = pl.col("anchor").dt.year() - pl.col("time").min().dt.year()
    ages = known_at(births, rows).group_by(ROW).agg(years.first().alias("age"))
    return one_row_each(rows, ages, {"age": pl.Int32})


def gender(records: Records, predictions: pl.DataFrame) -> pl.DataFrame:
    """Administrative gender.

    Returns:
        `gender`: Int8, 0 for female and 1 for male as in the benchmark; null where unknown or
        contradictory.
    """
    rows = number_rows(predictions)
    facts = records.events().filter(code_in(list(GENDERS)))
    facts = facts.select("subject_id", "time", "available_time", "code")
    coded = pl.col("code").replace_strict(GENDERS, return_dtype=pl.Int8)
    known = (
        known_at(facts, rows).group_by(ROW).agg(coded.min().alias("low"), coded.max().alias("high"))
    )
    genders = known.filter(pl.col("low") == pl.col("high")).select(
        ROW, pl.col("low").alias("gender")
    )
    return one_row_each(rows, genders, {"gender": pl.Int8})
