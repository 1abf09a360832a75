"""Windowed aggregates against sums by hand, and nothing in them that was not known."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardround.errors import WardroundError
from wardround.store import PatientStore
from wardround.views.table import windows as module
from wardround.views.table.windows import AGGREGATIONS, WindowedCounts, length

T = datetime(2150, 6, 1, 12)
StoreMaker = Callable[..., PatientStore]


def event(
    code: str,
    hours_ago: float | None,
    value: float | None = None,
    filed_hours_ago: float | None = None,
    subject: int = 1,
) -> dict[str, object]:
    time = None if hours_ago is None else T - timedelta(hours=hours_ago)
    filed = time if filed_hours_ago is None else T - timedelta(hours=filed_hours_ago)
    return {
        "subject_id": subject,
        "time": time,
        "available_time": filed,
        "code": code,
        "numeric_value": value,
    }


def predictions(*keys: tuple[int, datetime]) -> pl.DataFrame:
    schema = {"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")}
    return pl.DataFrame(list(keys), schema=schema, orient="row")


def stored(fitted: WindowedCounts, matrix: Any, row: int = 0) -> dict[str, float]:
    """The stored cells of a row by name."""
    line = matrix[row]
    return {fitted.columns[c]: float(v) for c, v in zip(line.indices, line.data, strict=True)}


HISTORY = [
    event("GENDER//F", None),
    event("K", 400 * 24, 9.0),
    event("K", 30, 4.0),
    event("K", 2, 3.0),
    event("K", 1, 0.0),
    event("D", 3),
]


def test_by_hand(make_store: StoreMaker) -> None:
    store = make_store(HISTORY)
    rows = predictions((1, T))
    fitted = WindowedCounts.fit(store, rows, min_count=1, windows=["full", "1d", "7d"])
    assert fitted.windows == ("1d", "7d", "full")
    assert (fitted.codes, fitted.numeric, fitted.static) == (("D", "K"), ("K",), ("GENDER//F",))
    matrix = fitted.transform(store, rows)
    assert matrix.dtype == np.float32
    assert matrix.shape == (1, len(fitted.columns)) == (1, 1 + 3 * (2 + 5))
    assert stored(fitted, matrix) == {
        "GENDER//F/static/present": 1,
        **{f"D/{w}/code/count": 1 for w in ("1d", "7d", "full")},
        **{"K/1d/code/count": 2, "K/7d/code/count": 3, "K/full/code/count": 4},
        **{"K/1d/value/count": 2, "K/7d/value/count": 3, "K/full/value/count": 4},
        **{"K/1d/value/sum": 3, "K/7d/value/sum": 7, "K/full/value/sum": 16},
        **{"K/1d/value/sum_sqd": 9, "K/7d/value/sum_sqd": 25, "K/full/value/sum_sqd": 106},
        # A measured zero is stored, for it is not the same as nothing measured.
        **{"K/1d/value/min": 0, "K/7d/value/min": 0, "K/full/value/min": 0},
        **{"K/1d/value/max": 3, "K/7d/value/max": 4, "K/full/value/max": 9},
    }


def test_window_ends_at_the_prediction_and_leaves_its_far_edge_out(make_store: StoreMaker) -> None:
    store = make_store([event("K", 0), event("K", 24), event("K", 23.9), event("K", -0.1)])
    rows = predictions((1, T))
    fitted = WindowedCounts.fit(store, rows, min_count=1, windows=["24h"])
    assert stored(fitted, fitted.transform(store, rows)) == {"K/24h/code/count": 2}


def test_a_lab_counts_when_it_was_filed(make_store: StoreMaker) -> None:
    store = make_store([event("LAB", 5, 1.0), event("LAB", 3, 7.0, filed_hours_ago=-1)])
    now, later = predictions((1, T)), predictions((1, T + timedelta(hours=1)))
    fitted = WindowedCounts.fit(store, later, min_count=1, windows=["1d"])
    assert stored(fitted, fitted.transform(store, now))["LAB/1d/value/max"] == 1
    assert stored(fitted, fitted.transform(store, later))["LAB/1d/value/max"] == 7
    # What no training prediction knows chooses no code either.
    assert WindowedCounts.fit(store, now, min_count=1).codes == ("LAB",)
    with pytest.raises(WardroundError, match="no code is known at least 2 times"):
        WindowedCounts.fit(store, now, min_count=2)


def test_codes_are_chosen_on_the_training_predictions(make_store: StoreMaker) -> None:
    events = [event("A", h, subject=1) for h in (1, 2, 3)]
    events += [event("B", h, subject=2) for h in (1, 2, 3)] + [event("A", 1, subject=2)]
    store = make_store(events)
    # An event counts once, whatever the number of predictions.
    train = predictions((1, T), (1, T - timedelta(minutes=1)))
    assert WindowedCounts.fit(store, train, min_count=3).codes == ("A",)
    with pytest.raises(WardroundError, match="lower min_count"):
        WindowedCounts.fit(store, train, min_count=4)
    fitted = WindowedCounts.fit(store, train, min_count=3, windows=["full"])
    matrix = fitted.transform(store, predictions((2, T), (3, T), (1, T)))
    assert stored(fitted, matrix, 0) == {"A/full/code/count": 1}
    assert stored(fitted, matrix, 1) == {}
    assert stored(fitted, matrix, 2) == {"A/full/code/count": 3}


def test_a_choice_of_codes_and_aggregations(make_store: StoreMaker) -> None:
    fitted = WindowedCounts.fit(
        make_store(HISTORY),
        predictions((1, T)),
        min_count=1,
        windows=["7d"],
        aggregations=["value/max", "code/count"],
        codes=pl.col("code") == "K",
    )
    assert fitted.columns == ["K/7d/code/count", "K/7d/value/max"]


def test_saved_and_loaded_columns_apply_to_other_patients(
    make_store: StoreMaker, tmp_path: Path
) -> None:
    rows = predictions((1, T))
    store = make_store(HISTORY)
    fitted = WindowedCounts.fit(store, rows, min_count=1)
    fitted.save(tmp_path / "run" / "windows.json")
    loaded = WindowedCounts.load(tmp_path / "run" / "windows.json")
    assert loaded == fitted
    other = make_store([event("K", 1, 2.0, subject=8), event("NEW", 1, subject=8)], name="other")
    cells = stored(loaded, loaded.transform(other, predictions((8, T))))
    assert cells["K/1d/value/max"] == 2
    assert len(cells) == 6 * 5


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"format": 9}', '{"format": 1, "codes": ["A"]}'),
        '{"format": 1, "codes": [], "numeric": [], "static": [], "windows": ["1w"]}',
        '{"format": 1, "codes": [], "numeric": [], "static": [], "aggregations": ["x"]}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "windows.json"
    file.write_text(text)
    with pytest.raises(WardroundError, match="cannot read the columns") as error:
        WindowedCounts.load(file)
    assert "\n" not in str(error.value)


def test_wrong_arguments_are_named(make_store: StoreMaker) -> None:
    store, rows = make_store(HISTORY), predictions((1, T))
    with pytest.raises(WardroundError, match="'3 weeks' is no length"):
        WindowedCounts.fit(store, rows, windows=["3 weeks"])
    with pytest.raises(WardroundError, match="value/median"):
        WindowedCounts.fit(store, rows, aggregations=["value/median"])
    with pytest.raises(WardroundError, match="at least one window"):
        WindowedCounts.fit(store, rows, windows=[])
    with pytest.raises(WardroundError, match="prediction_time"):
        WindowedCounts.fit(store, rows.drop("prediction_time"))


def by_hand(fitted: WindowedCounts, events: list[dict[str, Any]], t: datetime, subject: int) -> Any:
    """One row, cell by cell, from the definition."""
    row = []
    known = [
        e
        for e in events
        if e["subject_id"] == subject
        and (e["time"] is None or max(e["time"], e["available_time"]) <= t)
    ]
    for column in fitted.columns:
        code, *rest = column.split("/")
        of_code = [e for e in known if e["code"] == code]
        if rest == ["static", "present"]:
            row.append(float(any(e["time"] is None for e in of_code)))
            continue
        window, aggregation = rest[0], "/".join(rest[1:])
        span = length(window)
        inside = [
            e for e in of_code if e["time"] is not None and (span is None or e["time"] > t - span)
        ]
        values = [e["numeric_value"] for e in inside if e["numeric_value"] is not None]
        row.append(
            {
                "code/count": lambda inside=inside: len(inside),
                "value/count": lambda values=values: len(values),
                "value/sum": lambda values=values: sum(values),
                "value/sum_sqd": lambda values=values: sum(v * v for v in values),
                "value/min": lambda values=values: min(values, default=0),
                "value/max": lambda values=values: max(values, default=0),
            }[aggregation]()
        )
    return row


def random_events(rng: np.random.Generator, n: int = 120) -> list[dict[str, Any]]:
    events = []
    for _ in range(n):
        ago = float(rng.choice([0, 1, 24, 30, 168, 200, 9000])) + float(rng.integers(0, 3))
        events.append(
            event(
                str(rng.choice(list("ABCDS"))),
                None if rng.random() < 0.05 else ago - 3,
                float(rng.integers(-3, 4)) if rng.random() < 0.7 else None,
                ago - 3 - float(rng.choice([0, 0, 5])),
                int(rng.integers(1, 5)),
            )
        )
        if events[-1]["time"] is None:
            events[-1]["available_time"] = None
    return events


@settings(
    max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_cell_from_the_definition_in_any_shards(
    seed: int, make_store: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    events = random_events(rng)
    monkeypatch.setattr(module, "PAIRS", int(rng.choice([1, 50, 10**6])))
    store = make_store(events, shards=int(rng.integers(1, 4)))
    keys = [(int(s), T - timedelta(hours=int(h))) for s, h in rng.integers(0, 6, (10, 2))]
    rows = predictions(*keys)
    windows = ["1d", "7d", "full"] if rng.random() < 0.7 else ["2h", "365d"]
    fitted = WindowedCounts.fit(store, rows, min_count=2, windows=windows)
    found = fitted.transform(store, rows).toarray()
    expected = [by_hand(fitted, events, t, subject) for subject, t in keys]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    assert set(fitted.aggregations) == set(AGGREGATIONS)


def test_cutting_the_future_off_changes_no_cell(make_store: StoreMaker) -> None:
    events = random_events(np.random.default_rng(5), 200)
    rows = predictions(*((s, T - timedelta(hours=2)) for s in (1, 2, 3, 4)))
    known = [
        e
        for e in events
        if e["time"] is None or max(e["time"], e["available_time"]) <= T - timedelta(hours=2)
    ]
    assert len(known) < len(events)
    fitted = WindowedCounts.fit(make_store(events), rows, min_count=1)
    cut = make_store(known, name="cut")
    assert WindowedCounts.fit(cut, rows, min_count=1) == fitted
    whole = fitted.transform(make_store(events), rows).toarray()
    np.testing.assert_array_equal(fitted.transform(cut, rows).toarray(), whole)


def test_the_demo_against_a_direct_query(demo: PatientStore) -> None:
    stays = demo.stays().filter(pl.col("kind") == "hospital").collect().sample(20, seed=2)
    rows = stays.select("subject_id", prediction_time=pl.col("start") + timedelta(hours=24))
    code = "LAB//RESULT//50912//mg/dL"
    fitted = WindowedCounts.fit(demo, rows, codes=pl.col("code") == code, windows=["7d"])
    found = fitted.transform(demo, rows)
    column = fitted.columns.index(f"{code}/7d/value/max")
    labs = demo.events().filter(pl.col("code") == code).collect()
    for place, (subject, t) in enumerate(rows.iter_rows()):
        seen = labs.filter(
            pl.col("subject_id") == subject,
            pl.col("time") > t - timedelta(days=7),
            pl.col("time") <= t,
            pl.col("available_time") <= t,
        )
        assert found[place, column] == (seen["numeric_value"].max() or 0)
