"""What was known at a time. Every feature of every system reads through this file."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

#: Columns of events that name a stay, and the kinds of stay that they name.
STAY_IDS = {"hadm_id": ["hospital"], "stay_id": ["ed", "icu"]}
#: Details of a note that are added to it later: which addendum it got, and what it was billed as.
LATER_DETAILS = ("addendum_note_id", "cpt_code")


def known_at(
    events: pl.LazyFrame,
    predictions: pl.LazyFrame | pl.DataFrame,
    lookback: timedelta | None = None,
    stays: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """Join each prediction with its subject's events that were known by then.

    A row is known at `t` when it happened by `t` (`time <= t`) and could be read by `t`
    (`available_time <= t`): a lab that was drawn but not yet filed, or a diagnosis that is coded
    at discharge, is not; one that was never filed (no `available_time`) never is. Static facts are
    always known. As in MEDS, `t` itself is included.

    Ids of stays are facts, too. A source writes the admission's id on all that happened on the way
    into it, so that an order in the emergency department would tell who is going to be admitted:
    `hadm_id` and `stay_id` are null where their stay begins after `t`.

    Args:
        events: rows of a store (`EVENT_SCHEMA`, or fewer columns, with the two times).
        predictions: `subject_id`, `prediction_time`, and any key columns, which are kept.
        lookback: keep dated events after `t - lookback` only.
        stays: `STAY_SCHEMA`; needed where the events have `hadm_id` or `stay_id`.

    Returns:
        One row for each (prediction, known event). A prediction without any has no row.
    """
    keys = predictions.lazy()
    clashes = set(keys.collect_schema().names()) & set(events.collect_schema().names())
    if clashes != {"subject_id"}:
        shared = sorted(clashes - {"subject_id"})
        raise ValueError(
            f"predictions and events share columns {shared}: select fewer event columns or "
            "rename the keys"
        )
    joined = keys.join(events, on="subject_id", how="inner")
    t = pl.col("prediction_time")
    known = (pl.col("time") <= t) & (pl.col("available_time") <= t)
    if lookback is not None:
        known &= pl.col("time") > t - lookback
    seen = joined.filter(pl.col("time").is_null() | known)
    for name in STAY_IDS.keys() & set(events.collect_schema()):
        if stays is None:
            raise ValueError(f"events that have {name} are read beside `stays`")
        begun = (
            stays.filter(pl.col("kind").is_in(STAY_IDS[name]))
            .select("subject_id", pl.col("stay_id").alias(name), begins="start")
            .unique(["subject_id", name])
        )
        seen = (
            seen.join(begun, on=["subject_id", name], how="left")
            .with_columns(pl.when(pl.col("begins") <= t).then(name).alias(name))
            .drop("begins")
        )
    return seen


def notes_known_at(
    notes: pl.LazyFrame,
    predictions: pl.LazyFrame | pl.DataFrame,
    lookback: timedelta | None = None,
    stays: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """Join each prediction with its subject's notes that could be read by then.

    The rule is that of `known_at`. A radiology report from the emergency department that bears
    the admission's id shows it once the admission has begun. Details that a note gets after it
    was written (`LATER_DETAILS`) are left out.

    Args:
        notes: rows of a store (`NOTE_SCHEMA`, or fewer columns, with the two times).
        predictions: `subject_id`, `prediction_time`, and any key columns, which are kept.
        lookback: keep notes charted after `t - lookback` only.
        stays: `STAY_SCHEMA`; needed where the notes have `hadm_id`.

    Returns:
        One row for each (prediction, known note). A prediction without any has no row.
    """
    if "details" in notes.collect_schema().names():
        later = pl.element().struct.field("name").is_in(LATER_DETAILS).fill_null(False)
        notes = notes.with_columns(pl.col("details").list.filter(~later))
    return known_at(notes, predictions, lookback, stays)


def stays_known_at(stays: pl.LazyFrame, predictions: pl.LazyFrame | pl.DataFrame) -> pl.LazyFrame:
    """Join each prediction with its subject's stays that had begun by then.

    Of a stay that was still going on at the prediction time, everything decided later is null:
    its end, outcome and death, and for an ED stay the admission that it led to.

    Args:
        stays: `STAY_SCHEMA`.
        predictions: `subject_id`, `prediction_time`, and any key columns, which are kept; a key
            column that shares a name with a stay's column leaves the stay's as `<name>_stay`.

    Returns:
        One row for each (prediction, known stay).
    """
    t = pl.col("prediction_time")
    going_on = pl.col("end").is_null() | (pl.col("end") > t)
    is_ed = pl.col("kind") == "ed"

    def hide(column: str, when: pl.Expr) -> pl.Expr:
        return pl.when(~when).then(pl.col(column)).alias(column)

    keys = predictions.lazy()
    clash = set(keys.collect_schema().names()) - {"subject_id"}
    rename = {c: f"{c}_stay" for c in stays.collect_schema().names() if c in clash}
    known = (
        stays.join(keys.select("subject_id", "prediction_time").unique(), on="subject_id")
        .filter(pl.col("start") <= t)
        .with_columns(
            hide("outcome", going_on),
            hide("died", going_on),
            hide("death_time", going_on | (pl.col("death_time") > t)),
            hide("hadm_id", going_on & is_ed),
            hide("parent_id", going_on & is_ed),
            hide("end", going_on),
        )
        .rename(rename)
    )
    return keys.join(known, on=["subject_id", "prediction_time"], how="inner")
