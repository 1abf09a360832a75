"""Medians and standardisation by hand, and nothing learnt from rows that are not in train."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from wardround.errors import WardroundError
from wardround.models import MedianImputer, Standardiser

NAN = math.nan


def test_medians_by_hand() -> None:
    train = pl.DataFrame(
        {
            "odd": [9.0, 1.0, None, 2.0],
            "even": [4.0, NAN, 1.0, None],
            "whole": [1, 2, None, 5],
            "text": ["a", None, "b", "c"],
        }
    )
    imputer = MedianImputer.fit(train)
    assert imputer.medians == {"odd": 2.0, "even": 2.5, "whole": 2.0}
    filled = imputer.transform(train)
    assert filled.to_dict(as_series=False) == {
        "odd": [9.0, 1.0, 2.0, 2.0],
        "even": [4.0, 2.5, 1.0, 2.5],
        "whole": [1.0, 2.0, 2.0, 5.0],
        "text": ["a", None, "b", "c"],
    }


def test_held_out_rows_get_the_medians_of_train() -> None:
    """Whatever else is transformed beside a row, the row comes out the same."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random((60, 3)) < 0.3, NAN, rng.normal(size=(60, 3)))
    train, held = (
        pl.DataFrame(part, schema=["a", "b", "c"]) for part in (values[:40], values[40:])
    )
    imputer = MedianImputer.fit(train)
    together = imputer.transform(held)
    for row in range(len(held)):
        assert imputer.transform(held[row]).equals(together[row])
    expected = np.where(np.isnan(values[40:]), np.nanmedian(values[:40], axis=0), values[40:])
    np.testing.assert_array_equal(together.to_numpy(), expected)


def test_a_column_without_gaps_in_train_is_filled_elsewhere() -> None:
    imputer = MedianImputer.fit(pl.DataFrame({"a": [1.0, 2.0, 6.0], "b": [None, 1.0, 1.0]}))
    held = pl.DataFrame({"a": [None, NAN, 3.0], "b": [5.0, 5.0, 5.0]})
    assert imputer.transform(held)["a"].to_list() == [2.0, 2.0, 3.0]


def test_rows_without_any_value_of_a_column_are_filled() -> None:
    imputer = MedianImputer.fit(pl.DataFrame({"a": [1.0, 3.0]}))
    assert imputer.transform(pl.DataFrame({"a": [None, None]}))["a"].to_list() == [2.0, 2.0]


def test_float_columns_keep_their_precision() -> None:
    train = pl.DataFrame(
        {"a": [1.0, None], "b": [1.5, None]}, schema={"a": pl.Float32, "b": pl.Float64}
    )
    assert dict(MedianImputer.fit(train).transform(train).schema) == dict(train.schema)


def test_indicators_stand_behind_all_other_columns() -> None:
    train = pl.DataFrame({"a": [1.0, None, NAN], "other": ["x", "y", "z"], "b": [1.0, 2.0, None]})
    filled = MedianImputer.fit(train, indicators=True).transform(train)
    assert filled.columns == ["a", "other", "b", "a_missing", "b_missing"]
    assert filled["a_missing"].to_list() == [0, 1, 1]
    assert filled["b_missing"].to_list() == [0, 0, 1]


def test_only_the_named_columns_are_filled() -> None:
    train = pl.DataFrame({"a": [1.0, None], "b": [1.0, None]})
    filled = MedianImputer.fit(train, ["b"]).transform(train)
    assert filled.to_dict(as_series=False) == {"a": [1.0, None], "b": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["nowhere"], "no numeric column 'nowhere'"),
        (["text"], "no numeric column 'text'"),
        (["empty", "nan"], "no training row has a value of empty, nan"),
    ],
)
def test_columns_that_have_no_median(columns: list[str], message: str) -> None:
    train = pl.DataFrame(
        {"text": ["a"], "empty": [None], "nan": [NAN]},
        schema={"text": pl.String, "empty": pl.Float64, "nan": pl.Float64},
    )
    with pytest.raises(WardroundError, match=message):
        MedianImputer.fit(train, columns)


def test_a_table_that_lacks_a_fitted_column_is_refused() -> None:
    imputer = MedianImputer.fit(pl.DataFrame({"a": [1.0], "b": [2.0]}))
    with pytest.raises(WardroundError, match="lacks the columns b"):
        imputer.transform(pl.DataFrame({"a": [1.0]}))


def test_mean_and_deviation_by_hand() -> None:
    fitted = Standardiser.fit([[1.0, 10.0], [3.0, NAN], [5.0, 30.0], [7.0, NAN]])
    torch.testing.assert_close(fitted.mean, torch.tensor([4.0, 20.0]))
    torch.testing.assert_close(fitted.scale, torch.tensor([math.sqrt(5.0), 10.0]))
    found = fitted(torch.tensor([[4.0, 40.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 2.0]]))


def test_standardiser_agrees_with_scikit_learn() -> None:
    X = np.random.default_rng(1).normal(3, [0.01, 1, 400], (500, 3))
    X[::7, 1] = NAN
    expected = StandardScaler().fit_transform(X)
    found = Standardiser.fit(X)(torch.from_numpy(X))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_rows_of_sequences_count_one_by_one() -> None:
    X = np.random.default_rng(2).normal(size=(4, 5, 3))
    X[0, 3:] = NAN  # padding
    flat, nested = Standardiser.fit(X.reshape(20, 3)), Standardiser.fit(X)
    assert torch.equal(flat.mean, nested.mean) and torch.equal(flat.scale, nested.scale)
    np.testing.assert_allclose(nested.mean, np.nanmean(X, axis=(0, 1)), rtol=1e-6)
    assert nested(torch.zeros(2, 7, 3)).shape == (2, 7, 3)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6])
def test_a_column_that_does_not_vary_is_only_centred(value: float) -> None:
    """The rounding error of a mean is no deviation."""
    X = np.full((1_000, 1), value)
    fitted = Standardiser.fit(X)
    assert fitted.scale.item() == 1
    np.testing.assert_allclose(fitted(torch.tensor([[value + 2]])), [[2.0]], rtol=1e-6)


def test_a_column_without_a_value_passes() -> None:
    fitted = Standardiser.fit([[NAN, 1.0], [NAN, 2.0]])
    assert fitted(torch.tensor([[5.0, 1.5]])).tolist() == [[5.0, 0.0]]


def test_unfitted_it_changes_nothing() -> None:
    x = torch.randn(4, 3)
    assert torch.equal(Standardiser(3)(x), x)


def test_what_it_learnt_is_saved_with_weights_and_not_trained() -> None:
    fitted = Standardiser.fit([[1.0], [3.0]])
    assert not list(fitted.parameters())
    again = Standardiser(1)
    again.load_state_dict(fitted.state_dict())
    assert again(torch.tensor([[4.0]])).item() == 2.0


def test_infinite_values_and_no_columns_are_refused() -> None:
    with pytest.raises(WardroundError, match="column 1 holds an infinite value"):
        Standardiser.fit([[0.0, 1.0], [0.0, -math.inf]])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Standardiser(0)
