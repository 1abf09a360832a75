from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

from wardround.errors import WardroundError
from wardround.views.codes import CodeLists, EncodedLists, Vocabulary, prior_codes


def as_lists(codes: CodeLists) -> list[list[str]]:
    values = codes.values.to_list()
    return [values[a:b] for a, b in zip(codes.offsets[:-1], codes.offsets[1:], strict=True)]


@pytest.fixture
def patients(new_builder: Callable[[], Any]) -> Any:
    """Subject 1 with three discharges and two visits, subject 2 with none."""
    b = new_builder()
    for day, *codes in (
        ("2150-01-01", "9//4280", "10//E119"),
        ("2150-03-01", "10//I509", "10//I509", "10//E119", "9//NOSUCH"),
        ("2150-05-01", "10//C787"),
    ):
        for code in codes:
            b.event(1, day, f"DIAGNOSIS//ICD//{code}")
    b.event(1, "2150-01-01", "ED//DIAGNOSIS//ICD//10//R079")
    b.event(1, "2150-01-01", "PROCEDURE//ICD//10//0210093")
    b.stay(1, 10, "2150-02-01", "2150-02-02")
    b.stay(1, 11, "2150-04-01", "2150-04-02")
    b.stay(2, 20, "2150-04-01", "2150-04-02")
    return b


def test_distinct_codes_known_at_each_prediction(patients: Any) -> None:
    store, index = patients.write(), patients.index(11, 20, 10)
    # The GEMs pair heart failure 428.0 with I50.9 and diabetes 250.00 with E11.9. A code without
    # a map is lost, unless it is of the wanted version already.
    expected = {
        "icd10": [["E119", "I509"], [], ["E119", "I509"]],
        "icd9": [["25000", "4280", "NOSUCH"], [], ["25000", "4280"]],
        "3digit": [["E11", "I50"], [], ["E11", "I50"]],
    }
    for scheme, lists in expected.items():
        assert as_lists(prior_codes(store, index, scheme)) == lists


def test_codes_outside_the_lookback_are_left_out(patients: Any) -> None:
    store, index = patients.write(), patients.index(11, 10)  # 31 days after a discharge, both
    edge = timedelta(days=31)
    assert as_lists(prior_codes(store, index, lookback=edge)) == [[], []]
    wider = prior_codes(store, index, lookback=edge + timedelta(seconds=1))
    assert as_lists(wider) == [["E119", "I509"], ["E119", "I509"]]


def test_codes_count_strictly_before_the_moment(patients: Any) -> None:
    """A discharge in the second of the arrival is none of an earlier stay's."""
    discharge = patients.events[0]["time"]
    index = patients.index(11).with_columns(prediction_time=discharge)
    store = patients.write()
    assert as_lists(prior_codes(store, index)) == [[]]
    later = index.with_columns(pl.col("prediction_time") + timedelta(seconds=1))
    assert as_lists(prior_codes(store, later)) != [[]]
    moments = later.with_columns(start=discharge)
    assert as_lists(prior_codes(store, moments, before="start")) == [[]]


def test_unknown_scheme(patients: Any) -> None:
    with pytest.raises(WardroundError, match="unknown code scheme 'ccs'"):
        prior_codes(patients.write(), patients.index(), "ccs")


LISTS = CodeLists(
    pl.Series(["a", "b", "b", "c", "z", "a", "d"]), np.array([0, 2, 2, 4, 7], dtype=np.int64)
)
TRAIN = np.array([True, True, True, False])


def test_vocabulary_knows_training_rows_only() -> None:
    vocabulary = Vocabulary.fit(LISTS, TRAIN)
    assert vocabulary.codes == ("a", "b", "c")
    encoded = vocabulary.encode(LISTS)
    assert_array_equal(encoded.values, [1, 2, 2, 3, 1])
    assert_array_equal(encoded.offsets, [0, 2, 2, 4, 5])
    assert encoded.values.dtype == encoded.offsets.dtype == np.int64


def test_rare_codes_can_be_left_out() -> None:
    assert Vocabulary.fit(LISTS, TRAIN, min_count=2).codes == ("b",)


def test_a_vocabulary_of_nothing_encodes_to_nothing() -> None:
    vocabulary = Vocabulary.fit(LISTS, np.zeros(4, bool))
    encoded = vocabulary.encode(LISTS)
    assert len(vocabulary) == 0
    assert_array_equal(encoded.offsets, np.zeros(5))
    assert_array_equal(encoded.padded(), np.zeros((4, 1)))


def test_padding() -> None:
    encoded = EncodedLists(np.array([1, 2, 2, 3, 1]), np.array([0, 2, 2, 4, 5]))
    assert_array_equal(encoded.padded(), [[1, 2], [0, 0], [2, 3], [1, 0]])
    assert_array_equal(encoded.padded(3), [[1, 2, 0], [0, 0, 0], [2, 3, 0], [1, 0, 0]])
    assert_array_equal(encoded.padded(1), [[1], [0], [2], [1]])
