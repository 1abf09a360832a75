"""The ED triage table on stores written by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from wardround.errors import WardroundError
from wardround.views.table import (
    FEATURES,
    Measure,
    history_table,
    last_values,
    stay_counts,
    triage_table,
)

T = "2150-06-15 12:00:00"


def only(table: pl.DataFrame) -> dict[str, Any]:
    assert len(table) == 1
    return table.row(0, named=True)


@pytest.fixture
def visit(new_builder: Callable[[], Any]) -> Any:
    """A store builder with one six-hour visit of subject 1."""
    builder = new_builder()
    builder.event(1, None, "GENDER//M")
    builder.event(1, "2100-01-01", "MEDS_BIRTH")
    builder.stay(1, 10, T, "2150-06-15 18:00:00")
    return builder


def test_columns_are_those_of_the_paper(visit: Any) -> None:
    store = visit.write()
    assert len(FEATURES["triage"]) == 64
    assert len(FEATURES["disposition"]) == 67
    for feature_set, moment in (("triage", "start"), ("disposition", "end")):
        index = visit.index(at=moment)
        table = triage_table(store, index, feature_set)
        assert table.columns == [*index.columns, *FEATURES[feature_set]]
        floats = {c for c, t in table.schema.items() if t == pl.Float32}
        vital = {c for c in table.columns if c.startswith("triage_") or c.endswith("_last")}
        assert floats == vital | ({"ed_los"} & set(table.columns))


def test_store_without_ed_tables_gives_nulls_and_zeros(visit: Any) -> None:
    row = only(triage_table(visit.write(), visit.index(at="end"), "disposition"))
    assert (row["age"], row["gender"], row["ed_los"]) == (50, 1, 360.0)
    for name in FEATURES["disposition"]:
        if name.startswith("triage_") or name.endswith("_last"):
            assert row[name] is None
        elif name not in ("age", "gender", "ed_los"):
            assert row[name] == 0


def test_subject_without_any_event_still_has_a_row(visit: Any) -> None:
    visit.stay(3, 30, "2150-01-01", "2150-01-02")
    visit.stay(3, 31, "2150-01-03", "2150-01-04")
    table = triage_table(visit.write(), visit.index(31, 10))
    assert table["stay_id"].to_list() == [31, 10]
    assert table["n_ed_30d"].to_list() == [1, 0]
    assert table["age"].to_list() == [None, 50]


def test_age_is_that_at_arrival_and_contradictory_gender_is_missing(
    new_builder: Callable[[], Any],
) -> None:
    b = new_builder()
    for subject, genders in ((1, "F"), (2, "FM"), (3, "M")):
        for gender in genders:
            b.event(subject, None, f"GENDER//{gender}")
        b.event(subject, "2100-01-01", "MEDS_BIRTH")
        b.stay(subject, subject, "2129-12-31 23:00:00", "2130-01-01 01:00:00")
    store = b.write()
    assert triage_table(store, b.index())["age"].to_list() == [29, 29, 29]
    after_midnight = triage_table(store, b.index(at="end"), "disposition")
    assert after_midnight["age"].to_list() == [29, 29, 29]
    assert after_midnight["gender"].to_list() == [0, None, 1]


def test_triage_values_are_those_of_this_visit_converted_and_cleaned(visit: Any) -> None:
    visit.stay(1, 9, "2150-06-15 01:00:00", "2150-06-15 02:00:00")
    raw = {
        "TEMPERATURE": 101.3,
        "HEARTRATE": 9999,
        "RESPRATE": 18,
        "O2SAT": 120,
        "SBP": 141,
        "DBP": 88,
        "ACUITY": 2,
    }
    for name, value in raw.items():
        visit.event(1, T, f"ED//TRIAGE//{name}", numeric_value=value, stay_id=10)
        visit.event(1, "2150-06-15 01:00:00", f"ED//TRIAGE//{name}", numeric_value=3, stay_id=9)
    visit.event(1, T, "ED//TRIAGE//PAIN", text_value="8-9", stay_id=10)
    row = only(triage_table(visit.write(), visit.index(10)))
    assert row["triage_temperature"] == pytest.approx(38.5, abs=1e-4)
    assert row["triage_heartrate"] is None
    assert (row["triage_resprate"], row["triage_o2sat"]) == (18, 100)
    assert (row["triage_sbp"], row["triage_dbp"], row["triage_acuity"]) == (141, 88, 2)
    assert row["triage_pain"] == 8.5


def test_plain_pain_number_without_text(visit: Any) -> None:
    visit.event(1, T, "ED//TRIAGE//PAIN", numeric_value=4, stay_id=10)
    assert only(triage_table(visit.write(), visit.index()))["triage_pain"] == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CHEST PAIN, Dizziness", {"chest_pain", "dizziness"}),
        ("Abd pain, N/V", {"abdominal_pain"}),
        ("Abdominal pain, Nausea", {"abdominal_pain", "nausea_vomiting"}),
        ("Lightheaded", {"headache"}),
        ("shortness of BREATH", {"shortness_of_breath"}),
        ("Lower back pain, cough", {"back_pain", "cough"}),
        ("Chills, Syncope", {"fever_chills", "syncope"}),
        ("s/p Fall", set()),
        (None, set()),
    ],
)
def test_chief_complaints(visit: Any, text: str | None, expected: set[str]) -> None:
    visit.event(1, T, "ED//TRIAGE//CHIEFCOMPLAINT", text_value=text, stay_id=10)
    row = only(triage_table(visit.write(), visit.index()))
    found = {name for name, value in row.items() if name.startswith("chiefcom_") and value}
    assert found == {f"chiefcom_{name}" for name in expected}


def test_windows_of_the_history_counts(visit: Any) -> None:
    now = pl.Series([T]).str.to_datetime().item()
    starts = {
        "same moment": timedelta(0),
        "a second": timedelta(seconds=1),
        "exactly 30": timedelta(days=30),
        "just over 30": timedelta(days=30, seconds=1),
        "exactly 365": timedelta(days=365),
        "over 365": timedelta(days=365, seconds=1),
        "future": timedelta(days=-1),
    }
    for number, ago in enumerate(starts.values()):
        for kind in ("ed", "hospital", "icu"):
            visit.stay(1, 100 + number, now - ago, now - min(ago, timedelta(seconds=1)), kind)
            # One that still goes on, like the admission that this visit may belong to.
            visit.stay(1, 200 + number, now - ago, now + timedelta(days=9), kind)
    row = only(triage_table(visit.write(), visit.index(10)))
    published = only(triage_table(visit.write(), visit.index(10), paper_compat=True))
    for kind in ("ed", "hosp", "icu"):
        assert [row[f"n_{kind}_{d}d"] for d in (30, 90, 365)] == [2, 3, 4]
        assert [published[f"n_{kind}_{d}d"] for d in (30, 90, 365)] == [4, 6, 8]


def test_disposition_counts_look_back_from_the_start_of_the_visit(visit: Any) -> None:
    visit.stay(1, 20, "2150-06-15 17:59:00", None, "hospital")  # begins during the visit
    visit.stay(1, 21, "2150-05-16 15:00:00", "2150-05-17", "hospital")  # 29 d 21 h before
    visit.stay(1, 22, "2150-05-16 11:00:00", "2150-05-17", "hospital")  # 30 d 1 h before
    row = only(triage_table(visit.write(), visit.index(at="end"), "disposition"))
    assert (row["n_hosp_30d"], row["n_hosp_90d"]) == (1, 2)


def test_counts_equal_brute_force_on_a_thousand_visits(new_builder: Callable[[], Any]) -> None:
    rng = np.random.default_rng(7)
    b = new_builder()
    origin = pl.Series(["2150-01-01"]).str.to_datetime().item()
    for stay_id in range(1500):
        subject = int(rng.integers(1, 120))
        start = origin + timedelta(hours=int(rng.integers(0, 24 * 500)))  # ties happen
        kind = "ed" if stay_id < 1000 else ("hospital", "icu")[stay_id % 2]
        b.stay(subject, stay_id, start, start + timedelta(hours=int(rng.integers(1, 99))), kind)
        b.event(subject, start, "ED_REGISTRATION")
    index = b.index().sample(fraction=1, shuffle=True, seed=3)
    table = triage_table(b.write(), index)
    assert table.select(index.columns).equals(index)
    for row in table.iter_rows(named=True):
        for kind, short in (("ed", "ed"), ("hospital", "hosp"), ("icu", "icu")):
            for days in (30, 90, 365):
                expected = sum(
                    s["subject_id"] == row["subject_id"]
                    and s["kind"] == kind
                    and timedelta(0) < row["prediction_time"] - s["start"] <= timedelta(days=days)
                    and s["end"] <= row["prediction_time"]
                    for s in b.stays
                )
                assert row[f"n_{short}_{days}d"] == expected


def diagnose(builder: Any, discharge: str, *codes: str, **values: Any) -> None:
    for code in codes:
        builder.event(1, discharge, f"DIAGNOSIS//ICD//{code}", **values)


def flags(table: pl.DataFrame) -> set[str]:
    row = only(table)
    return {name for name, value in row.items() if name[:4] in ("cci_", "eci_") and value}


def test_comorbidities_of_mixed_icd_versions(visit: Any) -> None:
    diagnose(visit, "2149-01-05", "9//4280", "10//I2510", "9//3051", "10//E119")
    diagnose(visit, "2150-06-15 12:00:00", "10//C787")  # coded at this very moment
    diagnose(visit, "2150-06-16", "10//B20")  # and later
    visit.event(1, T, "ED//DIAGNOSIS//ICD//10//G309", stay_id=10)  # an ED visit's own
    visit.event(2, "2149-01-05", "DIAGNOSIS//ICD//10//F03")  # somebody else's
    visit.stay(2, 11, "2149-01-01", "2149-01-02")
    visit.event(1, "2149-01-05", "DIAGNOSIS//ICD//10//E6601")
    found = flags(triage_table(visit.write(), visit.index(10)))
    assert found == {"cci_CHF", "cci_DM1", "eci_Obesity"}


def test_a_diagnosis_known_later_than_its_date_is_not_used(visit: Any) -> None:
    diagnose(visit, "2150-06-01", "10//I509", available_time="2150-06-20")
    assert flags(triage_table(visit.write(), visit.index())) == set()


def test_lookback_of_comorbidities(visit: Any) -> None:
    now = pl.Series([T]).str.to_datetime().item()
    for code, days in (("10//I509", 1824), ("10//I10", 1825), ("10//J449", 1779)):
        moment = now - timedelta(days=days)
        visit.event(1, moment, f"DIAGNOSIS//ICD//{code}")
    store = visit.write()
    index = visit.index()
    assert flags(triage_table(store, index)) == {"cci_CHF", "cci_Pulmonary"}
    assert flags(triage_table(store, index, lookback_days=1826)) == {
        "cci_CHF",
        "cci_Pulmonary",
        "eci_HTN1",
    }
    assert flags(triage_table(store, index, paper_compat=True)) == {"cci_Pulmonary"}


def test_disposition_ignores_diagnoses_coded_during_the_visit(visit: Any) -> None:
    diagnose(visit, "2150-06-15 15:00:00", "10//I509")
    assert flags(triage_table(visit.write(), visit.index(at="end"), "disposition")) == set()


def test_last_vitals_medicines_and_length_of_stay(visit: Any) -> None:
    for time, value in (("14:00", 90), ("16:00", 110), ("17:00", None), ("19:00", 150)):
        visit.event(
            1, f"2150-06-15 {time}", "ED//VITALSIGN//HEARTRATE", numeric_value=value, stay_id=10
        )
    visit.event(1, "2150-06-15 17:30", "ED//VITALSIGN//TEMPERATURE", numeric_value=37.0, stay_id=10)
    visit.event(1, "2150-06-15 13:00", "ED//VITALSIGN//TEMPERATURE", numeric_value=98.6, stay_id=10)
    for tie in (120, 125, 118):
        visit.event(1, "2150-06-15 16:30", "ED//VITALSIGN//SBP", numeric_value=tie, stay_id=10)
    for name, gsn, time in (
        ("Aspirin", "001", "13:00"),
        ("ASA", "001", "14:00"),  # the same gsn under another name
        ("Saline", None, "14:00"),
        ("Saline", "", "15:00"),
        ("Morphine", "002", "18:00"),  # at the prediction time
        ("Zofran", "003", "18:01"),  # after it
    ):
        for table in ("PYXIS", "MEDRECON"):
            visit.event(1, f"2150-06-15 {time}", f"ED//{table}//{name}", text_value=gsn, stay_id=10)
    store, index = visit.write(), visit.index(at="end")
    row = only(triage_table(store, index, "disposition"))
    assert row["ed_heartrate_last"] == 110
    assert row["ed_temperature_last"] is None  # the last one was charted in Celsius
    assert row["ed_sbp_last"] == 125
    assert (row["n_med"], row["n_medrecon"], row["ed_los"]) == (3, 3, 360)
    paper = only(triage_table(store, index, "disposition", paper_compat=True))
    assert (paper["n_med"], paper["n_medrecon"]) == (3, 2)


def test_length_of_stay_over_a_day_wraps_only_for_the_paper(
    new_builder: Callable[[], Any],
) -> None:
    b = new_builder()
    b.event(1, None, "GENDER//F")
    b.stay(1, 1, "2150-01-01 10:00", "2150-01-02 11:30")
    store, index = b.write(), b.index(at="end")
    assert only(triage_table(store, index, "disposition"))["ed_los"] == 25.5 * 60
    assert only(triage_table(store, index, "disposition", paper_compat=True))["ed_los"] == 90


def test_two_visits_of_one_admission_and_of_one_moment_keep_apart(
    new_builder: Callable[[], Any],
) -> None:
    b = new_builder()
    for stay_id, start, sbp in ((1, "10:00", 100), (2, "10:00", 200), (3, "11:00", 300)):
        b.stay(5, stay_id, f"2150-01-01 {start}", "2150-01-01 11:00", hadm_id=77, parent_id=77)
        b.event(5, f"2150-01-01 {start}", "ED//TRIAGE//SBP", numeric_value=sbp, stay_id=stay_id)
    table = triage_table(b.write(), b.index(3, 2, 1))
    assert table["triage_sbp"].to_list() == [300, 200, 100]
    assert table["n_ed_30d"].to_list() == [2, 0, 0]


def test_rows_come_back_in_order_with_their_keys(new_builder: Callable[[], Any]) -> None:
    b = new_builder()
    for subject in range(1, 30):
        start = f"2150-01-{subject:02d}"
        b.stay(subject, subject, start, None)
        b.event(subject, start, "ED//TRIAGE//SBP", numeric_value=100 + subject, stay_id=subject)
    index = b.index().sample(fraction=1, shuffle=True, seed=1)
    index = pl.concat([index, index.head(3)]).with_columns(note=pl.lit("kept"))
    table = triage_table(b.write(), index)
    assert table.select(index.columns).equals(index)
    assert (table["triage_sbp"] == 100 + table["stay_id"]).all()


def test_no_predictions_give_an_empty_table(visit: Any) -> None:
    for feature_set, names in FEATURES.items():
        table = triage_table(visit.write(), visit.index().clear(), feature_set)
        assert table.shape == (0, 3 + len(names))


def test_errors_say_what_to_do(visit: Any) -> None:
    store, index = visit.write(), visit.index()
    with pytest.raises(WardroundError, match="lack the columns stay_id"):
        triage_table(store, index.drop("stay_id"))
    with pytest.raises(WardroundError, match=r"unknown feature set 'arrival'.*triage, disposition"):
        triage_table(store, index, "arrival")
    with pytest.raises(WardroundError, match="stay_id 99 of subject 1"):
        triage_table(store, index.with_columns(stay_id=pl.lit(99, pl.Int64)))
    early = index.with_columns(pl.col("prediction_time") - timedelta(minutes=1))
    with pytest.raises(WardroundError, match="1 of 1 predictions have no ed stay"):
        triage_table(store, early)
    with pytest.raises(WardroundError, match="already has columns of the table: age"):
        triage_table(store, index.with_columns(age=1))


def test_a_block_counts_from_the_prediction_time_unless_told(visit: Any) -> None:
    visit.stay(1, 20, "2150-06-15 16:00:00", "2150-06-15 17:00:00", "hospital")
    visit.stay(1, 21, "2150-06-15 17:30:00", None, "hospital")
    store, index = visit.write(), visit.index(at="end")
    counts = stay_counts(store, index, kinds=["hospital"], days=[1])
    assert counts.to_dicts() == [{"n_hosp_1d": 1}]
    begun = stay_counts(store, index, kinds=["hospital"], days=[1], going_on=True)
    assert begun.to_dicts() == [{"n_hosp_1d": 2}]


def test_last_values_over_all_stays_within_a_lookback(visit: Any) -> None:
    for time, value in (("2150-06-13", 1), ("2150-06-14", 2), ("2150-06-15 13:00", 3)):
        visit.event(1, time, "LAB//RESULT//1//x", numeric_value=value, stay_id=99)
    store, measures = visit.write(), {"lab": Measure("LAB//RESULT//1//x")}
    index = visit.index()
    assert last_values(store, index, measures).to_dicts() == [{"lab": 2.0}]
    in_a_day = last_values(store, index, measures, lookback=timedelta(days=1))
    assert in_a_day.to_dicts() == [{"lab": None}]


def test_history_of_any_task_is_that_of_the_visit_table(visit: Any) -> None:
    diagnose(visit, "2149-01-05", "9//4280", "10//I2510")
    visit.stay(1, 20, "2150-06-01", "2150-06-03", "hospital")
    visit.stay(1, 21, "2150-06-14", None, "icu")
    store = visit.write()
    visits = triage_table(store, visit.index(10))
    history = history_table(store, visit.index(10).drop("stay_id"))
    assert history.columns[:2] == ["subject_id", "prediction_time"]
    names = history.columns[2:]
    assert len(names) == 2 + 9 + 17 + 18
    assert history.select(names).equals(visits.select(names))
    row = only(history)
    assert (row["age"], row["gender"], row["n_hosp_30d"], row["n_icu_30d"]) == (50, 1, 1, 0)
    assert row["cci_CHF"] == row["cci_MI"] + 1 == 1
