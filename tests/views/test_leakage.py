"""Nothing that lies after a prediction, or was not yet known, changes its row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from polars.testing import assert_frame_equal

from wardround.store import EVENT_SCHEMA, STAY_SCHEMA, PatientStore
from wardround.views.codes import prior_codes
from wardround.views.grid import hourly_vitals
from wardround.views.subgroups import subgroups
from wardround.views.table import triage_table

ORIGIN = datetime(2150, 1, 1)
CODES = (
    *(f"ED//TRIAGE//{v}" for v in ("TEMPERATURE", "SBP", "PAIN", "ACUITY", "CHIEFCOMPLAINT")),
    *(f"ED//VITALSIGN//{v}" for v in ("TEMPERATURE", "SBP", "O2SAT", "PAIN")),
    *("ED//PYXIS//a", "ED//PYXIS//b", "ED//MEDRECON//a", "ED//ARRIVAL//WALK IN"),
    *("DIAGNOSIS//ICD//10//I509", "DIAGNOSIS//ICD//9//25000", "DIAGNOSIS//ICD//10//C787"),
    *("RACE//WHITE", "RACE//ASIAN", "MEDS_BIRTH", "GENDER//F"),
)
TEXTS = (None, "chest pain", "8-9", "5", "001")


def random_records(rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows with no sense in them: any code at any time, available any time after."""
    n_stays, n_events = 12, 150
    start = rng.integers(0, 24 * 60, n_stays)
    stays = pl.DataFrame(
        {
            "subject_id": rng.integers(1, 4, n_stays),
            "stay_id": np.arange(n_stays),
            "kind": np.where(np.arange(n_stays) < 6, "ed", rng.choice(["hospital", "icu"], 12)),
            "start": [ORIGIN + timedelta(minutes=int(m)) for m in start],
            "end": [
                ORIGIN + timedelta(minutes=int(m))
                for m in start + rng.integers(1, 12 * 60, n_stays)
            ],
        }
    )
    time = rng.integers(0, 36 * 60, n_events)
    late = rng.choice([0, 0, 1, 60, 600], n_events)
    of = rng.integers(0, n_stays, n_events)
    events = pl.DataFrame(
        {
            "subject_id": stays["subject_id"].gather(of),
            "time": [ORIGIN + timedelta(minutes=int(m)) for m in time],
            "code": rng.choice(CODES, n_events),
            "numeric_value": rng.integers(0, 120, n_events).astype(np.float32),
            "text_value": [TEXTS[i] for i in rng.integers(0, len(TEXTS), n_events)],
            "available_time": [ORIGIN + timedelta(minutes=int(m)) for m in time + late],
            "stay_id": stays["stay_id"].gather(of),
        }
    )
    schemas = (EVENT_SCHEMA, STAY_SCHEMA)
    empty_events, empty_stays = (pl.DataFrame(s.empty_table()) for s in schemas)
    return (
        pl.concat([empty_events, events], how="diagonal_relaxed"),
        pl.concat([empty_stays, stays], how="diagonal_relaxed"),
    )


def truncated(
    events: pl.DataFrame, stays: pl.DataFrame, t: datetime
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What stood in the records at t."""
    known = (pl.col("time") <= t) & (pl.col("available_time") <= t)
    begun = stays.filter(pl.col("start") <= t)
    ended = pl.when(pl.col("end") <= t).then(pl.col("end"))
    return events.filter(known), begun.with_columns(end=ended)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("moment", ["start", "end"])
def test_deleting_what_was_not_known_changes_no_feature(
    write: Callable[..., PatientStore], moment: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    events, stays = random_records(rng)
    ed = stays.filter(pl.col("kind") == "ed")
    index = ed.select("subject_id", pl.col(moment).alias("prediction_time"), "stay_id")
    one = index.sample(1, seed=seed % 1000)
    whole, then = write(events, stays), write(*truncated(events, stays, one["prediction_time"][0]))
    feature_set = "triage" if moment == "start" else "disposition"
    for view in (
        lambda store: triage_table(store, one, feature_set),
        lambda store: subgroups(store, one),
    ):
        assert_frame_equal(view(whole), view(then), check_exact=True)
    assert prior_codes(whole, one).values.equals(prior_codes(then, one).values)
    for method in ("last", "mean", "linear"):
        grids = [hourly_vitals(store, one, method=method) for store in (whole, then)]
        assert_array_equal(grids[0].values, grids[1].values)
    # The row does not depend on the company that it is computed in, either.
    table = triage_table(whole, index, feature_set)
    same = table.join(one, on=one.columns, how="semi")
    assert_frame_equal(same, triage_table(whole, one, feature_set), check_exact=True)


def test_the_truncation_removes_something(write: Callable[..., PatientStore]) -> None:
    """Rows after t are of codes that the table reads: without the rule it would differ."""
    events, stays = random_records(np.random.default_rng(0))
    index = stays.filter(pl.col("kind") == "ed").select(
        "subject_id", pl.col("start").alias("prediction_time"), "stay_id"
    )
    late = index.with_columns(pl.col("prediction_time") + timedelta(days=9))
    store = write(events, stays)
    early_table, late_table = (
        triage_table(store, keys).drop("prediction_time") for keys in (index, late)
    )
    assert not early_table.equals(late_table)
