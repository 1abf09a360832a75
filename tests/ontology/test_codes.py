"""ICD codes as text."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import WardroundError
from wardround.ontology import (
    describe_codes,
    dotted_icd,
    icd_event_code,
    normalise_icd,
    parse_icd_event_code,
)

TEXT = st.lists(st.text(alphabet="aAeEvV019. \t", max_size=9), min_size=1, max_size=20)


def normalised(codes: list[str | None]) -> list[str | None]:
    frame = pl.DataFrame({"code": codes}, schema={"code": pl.String})
    return frame.select(normalise_icd(pl.col("code")))["code"].to_list()


def test_normalise_drops_dots_spaces_and_case() -> None:
    assert normalised(["i50.9 ", " 038.9", "V45.01", "e885.9", "", " . ", None]) == [
        "I509",
        "0389",
        "V4501",
        "E8859",
        None,
        None,
        None,
    ]


@given(TEXT)
def test_normalise_is_idempotent(codes: list[str]) -> None:
    once = normalised(codes)
    assert normalised(once) == once


@pytest.mark.parametrize(
    ("code", "version", "kind", "dotted"),
    [
        ("I5021", 10, "diagnosis", "I50.21"),
        ("S0000XA", 10, "diagnosis", "S00.00XA"),
        ("E119", 10, "diagnosis", "E11.9"),
        ("E8859", 9, "diagnosis", "E885.9"),
        ("E030", 9, "diagnosis", "E030"),
        ("V4501", 9, "diagnosis", "V45.01"),
        ("V4501", 10, "diagnosis", "V45.01"),
        ("042", 9, "diagnosis", "042"),
        ("42821", 9, "diagnosis", "428.21"),
        ("3722", 9, "procedure", "37.22"),
        ("02703ZZ", 10, "procedure", "02703ZZ"),
    ],
)
def test_the_dot_follows_the_category(code: str, version: int, kind: str, dotted: str) -> None:
    frame = pl.DataFrame({"code": [code], "version": [version]})
    out = frame.select(dotted_icd(pl.col("code"), pl.col("version"), kind))  # type: ignore[arg-type]
    assert out.item() == dotted


@given(TEXT)
def test_dotting_changes_nothing_but_the_dot(codes: list[str]) -> None:
    frame = pl.DataFrame({"code": codes}).with_columns(version=pl.lit(9))
    out = frame.select(
        plain=normalise_icd(pl.col("code")),
        dotted=normalise_icd(dotted_icd(pl.col("code"), pl.col("version"))),
    )
    assert out["plain"].to_list() == out["dotted"].to_list()


def test_event_codes_come_apart_and_together() -> None:
    events = [
        "DIAGNOSIS//ICD//10//I509",
        "DIAGNOSIS//ICD//9//V4501",
        "PROCEDURE//ICD//9//3722",
        "ED//DIAGNOSIS//ICD//10//E119",
    ]
    frame = pl.DataFrame({"event": events}).with_columns(
        parse_icd_event_code(pl.col("event")).struct.unnest()
    )
    assert frame["kind"].to_list() == ["diagnosis", "diagnosis", "procedure", "diagnosis"]
    assert frame["icd_version"].to_list() == [10, 9, 9, 10]
    assert frame["icd_code"].to_list() == ["I509", "V4501", "3722", "E119"]
    for row, prefix in enumerate(["DIAGNOSIS", "DIAGNOSIS", "PROCEDURE", "ED//DIAGNOSIS"]):
        built = frame[row].select(icd_event_code(pl.col("icd_code"), pl.col("icd_version"), prefix))
        assert built.item() == events[row]


@pytest.mark.parametrize(
    "event", ["MEDS_DEATH", "DRG//APR//194//HEART FAILURE", "DIAGNOSIS//ICD//11//BD10", None]
)
def test_other_events_are_no_icd_codes(event: str | None) -> None:
    frame = pl.DataFrame({"event": [event]}, schema={"event": pl.String})
    parsed = frame.select(parse_icd_event_code(pl.col("event")).struct.unnest())
    assert parsed.row(0) == (None, None, None)


def test_event_code_of_a_dotted_code_is_normalised_and_null_stays_null() -> None:
    frame = pl.DataFrame({"code": ["i50.9", None, "I10"], "version": [10, 10, None]})
    out = frame.select(icd_event_code(pl.col("code"), pl.col("version"))).to_series()
    assert out.to_list() == ["DIAGNOSIS//ICD//10//I509", None, None]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"icd_code": ["I10"]}), "lacks the column icd_version"),
        (pl.DataFrame({"icd_code": ["I10"], "icd_version": [11]}), "neither 9 nor 10"),
        (pl.DataFrame({"icd_code": ["I10"], "icd_version": ["10"]}), "expected whole numbers"),
    ],
)
def test_a_wrong_frame_is_refused(frame: pl.DataFrame, message: str) -> None:
    with pytest.raises(WardroundError, match=message):
        describe_codes(frame)
