"""What belongs together in a timeline, and how it is called."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.simulation.units import information_units, kind_of, label_of
from wardround.views.timeline import NEVER, Timelines, Vocabulary

Token = tuple[str, int, int]  # name, time, source event


def timelines_of(tokens: list[Token]) -> Timelines:
    names = [name for name, _, _ in tokens]
    vocabulary = Vocabulary(tuple(dict.fromkeys([*names, "TIMELINE_END"])))
    return Timelines(
        vocabulary,
        np.array([vocabulary.id(name) for name in names], np.uint16),
        np.array([time for _, time, _ in tokens]),
        np.array([event for _, _, event in tokens]),
        np.array([0, len(tokens)]),
        np.array([1]),
    )


def units_of(tokens: list[Token], low: int = 0) -> list[list[str]]:
    units = information_units(timelines_of(tokens), low, len(tokens))
    names = [name for name, _, _ in tokens]
    assert (units.body >= units.first).all()
    return [names[a:b] for a, b in zip(units.first, units.end, strict=True)]


def at(time: int, event: int, *names: str) -> list[Token]:
    return [(name, time, event) for name in names]


def test_units_are_source_events_with_the_interval_before_them():
    pressure = [*at(0, 4, "VITAL//BLOOD_PRESSURE", "Q3"), *at(0, 5, "Q4")]
    stay = at(0, 6, "HOSPITAL_ADMISSION", "ADMISSION_TYPE//EMERGENCY")
    drug = at(9, 11, *("ATC//N02", "ATC//4//B", "ATC//SUFFIX//E01", "ATC//N02", "ATC//4//A"))
    procedure = at(9, 12, *(f"ICD//PCS//{letter}" for letter in "0DTJ4ZZ"))
    tokens = [
        *at(0, 3, "LAB//1//mg/dL", "Q1"),
        *pressure,
        *stay,
        *at(0, 7, "INSURANCE//MEDICARE"),
        *at(0, -2, "SOFA", "Q2"),
        *at(5, -1, "=6mt", "=6mt"),
        *at(5, 10, "LAB//1//mg/dL", "Q1"),
        *at(5, 13, "LAB//1//mg/dL", "Q1"),
        *at(9, -1, "=1d-2d"),
        *drug,
        *procedure,
        *at(9, 14, "HOSPITAL_DISCHARGE", "DISCHARGE_LOCATION//HOME"),
        *at(9, -1, "DRG//UNKNOWN"),
        *at(NEVER, -1, "=5m-15m", "TIMELINE_END"),
    ]
    assert units_of(tokens) == [
        ["LAB//1//mg/dL", "Q1"],
        ["VITAL//BLOOD_PRESSURE", "Q3", "Q4"],
        ["HOSPITAL_ADMISSION", "ADMISSION_TYPE//EMERGENCY", "INSURANCE//MEDICARE"],
        ["SOFA", "Q2"],
        ["=6mt", "=6mt", "LAB//1//mg/dL", "Q1"],
        ["LAB//1//mg/dL", "Q1"],
        ["=1d-2d", *(name for name, _, _ in drug)],
        [name for name, _, _ in procedure],
        ["HOSPITAL_DISCHARGE", "DISCHARGE_LOCATION//HOME"],
        ["DRG//UNKNOWN"],
    ]
    assert units_of(tokens, low=2)[0] == ["VITAL//BLOOD_PRESSURE", "Q3", "Q4"]
    assert units_of([]) == []
    assert units_of(at(0, -1, "=5m-15m", "TIMELINE_END")) == []


def test_what_was_paid_by_whom_does_not_join_another_event():
    tokens = [*at(0, 1, "LAB//1//mg/dL", "Q1"), *at(0, 2, "INSURANCE//MEDICARE")]
    assert len(units_of(tokens)) == 2
    assert label_of(["INSURANCE//MEDICARE"]) == "Insurance (medicare)"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.booleans()), max_size=30))
def test_units_share_out_all_tokens(events):
    """Every token but what follows the last event is in exactly one unit, in order."""
    tokens, expected, time = [], [], 0
    for number, (intervals, size, later) in enumerate(events):
        time += 1 if later or intervals else 0
        unit = [("=1d-2d", time, -1)] * intervals + at(time, number, "LAB//1", "Q1", "Q2")[:size]
        tokens += unit
        expected.append([name for name, _, _ in unit])
    assert units_of(tokens + at(NEVER, -1, "=1d-2d", "TIMELINE_END")) == expected


@pytest.mark.parametrize(
    ("tokens", "kind", "label"),
    [
        ("=2h-3h LAB//50912//mg/dL Q9", "lab", "Creatinine (mg/dL), decile 9 of 10"),
        ("LAB//50813//UNK Q10", "lab", "Lab item 50813, decile 10 of 10"),
        ("VITAL//O2SAT Q1", "vital sign", "Oxygen saturation, decile 1 of 10"),
        (
            "VITAL//BLOOD_PRESSURE Q3 Q10",
            "vital sign",
            "Blood pressure, systolic decile 3, diastolic decile 10 of 10",
        ),
        ("BMI//Q3", "vital sign", "Body mass index, decile 3 of 10"),
        ("ACUITY Q2", "score", "Triage acuity 2 of 5"),
        ("SOFA Q4", "score", "SOFA score, decile 4 of 10"),
        ("ATC//C03 ATC//4//C ATC//SUFFIX//A01", "drug", "Drug given: ATC C03CA01: furosemide"),
        (
            "ATC//N02 ATC//4//B ATC//SUFFIX//E01 ATC//R05 ATC//4//D",
            "drug",
            "Drug given: ATC N02BE01, ATC R05D",
        ),
        ("DRUG//SODIUM_CHLORIDE__FLUSH", "drug", "Drug given: sodium chloride flush"),
        (
            "ICD//CM//I50 ICD//CM//3-6//33",
            "diagnosis",
            "Diagnosis I50.33: Acute on chronic heart failure",
        ),
        ("ICD//CM//I10", "diagnosis", "Diagnosis I10"),
        ("ICD//PCS//0 ICD//PCS//D ICD//PCS//T", "procedure", "Procedure 0DT"),
        ("HCPCS//OBSERVATION", "procedure", "HCPCS observation"),
        ("DRG//UNKNOWN", "diagnosis", "DRG unknown"),
        (
            "HOSPITAL_ADMISSION ADMISSION_TYPE//EMERGENCY INSURANCE//MEDICARE",
            "transfer",
            "Hospital admission (emergency, medicare)",
        ),
        ("=1d-2d ICU_ADMISSION ICU_TYPE//MICU", "transfer", "ICU admission (MICU)"),
        ("TRANSFER//TRANSFER", "transfer", "Transfer to another ward"),
        ("ICU_PROCEDURE//225459", "procedure", "Chest X-Ray"),
        ("SOMETHING//NEW Q2", "other", "SOMETHING//NEW, decile 2 of 10"),
        ("=6mt", "other", "=6mt"),
    ],
)
def test_labels(tokens, kind, label):
    descriptions = {
        "LAB//RESULT//50912//mg/dL": "Creatinine",
        "C03CA01": "furosemide",
        "DIAGNOSIS//ICD//10//I5033": "Acute on chronic heart failure",
        "ICU_PROCEDURE//225459": "Chest X-Ray",
    }
    assert kind_of(tokens.split()) == kind
    assert label_of(tokens.split(), descriptions) == label
