from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from wardround.views.grid import CHANNELS, ChannelMedians, HourlyGrid, hourly_vitals

START = datetime(2150, 1, 1, 10)
HR, PAIN = CHANNELS.index("heartrate"), CHANNELS.index("pain")


def chart(builder: Any, minutes: float, value: float | None, vital: str = "HEARTRATE") -> None:
    builder.event(
        1,
        START + timedelta(minutes=minutes),
        f"ED//VITALSIGN//{vital}",
        numeric_value=value,
        stay_id=10,
    )


@pytest.fixture
def visit(new_builder: Callable[[], Any]) -> Any:
    """A visit of 4 h 30 min with heart rates at minutes 70, 110 and 190."""
    b = new_builder()
    b.stay(1, 10, START, START + timedelta(minutes=270))
    for minutes, value in ((70, 80), (110, 120), (190, 60)):
        chart(b, minutes, value)
    return b


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # Hours:  0 (backward)  1: 70', 110'      2 (forward)          3: 190'  4 (forward)
        ("last", [120, 120, 120, 60, 60]),
        ("mean", [100, 100, 100, 60, 60]),
        # At 0', 60' before the first; at 120' and 180' between 110' (120) and 190' (60).
        ("linear", [80, 80, 120 - 60 * 10 / 80, 120 - 60 * 70 / 80, 60]),
    ],
)
def test_one_visit_by_hand(visit: Any, method: str, expected: list[float]) -> None:
    grid = hourly_vitals(visit.write(), visit.index(at="end"), method=method)
    assert_array_equal(grid.lengths, [5])
    assert grid.values.shape == (1, 5, 7)
    assert grid.values.dtype == np.float32
    assert_allclose(grid.values[0, :, HR], expected, rtol=1e-6)
    assert np.isnan(np.delete(grid.values, HR, axis=2)).all()


def test_values_after_the_prediction_are_not_seen(visit: Any) -> None:
    index = visit.index().with_columns(pl.col("prediction_time") + timedelta(minutes=100))
    grid = hourly_vitals(visit.write(), index)
    assert_array_equal(grid.values[0, :, HR], [80, 80])
    at_start = hourly_vitals(visit.write(), visit.index())
    assert at_start.values.shape == (1, 1, 7)
    assert np.isnan(at_start.values).all()


@pytest.mark.parametrize("method", ["last", "mean", "linear"])
def test_long_visits_keep_their_last_hours_and_what_was_known_before_them(
    visit: Any, method: str
) -> None:
    store, index = visit.write(), visit.index(at="end")
    whole = hourly_vitals(store, index, method=method)
    short = hourly_vitals(store, index, method=method, max_hours=3)
    assert_array_equal(short.lengths, [3])
    assert_array_equal(short.values[0], whole.values[0, 2:])


def test_values_are_cleaned_before_they_are_used(visit: Any) -> None:
    chart(visit, 115, 9999)
    chart(visit, 30, 98.6, "TEMPERATURE")
    chart(visit, 40, 37.0, "TEMPERATURE")  # Celsius: missing, so the hour keeps 98.6 F
    pains = {20: "8-9", 25: "unable", 130: "13", 200: "2"}
    for minutes, text in pains.items():
        visit.event(
            1,
            START + timedelta(minutes=minutes),
            "ED//VITALSIGN//PAIN",
            text_value=text,
            stay_id=10,
        )
    grid = hourly_vitals(visit.write(), visit.index(at="end"))
    assert_array_equal(grid.values[0, :, HR], [120, 120, 120, 60, 60])
    assert_allclose(grid.values[0, :, 0], np.full(5, 37.0), rtol=1e-6)
    assert_array_equal(grid.values[0, :, PAIN], [8.5, 8.5, 8.5, 2, 2])


def test_values_before_the_start_and_in_one_second(new_builder: Callable[[], Any]) -> None:
    b = new_builder()
    b.stay(1, 10, START, START + timedelta(minutes=90))
    for minutes, value in ((-30, 70), (65, 90), (65, 100)):
        chart(b, minutes, value)
    index = b.index(at="end")
    store = b.write()
    assert_array_equal(hourly_vitals(store, index).values[0, :, HR], [70, 100])
    assert_array_equal(hourly_vitals(store, index, method="mean").values[0, :, HR], [70, 95])
    expected = [70 + 25 * 30 / 95, 70 + 25 * 90 / 95]
    linear = hourly_vitals(store, index, method="linear").values[0, :, HR]
    assert_allclose(linear, expected, rtol=1e-6)


def test_against_a_plain_loop(new_builder: Callable[[], Any]) -> None:
    rng = np.random.default_rng(5)
    b = new_builder()
    charted: dict[int, list[tuple[int, float]]] = {}
    for stay_id in range(60):
        start = START + timedelta(minutes=int(rng.integers(0, 9000)))
        b.stay(stay_id % 7, stay_id, start, start + timedelta(minutes=int(rng.integers(1, 600))))
        charted[stay_id] = []
        for minute in rng.choice(600, rng.integers(0, 8), replace=False):
            value = float(rng.integers(40, 180))
            charted[stay_id].append((int(minute), value))
            when = start + timedelta(minutes=int(minute))
            b.event(stay_id % 7, when, "ED//VITALSIGN//SBP", numeric_value=value, stay_id=stay_id)
    index = b.index(at="end").sample(fraction=1, shuffle=True, seed=2)
    store = b.write()
    last, linear = (hourly_vitals(store, index, method=m) for m in ("last", "linear"))
    ends = {s["stay_id"]: (s["end"] - s["start"]) // timedelta(minutes=1) for s in b.stays}
    sbp = CHANNELS.index("sbp")
    for row, stay_id in enumerate(index["stay_id"].to_list()):
        points = sorted(p for p in charted[stay_id] if p[0] <= ends[stay_id])
        hours = ends[stay_id] // 60 + 1
        assert last.lengths[row] == linear.lengths[row] == hours
        assert (last.values[row, hours:] == 0).all()
        if not points:
            assert np.isnan(last.values[row, :hours, sbp]).all()
            continue
        by_hour = {minute // 60: value for minute, value in points}
        for hour in range(hours):
            before = [h for h in by_hour if h <= hour]
            source = max(before) if before else min(by_hour)
            assert last.values[row, hour, sbp] == by_hour[source]
        expected = np.interp(np.arange(hours) * 60, *zip(*points, strict=True))
        assert_allclose(linear.values[row, :hours, sbp], expected, rtol=1e-5)


def test_medians_come_from_training_rows_and_real_hours() -> None:
    nan = np.nan
    values = np.array(
        [[[1, nan], [3, nan]], [[5, nan], [0, 0]], [[nan, 70], [nan, 90]]], dtype=np.float32
    )
    grid = HourlyGrid(values, np.array([2, 1, 2]), ("a", "b"))
    medians = ChannelMedians.fit(grid, np.array([True, True, False]))
    assert_array_equal(medians.medians, [3, 0])  # the padding 0 of row 1 is no measurement
    filled = medians.transform(grid)
    assert_array_equal(filled.values[2], [[3, 70], [3, 90]])
    assert_array_equal(filled.values[0], [[1, 0], [3, 0]])
    assert np.isnan(grid.values[0, 0, 1])  # the grid itself is left alone


def test_wrong_arguments(visit: Any) -> None:
    store, index = visit.write(), visit.index()
    with pytest.raises(ValueError, match="method must be one of"):
        hourly_vitals(store, index, method="spline")
    with pytest.raises(ValueError, match="max_hours must be at least 1, got 0"):
        hourly_vitals(store, index, max_hours=0)
    assert hourly_vitals(store, index.clear()).values.shape == (0, 1, 7)
