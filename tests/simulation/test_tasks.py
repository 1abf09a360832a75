"""Tasks on timelines: their files, the outcome rule, starts and labels by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import WardroundError
from wardround.simulation.predictions import along, prefixes, starts
from wardround.simulation.tasks import (
    EVENT,
    EXCLUDED,
    NEGATIVE,
    TimelineTask,
    group_tasks,
    load_timeline_task,
    outcome,
    timeline_tasks,
    token_mask,
)
from wardround.views.timeline import NEVER, Timelines, Vocabulary

NOON = datetime(2150, 6, 15, 12)
INF = np.inf
TOKENS = (
    "HOSPITAL_ADMISSION",
    "HOSPITAL_DISCHARGE",
    "ICU_ADMISSION",
    "ICU_DISCHARGE",
    "ED_ARRIVAL",
    "ED_DEPARTURE",
    "MEDS_DEATH",
    "SOFA",
    "DRG//1",
    "DRG//2",
    "DRG//UNKNOWN",
    "LAB//50912//mg/dL",
    *(f"Q{level}" for level in range(1, 11)),
    "=1h",
    "TIMELINE_END",
)
VOCABULARY = Vocabulary(TOKENS)


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def write(records: dict[int, list[tuple[float, str]]]) -> Timelines:
    """Timelines of (hours after noon, token), an end token behind each."""
    tokens, times, offsets = [], [], [0]
    for record in records.values():
        for hours, token in record:
            tokens.append(VOCABULARY.id(token))
            times.append(int(np.datetime64(at(hours), "us").astype(np.int64)))
        tokens.append(VOCABULARY.id("TIMELINE_END"))
        times.append(NEVER)
        offsets.append(len(tokens))
    return Timelines(
        VOCABULARY,
        np.array(tokens, np.uint16),
        np.array(times, np.int64),
        np.arange(len(tokens)),
        np.array(offsets),
        np.array(list(records)),
    )


def stay(
    subject: int, start: float, end: float | None, kind: str = "hospital", **more: object
) -> dict[str, object]:
    return {
        "subject_id": subject,
        "stay_id": 10 * subject + int(start),
        "kind": kind,
        "start": at(start),
        "end": None if end is None else at(end),
        **more,
    }


def labels(task: str, make_store, stays, records) -> dict[int, object]:
    cohort = starts(load_timeline_task(task), make_store([], stays), write(records))
    return dict(cohort.frame.select("subject_id", pl.nth(2)).iter_rows())


# The files --------------------------------------------------------------------------------------


def test_shipped_tasks_load_and_name_known_tokens() -> None:
    tasks = [load_timeline_task(name) for name in timeline_tasks()]
    assert {task.name for task in tasks} == set(timeline_tasks())
    for task in tasks:
        assert task.title and task.description and task.source
        assert token_mask(task, task.event, VOCABULARY).any() or task.at_horizon == "event"


GOOD = """\
title: Kidney injury
start: {at: "LAB//50912//*"}
event: HOSPITAL_DISCHARGE
horizon: 36h
"""


def test_a_user_adds_a_task_with_a_few_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    task = load_timeline_task(path)
    assert (task.name, task.horizon, task.start.at) == ("mine", 36 * 3600.0, ("LAB//50912//*",))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("horizon: 36h", "horizon: 36", "line 4: horizon: write a number and one of m, h, d, w, y"),
        ("horizon: 36h", "horizons: 36h", "line 1: horizon: Field required"),
        ("horizon: 36h", "horizon: 36h\ncolour: red", "line 5: colour: Extra inputs"),
        ('{at: "LAB//50912//*"}', "{stay: ward, edge: start}", "line 2: start.stay: Input should"),
        ('{at: "LAB//50912//*"}', "{stay: icu}", "line 2: start: `stay` and `edge`"),
        ('{at: "LAB//50912//*"}', "{at: A, before: B}", "line 2: start: give one of `stay`, `at`"),
        ('{at: "LAB//50912//*"}', "{at: A, alive: true}", "line 2: start: `admitted`, `alive`"),
        (
            '{at: "LAB//50912//*"}',
            "{stay: icu, edge: end, admitted: true}",
            "line 2: start: `admitted` is about ED visits",
        ),
        ("event: HOSPITAL_DISCHARGE", "event: []", "line 1: task: `event` names no token"),
        ("title:", "kind: time\nat_horizon: event\ntitle:", "`at_horizon` and `ends_unresolved`"),
        ("title:", "inject: SOFA\ntitle:", "`inject` is for kind `class`"),
        ("title:", "- ]\ntitle:", "is not YAML"),
    ],
)
def test_a_fault_in_a_file_is_one_line_with_its_place(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(WardroundError) as caught:
        load_timeline_task(path)
    assert str(path) in str(caught.value) and expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_files_and_tokens(tmp_path: Path) -> None:
    with pytest.raises(WardroundError, match="unknown timeline task 'sepsis'; choose one of comp"):
        load_timeline_task("sepsis")
    with pytest.raises(WardroundError, match="no such task file"):
        load_timeline_task(tmp_path / "none.yaml")
    task = load_timeline_task("hospital-mortality")
    with pytest.raises(WardroundError, match=r"task hospital-mortality: .*'DIALYSIS'"):
        token_mask(task, ["DIALYSIS"], VOCABULARY)


def test_patterns_match_by_beginning_and_leave_out() -> None:
    task = load_timeline_task("drg")
    found = np.flatnonzero(token_mask(task, task.event, VOCABULARY))
    assert [TOKENS[token] for token in found] == ["DRG//1", "DRG//2"]


# The outcome rule -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "competing", "end", "expected"),
    [
        (5, INF, 20, EVENT),
        (10, INF, 20, EVENT),  # at the horizon
        (10.001, INF, 20, EXCLUDED),
        (5, 6, 20, EVENT),
        (6, 5, 20, NEGATIVE),
        (5, 5, 20, EVENT),  # at once: a path ends at a competing token, so the event came before
        (INF, 10, 20, NEGATIVE),
        (INF, 10.001, 20, EXCLUDED),
        (INF, INF, 8, EXCLUDED),  # the timeline ends
        (INF, INF, INF, EXCLUDED),  # the horizon
        (11, 6, 20, NEGATIVE),
    ],
)
def test_outcome_of_a_stay(event: float, competing: float, end: float, expected: int) -> None:
    assert outcome(np.array([event]), np.array([competing]), np.array([end]), 10.0) == expected
    lenient = outcome(
        np.array([event]),
        np.array([competing]),
        np.array([end]),
        10.0,
        ends_unresolved="negative",
    )
    assert lenient == (NEGATIVE if expected == EXCLUDED else expected)


@pytest.mark.parametrize(
    ("event", "competing", "end", "expected"),
    [
        (INF, 9.999, 20, NEGATIVE),
        (INF, 10, 20, EVENT),  # discharged after ten days to the second
        (INF, 12, 20, EVENT),
        (INF, INF, 20, EVENT),  # still there at the horizon
        (INF, INF, 10, EVENT),
        (INF, INF, 9, EXCLUDED),  # the timeline ends before, without a discharge
        (INF, INF, INF, EVENT),  # a path that was followed to the horizon
        (3, 5, 20, EVENT),
        (7, 5, 20, NEGATIVE),
        (12, INF, 20, EVENT),
    ],
)
def test_outcome_of_being_there(event: float, competing: float, end: float, expected: int) -> None:
    found = outcome(
        np.array([event]), np.array([competing]), np.array([end]), 10.0, at_horizon="event"
    )
    assert found == expected


def test_of_two_at_once_the_order_decides() -> None:
    three = np.array([3.0, 3.0])
    found = outcome(three, three, three, 10.0, event_first=np.array([True, False]))
    assert found.tolist() == [EVENT, NEGATIVE]


times = st.one_of(st.floats(0, 30), st.sampled_from([0.0, 10.0, INF]))


@given(times, times, times, st.sampled_from(["event", "none"]))
def test_event_and_its_contrary_are_never_both(e: float, c: float, end: float, at: str) -> None:
    """Swapping event and competing turns the answer; more horizon never takes an event away."""
    one = outcome(np.array([e]), np.array([c]), np.array([end]), 10.0)[0]
    other = outcome(np.array([c]), np.array([e]), np.array([end]), 10.0)[0]
    if e != c:
        assert {EVENT: NEGATIVE, NEGATIVE: EVENT, EXCLUDED: EXCLUDED}[one] == other
    later = outcome(np.array([e]), np.array([c]), np.array([end]), 20.0)[0]
    assert one != EVENT or later == EVENT


# Starts and labels by hand ----------------------------------------------------------------------


def test_mortality_and_who_is_left_out(make_store) -> None:
    stays = [stay(n, 0, 48) for n in range(1, 8)]
    records = {
        1: [(0, "HOSPITAL_ADMISSION"), (40, "MEDS_DEATH"), (48, "HOSPITAL_DISCHARGE")],
        2: [(0, "HOSPITAL_ADMISSION"), (48, "HOSPITAL_DISCHARGE"), (60, "MEDS_DEATH")],
        3: [(0, "HOSPITAL_ADMISSION"), (48, "MEDS_DEATH"), (48, "HOSPITAL_DISCHARGE")],
        4: [(0, "HOSPITAL_ADMISSION"), (48, "HOSPITAL_DISCHARGE"), (48, "MEDS_DEATH")],
        5: [(0, "HOSPITAL_ADMISSION"), (9, "Q1")],  # the record ends within the stay
        # The stay before ends at the second at which this one begins, or this one within it.
        6: [(0, "HOSPITAL_DISCHARGE"), (0, "HOSPITAL_ADMISSION"), (48, "MEDS_DEATH")],
        7: [(0, "HOSPITAL_ADMISSION"), (0, "HOSPITAL_DISCHARGE"), (48, "MEDS_DEATH")],
    }
    found = labels("hospital-mortality", make_store, stays, records)
    assert found == {1: True, 2: False, 3: True, 4: False, 6: True}


def test_icu_prolonged_and_composite(make_store) -> None:
    day = 24.0
    stays = [stay(n, 0, None) for n in range(1, 8)]
    end = [(9 * day, "HOSPITAL_DISCHARGE")]
    late = [(10 * day, "HOSPITAL_DISCHARGE")]
    start = [(0.0, "HOSPITAL_ADMISSION")]
    records = {
        1: [*start, (3.0, "ICU_ADMISSION"), *end],
        2: [*start, *end],
        3: [*start, *late],
        4: [*start, (8 * day, "MEDS_DEATH"), *late],
        5: [*start, (11 * day, "ICU_ADMISSION"), (12 * day, "HOSPITAL_DISCHARGE")],
        6: [*start, (0.0, "ICU_ADMISSION"), *late],  # in the ICU from the first second
        7: [*start, (11 * day, "Q1")],
    }

    def found(task: str) -> dict[int, object]:
        return labels(task, make_store, stays, records)

    icu = {1: True, 2: False, 3: False, 4: False, 5: True}
    assert found("icu-admission") == icu
    assert found("icu-admission-or-death") == icu | {4: True}
    long = {1: False, 2: False, 3: True, 4: False, 5: True, 6: True, 7: True}
    assert found("prolonged-stay") == long
    assert found("composite") == {1: True, 2: False, 3: True, 4: True, 5: True, 7: True}
    days = found("length-of-stay")
    assert days == {1: 9.0, 2: 9.0, 3: 10.0, 4: 8.0, 5: 12.0, 6: 10.0}


def test_readmission_starts_at_a_discharge_alive(make_store) -> None:
    day = 24.0
    stays = [
        stay(1, 0, 24),
        stay(2, 0, 24),
        stay(3, 0, 24, died=True),
        stay(4, 0, 24),
        stay(5, 0, 24),
        stay(6, 0, None),
    ]
    visit = [(0.0, "HOSPITAL_ADMISSION"), (24.0, "HOSPITAL_DISCHARGE"), (24.0, "DRG//1")]
    records = {
        1: [*visit, (31 * day, "HOSPITAL_ADMISSION")],  # 30 days to the second
        2: [*visit, (31 * day + 0.001, "HOSPITAL_ADMISSION")],
        3: [(24.0, "MEDS_DEATH"), *visit[1:]],
        4: visit,  # never seen again
        5: [*visit, (2 * day, "MEDS_DEATH"), (2 * day, "HOSPITAL_ADMISSION")],
        6: visit[:1],
    }
    task = load_timeline_task("readmission-30d")
    cohort = starts(task, make_store([], stays), write(records))
    assert dict(cohort.frame.select("subject_id", "boolean_value").iter_rows()) == {
        1: True,
        2: False,
        4: False,
        5: False,
    }
    assert cohort.frame["token_index"].to_list() == [3, 8, 17, 21]  # the DRG is known
    assert [(step.step, step.rows) for step in cohort.flow] == [
        ("hospital stays", 6),
        ("of subjects with a timeline", 6),
        ("end is known", 5),
        ("left alive", 4),
        ("one prediction of a subject at a time", 4),
        ("HOSPITAL_DISCHARGE is in the timeline", 4),
        ("nobody dead, or in such a stay already", 4),
        ("not answered at the start", 4),
        ("outcome is known", 4),
    ]


def test_emergency_tasks(make_store) -> None:
    stays = [
        stay(1, 0, 6, "ed", hadm_id=1),
        stay(2, 0, 6, "ed"),
        stay(3, 0, 6, "ed"),
        stay(4, 0, 6, "ed", died=True),
        stay(5, 0, 6, "ed", hadm_id=5),
    ]
    visit = [(0.0, "ED_ARRIVAL"), (6.0, "ED_DEPARTURE")]
    records = {
        1: [*visit, (7.0, "HOSPITAL_ADMISSION"), (12.0, "ICU_ADMISSION")],
        2: [*visit, (78.0, "ED_ARRIVAL"), (90.0, "HOSPITAL_ADMISSION")],
        3: [*visit, (20.0, "ED_ARRIVAL"), (30.0, "HOSPITAL_ADMISSION")],
        4: [visit[0], (6.0, "MEDS_DEATH"), visit[1]],
        5: [*visit, (7.0, "HOSPITAL_ADMISSION"), (12.01, "ICU_ADMISSION")],
    }
    admitted = {1: True, 2: False, 3: False, 4: False, 5: True}
    assert labels("ed-hospitalisation", make_store, stays, records) == admitted
    critical = {1: True, 2: False, 3: False, 4: True, 5: False}
    assert labels("ed-critical-12h", make_store, stays, records) == critical
    assert labels("ed-return-72h", make_store, stays, records) == {2: True, 3: True}


def test_icu_tasks(make_store) -> None:
    stays = [stay(n, 0, 24, "icu", died=n == 1) for n in range(1, 5)]
    start = [(-2.0, "HOSPITAL_ADMISSION"), (0.0, "ICU_ADMISSION")]
    out, home = (24.0, "ICU_DISCHARGE"), (90.0, "HOSPITAL_DISCHARGE")
    records = {
        1: [*start, (23.0, "MEDS_DEATH"), out, (24.0, "HOSPITAL_DISCHARGE")],
        2: [*start, out, (50.0, "ICU_ADMISSION"), home],
        3: [*start, out, home, (99.0, "ICU_ADMISSION")],
        4: [*start, (24.0, "HOSPITAL_DISCHARGE"), out],  # leaves both at once
    }
    died = {1: True, 2: False, 3: False, 4: False}
    assert labels("icu-mortality", make_store, stays, records) == died
    assert labels("icu-readmission", make_store, stays, records) == {2: True, 3: False}
    days = {1: pytest.approx(23 / 24), 2: 1.0, 3: 1.0, 4: 1.0}
    assert labels("icu-length-of-stay", make_store, stays, records) == days


def test_an_icu_stay_that_outlasts_its_hospital_stay_has_no_return(make_store) -> None:
    """ICU ends are filed up to an hour after the discharge; what follows is another admission."""
    stays = [
        stay(1, 0, 10),
        stay(1, 2, 11, "icu", parent_id=10),
        stay(1, 100, 200),
        stay(1, 101, 150, "icu", parent_id=110),
        stay(2, 0, 60),
        stay(2, 2, 11, "icu", parent_id=20),
    ]
    second = [(100.0, "HOSPITAL_ADMISSION"), (101.0, "ICU_ADMISSION"), (150.0, "ICU_DISCHARGE")]
    first = [(0.0, "HOSPITAL_ADMISSION"), (2.0, "ICU_ADMISSION")]
    leaving = (200.0, "HOSPITAL_DISCHARGE")
    records = {
        1: [*first, (10.0, "HOSPITAL_DISCHARGE"), (11.0, "ICU_DISCHARGE"), *second, leaving],
        2: [*first, (11.0, "ICU_DISCHARGE"), (30.0, "ICU_ADMISSION"), leaving],
    }
    task = load_timeline_task("icu-readmission")
    frame = starts(task, make_store([], stays), write(records)).frame
    assert list(frame.select("subject_id", "boolean_value").iter_rows()) == [(1, False), (2, True)]


def test_whoever_is_dead_or_there_already_is_not_asked(make_store) -> None:
    stays = [
        stay(1, 0, 48),  # in the ICU half an hour before the admission was filed
        stay(1, -0.5, 20, "icu"),
        stay(2, 0, 48),  # filed after the death
        stay(3, 0, 48),  # filed, and not in the timeline
        stay(4, 0, 48),
    ]
    whole = [(0.0, "HOSPITAL_ADMISSION"), (48.0, "HOSPITAL_DISCHARGE")]
    records = {
        1: [(-0.5, "ICU_ADMISSION"), *whole],
        2: [(-9.0, "MEDS_DEATH"), *whole],
        3: [(0.0, "Q1"), (48.0, "HOSPITAL_DISCHARGE")],
        4: whole,
    }
    cohort = starts(load_timeline_task("icu-admission"), make_store([], stays), write(records))
    assert cohort.frame["subject_id"].to_list() == [4]
    rows = {step.step: step.rows for step in cohort.flow}
    assert rows["HOSPITAL_ADMISSION is in the timeline"] == 3
    assert rows["nobody dead, or in such a stay already"] == 1


def test_a_score_dated_at_the_icu_admission_is_asked_for_and_not_known(make_store) -> None:
    """As published, the first day's score stands at its beginning."""
    entry = [(0.0, "HOSPITAL_ADMISSION"), (5.0, "ICU_ADMISSION")]
    records = {1: [*entry, (5.0, "SOFA"), (5.0, "Q2"), (50.0, "ICU_DISCHARGE")]}
    store = make_store([], [stay(1, 0, 80), stay(1, 5, 50, "icu")])
    timelines = write(records)
    frame = starts(load_timeline_task("sofa"), store, timelines).frame
    assert frame["label"].to_list() == ["Q2"]
    assert frame["token_index"].to_list() == [2]
    assert starts(load_timeline_task("icu-mortality"), store, timelines).frame[
        "token_index"
    ].to_list() == [2]


def test_an_optional_pattern_may_match_nothing() -> None:
    task = load_timeline_task("ed-critical-12h")
    assert token_mask(task, ["ED_NOTHING?", "Q1"], VOCABULARY).sum() == 1


def test_readouts_of_a_class(make_store) -> None:
    stays = [stay(n, 0, 60, "icu") for n in (1, 2, 3)]
    records = {
        1: [(0, "ICU_ADMISSION"), (1, "Q9"), (24, "SOFA"), (24, "Q3"), (60, "DRG//2")],
        2: [(0, "ICU_ADMISSION"), (20, "ICU_DISCHARGE"), (60, "DRG//UNKNOWN")],
        # The next stay's score is not this one's.
        3: [(0, "ICU_ADMISSION"), (9, "ICU_ADMISSION"), (33, "SOFA"), (33, "Q7"), (60, "DRG//1")],
    }
    assert labels("sofa", make_store, stays, records) == {1: "Q3"}
    assert labels("sofa-first-day", make_store, stays, records) == {1: "Q3", 3: "Q7"}
    assert labels("drg", make_store, stays, records) == {1: "DRG//2", 3: "DRG//1"}
    timelines = write(records)
    cohort = starts(load_timeline_task("sofa-first-day"), make_store([], stays), timelines).frame
    (first, _) = prefixes(1.0, cohort, timelines, window=64, inject="SOFA")
    assert [TOKENS[token] for token in first.tokens] == ["ICU_ADMISSION", "Q9", "SOFA"]


def test_a_start_at_a_token(make_store, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    lab = "LAB//50912//mg/dL"
    records = {
        1: [(0, lab), (0, "Q1"), (0, lab), (0, "Q2"), (30, lab), (36, "HOSPITAL_DISCHARGE")],
        2: [(0, lab), (0, "HOSPITAL_DISCHARGE"), (5, lab)],
    }
    task = load_timeline_task(tmp_path / "mine.yaml")
    cohort = starts(task, make_store([]), write(records)).frame
    assert cohort.select("subject_id", "prediction_time", "token_index").rows() == [
        (1, at(0), 4),
        (1, at(30), 5),
    ]
    assert cohort["boolean_value"].to_list() == [True, True]


def test_no_stays_of_the_kind(make_store) -> None:
    store = make_store([], [stay(1, 0, 9)])
    with pytest.raises(WardroundError, match="task icu-mortality needs icu stays, and"):
        starts(load_timeline_task("icu-mortality"), store, write({1: [(0, "ICU_ADMISSION")]}))


# Along a stay, prefixes, groups -----------------------------------------------------------------


def test_along_a_stay_rows_stand_at_every_time_until_the_answer(make_store) -> None:
    records = {
        1: [
            (-5, "Q1"),
            (0, "HOSPITAL_ADMISSION"),
            (2, "=1h"),
            (2, "Q1"),
            (3, "Q1"),
            (9, "Q2"),
            (9, "MEDS_DEATH"),
            (9, "HOSPITAL_DISCHARGE"),
        ],
        2: [(0, "HOSPITAL_ADMISSION"), (2, "Q1"), (300, "Q1"), (301, "HOSPITAL_DISCHARGE")],
    }
    timelines = write(records)
    store = make_store([], [stay(1, 0, 9), stay(2, 0, 301)])
    task = load_timeline_task("prolonged-stay")
    rows = along(task, starts(task, store, timelines).frame, timelines)
    assert rows.select("subject_id", "prediction_time", "token_index", "boolean_value").rows() == [
        (1, at(0), 2, False),
        (1, at(2), 4, False),
        (1, at(3), 5, False),
        (2, at(0), 10, True),
        (2, at(2), 11, True),  # and not at 300 hours, after the ten days
    ]
    assert rows["elapsed"].to_list() == [0.0, 7200.0, 10800.0, 0.0, 7200.0]
    assert rows["start_time"].to_list() == [at(0)] * 5
    left = [prefix.horizon for prefix in prefixes(task.horizon, rows, timelines, window=64)]
    assert left[:3] == [864_000.0, 856_800.0, 853_200.0]
    stays = load_timeline_task("length-of-stay")
    days = along(stays, starts(stays, store, timelines).frame, timelines)["value"]
    assert days[1] == pytest.approx(7 / 24)


def test_prefix_ends_at_the_cut_and_its_context_is_that_of_its_first_token() -> None:
    timelines = write({1: [(float(hour), "Q1") for hour in range(40)]})
    asked: list[np.ndarray] = []

    class Spy(Timelines):
        context_size = 2

        def contexts(self, indices, times):
            asked.append(np.asarray(times))
            return np.zeros((len(indices), 2), np.int64)

    spy = Spy(**vars(timelines))
    cohort = pl.DataFrame({"subject_id": [1, 1], "prediction_time": [at(3.5), at(30)]})
    short, long = prefixes(60.0, cohort, spy, window=18)
    assert len(short.tokens) == 4 and len(long.tokens) == 31 and short.horizon == 60.0
    # A window of 16 tokens moves by 4 and opens with 2 of them free: it begins at token 20.
    moments = asked[0].astype("datetime64[us]").tolist()
    assert moments == [at(0), at(20)]


def test_tasks_of_one_start_share_futures() -> None:
    names = ["composite", "icu-admission", "hospital-mortality", "prolonged-stay", "length-of-stay"]
    tasks = [load_timeline_task(name) for name in names]
    (group,) = group_tasks(tasks, VOCABULARY)
    assert group.horizon == load_timeline_task("hospital-mortality").horizon
    ends = {TOKENS[token] for token in np.flatnonzero(group.stops.ends)}
    assert ends == {"MEDS_DEATH", "HOSPITAL_DISCHARGE", "TIMELINE_END"}
    for number, task in enumerate(group.tasks):
        event = group.stops.sets[group.event[number]]
        assert (event == token_mask(task, task.event, VOCABULARY)).all()
    risks = [task for task in tasks if task.kind == "risk"]
    by_horizon = group_tasks(risks, VOCABULARY, estimator="survival")
    assert [{task.name for task in group.tasks} for group in by_horizon] == [
        {"hospital-mortality", "icu-admission"},
        {"prolonged-stay", "composite"},
    ]


def test_tasks_that_would_lengthen_each_other_stay_apart() -> None:
    tasks = [load_timeline_task(name) for name in ("ed-hospitalisation", "ed-critical-12h")]
    assert len(group_tasks(tasks, VOCABULARY)) == 2
    with pytest.raises(WardroundError, match="task drg is of kind class"):
        group_tasks([load_timeline_task("drg")], VOCABULARY)


@given(st.data())
def test_grouped_tasks_answer_as_alone(data: st.DataObject) -> None:
    """A path that ends where its group ends answers each task as the whole path would."""
    names = ["hospital-mortality", "icu-admission", "composite", "prolonged-stay"]
    (group,) = group_tasks([load_timeline_task(name) for name in names], VOCABULARY)
    kinds = ["ICU_ADMISSION", "MEDS_DEATH", "HOSPITAL_DISCHARGE", "Q1"]
    steps = data.draw(
        st.lists(st.tuples(st.integers(0, 8 * 86_400), st.sampled_from(kinds)), max_size=6)
    )

    def follow(ends: np.ndarray, sets: list[np.ndarray]) -> tuple[list[float], float]:
        clock, first = 0.0, [INF] * len(sets)
        for seconds, name in steps:
            clock += seconds
            token = VOCABULARY.id(name)
            first = [min(f, clock) if s[token] else f for f, s in zip(first, sets, strict=True)]
            if ends[token]:
                break
        return first, clock

    def answer(task: TimelineTask, event: float, competing: float, end: float) -> int:
        rules = {"at_horizon": task.at_horizon, "ends_unresolved": task.ends_unresolved}
        one = (np.array([event]), np.array([competing]), np.array([end]))
        return int(outcome(*one, task.horizon, **rules)[0])

    together, end = follow(group.stops.ends, list(group.stops.sets))
    for number, task in enumerate(group.tasks):
        (alone,) = group_tasks([task], VOCABULARY)
        first, own_end = follow(alone.stops.ends, list(alone.stops.sets))
        expected = answer(task, first[alone.event[0]], first[alone.competing[0]], own_end)
        pair = together[group.event[number]], together[group.competing[number]]
        assert answer(task, *pair, end) == expected
