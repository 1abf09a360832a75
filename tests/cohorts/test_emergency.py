"""The ED tasks: visits by hand at the edges of every rule, and a hospital that knows the truth."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from wardround.cohorts import EMERGENCY_TASKS, Cohort, load_task
from wardround.errors import WardroundError

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
MIDNIGHT = datetime(2150, 6, 15)

Moment = Callable[..., datetime]


def labels(cohort: Cohort) -> dict[int, bool]:
    """Label by stay."""
    return dict(cohort.frame.select("stay_id", "boolean_value").iter_rows())


def extract(store: Any, task: str, **how: Any) -> dict[int, bool]:
    return labels(load_task(task).extract(store, **how))


@pytest.fixture
def edges(records: Any, after: Moment) -> Any:
    """One patient each, who stays from noon to 18:00 unless told; the stay is ten times it."""
    r = records

    def home(n: int, **patient: Any) -> None:
        r.patient(n, **patient)
        r.ed(n, 10 * n, after(), after(6))

    def admitted(n: int, *, icu: datetime | None = None, **patient: Any) -> None:
        r.patient(n, **patient)
        r.ed(n, 10 * n, after(), after(6), hadm=100 + n, outcome="ADMITTED")
        r.admission(n, 100 + n, after(5), after(53))
        if icu is not None:
            r.icu(n, 500 + n, icu, icu + 9 * HOUR, hadm=100 + n)

    home(1)
    home(2, death=MIDNIGHT)  # dies at home that evening: all that is known is the date
    r.patient(3, death=after(6))
    r.ed(3, 30, after(), after(6), outcome="EXPIRED")
    admitted(4, icu=after(6 + 12))
    admitted(5, icu=after(6 + 12) + SECOND)
    admitted(6, icu=after(5.5))  # before the ED wrote it off
    admitted(7, death=datetime(2150, 6, 17))  # leaves the hospital on the 17th at 17:00, and dies
    r.patient(8, death=after(40))
    r.ed(8, 80, after(), after(6), hadm=108, outcome="ADMITTED")
    r.admission(8, 108, after(5), after(40), outcome="DIED", death_time=after(40))
    admitted(9)
    r.icu(9, 509, after(7), after(20), hadm=None)  # filed under no admission
    home(10, born=2133)  # 17 by year
    home(11, born=2132)  # 18 by year
    home(12, born=None)
    r.patient(13)
    r.ed(13, 130, after(), after(6), acuity=None)
    r.patient(14)
    r.ed(14, 140, after(), None)
    # Returns: after 72 hours less a second, after 72 hours, and one that triage wrote nothing of.
    home(15)
    r.ed(15, 151, after(6 + 72) - SECOND, after(90))
    home(16)
    r.ed(16, 161, after(6 + 72), after(90))
    home(17)
    r.ed(17, 171, after(30), after(31), acuity=None)
    # Back a day after an admission's end; and dead two days later, having returned.
    admitted(18)
    r.ed(18, 181, after(60), after(61))
    home(19, death=after(50))
    r.ed(19, 191, after(40), after(45))
    # Two visits of one admission, whose ICU stay began before the second.
    r.patient(20)
    r.ed(20, 200, after(), after(6), hadm=120, outcome="TRANSFER")
    r.ed(20, 201, after(8), after(10), hadm=120, outcome="ADMITTED")
    r.admission(20, 120, after(6), after(80))
    r.icu(20, 520, after(7), after(30), hadm=120)
    # Dead after 72 hours to the second, and a second later.
    home(21, death=after(78))
    home(22, death=after(78) + SECOND)
    # A twin registration in the same second.
    home(23)
    r.ed(23, 231, after(), after(2))
    return r


#: Who is left by the rules that all tasks share, without subjects 10, 12, 13 and 14.
COMMON = {
    *(10 * n for n in (*range(1, 10), 11, *range(15, 24))),
    *(151, 161, 181, 191, 200),
}
ADMITTED = {40, 50, 60, 70, 80, 90, 180, 200}


def test_who_is_hospitalised(edges: Any) -> None:
    found = extract(edges.write(shards=3), "ed-hospitalisation")
    assert found == {stay: stay in ADMITTED for stay in COMMON}


def test_critical_outcome(edges: Any) -> None:
    found = extract(edges.write(), "ed-critical")
    assert set(found) == COMMON
    # Died in the ED; ICU at 12 hours exactly; ICU early; died in hospital; ICU without admission;
    # ICU after the first of two visits.
    assert {stay for stay, critical in found.items() if critical} == {30, 40, 60, 80, 90, 200}


def test_critical_outcome_as_published(edges: Any) -> None:
    found = extract(edges.write(), "ed-critical", paper_compat=True)
    assert set(found) == COMMON | {201}, "every visit of a shared admission"
    # Deaths in the ED do not count, death at home on the day of discharge does; the ICU stay must
    # be the admission's, and may have begun before the visit (201).
    critical = {stay for stay, label in found.items() if label}
    assert critical == {40, 60, 70, 80, 200, 201}


def test_the_same_from_the_disposition_set(edges: Any, after: Moment) -> None:
    store = edges.write()
    triage, disposition = load_task("ed-critical"), load_task("ed-critical-disposition")
    for compat in (False, True):
        early, late = (t.extract(store, paper_compat=compat) for t in (triage, disposition))
        # Twins leave at different times, and are two predictions then. Who is dead or in the ICU
        # at departure is not predicted any more, but for the paper.
        gone = set() if compat else {30, 60}
        expected = {s: v for s, v in labels(early).items() if s not in gone}
        assert {s: v for s, v in labels(late).items() if s != 231} == expected
    times = dict(early.frame.select("stay_id", "prediction_time").iter_rows())
    assert times[10] == after()
    times = dict(late.frame.select("stay_id", "prediction_time").iter_rows())
    assert times[10] == after(6) - timedelta(seconds=1)


def test_return_within_72_hours(edges: Any) -> None:
    found = extract(edges.write(), "ed-return-72h")
    gone = {20, 30, 190, 210}  # died that day, in the ED, returned before death, at 72 hours
    assert set(found) == ((COMMON | {231}) - ADMITTED - gone - {191}) | {190}
    # 230 and 231 begin in the same second: which of them follows the other is nobody's business.
    returned = {stay for stay, label in found.items() if label}
    assert returned - {230, 231} == {150, 170, 190}
    assert not found[160], "72 hours are not within 72 hours"
    assert not found[220] and 181 in found


def test_who_goes_straight_to_the_icu_is_predicted_until_that_second(
    records: Any, after: Moment
) -> None:
    """MIMIC-IV begins most ICU stays at the very second of the departure from the ED."""
    for n, icu in ((1, after(6)), (2, after(6) - SECOND), (3, after(6) + SECOND)):
        records.patient(n)
        records.ed(n, 10 * n, after(), after(6), hadm=100 + n, outcome="ADMITTED")
        records.admission(n, 100 + n, after(5), after(53))
        records.icu(n, 500 + n, icu, icu + 9 * HOUR, hadm=100 + n)
    store = records.write()
    assert extract(store, "ed-critical-disposition") == {10: True, 30: True}
    assert extract(store, "ed-critical-disposition", paper_compat=True) == {
        stay: True for stay in (10, 20, 30)
    }


def test_a_visit_that_goes_on_under_another_number_is_no_return(
    records: Any, after: Moment
) -> None:
    for n, again in ((1, after(6)), (2, after(6) + SECOND), (3, after(5))):
        records.patient(n)
        records.ed(n, 10 * n, after(), after(6))
        records.ed(n, 10 * n + 1, again, after(9))
    store = records.write()
    found = extract(store, "ed-return-72h")
    assert [found[stay] for stay in (10, 20, 30)] == [False, True, False]
    published = extract(store, "ed-return-72h", paper_compat=True)
    assert [published[stay] for stay in (10, 20, 30)] == [True, True, True]


def test_return_as_published_keeps_those_who_die(edges: Any) -> None:
    found = extract(edges.write(), "ed-return-72h", paper_compat=True)
    assert {20, 30, 190, 191, 210, 220} <= set(found) and not set(found) & ADMITTED
    assert not found[20] and not found[30] and not found[210]


def test_flow_counts_every_rule(edges: Any) -> None:
    store = edges.write()
    flow = load_task("ed-return-72h").extract(store).flow
    steps = [(step.step, step.rows, step.subjects) for step in flow]
    assert steps == [
        ("ED visits", 30, 23),
        ("aged 18 or more", 28, 21),
        ("acuity was given", 26, 20),
        ("departure is known", 25, 19),
        ("first ED visit of its admission", 24, 19),
        ("not admitted", 16, 12),
        ("left alive", 15, 11),
        ("returned, or alive after 72 hours", 12, 9),
        ("one visit of a patient at a time", 12, 9),
    ]
    short = load_task("ed-hospitalisation").extract(store, paper_compat=True).flow
    assert [step.rows for step in short] == [30, 28, 26, 25, 24]
    assert "first ED visit of its admission" not in {step.step for step in short}


def test_rows_are_sorted_and_unique(edges: Any) -> None:
    store = edges.write(shards=4)
    for task in EMERGENCY_TASKS:
        frame = task.extract(store).frame
        assert frame.columns == ["subject_id", "prediction_time", "boolean_value", "stay_id"]
        keys = frame.select("subject_id", "prediction_time")
        assert keys.equals(keys.unique().sort("subject_id", "prediction_time"))
        assert frame["boolean_value"].null_count() == 0


def test_a_store_without_visits_is_refused(records: Any, after: Moment) -> None:
    records.patient(1)
    records.admission(1, 20, after(), after(5))
    with pytest.raises(WardroundError, match="needs ED visits"):
        load_task("ed-critical").extract(records.write())


def brute_force_cohort(hospital: Any) -> dict[int, dict[str, Any]]:
    """Visits that the shared rules leave, read from the source files."""
    born = {
        p["subject_id"]: p["anchor_year"] - p["anchor_age"] for p in hospital.table("hosp/patients")
    }
    acuity = {t["stay_id"]: t["acuity"] for t in hospital.table("ed/triage")}
    seen, kept = set(), {}
    for visit in sorted(hospital.table("ed/edstays"), key=lambda v: v["intime"]):
        first = visit["hadm_id"] is None or visit["hadm_id"] not in seen
        seen.add(visit["hadm_id"])
        adult = visit["intime"].year - born[visit["subject_id"]] >= 18
        if first and adult and acuity[visit["stay_id"]] is not None and visit["outtime"]:
            kept[visit["stay_id"]] = visit
    return kept


def truth_of(hospital: Any) -> pl.DataFrame:
    """True labels of every visit; of the earlier visit of an admission, from the edge cases."""
    visits = hospital.oracle("visits").select("stay_id", "hospitalised", "critical", "returned")
    edges = hospital.oracle("edge_cases")
    shared = edges.filter(pl.col("case") == "shared_admission").select(
        "stay_id", "hospitalised", "critical", returned=pl.lit(False)
    )
    both = edges.join(visits, on="stay_id", suffix="_visit")
    assert len(both) and both["critical"].equals(both["critical_visit"].alias("critical"))
    return pl.concat([visits, shared])


@pytest.mark.parametrize("task", EMERGENCY_TASKS, ids=lambda t: t.name)
def test_every_label_is_the_simulators(hospital: Any, task: Any) -> None:
    cohort = task.extract(hospital.store)
    joined = cohort.frame.join(truth_of(hospital), on="stay_id", validate="1:1")
    assert len(joined) == len(cohort) > 250
    wrong = joined.filter(pl.col("boolean_value") != pl.col(task.outcome))
    assert wrong.is_empty(), wrong
    assert 5 < cohort.frame["boolean_value"].sum() < len(cohort) / 2


def test_the_cohort_is_that_of_the_source_files(hospital: Any) -> None:
    kept = brute_force_cohort(hospital)
    icu = hospital.table("icu/icustays")

    def critical_by_departure(visit: dict[str, Any]) -> bool:
        return visit["disposition"] == "EXPIRED" or any(
            i["subject_id"] == visit["subject_id"]
            and visit["intime"] <= i["intime"] < visit["outtime"]
            for i in icu
        )

    gone = {stay for stay, visit in kept.items() if critical_by_departure(visit)}
    second = timedelta(seconds=1)
    for name, moment, left_out in (
        ("ed-critical", lambda v: v["intime"], set()),
        ("ed-critical-disposition", lambda v: v["outtime"] - second, gone),
    ):
        frame = load_task(name).extract(hospital.store).frame
        found = {r["stay_id"]: (r["subject_id"], r["prediction_time"]) for r in frame.to_dicts()}
        assert found == {
            s: (v["subject_id"], moment(v)) for s, v in kept.items() if s not in left_out
        }
    home = {s for s, v in kept.items() if v["hadm_id"] is None}
    found = set(load_task("ed-return-72h").extract(hospital.store).frame["stay_id"])
    lost = hospital.oracle("visits").filter(pl.col("stay_id").is_in(sorted(home - found)))
    assert found <= home and not lost["returned"].any(), "only those who died soon are left out"


def test_published_labels_depart_in_the_planted_cases_alone(hospital: Any) -> None:
    frame = load_task("ed-critical").extract(hospital.store, paper_compat=True).frame
    joined = frame.join(truth_of(hospital), on="stay_id", how="left")
    wrong = set(joined.filter(pl.col("boolean_value") != pl.col("critical"))["stay_id"])
    edges = hospital.oracle("edge_cases")
    planted = edges.filter(pl.col("case").is_in(["same_day_death", "died_in_ed"]))
    assert wrong == set(planted["stay_id"]) & set(frame["stay_id"]) != set()
