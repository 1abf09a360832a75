from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wardround.views.subgroups import subgroups


def test_descriptors_as_known_at_the_prediction(new_builder: Callable[[], Any]) -> None:
    b = new_builder()
    b.event(1, None, "GENDER//F")
    b.event(1, "2100-01-01", "MEDS_BIRTH")
    b.event(1, "2149-01-01", "RACE//UNKNOWN")
    b.event(1, "2149-06-01", "RACE//BLACK/AFRICAN AMERICAN")
    b.event(1, "2150-02-01", "RACE//WHITE")  # recorded after the first visit
    b.event(1, "2150-01-01", "ED//ARRIVAL//AMBULANCE", stay_id=10)
    b.event(1, "2150-01-01", "ED//ARRIVAL//WALK IN", stay_id=99)
    b.event(2, None, "GENDER//M")
    b.stay(1, 10, "2150-01-01", "2150-01-02")
    b.stay(1, 11, "2150-03-01", "2150-03-02")
    b.stay(2, 20, "2150-01-01", "2150-01-02")
    table = subgroups(b.write(), b.index(11, 20, 10))
    any_task = subgroups(b.write(), b.index(11, 20, 10).drop("stay_id"))
    assert any_task.equals(table.drop("arrival_transport"))
    assert table.rows() == [
        ("female", "45-64", "white", "unknown"),
        ("male", "unknown", "unknown", "unknown"),
        ("female", "45-64", "black", "ambulance"),
    ]


@pytest.mark.parametrize(
    ("age", "band"),
    [(17, "<18"), (18, "18-44"), (44, "18-44"), (45, "45-64"), (79, "65-79"), (80, "80+")],
)
def test_edges_of_the_age_bands(new_builder: Callable[[], Any], age: int, band: str) -> None:
    b = new_builder()
    b.event(1, f"{2150 - age}-01-01", "MEDS_BIRTH")
    b.stay(1, 10, "2150-06-01", "2150-06-02")
    assert subgroups(b.write(), b.index())["age_band"].to_list() == [band]
