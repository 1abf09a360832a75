"""SOFA: every edge of the published table, and the first day of a stay by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from wardround.errors import WardroundError
from wardround.store import EVENT_SCHEMA, PatientStore
from wardround.views.records import LoadedRecords
from wardround.views.sofa import (
    COMPONENTS,
    ORGANS,
    SOFA_EVENTS,
    first_day_components,
    first_day_sofa,
    sofa,
)

START = datetime(2150, 3, 1, 8)
CREATININE = "LAB//RESULT//50912//mg/dL"
PRESSURE = "LAB//220052//mmHg"


def worst(**values: float) -> dict[str, Any]:
    """The one row of scores for these components."""
    row = dict.fromkeys(COMPONENTS) | values
    frame = pl.DataFrame([row], schema=dict.fromkeys(COMPONENTS, pl.Float64))
    return sofa(frame).row(0, named=True)


@pytest.mark.parametrize(
    ("organ", "component", "points"),
    [
        (
            "respiration",
            "pao2fio2_supported",
            {400: 0, 399.9: 1, 300: 1, 299.9: 2, 200: 2, 199.9: 3, 100: 3, 99.9: 4},
        ),
        (
            "respiration",
            "pao2fio2_unsupported",
            {400: 0, 399.9: 1, 300: 1, 299.9: 2, 200: 2, 199.9: 2, 99.9: 2},
        ),
        (
            "coagulation",
            "platelets",
            {150: 0, 149: 1, 100: 1, 99: 2, 50: 2, 49: 3, 20: 3, 19: 4, 0: 4},
        ),
        (
            "liver",
            "bilirubin",
            {1.1: 0, 1.2: 1, 1.9: 1, 2.0: 2, 5.9: 2, 6.0: 3, 11.9: 3, 12.0: 4},
        ),
        ("cardiovascular", "map", {70: 0, 69.9: 1, 20: 1}),
        ("cardiovascular", "dopamine", {0: 0, 0.5: 2, 5: 2, 5.1: 3, 15: 3, 15.1: 4}),
        ("cardiovascular", "dobutamine", {0: 0, 0.1: 2, 40: 2}),
        ("cardiovascular", "epinephrine", {0: 0, 0.01: 3, 0.1: 3, 0.101: 4}),
        ("cardiovascular", "norepinephrine", {0: 0, 0.01: 3, 0.1: 3, 0.101: 4}),
        ("cns", "gcs", {15: 0, 14: 1, 13: 1, 12: 2, 10: 2, 9: 3, 6: 3, 5: 4, 3: 4}),
        (
            "renal",
            "creatinine",
            {1.1: 0, 1.2: 1, 1.9: 1, 2.0: 2, 3.4: 2, 3.5: 3, 4.9: 3, 5.0: 4, 9: 4},
        ),
        ("renal", "urine_output", {500: 0, 499: 3, 200: 3, 199: 4, 0: 4}),
    ],
)
def test_every_edge_of_the_table(organ: str, component: str, points: dict[float, int]) -> None:
    assert {value: worst(**{component: value})[organ] for value in points} == points


def test_the_worse_of_two_ways_to_fail_counts_once() -> None:
    assert worst(map=60, norepinephrine=0.3, dobutamine=5)["cardiovascular"] == 4
    assert worst(creatinine=1.3, urine_output=100)["renal"] == 4
    assert worst(pao2fio2_supported=150, pao2fio2_unsupported=250)["respiration"] == 3


def test_a_missing_organ_is_null_and_adds_nothing() -> None:
    scores = worst(platelets=40, gcs=14)
    assert scores["sofa"] == 3 + 1
    assert [organ for organ in ORGANS if scores[organ] is not None] == ["coagulation", "cns"]
    assert worst()["sofa"] == 0
    assert worst(gcs=float("nan"))["cns"] is None


def test_the_worst_of_all_organs_is_24() -> None:
    scores = worst(
        pao2fio2_supported=50, platelets=5, bilirubin=20, norepinephrine=1, gcs=3, creatinine=8
    )
    assert scores["sofa"] == 24


def test_stored_32_bit_numbers_keep_to_their_side_of_an_edge() -> None:
    frame = pl.DataFrame(
        [dict.fromkeys(COMPONENTS) | {"norepinephrine": 0.1, "bilirubin": 1.2}],
        schema=dict.fromkeys(COMPONENTS, pl.Float32),
    )
    scores = sofa(frame).row(0, named=True)
    assert (scores["cardiovascular"], scores["liver"]) == (3, 1)


def test_missing_columns_are_named_and_others_kept() -> None:
    with pytest.raises(WardroundError, match="creatinine, urine_output"):
        sofa(pl.DataFrame(schema=dict.fromkeys(COMPONENTS[:-2], pl.Float64)))
    frame = pl.DataFrame(schema={"hour": pl.Int64, **dict.fromkeys(COMPONENTS, pl.Float64)})
    assert sofa(frame).columns == ["hour", *ORGANS, "sofa"]


def records(
    rows: list[tuple[Any, ...]], hours: float = 72, subject: int = 1, stay: int = 30
) -> LoadedRecords:
    """One ICU stay; rows are (code, hours after the admission, value[, text[, hours to file]])."""
    events = []
    for code, hour, value, *rest in rows:
        text, filed = [*rest, None, None][:2]
        time = START + timedelta(hours=hour)
        events.append(
            {
                "subject_id": subject,
                "time": time,
                "code": code,
                "numeric_value": value,
                "text_value": text,
                "available_time": time + timedelta(hours=filed or 0),
            }
        )
    schema = dict(pl.from_arrow(EVENT_SCHEMA.empty_table()).schema)  # type: ignore[union-attr]
    stays = pl.DataFrame(
        {
            "subject_id": [subject],
            "stay_id": [stay],
            "kind": ["icu"],
            "start": [START],
            "end": [START + timedelta(hours=hours)],
        }
    )
    return LoadedRecords(pl.DataFrame(events, schema=schema), stays)


def components(rows: list[tuple[Any, ...]], hours: float = 72) -> dict[str, Any]:
    return first_day_components(records(rows, hours)).row(0, named=True)


def test_the_score_is_dated_at_the_end_of_the_first_day() -> None:
    event = first_day_sofa(records([(CREATININE, 2, 2.5)])).row(0, named=True)
    end = START + timedelta(hours=24)
    assert (event["time"], event["available_time"]) == (end, end)
    assert (event["code"], event["numeric_value"], event["stay_id"]) == ("SOFA", 2.0, 30)


def test_of_a_short_stay_at_its_end_and_with_the_leak_at_its_start() -> None:
    short = records([(CREATININE, 2, 2.5)], hours=7)
    assert first_day_sofa(short)["time"].item() == START + timedelta(hours=7)
    leaked = first_day_sofa(short, leak=True)
    assert leaked.select("time", "available_time").row(0) == (START, START)
    assert leaked["numeric_value"].item() == 2.0


def test_a_stay_of_which_nothing_is_known_has_no_score() -> None:
    assert first_day_sofa(records([])).is_empty()
    assert first_day_sofa(records([(CREATININE, 30, 2.5)])).is_empty()


def test_values_of_the_window_count_when_filed_within_it() -> None:
    rows = [
        (CREATININE, -7, 9.0),  # too early
        (CREATININE, -5, 1.5),
        (CREATININE, 23, 2.5, None, 0.5),
        (CREATININE, 23.5, 4.0, None, 2),  # filed too late
        (CREATININE, 24.5, 8.0),
    ]
    assert components(rows)["creatinine"] == 2.5
    assert components(rows, hours=12)["creatinine"] == 1.5


def test_worst_is_lowest_or_highest_by_organ_and_errors_are_left_out() -> None:
    rows = [
        *((PRESSURE, 1, 64.0), ("LAB//220181//mmHg", 2, 58.0), (PRESSURE, 3, 0.0)),
        *(("LAB//RESULT//51265//K/uL", 1, 80.0), ("LAB//RESULT//51265//UNK", 2, 60.0)),
        *(("LAB//RESULT//50885//mg/dL", 1, 1.0), ("LAB//RESULT//50885//mg/dL", 2, 3.0)),
    ]
    found = components(rows)
    assert (found["map"], found["platelets"], found["bilirubin"]) == (58, 60, 3)


def gas(hour: float, pao2: float, specimen: str | None = "ART.") -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [("LAB//RESULT//50821//mm Hg", hour, pao2)]
    return rows + ([("LAB//RESULT//52033//UNK", hour, None, specimen)] if specimen else [])


MODE = ("LAB//223849//UNK", 4, 49.0, "CMV/ASSIST/AutoFlow")


@pytest.mark.parametrize(
    ("rows", "supported", "alone"),
    [
        # FiO2 as a fraction or in percent, charted at most 4 hours before the gas.
        ([*gas(5, 80), ("LAB//223835//UNK", 2, 0.4)], None, 200),
        ([*gas(5, 80), ("LAB//223835//UNK", 2, 40.0)], None, 200),
        ([*gas(5, 80), ("LAB//223835//UNK", 0.5, 40.0)], None, None),
        ([*gas(5, 80), ("LAB//223835//UNK", 6, 40.0)], None, None),
        ([*gas(5, 80), ("LAB//223835//UNK", 4, 4.0)], None, None),
        # The gas's own FiO2 comes first.
        (
            [*gas(5, 80), ("LAB//RESULT//50816//%", 5, 50.0), ("LAB//223835//UNK", 4, 40.0)],
            None,
            160,
        ),
        # Venous blood is no arterial gas; without a mark it is taken for one.
        ([*gas(5, 80, "VEN."), ("LAB//223835//UNK", 4, 40.0)], None, None),
        ([*gas(5, 80, None), ("LAB//223835//UNK", 4, 40.0)], None, 200),
        # Support: a ventilator's mode, a tube, a procedure; until something else is charted.
        ([*gas(5, 80), ("LAB//223835//UNK", 4, 40.0), MODE], 200, None),
        (
            [
                *gas(5, 80),
                ("LAB//223835//UNK", 4, 40.0),
                ("LAB//226732//UNK", 3, None, "Bipap mask "),
            ],
            200,
            None,
        ),
        (
            [
                *gas(5, 80),
                ("LAB//223835//UNK", 4, 40.0),
                MODE,
                ("LAB//226732//UNK", 4.5, None, "Nasal cannula"),
            ],
            None,
            200,
        ),
        (
            [
                *gas(5, 80),
                ("LAB//223835//UNK", 4, 40.0),
                ("LAB//223849//UNK", 4, 30.0, "Standby"),
            ],
            None,
            200,
        ),
        (
            [*gas(5, 80), ("LAB//223835//UNK", 4, 40.0), ("PROCEDURE//START//225792", 1, None)],
            200,
            None,
        ),
        (
            [
                *gas(5, 80),
                ("LAB//223835//UNK", 4, 40.0),
                ("PROCEDURE//START//225792", 1, None),
                ("PROCEDURE//END//225792", 4, 180.0, "min"),
            ],
            None,
            200,
        ),
        # Support that was charted a long time before the gas.
        ([*gas(14, 80), ("LAB//223835//UNK", 13, 40.0), MODE], None, 200),
    ],
)
def test_oxygenation(
    rows: list[tuple[Any, ...]], supported: float | None, alone: float | None
) -> None:
    found = components(rows)
    assert (found["pao2fio2_supported"], found["pao2fio2_unsupported"]) == (supported, alone)


def test_rates_are_brought_to_mcg_per_kg_and_minute() -> None:
    weight = ("SUBJECT_WEIGHT_AT_INFUSION//KG", 3, 80.0)
    rows = [
        ("INFUSION_START//221906", 2, 0.05, "mcg/kg/min"),
        ("INFUSION_START//221906", 3, 8.0, "mcg/min"),
        weight,
        ("INFUSION_START//221289", 2, 0.0002, "mg/kg/min"),
        ("INFUSION_START//221662", 2, 6.0, "mcg/kg/min"),
        ("INFUSION_START//221653", 2, 5.0, "mL/hour"),
    ]
    found = components(rows)
    assert found["norepinephrine"] == pytest.approx(0.1)
    assert found["epinephrine"] == pytest.approx(0.2)
    assert (found["dopamine"], found["dobutamine"]) == (6, None)


def coma(hour: float, eyes: float, verbal: float, motor: float, text: str | None = None) -> Any:
    return [
        ("LAB//220739//UNK", hour, eyes),
        ("LAB//223900//UNK", hour, verbal, text),
        ("LAB//223901//UNK", hour, motor),
    ]


def test_coma_scale_is_the_lowest_sum_at_one_time() -> None:
    # By parts the lowest would be 2 + 4 + 5.
    assert components([*coma(1, 4, 4, 5), *coma(5, 2, 5, 6)])["gcs"] == 13
    # Parts are carried on for six hours, and never backward.
    assert components([*coma(1, 4, 5, 6), ("LAB//223901//UNK", 6, 3.0)])["gcs"] == 12
    assert components([*coma(1, 4, 5, 6), ("LAB//223901//UNK", 8, 3.0)])["gcs"] == 15
    assert components([("LAB//223901//UNK", 6, 3.0)])["gcs"] is None


def test_a_tube_leaves_the_coma_scale_unknown() -> None:
    tubed = coma(5, 1, 1, 1, "No Response-ETT")
    assert components(tubed)["gcs"] is None
    assert components([*coma(1, 4, 5, 6), *tubed])["gcs"] == 15
    assert components(coma(5, 1, 1, 1, "No Response"))["gcs"] == 3


def test_urine_of_a_whole_day_less_irrigation() -> None:
    rows = [
        ("SUBJECT_FLUID_OUTPUT//226559//ml", -1, 900.0),
        ("SUBJECT_FLUID_OUTPUT//226559//ml", 3, 250.0),
        ("SUBJECT_FLUID_OUTPUT//226559//ml", 3, 250.0),  # a repeated row
        ("SUBJECT_FLUID_OUTPUT//226560//ml", 9, 300.0),
        ("SUBJECT_FLUID_OUTPUT//227489//ml", 10, 400.0),
        ("SUBJECT_FLUID_OUTPUT//227488//ml", 10, 350.0),
        ("SUBJECT_FLUID_OUTPUT//226588//ml", 10, 5000.0),  # a chest tube
    ]
    assert components(rows)["urine_output"] == 600
    assert components(rows, hours=22)["urine_output"] == 600
    assert components(rows, hours=21)["urine_output"] is None


def test_the_future_changes_no_score(demo: PatientStore) -> None:
    """What happens or is filed after the window leaves the score as it is."""
    whole = first_day_sofa(demo)
    ends = whole.select("subject_id", end="time")
    first = ends.group_by("subject_id").agg(pl.col("end").min())
    seen = (pl.col("time") <= pl.col("end")) & (pl.col("available_time") <= pl.col("end"))
    events = demo.events().join(first.lazy(), on="subject_id").filter(seen).drop("end").collect()
    cut = LoadedRecords(events, demo.stays().collect())
    key = ["subject_id", "time"]
    expected = whole.join(first, left_on=key, right_on=["subject_id", "end"], how="semi")
    assert first_day_sofa(cut).join(expected, on=key, how="semi").equals(expected)


def test_the_demo_against_a_direct_query(demo: PatientStore) -> None:
    """Platelets and creatinine, stay by stay, without the view's machinery."""
    found = first_day_components(demo)
    events = demo.events().filter(SOFA_EVENTS).collect()
    assert found.height == demo.stays().filter(pl.col("kind") == "icu").collect().height
    for row in found.sample(25, seed=1).iter_rows(named=True):
        seen = events.filter(
            pl.col("subject_id") == row["subject_id"],
            pl.col("time").is_between(row["start"] - timedelta(hours=6), row["end"]),
            pl.col("available_time") <= row["end"],
        )
        platelets = seen.filter(pl.col("code").str.contains("//51265//"))["numeric_value"].min()
        creatinine = seen.filter(pl.col("code").str.contains("//50912//"))["numeric_value"].max()
        for value, expected in ((row["platelets"], platelets), (row["creatinine"], creatinine)):
            assert value is expected is None or value == pytest.approx(expected)


def test_the_synthetic_hospital(hospital: Any) -> None:
    """It charts what five of the six organs need."""
    scored = sofa(first_day_components(hospital.store))
    assert scored["sofa"].is_between(0, 24).all()
    measured = {organ: scored[organ].is_not_null().mean() for organ in ORGANS}
    assert min(measured[o] for o in ("coagulation", "cardiovascular", "cns", "renal")) > 0.8
    assert measured["liver"] > 0.05
