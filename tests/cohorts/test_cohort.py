"""Splits, and MEDS label tables there and back."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import meds
import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from wardround.cohorts import (
    EMERGENCY_TASKS,
    TASKS,
    Cohort,
    FlowStep,
    assign_splits,
    load_task,
    read_labels,
    write_labels,
)
from wardround.errors import WardroundError

FRACTIONS = (0.7, 0.1, 0.2)
SPLITS = ("train", "tuning", "held_out")


@pytest.fixture(scope="module")
def visits() -> pl.DataFrame:
    """20,000 subjects with 1 to 5 visits."""
    subject = [10_000_000 + 7 * s for s in range(20_000) for _ in range(1 + s % 5)]
    return pl.DataFrame(
        {"subject_id": subject, "stay_id": range(30_000_000, 30_000_000 + len(subject))}
    )


def test_a_subject_lies_in_one_split(visits: pl.DataFrame) -> None:
    split = assign_splits(visits)
    assert split.drop("split").equals(visits)
    assert split.group_by("subject_id").agg(pl.col("split").n_unique())["split"].max() == 1


def test_splitting_by_visit_puts_subjects_on_both_sides(visits: pl.DataFrame) -> None:
    split = assign_splits(visits, by="visit", fractions=FRACTIONS)
    sides = split.group_by("subject_id").agg(pl.col("split").n_unique())
    assert (sides["split"] > 1).mean() > 0.4
    held = split.filter(pl.col("split") == "held_out")["subject_id"]
    trained = split.filter(pl.col("split") == "train")["subject_id"]
    assert held.is_in(trained.implode()).mean() > 0.6


@pytest.mark.parametrize("by", ["subject", "visit"])
def test_fractions_are_kept(visits: pl.DataFrame, by: Any) -> None:
    split = assign_splits(visits, by=by, fractions=FRACTIONS)["split"]
    shares = dict(split.value_counts(normalize=True).iter_rows())
    assert [shares[name] for name in SPLITS] == pytest.approx(FRACTIONS, abs=0.012)


def test_more_patients_move_nobody(visits: pl.DataFrame) -> None:
    few = visits.filter(pl.col("subject_id") % 3 == 0).sample(fraction=0.5, seed=0)
    part, whole = assign_splits(few), assign_splits(visits)
    assert_frame_equal(part, whole.join(few, on=few.columns, how="semi"), check_row_order=False)


def test_another_seed_is_another_split(visits: pl.DataFrame) -> None:
    first, again, other = (assign_splits(visits, seed=s)["split"] for s in (0, 0, 1))
    assert first.equals(again) and 0.2 < (first != other).mean() < 0.5


def test_a_cohort_without_stays_has_no_visits_to_split(visits: pl.DataFrame) -> None:
    with pytest.raises(WardroundError, match="no column stay_id"):
        assign_splits(visits.drop("stay_id"), by="visit")


@pytest.mark.parametrize("name", TASKS)
def test_label_files_are_meds_and_come_back(hospital: Any, tmp_path: Path, name: str) -> None:
    cohort = load_task(name).extract(hospital.store)
    folder = tmp_path / "labels" / name
    write_labels(cohort, folder)
    table = pq.read_table(folder / "labels.parquet")
    meds.LabelSchema.validate(table)
    assert table.num_rows == len(cohort)
    assert table["boolean_value"].to_pylist() == cohort.frame["boolean_value"].to_list()
    again = read_labels(folder)
    assert_frame_equal(again.frame, cohort.frame, check_column_order=False)
    assert (again.name, again.flow) == (cohort.name, cohort.flow)
    write_labels(cohort, folder)  # over what is there
    assert len(read_labels(folder)) == len(cohort)
    assert [p.name for p in folder.parent.iterdir()] == [name]


def test_an_empty_cohort_comes_back(hospital: Any, tmp_path: Path) -> None:
    whole = EMERGENCY_TASKS[0].extract(hospital.store)
    write_labels(Cohort("none", whole.frame.clear(), []), tmp_path / "none")
    again = read_labels(tmp_path / "none")
    assert (len(again), again.frame.schema, again.flow) == (0, whole.frame.schema, [])


@pytest.mark.parametrize("missing", ["labels.parquet", "stays.parquet", "flow.parquet", "name.txt"])
def test_half_a_label_table_is_refused(tmp_path: Path, missing: str) -> None:
    frame = pl.DataFrame(
        {
            "subject_id": [1],
            "prediction_time": [datetime(2150, 1, 1)],
            "boolean_value": [True],
            "stay_id": [3],
        }
    )
    write_labels(Cohort("one", frame, [FlowStep("all", 1, 1)]), tmp_path / "one")
    assert read_labels(tmp_path / "one").frame.equals(frame)
    (tmp_path / "one" / missing).unlink()
    with pytest.raises(WardroundError, match="no whole label table"):
        read_labels(tmp_path / "one")


def test_two_predictions_at_one_time_are_not_read_as_one(tmp_path: Path) -> None:
    t = datetime(2150, 1, 1)
    frame = pl.DataFrame(
        {
            "subject_id": [1, 1],
            "prediction_time": [t, t + timedelta(microseconds=1)],
            "boolean_value": [True, False],
            "stay_id": [3, 4],
        }
    )
    write_labels(Cohort("two", frame), tmp_path / "two")
    assert read_labels(tmp_path / "two").frame.equals(frame)
