"""The rule of what was known: by hand, and against a row-by-row reading of its definition."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.store import known_at, stays_known_at

T = datetime(2150, 3, 1, 12)
HOUR = timedelta(hours=1)


def events(*rows: tuple[int, datetime | None, datetime | None, str]) -> pl.LazyFrame:
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "available_time": pl.Datetime("us"),
        "code": pl.String,
    }
    return pl.LazyFrame(rows, schema=schema, orient="row")


def at(subject: int, t: datetime = T) -> pl.DataFrame:
    return pl.DataFrame(
        {"subject_id": [subject], "prediction_time": [t]},
        schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")},
    )


def test_a_lab_drawn_but_not_yet_filed_is_unknown():
    rows = events(
        (1, None, None, "static"),
        (1, T - HOUR, T - HOUR, "known"),
        (1, T, T, "at the prediction time"),
        (1, T - HOUR, T + HOUR, "drawn, not filed"),
        (1, T + HOUR, T + HOUR, "later"),
        (1, T + HOUR, T - HOUR, "dated later than it was filed"),
        (2, T - HOUR, T - HOUR, "someone else"),
    )
    seen = known_at(rows, at(1)).collect()["code"].to_list()
    assert sorted(seen) == ["at the prediction time", "known", "static"]


def test_lookback_is_open_at_its_far_end_and_keeps_static_rows():
    rows = events(
        (1, None, None, "static"),
        (1, T - 2 * HOUR, T - 2 * HOUR, "edge"),
        (1, T - 2 * HOUR + timedelta(microseconds=1), T, "inside"),
    )
    seen = known_at(rows, at(1), lookback=2 * HOUR).collect()["code"].to_list()
    assert sorted(seen) == ["inside", "static"]


def test_keys_travel_and_may_not_hide_event_columns():
    rows = events((1, T, T, "a"))
    keyed = known_at(rows, at(1).with_columns(visit=pl.lit(7))).collect()
    assert keyed["visit"].to_list() == [7]
    with pytest.raises(ValueError, match="code"):
        known_at(rows, at(1).with_columns(code=pl.lit("x")))


moments = st.integers(0, 20).map(lambda h: T + h * HOUR)


@given(
    rows=st.lists(st.tuples(st.integers(1, 3), moments, moments), max_size=25),
    asked=st.lists(st.tuples(st.integers(1, 4), moments), max_size=5, unique=True),
    lookback=st.none() | st.integers(1, 10).map(lambda h: h * HOUR),
)
def test_equals_the_definition_row_by_row(rows, asked, lookback):
    table = events(*[(s, a, b, str(i)) for i, (s, a, b) in enumerate(rows)])
    predictions = pl.DataFrame(
        asked,
        schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")},
        orient="row",
    )
    seen = known_at(table, predictions, lookback).collect()
    expected = sorted(
        (subject, t, str(i))
        for subject, t in asked
        for i, (s, time, available) in enumerate(rows)
        if s == subject
        and time <= t
        and available <= t
        and (lookback is None or time > t - lookback)
    )
    assert sorted(seen.select("subject_id", "prediction_time", "code").rows()) == expected


def test_the_id_of_a_stay_that_has_not_begun_is_unknown():
    """An order in the ED that bears the admission's id would tell who is going to be admitted."""
    rows = pl.LazyFrame(
        [
            (1, T - HOUR, T - HOUR, "order for the ward", 20, 30),
            (1, T - 9 * HOUR, T - 9 * HOUR, "of an admission that has begun", 21, None),
            (1, T - HOUR, T - HOUR, "charted before the ICU admits", 21, 99),
            (1, T - HOUR, T - HOUR, "of an admission that nobody knows", 55, None),
        ],
        schema={
            "subject_id": pl.Int64,
            "time": pl.Datetime("us"),
            "available_time": pl.Datetime("us"),
            "code": pl.String,
            "hadm_id": pl.Int64,
            "stay_id": pl.Int64,
        },
        orient="row",
    )
    stays = pl.LazyFrame(
        [
            (1, 20, "hospital", T + HOUR),
            (1, 21, "hospital", T - 9 * HOUR),
            (1, 30, "ed", T),
            (1, 99, "icu", T + HOUR),
        ],
        schema={
            "subject_id": pl.Int64,
            "stay_id": pl.Int64,
            "kind": pl.String,
            "start": pl.Datetime("us"),
        },
        orient="row",
    )
    seen = known_at(rows, at(1), stays=stays).collect()
    assert {row["code"]: (row["hadm_id"], row["stay_id"]) for row in seen.to_dicts()} == {
        "order for the ward": (None, 30),
        "of an admission that has begun": (21, None),
        "charted before the ICU admits": (21, None),
        "of an admission that nobody knows": (None, None),
    }
    later = known_at(rows, at(1, T + HOUR), stays=stays).collect()
    assert later["hadm_id"].drop_nulls().sort().to_list() == [20, 21, 21]
    with pytest.raises(ValueError, match="beside `stays`"):
        known_at(rows, at(1))


def test_what_was_never_filed_is_never_known():
    rows = events((1, T - HOUR, None, "never filed"), (1, None, None, "static"))
    assert known_at(rows, at(1)).collect()["code"].to_list() == ["static"]


def test_a_store_reads_the_columns_that_it_is_asked_for(make_store):
    rows = [
        {"subject_id": 1, "time": T - HOUR, "code": "A", "numeric_value": 2.0, "hadm_id": 20},
        {"subject_id": 1, "time": T - 3 * HOUR, "code": "B", "hadm_id": 20},
    ]
    stays = [{"subject_id": 1, "stay_id": 20, "kind": "hospital", "start": T + HOUR}]
    store = make_store(rows, stays)
    seen = store.known_at(at(1), lookback=2 * HOUR, columns=["code", "hadm_id"]).collect()
    assert seen.columns == [
        *("subject_id", "prediction_time", "time", "available_time", "code", "hadm_id")
    ]
    assert seen.select("code", "hadm_id").rows() == [("A", None)]
    whole = store.known_at(at(1), codes=pl.col("code") == "B").collect()
    assert whole["code"].to_list() == ["B"] and whole["hadm_id"].to_list() == [None]


def test_a_stay_going_on_shows_no_end_and_an_ed_stay_no_admission():
    schema = {
        "subject_id": pl.Int64,
        "stay_id": pl.Int64,
        "kind": pl.String,
        "start": pl.Datetime("us"),
        "end": pl.Datetime("us"),
        "hadm_id": pl.Int64,
        "parent_id": pl.Int64,
        "unit": pl.String,
        "outcome": pl.String,
        "died": pl.Boolean,
        "death_time": pl.Datetime("us"),
    }
    stays = pl.LazyFrame(
        [
            (1, 30, "ed", T - HOUR, T + HOUR, 20, 20, "WALK IN", "ADMITTED", False, None),
            (1, 31, "ed", T - 9 * HOUR, T - 8 * HOUR, 21, 21, "WALK IN", "ADMITTED", False, None),
            (1, 20, "hospital", T - HOUR, None, 20, None, "URGENT", "DIED", True, T + HOUR),
            (1, 99, "icu", T + HOUR, T + 2 * HOUR, 20, 20, "MICU", "MICU", False, None),
        ],
        schema=schema,
        orient="row",
    )
    keys = at(1).with_columns(stay_id=pl.lit(30, pl.Int64))
    seen = {row["stay_id_stay"]: row for row in stays_known_at(stays, keys).collect().to_dicts()}
    assert set(seen) == {30, 31, 20}, "the ICU stay has not begun"
    assert all(row["stay_id"] == 30 for row in seen.values()), "the key travels"
    hidden = ("end", "outcome", "died", "hadm_id", "parent_id")
    assert [seen[30][c] for c in hidden] == [None] * 5
    assert seen[31]["hadm_id"] == 21 and seen[31]["outcome"] == "ADMITTED"
    assert [seen[20][c] for c in ("end", "outcome", "died", "death_time")] == [None] * 4
    assert seen[20]["hadm_id"] == 20, "a hospital stay knows its own id"
