"""Each stage on events written by hand, against tokens written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from wardround.errors import WardroundError
from wardround.store import PatientStore
from wardround.views.records import LoadedRecords
from wardround.views.timeline import ALWAYS, NEVER, NO_EVENT, Preset, Timelines, Tokeniser

Make = Callable[..., PatientStore]


def at(text: str | None) -> Any:
    """2100-01-`dd hh:mm`."""
    return (
        None if text is None else pl.Series([f"2100-01-{text}"]).str.to_datetime(time_unit="us")[0]
    )


def rows(*events: tuple[Any, ...], subject: int = 1) -> list[dict[str, Any]]:
    """(time, code, number, text, available) of a subject."""
    result = []
    for event in events:
        time, code, number, text, available = (*event, None, None, None)[:5]
        row = {"subject_id": subject, "time": at(time), "code": code, "numeric_value": number}
        result.append(row | {"text_value": text, "available_time": at(available)})
    return result


def fitted(store: PatientStore, rules: dict[str, Any], **more: Any) -> Tokeniser:
    preset = Preset.model_validate({"name": "test", "rules": rules, **more})
    return Tokeniser.fit(store, preset, subjects=store.splits()["subject_id"])


def words(timelines: Timelines, subject: int = 1) -> str:
    i = timelines.position(subject)
    own = timelines.tokens[timelines.offsets[i] : timelines.offsets[i + 1]]
    return " ".join(timelines.vocabulary.tokens[token] for token in own)


X = {"x": {"codes": "^(?<code>[A-Z]\\d?)$", "tokens": ["{code}"]}}


def test_events_stand_where_they_became_known(make_store: Make) -> None:
    store = make_store(
        rows(
            ("01 08:00", "A", None, None, "03 08:00"),  # filed late
            ("02 08:00", "B"),
            (None, "C"),  # static, and no context
            ("02 08:00", "D"),
        )
    )
    known = fitted(store, X).encode(store)
    assert words(known) == "B D A"
    assert known.times.astype("datetime64[us]").tolist() == [at("02 08:00")] * 2 + [at("03 08:00")]
    assert known.events.tolist() == [2, 3, 1]
    assert words(fitted(store, X, clock="time").encode(store)) == "A B D"


def test_what_was_never_filed_is_left_out_and_counted(make_store: Make, tmp_path: Any) -> None:
    store = make_store(rows(("01 08:00", "A"), ("01 09:00", "B")))
    unfiled = store.events().with_columns(
        pl.when(pl.col("code") != "A").then("available_time").alias("available_time")
    )
    records = LoadedRecords(unfiled.collect(), store.stays().collect())
    assert words(fitted(store, X).encode(records)) == "B"
    assert words(fitted(store, X, clock="time").encode(records)) == "A B"


def test_events_of_one_time_stand_in_the_declared_order(make_store: Make) -> None:
    store = make_store(
        rows(
            ("01 08:00", "C"),
            ("01 08:00", "B1"),
            ("01 08:00", "A"),
            ("01 08:00", "D"),
            ("01 08:00", "B2"),
        )
    )
    rules = {name: {"codes": f"^{name.upper()}$", "tokens": [name.upper()]} for name in "acd"}
    rules["b"] = {"codes": "^(?<code>B\\d)$", "tokens": ["{code}"]}
    tokeniser = fitted(store, rules, order=["d", "*", "a"])
    assert words(tokeniser.encode(store)) == "D C B1 B2 A"


def test_a_token_stands_in_for_a_missing_companion(make_store: Make) -> None:
    store = make_store(
        [
            *rows(
                ("01 08:00", "OUT"), ("01 08:00", "DRG"), ("02 08:00", "OUT"), ("02 09:00", "DRG")
            ),
        ]
    )
    rules = {
        "out": {"codes": "^OUT$", "tokens": ["OUT"]},
        "drg": {"codes": "^DRG$", "tokens": ["DRG"]},
    }
    complete = [{"after": "out", "lacking": "drg", "token": "NONE"}]
    encoded = fitted(store, rules, order=["out", "*", "drg"], complete=complete).encode(store)
    assert words(encoded) == "OUT DRG OUT NONE DRG"
    assert encoded.events.tolist() == [0, 1, 2, 2, 3]


INTERVALS = {"tokens": {"5m": "5m", "1h": "1h", "1d": "1d", "half": "180d"}, "repeat": "180d"}


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        (4, ""),
        (5, "5m"),
        (59, "5m"),
        (60, "1h"),
        (24 * 60, "1d"),
        (180 * 24 * 60 - 1, "1d"),
        (180 * 24 * 60, "half"),
        (269 * 24 * 60, "half"),
        (271 * 24 * 60, "half half"),
        (900 * 24 * 60, "half half half half half"),
    ],
)
def test_intervals(make_store: Make, minutes: int, expected: str) -> None:
    start = at("01 00:00")
    later = start + timedelta(minutes=minutes)
    store = make_store(
        [
            {"subject_id": 1, "code": "A", "time": start},
            {"subject_id": 1, "code": "B", "time": later},
        ]
    )
    tokeniser = fitted(store, X, intervals=INTERVALS, end="END")
    encoded = tokeniser.encode(store)
    assert words(encoded) == " ".join(filter(None, ["A", expected, "B", "END"]))
    # An interval is known when the event after it is, and the end of a record never.
    assert (encoded.times[1:-1] == encoded.times[-2]).all()
    assert encoded.times[-1] == NEVER
    assert encoded.events.tolist() == [0, *[NO_EVENT] * len(expected.split()), 1, NO_EVENT]
    if expected:
        token = encoded.vocabulary.id(expected.split()[0])
        each = minutes * 60 / len(expected.split())
        assert tokeniser.durations.mean[token] == pytest.approx(each)
        assert tokeniser.durations.quantiles[token] == pytest.approx(np.full(101, each))


def test_intervals_may_stand_between_visits_alone(make_store: Make) -> None:
    store = make_store(rows(("01 00:00", "V"), ("03 00:00", "A"), ("05 00:00", "V")))
    rules = {"v": {"codes": "^V$", "tokens": ["[VS]"]}, **X}
    intervals = {"tokens": {"NOW": "0d", "W": "1d"}, "before": ["v"]}
    encoded = fitted(store, rules, intervals=intervals, start="[CLS]").encode(store)
    assert words(encoded) == "[CLS] [VS] A W [VS]"
    assert encoded.times[0] == ALWAYS


def test_quantiles_count_the_breaks_below(make_store: Make) -> None:
    numbers = [1.0, 1, 1, 1, 1, 1, 2, 3, 4, 5]
    store = make_store(
        rows(*((f"01 {hour:02}:00", "L", number) for hour, number in enumerate(numbers)))
    )
    rule = {"codes": "^L$", "tokens": ["LAB"], "value": {}}
    tokeniser = fitted(store, {"lab": rule})
    breaks = np.unique(np.quantile(np.array(numbers), np.arange(1, 10) / 10))
    assert tokeniser.breaks["LAB"] == pytest.approx(breaks.tolist())
    expected = [f"LAB Q{1 + int((breaks < number).sum())}" for number in numbers]
    assert words(tokeniser.encode(store)) == " ".join(expected)
    assert "Q10" not in words(tokeniser.encode(store))  # equal breaks are gone, as published
    rule["value"] = {"duplicates": "keep"}
    kept = fitted(store, {"lab": rule})
    assert len(kept.breaks["LAB"]) == 9
    assert words(kept.encode(store)).endswith("Q10")


def test_levels_widths_and_ranges(make_store: Make) -> None:
    store = make_store(
        rows(
            ("01 01:00", "ACUITY", 1.0),
            ("01 02:00", "ACUITY", 5.0),
            ("01 03:00", "ACUITY", 6.0),  # no such level
            ("01 04:00", "SOFA", 0.0),
            ("01 05:00", "SOFA", 2.0),
            ("01 06:00", "SOFA", 2.5),
            ("01 07:00", "SOFA", 24.0),
            ("01 08:00", "SOFA", float("nan")),
        )
    )
    level = {"into": "levels", "bins": 5, "low": 1, "high": 5}
    width = {"into": "widths", "low": 0, "high": 24}
    rules = {
        "acuity": {"codes": "^ACUITY$", "tokens": ["ACUITY"], "value": level},
        "sofa": {"codes": "^SOFA$", "tokens": ["SOFA"], "value": width},
    }
    encoded = fitted(store, rules).encode(store)
    assert words(encoded) == "ACUITY Q1 ACUITY Q5 SOFA Q1 SOFA Q1 SOFA Q2 SOFA Q10"


def test_joined_bins_and_events_without_a_number(make_store: Make) -> None:
    store = make_store(rows(("01 01:00", "L", 1.0), ("01 02:00", "L", 9.0), ("01 03:00", "L")))
    rule = {"codes": "^L$", "tokens": ["LAB"]}
    value = {"attach": "join", "bins": 2}
    encoded = fitted(store, {"l": {**rule, "value": value}}).encode(store)
    assert words(encoded) == "LAB//Q1 LAB//Q2"
    value["missing"] = "keep"
    tokeniser = fitted(store, {"l": {**rule, "value": value}})
    assert words(tokeniser.encode(store)) == "LAB//Q1 LAB//Q2 LAB"
    decoded = tokeniser.decode(tokeniser.encode(store))
    assert decoded["code"].to_list() == ["LAB"] * 3
    assert decoded["bins"].to_list() == [[1], [2], []]


def test_pairs_join_what_was_measured_together(make_store: Make) -> None:
    store = make_store(
        rows(
            ("01 01:00", "TRIAGE//DBP", 80.0),
            ("01 01:00", "TRIAGE//SBP", 120.0),
            ("01 01:00", "VITAL//SBP", 130.0),
            ("01 01:00", "VITAL//DBP", 90.0),
            ("01 02:00", "VITAL//SBP", 140.0),  # alone
            ("01 03:00", "VITAL//DBP", 95.0),  # alone
            ("01 04:00", "OUT", None, "150 / 85"),
        )
    )
    value = {"by": ["S", "D"], "bins": 3}
    rules = {
        "bp": {
            "codes": "^(?<where>\\w+)//SBP$",
            "pair": "^(?<where>\\w+)//DBP$",
            "tokens": ["BP"],
            "value": value,
        },
        "out": {
            "codes": "^OUT$",
            "read": {"number": "(\\d+) / (\\d+)"},
            "tokens": ["BP"],
            "value": value,
        },
    }
    tokeniser = fitted(store, rules)
    assert words(tokeniser.encode(store)) == "BP Q1 Q1 BP Q2 Q3 BP Q3 Q2"
    decoded = tokeniser.decode(tokeniser.encode(store))
    assert decoded["bins"].to_list() == [[1, 1], [2, 3], [3, 2]]


def test_numbers_are_read_out_of_texts(make_store: Make) -> None:
    texts = ["critical", "7/10", "8-9", "asleep", "denies", "???"]
    store = make_store(
        rows(
            ("01 00:00", "ED//TRIAGE//PAIN", 3.0, "10"),
            *((f"01 0{i + 1}:00", "ED//TRIAGE//PAIN", None, t) for i, t in enumerate(texts)),
        )
    )
    ethos = Tokeniser.fit(store, "ethos", subjects=[1])
    numbers = [3, 10, 7, 8, 0, 0]
    breaks = np.unique(np.quantile(numbers, np.arange(1, 10) / 10))
    expected = [f"VITAL//PAIN Q{1 + int((breaks < n).sum())}" for n in numbers]
    said = re.sub(r"=\S+ | TIMELINE_END", "", words(ethos.encode(store)))
    assert said == " ".join(expected)


def test_rules_choose_by_count_among_training_subjects(make_store: Make) -> None:
    train = rows(*((f"01 {h:02}:00", code) for h, code in enumerate("AAABBC")))
    other = rows(*((f"01 {h:02}:00", code) for h, code in enumerate("CCCCDA")), subject=2)
    store = make_store([*train, *other])

    def chosen(**rule: Any) -> str:
        preset = Preset.model_validate({"name": "t", "rules": {"x": {**X["x"], **rule}}})
        return words(Tokeniser.fit(store, preset, subjects=[1]).encode(store), 2)

    assert chosen() == "C C C C A"  # D is not in training
    assert chosen(most_frequent=1) == "A"
    assert chosen(min_count=3) == "A"


def test_an_unseen_part_cuts_or_drops_the_event(make_store: Make) -> None:
    store = make_store(
        [
            *rows(("01 00:00", "A1"), ("01 01:00", "B2")),
            *rows(("01 00:00", "A2"), ("01 01:00", "C1"), ("01 02:00", "A3"), subject=2),
        ]
    )
    rule = {
        "codes": "^(?<code>.+)$",
        "split": {"code": {"head": "0:1", "tail": "1:"}},
        "tokens": ["{head}", "-{tail}"],
    }
    for unseen, expected in (("drop", "A -2"), ("cut", "A -2 A")):
        preset = Preset.model_validate({"name": "t", "rules": {"x": {**rule, "unseen": unseen}}})
        tokeniser = Tokeniser.fit(store, preset, subjects=[1])
        assert words(tokeniser.encode(store), 2) == expected


def test_an_event_once_a_day(make_store: Make) -> None:
    store = make_store(
        rows(("01 01:00", "A"), ("01 02:00", "B"), ("01 23:00", "A"), ("02 00:00", "A"))
    )
    assert words(fitted(store, X, once_a_day=True).encode(store)) == "A B A"


def test_static_context_changes_when_it_becomes_known(make_store: Make) -> None:
    store = make_store(
        [
            *rows(
                (None, "GENDER//F"),
                ("01 00:00", "RACE//UNKNOWN"),
                ("02 00:00", "RACE//WHITE - RUSSIAN"),
                ("02 12:00", "BMI (kg/m2)", 22.0, None, "03 00:00"),
                ("04 00:00", "RACE//UNABLE TO OBTAIN"),
                ("04 00:00", "MARITAL_STATUS//MARRIED"),
                ("05 00:00", "MEDS_DEATH"),
            ),
            {"subject_id": 1, "code": "MEDS_BIRTH", "time": at("01 00:00").replace(year=2053)},
        ]
    )
    encoded = Tokeniser.fit(store, "ethos", subjects=[1]).encode(store)

    def context(moment: str) -> list[str]:
        return [encoded.vocabulary.tokens[i] for i in encoded.context(0, at(moment))]

    unknown = ["MARITAL_STATUS//UNK", "BMI//UNK"]
    assert context("01 12:00") == ["GENDER//F", "RACE//UNK", *unknown, "Q5", "Q8"]
    assert context("02 00:00") == ["GENDER//F", "RACE//WHITE", *unknown, "Q5", "Q8"]
    assert context("02 23:00")[3] == "BMI//UNK"
    assert context("03 00:00")[3] == "BMI//Q1"
    assert context("04 00:00")[1:3] == ["RACE//WHITE", "MARITAL_STATUS//MARRIED"]


def test_derived_events_stand_behind_those_of_the_store(make_store: Make) -> None:
    store = make_store(rows(("01 08:00", "A"), ("01 09:00", "B")))

    def derived(records: Any) -> pl.DataFrame:
        first = records.events().filter(pl.col("code") == "A").collect()
        return first.select(
            "subject_id",
            "time",
            "available_time",
            code=pl.lit("S"),
            numeric_value=pl.lit(3.0),
        )

    preset = Preset.model_validate({"name": "t", "rules": X})
    tokeniser = Tokeniser.fit(store, preset, subjects=[1], derived=derived)
    encoded = tokeniser.encode(store, derived=derived)
    assert words(encoded) == "A S B"
    assert encoded.events.tolist() == [0, -2, 1]
    with pytest.raises(ValueError, match="fitted with derived events"):
        tokeniser.encode(store)
    with pytest.raises(WardroundError, match="derived events lack the columns available_time"):
        tokeniser.encode(store, derived=lambda records: derived(records).drop("available_time"))


def test_a_store_without_anything_to_keep_is_refused(make_store: Make) -> None:
    store = make_store(rows(("01 08:00", "A")))
    with pytest.raises(WardroundError, match="none of the 1 subjects to fit on has an event"):
        Tokeniser.fit(store, "ethos", subjects=[1])


def test_the_stay_of_an_ethos_patient(make_store: Make, tmp_path: Any) -> None:
    drugs = tmp_path / "drugs.csv"
    drugs.write_text("name,atc_code\nFurosemide,C03CA01\n")
    store = make_store(
        rows(
            ("01 08:00", "ED//ARRIVAL//WALK IN"),
            ("01 08:00", "ED//TRIAGE//ACUITY", 2.0),
            ("01 08:00", "ED//TRIAGE//HEARTRATE", 90.0),
            ("01 12:00", "ED//DEPARTURE//ADMITTED"),
            ("01 12:00", "ED//DIAGNOSIS//ICD//9//4280"),
            ("01 12:00", "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM"),
            ("01 12:00", "INSURANCE//Medicare"),
            ("01 12:00", "TRANSFER_TO//admit//Medicine"),
            ("01 13:00", "MEDICATION//Furosemide//Administered"),
            ("01 13:00", "MEDICATION//Furosemide//Not Given"),
            ("01 14:00", "ICU_ADMISSION//Medical Intensive Care Unit (MICU)"),
            ("01 14:00", "TRANSFER_TO//transfer//MICU"),
            ("01 15:00", "LAB//RESULT//50912//mg/dL", 1.0, None, "01 16:00"),
            ("01 15:30", "LAB//RESULT//50912//mg/dL", None, "hemolysed"),
            ("03 15:00", "HOSPITAL_DISCHARGE//DIED"),
            ("03 15:00", "DIAGNOSIS//ICD//10//I5033"),
            ("03 15:00", "PROCEDURE//ICD//10//0BH17EZ"),
            ("03 15:00", "PROCEDURE//ICD//9//3722"),
            ("03 15:00", "ICU_DISCHARGE//MICU"),
            ("03 15:00", "MEDS_DEATH"),
            ("03 15:00", "DRG//APR//194//HEART FAILURE"),
        )
    )
    tokeniser = Tokeniser.fit(store, "ethos", subjects=[1], drug_table=drugs)
    assert words(tokeniser.encode(store)).split() == [
        *("ED_ARRIVAL", "ED_TRANSPORT//WALK_IN", "ACUITY", "Q2", "VITAL//HEARTRATE", "Q1"),
        *("=3h-5h", "ED_DEPARTURE", "ED_DISPOSITION//ADMITTED", "ICD//CM//I50", "ICD//CM//3-6//9"),
        *("HOSPITAL_ADMISSION", "ADMISSION_TYPE//EMERGENCY", "INSURANCE//MEDICARE"),
        *("TRANSFER//ADMIT", "=45m-1h15m", "ATC//C03", "ATC//4//C", "ATC//SUFFIX//A01"),
        *("=45m-1h15m", "TRANSFER//TRANSFER", "ICU_ADMISSION", "ICU_TYPE//MICU"),
        *("=2h-3h", "LAB//50912//mg/dL", "Q1", "=1d-2d", "MEDS_DEATH", "ICU_DISCHARGE"),
        *("HOSPITAL_DISCHARGE", "DISCHARGE_LOCATION//DIED"),
        *(f"ICD//PCS//{character}" for character in "0BH17EZ"),
        *("ICD//CM//I50", "ICD//CM//3-6//33", "DRG//UNKNOWN", "TIMELINE_END"),
    ]
    published = Tokeniser.fit(store, "ethos", subjects=[1], drug_table=drugs, paper_compat=True)
    assert "=45m-1h15m LAB//50912//mg/dL" in words(published.encode(store))
