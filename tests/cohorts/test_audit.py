"""The leak audit finds what was planted, and nothing on what reads as it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from wardround.cohorts import Cohort, Leak, audit, load_task, truncation_test
from wardround.store import PatientStore

HOUR = timedelta(hours=1)


@pytest.fixture
def planted(records: Any, after: Callable[..., datetime]) -> PatientStore:
    """Three visits, and rows whose times are known to the hour."""
    r = records
    for n in (1, 2, 3):
        r.patient(n)
        r.ed(n, 10 * n, after(), after(6))

    def lab(subject: int, code: str, drawn: float, filed: float) -> None:
        r.event(subject, after(drawn), code, available_time=after(filed), numeric_value=1)

    for subject, filed in ((1, 1), (1, 3), (1, 5), (2, 7)):
        lab(subject, "LAB//RESULT//50912//mg/dL", -1, filed)
    lab(1, "LAB//RESULT//50983//mEq/L", 0, 2)  # the prediction's own second is before it
    lab(2, "LAB//RESULT//50983//mEq/L", -3, -1)  # filed in time
    lab(3, "LAB//RESULT//50983//mEq/L", -3, 0)  # filed in that second
    lab(3, "LAB//RESULT//50983//mEq/L", 1, 2)  # drawn later
    lab(3, "DIAGNOSIS//ICD//10//I509", -50, 40)
    r.admission(3, 103, after(-50), after(40))
    return r.write(shards=2)


def test_rows_too_early_are_counted_by_code(planted: PatientStore) -> None:
    report = audit(load_task("ed-hospitalisation"), planted)
    assert report.predictions == 3 and report.truncation is None
    assert report.leaks == [
        # Subject 1 has 1, 3, 5 and 2 hours, subject 2 has 7: the median of 2.5 and 7.
        Leak("LAB//RESULT", rows=5, predictions=2, median_delay_hours=4.75),
        Leak("DIAGNOSIS//ICD", rows=1, predictions=1, median_delay_hours=40.0),
    ]
    assert report.hidden_stays == 3


def test_at_the_disposition_less_is_hidden(planted: PatientStore) -> None:
    report = audit(load_task("ed-critical-disposition"), planted)
    assert [(leak.code, leak.rows) for leak in report.leaks] == [
        ("DIAGNOSIS//ICD", 1),
        ("LAB//RESULT", 1),  # seven hours after a visit of six
    ]
    assert report.hidden_stays == 3, "a second before they end the visits still go on"


def test_the_report_prints_and_is_json(planted: PatientStore) -> None:
    task = load_task("ed-hospitalisation")
    report = audit(task, planted, build=lambda store, index: all_labs(store, index))
    console = Console(width=200, record=True)
    console.print(report.render())
    text = console.export_text()
    assert "LAB//RESULT" in text and "LEAK: these features changed: n_labs" in text
    assert "3 predictions fall within a stay" in text
    again = json.loads(json.dumps(report.to_dict()))
    assert again["leaks"][0] | {"code": "x"} == {
        "code": "x",
        "rows": 5,
        "predictions": 2,
        "median_delay_hours": 4.75,
    }


def test_a_row_that_only_the_admitted_have_is_pointed_out(
    records: Any, after: Callable[..., datetime]
) -> None:
    """Written because of the outcome, dated before it: no availability shows that."""
    for n in range(1, 61):
        admitted = n % 2 == 0
        records.patient(n)
        records.ed(n, 10 * n, after(), after(6), hadm=100 + n if admitted else None)
        records.event(n, after(-0.5), "VITAL//HR")  # everybody has it
        records.event(n, after(-5), "EARLY//X" if admitted else "EARLY//Y")  # long before
        if admitted:
            records.admission(n, 100 + n, after(5), after(50))
            records.event(n, after(0), "ED_REGISTRATION", hadm_id=100 + n)
            if n > 4:
                records.event(n, after(-0.2), "ORDER//WARD")
    report = audit(load_task("ed-hospitalisation"), records.write(shards=3))
    found = {row.code: (row.predictions, row.with_it, row.auroc) for row in report.telling}
    assert found == {"ED_REGISTRATION": (30, 1.0, 1.0), "ORDER//WARD": (28, 1.0, 0.967)}
    assert "any row with hadm_id" not in found, "which the store hides before the admission begins"
    console = Console(width=200, record=True)
    console.print(report.render())
    assert "Look into ED_REGISTRATION: 30 predictions" in console.export_text()


def test_rows_that_were_never_filed_are_counted(make_store: Any, after: Any) -> None:
    rows = [
        {"subject_id": 1, "time": after(-9), "code": "MICRO//X", "available_time": None},
        {"subject_id": 1, "time": after(-9), "code": "MICRO//X", "available_time": after(9)},
    ]
    store = make_store(rows)
    # The maker of stores fills what is not given: take it away again.
    path = store.path / "data" / f"{store.shards[0]}.parquet"
    frame = pl.read_parquet(path)
    first = pl.int_range(pl.len()) == 0
    frame.with_columns(available_time=pl.when(~first).then("available_time")).write_parquet(path)

    class Once:
        name, title, features = "once", "Once", None

        def extract(self, store: PatientStore, *, paper_compat: bool = False) -> Cohort:
            return Cohort(
                "once",
                pl.DataFrame(
                    {"subject_id": [1], "prediction_time": [after()], "boolean_value": [True]}
                ).with_columns(pl.col("prediction_time").cast(pl.Datetime("us"))),
            )

    (leak,) = audit(Once(), store).leaks
    assert (leak.code, leak.rows, leak.median_delay_hours) == ("MICRO//X", 2, 9.0)


def test_nothing_late_is_nothing_found(records: Any, after: Callable[..., datetime]) -> None:
    records.patient(1)
    records.ed(1, 10, after(), after(6))
    report = audit(load_task("ed-hospitalisation"), records.write())
    assert report.leaks == []
    console = Console(width=200, record=True)
    console.print(report.render())
    assert "No row was dated before it could be read." in console.export_text()


def counted(index: pl.DataFrame, rows: pl.DataFrame, name: str) -> pl.DataFrame:
    keys = ["subject_id", "prediction_time"]
    count = rows.group_by(keys).agg(pl.len().alias(name))
    joined = index.join(count, on=keys, how="left", maintain_order="left")
    return joined.with_columns(pl.col(name).fill_null(0))


def known_labs(store: PatientStore, index: pl.DataFrame) -> pl.DataFrame:
    """Labs that could be read by then."""
    labs = pl.col("code").str.starts_with("LAB//")
    keys = index.select("subject_id", "prediction_time")
    return counted(index, store.known_at(keys, codes=labs).collect(), "n_labs")


def all_labs(store: PatientStore, index: pl.DataFrame) -> pl.DataFrame:
    """The mistake: labs by the time that they were drawn."""
    labs = store.events().filter(pl.col("code").str.starts_with("LAB//"))
    drawn = labs.join(index.lazy(), on="subject_id").filter(
        pl.col("time") <= pl.col("prediction_time")
    )
    return counted(index, drawn.collect(), "n_labs").with_columns(age=pl.lit(50))


def own_admission(store: PatientStore, index: pl.DataFrame) -> pl.DataFrame:
    """The mistake: the visit's row as it stands at the end."""
    stays = store.stays().filter(pl.col("kind") == "ed").select("stay_id", "hadm_id", "end")
    joined = index.join(stays.collect(), on="stay_id", how="left", maintain_order="left")
    length = (pl.col("end") - pl.col("prediction_time")).dt.total_minutes().cast(pl.Float64)
    return joined.select(*index.columns, "hadm_id", ed_los=length)


def test_truncation_is_silent_on_the_right_view_and_names_the_leaky_column(
    planted: PatientStore,
) -> None:
    index = load_task("ed-hospitalisation").extract(planted).frame.drop("boolean_value")
    right = truncation_test(known_labs, planted, index)
    assert (right.predictions, right.differing) == (3, [])
    assert truncation_test(all_labs, planted, index).differing == ["n_labs"]
    assert truncation_test(own_admission, planted, index).differing == ["ed_los"]


def test_truncation_on_a_hospital(hospital: Any) -> None:
    index = load_task("ed-return-72h").extract(hospital.store).frame.drop("boolean_value")
    right = truncation_test(known_labs, hospital.store, index, sample=60)
    assert (right.predictions, right.differing) == (60, [])
    assert known_labs(hospital.store, index)["n_labs"].max() > 10
    assert truncation_test(all_labs, hospital.store, index, sample=60).differing == ["n_labs"]
    index = load_task("ed-hospitalisation").extract(hospital.store).frame.drop("boolean_value")
    leaks = truncation_test(own_admission, hospital.store, index, sample=60).differing
    assert leaks == ["hadm_id", "ed_los"]


def test_truncation_cuts_notes_too(hospital: Any) -> None:
    index = load_task("ed-return-72h").extract(hospital.store).frame.drop("boolean_value")

    def known_words(store: PatientStore, index: pl.DataFrame) -> pl.DataFrame:
        return _words(index, store.notes_known_at(index, columns=["text"]).collect())

    def all_words(store: PatientStore, index: pl.DataFrame) -> pl.DataFrame:
        rows = store.notes().collect().join(index, on="subject_id")
        return _words(index, rows)

    assert truncation_test(known_words, hospital.store, index, sample=60).differing == []
    assert truncation_test(all_words, hospital.store, index, sample=60).differing == ["words"]


def _words(index: pl.DataFrame, notes: pl.DataFrame) -> pl.DataFrame:
    keys = ["subject_id", "prediction_time"]
    words = notes.group_by(keys).agg(words=pl.col("text").str.count_matches(r"\S+").sum())
    return index.join(words, on=keys, how="left", maintain_order="left")


def test_the_triage_table_passes_on_a_hospital(hospital: Any) -> None:
    from wardround.views.table import triage_table

    for name, features in (("ed-critical", "triage"), ("ed-critical-disposition", "disposition")):
        report = audit(
            load_task(name),
            hospital.store,
            build=lambda store, index, features=features: triage_table(store, index, features),
            sample=80,
        )
        assert report.truncation is not None
        assert (report.truncation.predictions, report.truncation.differing) == (80, [])
        assert len(report.leaks) > 2 and report.hidden_stays > 0


def test_missing_numbers_are_equal_to_missing_numbers(planted: PatientStore) -> None:
    index = load_task("ed-hospitalisation").extract(planted).frame.drop("boolean_value")

    def unknown(store: PatientStore, index: pl.DataFrame) -> pl.DataFrame:
        return index.with_columns(a=pl.lit(float("nan")), b=pl.lit(None, pl.Float32))

    assert truncation_test(unknown, planted, index).differing == []


def test_the_sample_is_drawn_by_its_seed(hospital: Any) -> None:
    index = load_task("ed-critical").extract(hospital.store).frame.drop("boolean_value")
    drawn: list[list[int]] = []

    def note(store: PatientStore, index: pl.DataFrame) -> pl.DataFrame:
        drawn.append(index["stay_id"].to_list())
        assert index["subject_id"].is_unique().all()
        return index

    for seed in (0, 0, 1):
        truncation_test(note, hospital.store, index, sample=20, seed=seed)
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3] != drawn[4]
