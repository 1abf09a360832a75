"""The last vital signs before a prediction, by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from wardround.errors import WardroundError
from wardround.models import CLINICAL_SCORES
from wardround.store import PatientStore
from wardround.views.table import windows
from wardround.views.table.warning import INPUTS, warning_inputs

T = datetime(2150, 6, 1, 12)
StoreMaker = Callable[..., PatientStore]
HEART, RATE, RASS = "LAB//220045//bpm", "LAB//220210//insp/min", "LAB//228096//UNK"
DEVICE, FLOW, FIO2 = "LAB//226732//UNK", "LAB//223834//L/min", "LAB//223835//UNK"


def chart(
    code: str,
    hours_ago: float,
    value: float | None = None,
    text: str | None = None,
    filed_hours_ago: float | None = None,
    subject: int = 1,
) -> dict[str, object]:
    filed = hours_ago if filed_hours_ago is None else filed_hours_ago
    return {
        "subject_id": subject,
        "time": T - timedelta(hours=hours_ago),
        "available_time": T - timedelta(hours=filed),
        "code": code,
        "numeric_value": value,
        "text_value": text,
    }


def at(t: datetime = T, subject: int = 1) -> pl.DataFrame:
    frame = pl.DataFrame({"subject_id": [subject], "prediction_time": [t]})
    return frame.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))


@pytest.fixture
def last(make_store: StoreMaker) -> Callable[..., dict[str, Any]]:
    def read(*events: dict[str, object], t: datetime = T, **options: Any) -> dict[str, Any]:
        return warning_inputs(make_store(list(events)), at(t), **options).row(0, named=True)

    return read


Last = Callable[..., dict[str, Any]]


def test_the_last_value_and_its_age(last: Last) -> None:
    row = last(
        chart("ED//TRIAGE//HEARTRATE", 9, 130.0),
        chart(HEART, 3, 110.0),
        chart(HEART, 1.5, 90.0),
        chart("ED//VITALSIGN//SBP", 7, 120.0),
        chart("LAB//220179//mmHg", 8, 99.0),
        chart("LAB//220051//mmHg", 2, 55.0),
        chart("LAB//220277//%", 1, 93.0),
        chart("LAB//224690//insp/min", 1, 28.0),
    )
    assert (row["heartrate"], row["heartrate_hours"]) == (90, 1.5)
    assert (row["sbp"], row["sbp_hours"]) == (120, 7)
    assert (row["dbp"], row["o2sat"], row["resprate"]) == (55, 93, 28)
    assert row["temperature"] is None
    assert row["temperature_hours"] is None


def test_temperatures_of_both_scales_and_impossible_values(last: Last) -> None:
    assert last(chart("LAB//223761//°F", 1, 100.4))["temperature"] == pytest.approx(38, abs=1e-4)
    assert last(chart("LAB//223762//°C", 1, 38.5))["temperature"] == pytest.approx(38.5, abs=1e-4)
    # An error does not hide the value before it.
    row = last(chart(HEART, 2, 80.0), chart(HEART, 1, 9000.0))
    assert (row["heartrate"], row["heartrate_hours"]) == (80, 2)


def test_what_is_old_late_or_to_come_is_not_read(last: Last) -> None:
    late = chart(HEART, 1, 99.0, filed_hours_ago=-0.5)
    assert last(chart(HEART, 24, 70.0), late, chart(HEART, -1, 50.0))["heartrate"] is None
    assert last(chart(HEART, 23.9, 70.0), late)["heartrate"] == 70
    assert last(chart(HEART, 24, 70.0), lookback=timedelta(days=2))["heartrate"] == 70
    assert last(late, t=T + timedelta(hours=0.5))["heartrate"] == 99


def coma(hours: float, eyes: float, verbal: float, motor: float, text: str | None = None) -> Any:
    return [
        chart("LAB//220739//UNK", hours, eyes),
        chart("LAB//223900//UNK", hours, verbal, text),
        chart("LAB//223901//UNK", hours, motor),
    ]


@pytest.mark.parametrize(
    ("parts", "gcs", "level"),
    [
        ((4, 5, 6), 15, 0),
        ((4, 4, 6), 14, 1),
        ((3, 4, 6), 13, 2),
        ((3, 3, 5), 11, 2),
        ((2, 3, 5), 10, 3),
        ((1, 2, 4), 7, 3),
        ((1, 1, 4), 6, 4),
        ((1, 1, 1), 3, 4),
    ],
)
def test_coma_scale_as_a_level(
    last: Last, parts: tuple[float, float, float], gcs: float, level: float
) -> None:
    row = last(*coma(2, *parts))
    assert (row["gcs"], row["gcs_hours"], row["acvpu"]) == (gcs, 2, level)


def test_coma_scale_needs_three_parts_and_no_tube(last: Last) -> None:
    assert last(*coma(2, 4, 5, 6)[:2])["gcs"] is None
    assert last(*coma(2, 1, 1, 4, "No Response-ETT"))["gcs"] is None
    # Known when the last part is.
    parts = [*coma(2, 4, 5, 6)[:2], chart("LAB//223901//UNK", 2, 6.0, filed_hours_ago=-1)]
    assert last(*parts)["gcs"] is None
    assert last(*parts, t=T + timedelta(hours=1))["gcs"] == 15


@pytest.mark.parametrize(
    ("event", "level"),
    [
        *(((RASS, 1, -5.0 + step), level) for step, level in enumerate("4322200111")),
        ((RASS, 1, None, "-2 Light sedation"), 2),
        ((RASS, 1, None, "+2"), 1),
        (("LAB//226104//UNK", 1, None, "Alert"), 0),
        (("LAB//226104//UNK", 1, None, "Arouse to Voice"), 2),
        (("LAB//226104//UNK", 1, None, "Arouse to Pain"), 3),
        (("LAB//226104//UNK", 1, None, "Unresponsive"), 4),
        (("LAB//226104//UNK", 1, None, "___"), None),
    ],
)
def test_other_words_for_consciousness(last: Last, event: Any, level: Any) -> None:
    assert last(chart(*event))["acvpu"] == (None if level is None else float(level))


def test_the_latest_of_all_that_tells_consciousness_counts(last: Last) -> None:
    row = last(*coma(3, 4, 5, 6), chart(RASS, 1, -4.0))
    assert (row["gcs"], row["acvpu"], row["acvpu_hours"]) == (15, 3, 1)


@pytest.mark.parametrize(
    ("events", "given"),
    [
        ([(DEVICE, 1, None, "Nasal cannula")], 1),
        ([(DEVICE, 1, None, "None")], 0),
        ([(DEVICE, 1, None, None)], None),
        ([(FLOW, 1, 2.0)], 1),
        ([(FLOW, 1, 0.0)], 0),
        ([(FIO2, 1, 0.4)], 1),
        ([(FIO2, 1, 40.0)], 1),
        ([(FIO2, 1, 21.0)], 0),
        ([(FIO2, 1, 0.21)], 0),
        ([(FIO2, 1, 5.0)], None),
        ([(FLOW, 3, 2.0), (DEVICE, 1, None, "None")], 0),
        ([(FLOW, 1, 2.0), (DEVICE, 1, None, "None")], 1),
    ],
)
def test_oxygen(last: Last, events: list[Any], given: float | None) -> None:
    assert last(*(chart(*event) for event in events))["oxygen"] == given


def test_rows_keys_and_types(make_store: StoreMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [chart(HEART, 1, 60.0 + s, subject=s) for s in (1, 2, 3)]
    events.append(chart("MEDS_BIRTH", 24 * 365 * 50, subject=2))
    index = pl.concat([at(subject=s) for s in (3, 9, 2, 3)]).with_columns(stay_id=pl.lit(7))
    store = make_store(events, shards=2)
    table = warning_inputs(store, index)
    assert table.columns == [*index.columns, "age", *INPUTS, *(f"{n}_hours" for n in INPUTS)]
    assert table["heartrate"].to_list() == [63, None, 62, 63]
    assert table["age"].to_list() == [None, None, 50, None]
    assert set(table.select(INPUTS).dtypes) == {pl.Float32}
    monkeypatch.setattr(windows, "PAIRS", 1)
    assert warning_inputs(store, index).equals(table)
    assert warning_inputs(store, index.clear()).height == 0


def test_wrong_arguments_are_named(make_store: StoreMaker) -> None:
    store = make_store([chart(HEART, 1, 60.0)])
    with pytest.raises(WardroundError, match="prediction_time"):
        warning_inputs(store, at().drop("prediction_time"))
    with pytest.raises(WardroundError, match="longer than nothing"):
        warning_inputs(store, at(), lookback=timedelta(0))


def test_the_scores_read_the_table(last: Last) -> None:
    row = last(
        chart(HEART, 1, 115.0),
        chart(RATE, 1, 22.0),
        chart("LAB//220277//%", 1, 93.0),
        chart("LAB//220179//mmHg", 1, 105.0),
        chart("LAB//223761//°F", 1, 101.3),
        chart(FLOW, 1, 2.0),
        *coma(1, 4, 4, 6),
    )
    columns = {name: np.array([value], float) for name, value in row.items() if name in INPUTS}
    assert CLINICAL_SCORES["news2"].points(columns).tolist() == [13]


def test_the_future_changes_nothing(demo: PatientStore, make_store: StoreMaker) -> None:
    stays = demo.stays().filter(pl.col("kind") == "icu").collect().unique("subject_id")
    index = stays.sort("subject_id").select(
        "subject_id", prediction_time=pl.col("start") + timedelta(hours=10)
    )
    known = (pl.col("time") <= pl.col("prediction_time")) & (
        pl.col("available_time") <= pl.col("prediction_time")
    )
    events = demo.events().join(index.lazy(), on="subject_id").filter(known)
    cut = make_store(events.drop("prediction_time").collect())
    table = warning_inputs(demo, index)
    assert table["heartrate"].is_not_null().mean() > 0.9
    assert table["acvpu"].is_not_null().mean() > 0.5
    assert warning_inputs(cut, index).equals(table)
