from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.views.table import ED_RANGES, clean_vital, parse_pain


def clean(vital: str, value: float | None) -> float | None:
    frame = pl.DataFrame({"value": [value]}, schema={"value": pl.Float32})
    return frame.select(clean_vital(pl.col("value"), vital)).item()


@pytest.mark.parametrize(
    ("vital", "raw", "expected"),
    [
        ("temperature", 98.6, 37.0),
        ("temperature", 37.0, None),  # Celsius already: 2.8 degrees after conversion
        ("temperature", 57.0, None),  # 13.9 C, below 14.2
        ("temperature", 60.0, 26.0),  # 15.6 C, clipped up
        ("temperature", 78.8, 26.0),
        ("temperature", 113.0, 45.0),
        ("temperature", 116.0, 45.0),  # 46.7 C, clipped down
        ("temperature", 117.0, None),  # 47.2 C
        ("heartrate", 0, 0),
        ("heartrate", -1, None),
        ("heartrate", 350, 350),
        ("heartrate", 351, 350),
        ("heartrate", 390, 350),
        ("heartrate", 391, None),
        ("heartrate", 9999, None),
        ("resprate", 300, 300),
        ("resprate", 330, 300),
        ("resprate", 331, None),
        ("o2sat", 100, 100),
        ("o2sat", 101, 100),
        ("o2sat", 150, 100),
        ("o2sat", 151, None),
        ("sbp", 375, 375),
        ("sbp", 376, None),
        ("dbp", -0.5, None),
        ("dbp", 375, 375),
        ("pain", 10, 10),
        ("pain", 13, None),
        ("acuity", 0, None),
        ("acuity", 1, 1),
        ("acuity", 5, 5),
        ("acuity", 6, None),
        ("sbp", float("nan"), None),
        ("sbp", None, None),
    ],
)
def test_each_edge_of_the_ranges(vital: str, raw: float | None, expected: float | None) -> None:
    assert clean(vital, raw) == pytest.approx(expected, abs=1e-5)


@given(vital=st.sampled_from(sorted(ED_RANGES)), raw=st.floats(width=32))
def test_whatever_comes_in_valid_values_or_nothing_come_out(vital: str, raw: float) -> None:
    result, bounds = clean(vital, raw), ED_RANGES[vital]
    assert result is None or bounds.valid_low <= result <= bounds.valid_high


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8-9", 8.5),
        (" 8 - 9", 8.5),
        ("0-10", 5.0),
        ("7", 7.0),
        ("7.5", 7.5),
        ("7/10", 7.0),
        ("10 at rest", 10.0),
        ("13", 13.0),  # the range rule's business
        ("unable", None),
        ("ett", None),
        ("-3", None),
        ("about 5", None),
        ("", None),
        (None, None),
    ],
)
def test_pain_text(text: str | None, expected: float | None) -> None:
    frame = pl.DataFrame({"text": [text]}, schema={"text": pl.String})
    assert frame.select(parse_pain(pl.col("text"))).item() == expected
