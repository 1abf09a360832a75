"""Tasks on whole hospitals: labels against the stays themselves, and prefixes without a future."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from wardround.cohorts import truncation_test
from wardround.simulation.predictions import along, prefixes, starts
from wardround.simulation.tasks import TimelineTask, load_timeline_task, timeline_tasks
from wardround.store import PatientStore
from wardround.views.sofa import first_day_sofa
from wardround.views.timeline import Timelines, Tokeniser

DAY = timedelta(days=1)
NEVER = datetime(9999, 1, 1)
WINDOW = 512


@dataclass(frozen=True)
class Tokenised:
    store: PatientStore
    tokeniser: Tokeniser
    timelines: Timelines


def tokenised(store: PatientStore, folder: Path) -> Tokenised:
    if not folder.exists():
        subjects = store.splits()["subject_id"]
        Tokeniser.fit(store, subjects=subjects, derived=first_day_sofa).write(
            store, folder, derived=first_day_sofa
        )
    return Tokenised(store, Tokeniser.load(folder), Timelines.open(folder))


@pytest.fixture(scope="session")
def synthetic(hospital: Any, once: Any) -> Tokenised:
    return tokenised(hospital.store, once("task-timelines", lambda f: tokenised(hospital.store, f)))


@pytest.fixture(scope="session")
def real(demo: PatientStore, once: Any) -> Tokenised:
    return tokenised(demo, once("task-demo-timelines", lambda folder: tokenised(demo, folder)))


# Labels by row-wise queries on stays.parquet ----------------------------------------------------


class Patient:
    """A subject's stays, and when the death was known."""

    def __init__(self, stays: list[dict[str, Any]], death: datetime | None) -> None:
        self.death = death or NEVER
        self.stays = stays

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [stay for stay in self.stays if stay["kind"] == kind]

    def next(self, kind: str, edge: str, after: datetime) -> datetime:
        """The first such edge after a time."""
        times = [stay[edge] for stay in self.of(kind) if stay[edge] and stay[edge] > after]
        return min(times, default=NEVER)


def patients(store: PatientStore) -> Iterator[tuple[int, Patient]]:
    deaths = (
        store.events()
        .filter(pl.col("code") == "MEDS_DEATH")
        .select("subject_id", known=pl.max_horizontal("time", "available_time"))
    )
    known = dict(deaths.group_by("subject_id").agg(pl.col("known").min()).collect().iter_rows())
    stays = store.stays().sort("subject_id", "start", "stay_id").collect()
    for (subject,), group in stays.group_by("subject_id", maintain_order=True):
        yield int(subject), Patient(group.to_dicts(), known.get(subject))


Label = bool | float | None


def mortality(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    left = p.next("hospital", "end", t)
    return None if min(p.death, left) == NEVER else p.death <= left


def icu(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    over = min(p.next("hospital", "end", t), p.death)
    there = p.next("icu", "start", t)
    return None if min(over, there) == NEVER else there < over


def icu_or_death(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    return bool(icu(p, s, t)) or mortality(p, s, t)


def prolonged(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    return min(p.next("hospital", "end", t), p.death) - t >= 10 * DAY


def composite(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    return prolonged(p, s, t) or icu_or_death(p, s, t)


def readmission(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    again = p.next("hospital", "start", t)
    return again <= t + 30 * DAY and again < p.death


def hospitalised(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    admitted = p.next("hospital", "start", t)
    return admitted <= t + 3 * DAY and admitted < min(p.next("ed", "start", t), p.death)


def critical(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    return min(p.next("icu", "start", t), p.death) <= t + DAY / 2


def returned(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    back = p.next("ed", "start", t)
    return back <= t + 3 * DAY and back < p.death


def icu_mortality(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    return p.death <= p.next("icu", "end", t)


def icu_again(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    over = min(p.next("hospital", "end", t), p.death)
    back = p.next("icu", "start", t)
    return None if min(over, back) == NEVER else back < over


def days(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    return (min(p.next("hospital", "end", t), p.death) - t) / DAY


def icu_days(p: Patient, s: dict[str, Any], t: datetime) -> Label:
    return (min(p.next("icu", "end", t), p.death) - t) / DAY


ORACLES: dict[str, Callable[[Patient, dict[str, Any], datetime], Label]] = {
    "hospital-mortality": mortality,
    "icu-admission": icu,
    "icu-admission-or-death": icu_or_death,
    "prolonged-stay": prolonged,
    "composite": composite,
    "readmission-30d": readmission,
    "ed-hospitalisation": hospitalised,
    "ed-critical-12h": critical,
    "ed-return-72h": returned,
    "icu-mortality": icu_mortality,
    "icu-readmission": icu_again,
    "length-of-stay": days,
    "icu-length-of-stay": icu_days,
}


def expected(name: str, store: PatientStore) -> dict[tuple[int, datetime], Label]:
    """Label by subject and time, of stays that pass the task's filters."""
    rule = load_timeline_task(name).start
    found: dict[tuple[int, datetime], Label] = {}
    for subject, patient in patients(store):
        for one in patient.of(str(rule.stay)):
            t = one[rule.edge]
            died = bool(one["died"]) or bool(one["death_time"] and one["death_time"] <= one["end"])
            if t is None or (rule.alive and died):
                continue
            if rule.admitted is not None and rule.admitted == (one["hadm_id"] is None):
                continue
            found.setdefault((subject, t), ORACLES[name](patient, one, t))
    return found


@cache
def _load(name: str) -> TimelineTask:
    return load_timeline_task(name)


def check(name: str, data: Tokenised) -> tuple[int, int]:
    """Compare every label; how many there are, and how many stays the task left out."""
    cohort = starts(_load(name), data.store, data.timelines).frame
    wanted = expected(name, data.store)
    for subject, time, label in cohort.select(pl.nth(0, 1, 2)).iter_rows():
        truth = wanted.pop((subject, time))
        assert label == pytest.approx(truth), f"{name}: subject {subject} at {time}"
    return len(cohort), len([left for left in wanted.values() if left is not None])


@pytest.mark.parametrize("name", list(ORACLES))
def test_labels_are_those_of_the_stays(name: str, synthetic: Tokenised) -> None:
    rows, left_out = check(name, synthetic)
    assert rows > 50 and left_out <= rows // 20


@pytest.mark.parametrize("name", list(ORACLES))
def test_labels_of_the_demo(name: str, real: Tokenised) -> None:
    rows, left_out = check(name, real)
    assert rows > 30 and left_out <= max(3, rows // 10)


def test_hospitalisation_is_nearly_the_filed_admission(synthetic: Tokenised) -> None:
    """The published label is the admission that a visit is filed under."""
    cohort = starts(_load("ed-hospitalisation"), synthetic.store, synthetic.timelines).frame
    filed = synthetic.store.stays().filter(pl.col("kind") == "ed").collect()
    both = cohort.join(filed, on="stay_id")
    agree = both["boolean_value"] == both["hadm_id"].is_not_null()
    assert agree.mean() > 0.98


def test_classes_are_those_of_the_record(synthetic: Tokenised) -> None:
    store = synthetic.store
    drg = starts(_load("drg"), store, synthetic.timelines).frame
    codes = (
        store.events()
        .filter(pl.col("code").str.starts_with("DRG//HCFA//"))
        .select(
            "subject_id", prediction_time="time", code=pl.col("code").str.split("//").list.get(2)
        )
    )
    joined = drg.join(codes.collect(), on=["subject_id", "prediction_time"])
    assert len(joined) == len(drg) > 300
    assert (joined["label"] == "DRG//" + joined["code"]).all()
    sofa = starts(_load("sofa"), store, synthetic.timelines).frame
    first = starts(_load("sofa-first-day"), store, synthetic.timelines).frame
    assert len(sofa) > 20
    later = first.rename({"prediction_time": "known", "label": "then"}).sort("known")
    matched = sofa.sort("prediction_time").join_asof(
        later.select("subject_id", "known", "then"),
        left_on="prediction_time",
        right_on="known",
        by="subject_id",
        strategy="forward",
        check_sortedness=False,
    )
    assert (matched["label"] == matched["then"]).all()
    assert (matched["known"] - matched["prediction_time"] >= DAY / 4).all()


# Nothing from after the prediction --------------------------------------------------------------


def truncated_prefixes(
    task: TimelineTask, tokeniser: Tokeniser, store: PatientStore, index: pl.DataFrame, to: Path
) -> pl.DataFrame:
    """Prefixes as text, from timelines made of whatever the store holds."""
    timelines = tokeniser.write(
        store, to, derived=first_day_sofa, subjects=index["subject_id"].to_list()
    )
    if task.start.before:  # the position within its time is the token's
        place = starts(task, store, timelines).frame.select(
            "subject_id", "prediction_time", "token_index"
        )
        index = index.join(place, on=["subject_id", "prediction_time"], maintain_order="left")
    known = prefixes(task.horizon, index, timelines, window=WINDOW, inject=task.inject)
    names = timelines.vocabulary.tokens
    return pl.DataFrame(
        {
            "tokens": [" ".join(names[t] for t in prefix.tokens) for prefix in known],
            "context": [" ".join(names[t] for t in prefix.context) for prefix in known],
            "left": [prefix.horizon for prefix in known],
        }
    )


def assert_no_future(task: TimelineTask, index: pl.DataFrame, data: Tokenised, to: Path) -> None:
    built: list[pl.DataFrame] = []

    def build(store: PatientStore, rows: pl.DataFrame) -> pl.DataFrame:
        folder = to / str(len(built))
        built.append(truncated_prefixes(task, data.tokeniser, store, rows, folder))
        return built[-1]

    found = truncation_test(build, data.store, index, sample=40)
    assert found.predictions > 10 and found.differing == []
    assert built[0]["tokens"].str.len_chars().median() > 0
    assert built[0].equals(built[1])


@pytest.mark.parametrize("name", list(timeline_tasks()))
def test_deleting_the_future_changes_no_prefix(
    name: str, synthetic: Tokenised, tmp_path: Path
) -> None:
    task = _load(name)
    cohort = starts(task, synthetic.store, synthetic.timelines).frame
    index = cohort.select("subject_id", "prediction_time", "elapsed")
    assert_no_future(task, index, synthetic, tmp_path)


def test_deleting_the_future_changes_no_prefix_along_a_stay(
    synthetic: Tokenised, tmp_path: Path
) -> None:
    task = _load("composite")
    cohort = starts(task, synthetic.store, synthetic.timelines).frame
    rows = along(task, cohort, synthetic.timelines)
    assert len(rows) > 5 * len(cohort)
    index = rows.filter(pl.col("elapsed") > 0).select("subject_id", "prediction_time", "elapsed")
    assert_no_future(task, index, synthetic, tmp_path)


def test_real_timelines_without_their_future(real: Tokenised, tmp_path: Path) -> None:
    task = _load("readmission-30d")
    index = starts(task, real.store, real.timelines).frame
    index = index.select("subject_id", "prediction_time", "elapsed")
    assert_no_future(task, index, real, tmp_path)
