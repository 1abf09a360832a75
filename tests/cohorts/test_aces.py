"""Tasks in the ACES language beside loops over the admissions table, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from wardround.cohorts import TASKS, Cohort, aces, load_task
from wardround.errors import WardroundError

MORTALITY, READMISSION = "hospital-mortality-24h", "hospital-readmission-30d"
Key = tuple[int, datetime]


def rows_of(cohort: Cohort) -> dict[Key, bool]:
    assert cohort.frame.columns == ["subject_id", "prediction_time", "boolean_value"]
    found = {(s, t): label for s, t, label in cohort.frame.iter_rows()}
    assert len(found) == len(cohort) and list(found) == sorted(found)
    return found


def by_subject(admissions: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(admissions, key=lambda a: a["admittime"]):
        found.setdefault(row["subject_id"], []).append(row)
    return found


def test_death_in_hospital_equals_a_loop_over_admissions(hospital: Any) -> None:
    admissions = hospital.table("hosp/admissions")
    expected = {}
    for subject, stays in by_subject(admissions).items():
        for stay in stays:
            t = stay["admittime"] + timedelta(hours=24)
            again = any(stay["admittime"] < other["admittime"] <= t for other in stays)
            if stay["dischtime"] > t and not again:
                expected[subject, t] = stay["hospital_expire_flag"] == 1
    cohort = load_task(MORTALITY).extract(hospital.store)
    assert rows_of(cohort) == expected and len(hospital.store.shards) > 5
    assert 0 < sum(expected.values()) < len(expected)
    first, last = cohort.flow
    assert (first.rows, first.subjects) == (len(admissions), len(by_subject(admissions)))
    assert (last.rows, last.subjects) == (len(expected), len({s for s, _ in expected}))


def test_readmission_equals_a_loop_over_admissions(hospital: Any) -> None:
    expected = {}
    for subject, stays in by_subject(hospital.table("hosp/admissions")).items():
        for stay in stays:
            t = stay["dischtime"]
            if stay["hospital_expire_flag"] == 0:
                expected[subject, t] = any(
                    t < other["admittime"] <= t + timedelta(days=30) for other in stays
                )
    assert rows_of(load_task(READMISSION).extract(hospital.store)) == expected
    assert 5 < sum(expected.values()) < len(expected)


@pytest.fixture
def stays(records: Any, after: Callable[..., datetime]) -> Any:
    """One patient each, admitted at noon of the 15th."""
    r = records
    midnight = datetime(2150, 6, 18)

    def patient(n: int, hours: float, outcome: str = "HOME", death: Any = None) -> None:
        r.patient(n, death=death)
        r.admission(n, n, after(), after(hours), outcome=outcome)

    patient(1, 80)
    patient(2, 80, "DIED", after(80))
    patient(3, 80, death=midnight)  # leaves at 20:00 of the 18th, and dies at home that night
    patient(4, 24, "HOME")  # leaves as the prediction is due
    patient(5, 24 + 1 / 3600)
    patient(6, 10, "DIED", after(10))
    # The discharge of the dead is dated to the midnight before the death, as MIMIC-IV has some.
    r.patient(7, death=midnight + timedelta(hours=22))
    r.admission(7, 7, after(), midnight, outcome="DIED")
    patient(8, 80)
    r.admission(8, 88, after(80 + 720), after(900))  # 30 days to the second
    patient(9, 80)
    r.admission(9, 99, after(80 + 720, seconds=1), after(900))
    return r


@pytest.mark.parametrize("shards", [1, 4])
def test_edges_of_death_in_hospital(
    stays: Any, after: Callable[..., datetime], shards: int
) -> None:
    found = rows_of(load_task(MORTALITY).extract(stays.write(shards=shards)))
    first = {s: label for (s, t), label in found.items() if t == after(24)}
    assert first == {1: False, 2: True, 3: False, 5: False, 7: True, 8: False, 9: False}
    assert {key for key in found if key[1] != after(24)} == {
        (8, after(80 + 744)),
        (9, after(80 + 744, seconds=1)),
    }


@pytest.mark.parametrize("shards", [1, 4])
def test_edges_of_readmission(stays: Any, after: Callable[..., datetime], shards: int) -> None:
    found = rows_of(load_task(READMISSION).extract(stays.write(shards=shards)))
    first = {s: label for (s, t), label in found.items() if t < after(100)}
    assert first == {1: False, 3: False, 4: False, 5: False, 8: True, 9: False}


def test_a_file_of_ones_own(stays: Any, tmp_path: Path, after: Callable[..., datetime]) -> None:
    path = tmp_path / "long-stay.yaml"
    path.write_text(
        """
predicates:
  admission: {code: {regex: "^HOSPITAL_ADMISSION//"}}
  discharge: {code: {regex: "^HOSPITAL_DISCHARGE//"}}
trigger: admission
windows:
  input: {start: null, end: trigger, start_inclusive: True, end_inclusive: True,
          index_timestamp: end}
  soon: {start: trigger, end: start + 1d, start_inclusive: False, end_inclusive: True,
         label: discharge}
"""
    )
    task = load_task(path)
    assert (task.name, task.title, task.features) == ("long-stay", "long-stay", None)
    found = rows_of(task.extract(stays.write()))
    assert {s for (s, t), label in found.items() if label and t == after()} == {4, 6}


def test_shipped_tasks_have_names_and_titles() -> None:
    assert len(TASKS) == len(set(TASKS)) == 6
    assert {load_task(name).name for name in TASKS} == set(TASKS)
    assert load_task(MORTALITY).title == "Death in hospital, 24 hours after admission"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such task file"),
        ("a: [", "is not YAML"),
        ("predicates: {}", "it needs `predicates`, `trigger` and `windows`"),
        ("- 1", "it needs `predicates`, `trigger` and `windows`"),
    ],
)
def test_what_is_no_task_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "task.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(WardroundError, match=message):
        load_task(path)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(WardroundError, match=r"unknown task 'ed-mortality'.*ed-return-72h"):
        load_task("ed-mortality")


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("index_timestamp: end", "no window has `label`"),
        ("label: admission", "no window has `index_timestamp`"),
        ("label: nothing, index_timestamp: end", "is not an ACES task"),
    ],
)
def test_a_task_without_its_parts_is_refused(
    stays: Any, tmp_path: Path, window: str, message: str
) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(
        'predicates: {admission: {code: {regex: "^HOSPITAL_ADMISSION//"}}}\n'
        "trigger: admission\n"
        "windows: {input: {start: null, end: trigger, start_inclusive: True, "
        f"end_inclusive: True, {window}}}}}\n"
    )
    with pytest.raises(WardroundError, match=message):
        load_task(path).extract(stays.write())


@pytest.mark.parametrize(
    "windows",
    [
        # Both ends open, a value, and a static predicate beside.
        "input: {start: null, end: trigger, start_inclusive: True, end_inclusive: True,"
        " index_timestamp: end}\n"
        "  rest: {start: trigger, end: null, start_inclusive: False, end_inclusive: True,"
        " label: high_creatinine}",
        # Any event at all.
        "input: {start: trigger, end: start + 24h, start_inclusive: True, end_inclusive: True,"
        " index_timestamp: end, has: {_ANY_EVENT: '(5, None)'}}\n"
        "  rest: {start: input.end, end: start + 30d, start_inclusive: False,"
        " end_inclusive: True, label: admission}",
        # To the next of one kind and back to the last of another.
        "before: {start: end <- discharge, end: trigger, start_inclusive: True,"
        " end_inclusive: False}\n"
        "  input: {start: trigger, end: start -> discharge, start_inclusive: False,"
        " end_inclusive: True, index_timestamp: start}\n"
        "  rest: {start: input.end, end: null, start_inclusive: False, end_inclusive: True,"
        " label: high_creatinine}",
    ],
)
def test_the_rows_that_a_task_names_are_all_it_needs(
    hospital: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: str
) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(
        "predicates:\n"
        '  admission: {code: {regex: "^HOSPITAL_ADMISSION//"}}\n'
        '  discharge: {code: {regex: "^HOSPITAL_DISCHARGE//"}}\n'
        '  high_creatinine: {code: {regex: "^LAB//RESULT//50912//"}, value_min: 1.5}\n'
        "patient_demographics:\n"
        "  male: {code: GENDER//M}\n"
        "trigger: admission\n"
        f"windows:\n  {windows}\n"
    )
    found = load_task(path).extract(hospital.store)
    monkeypatch.setattr(aces, "_named_rows", lambda config, shard: pl.scan_parquet(shard))
    whole = load_task(path).extract(hospital.store)
    assert found.frame.equals(whole.frame) and found.flow == whole.flow
    assert 50 < len(found) > found.frame["boolean_value"].sum() > 4
