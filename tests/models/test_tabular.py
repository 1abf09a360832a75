"""Tabular estimators: a planted signal, chance without one, one seed one model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from wardround.errors import WardroundError
from wardround.models import (
    BinaryEstimator,
    LightGBM,
    feature_importance,
    gradient_boosting,
    lightgbm_trees,
    logistic_regression,
    random_forest,
    xgboost,
)

Builder = Callable[..., BinaryEstimator]
TREES: list[Builder] = [random_forest, gradient_boosting, xgboost, lightgbm_trees]
BUILDERS: list[Builder] = [logistic_regression, *TREES]
TAKE_GAPS: list[Builder] = [xgboost, lightgbm_trees]
FEATURES = ("lactate", "age", "noise", "sbp")


def small(builder: Builder, **options: object) -> BinaryEstimator:
    """Fewer trees than published, for speed."""
    return builder(**({} if builder is logistic_regression else {"n_trees": 40}), **options)


def planted(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X, y and the true risk: lactate 2, age 1 and sbp -0.5 a deviation, on scales of their own."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(rows, 4))
    risk = expit(-1 + Z @ [2.0, 1.0, 0.0, -0.5])
    return Z * [1, 15, 1, 20] + [2, 60, 0, 120], rng.random(rows) < risk, risk


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, ...]:
    X, y, _ = planted(1_500, 0)
    return X, y, *planted(3_000, 1)


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_planted_signal_is_recovered(builder: Builder, data: tuple[np.ndarray, ...]) -> None:
    X, y, X_test, y_test, risk = data
    found = small(builder).fit(X, y).predict_proba(X_test)
    assert found.shape == (3_000, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    best = roc_auc_score(y_test, risk)
    assert best > 0.88 and roc_auc_score(y_test, found[:, 1]) > best - 0.04
    assert found[:, 1].mean() == pytest.approx(y_test.mean(), abs=0.03)


@pytest.mark.parametrize("builder", BUILDERS)
def test_shuffled_labels_teach_nothing(builder: Builder, data: tuple[np.ndarray, ...]) -> None:
    X, y, X_test, y_test, _ = data
    rng = np.random.default_rng(0)
    areas = [
        roc_auc_score(y_test, small(builder).fit(X, rng.permutation(y)).predict_proba(X_test)[:, 1])
        for _ in range(6)
    ]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.13)


@pytest.mark.parametrize("builder", BUILDERS)
def test_one_seed_gives_one_model(builder: Builder, data: tuple[np.ndarray, ...]) -> None:
    X, y, X_test, *_ = data
    first, again = (small(builder, seed=3).fit(X, y).predict_proba(X_test) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("builder", [random_forest, xgboost, lightgbm_trees])
def test_threads_do_not_change_the_model(builder: Builder, data: tuple[np.ndarray, ...]) -> None:
    X, y, X_test, *_ = data
    one, two = (small(builder, threads=n).fit(X, y).predict_proba(X_test) for n in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_seeds_of_a_forest_differ(data: tuple[np.ndarray, ...]) -> None:
    X, y, X_test, *_ = data
    first, other = (
        random_forest(n_trees=5, seed=s).fit(X, y).predict_proba(X_test) for s in (0, 1)
    )
    assert (first != other).any()


@pytest.mark.parametrize("builder", TAKE_GAPS)
def test_missing_values_are_used(builder: Builder) -> None:
    """Whether lactate was measured says all that there is to know."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2_000, 2))
    y = rng.random(2_000) < 0.4
    X[y ^ (rng.random(2_000) < 0.1), 0] = np.nan
    found = small(builder).fit(X[:1_000], y[:1_000]).predict_proba(X[1_000:])[:, 1]
    assert roc_auc_score(y[1_000:], found) > 0.85
    gone = np.isnan(X[1_000:, 0])
    assert found[gone].min() > 0.5 > np.median(found[~gone])


@pytest.mark.parametrize("builder", [logistic_regression, gradient_boosting])
def test_models_without_a_place_for_gaps_refuse_them(builder: Builder) -> None:
    X, y, _ = planted(50, 0)
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        builder().fit(X, y)


def test_logistic_regression_is_the_ridge_optimum_on_standardised_columns() -> None:
    """Where the gradient of sum of losses + |w|^2 / 2 vanishes, found here by Newton's method."""
    X, y, _ = planted(800, 3)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    design = np.column_stack([np.ones(len(Z)), Z])
    ridge = np.diag([0.0, 1, 1, 1, 1])
    w = np.zeros(5)
    for _ in range(30):
        p = expit(design @ w)
        gradient = design.T @ (p - y) + ridge @ w
        w -= np.linalg.solve((design.T * (p * (1 - p))) @ design + ridge, gradient)
    found = logistic_regression().fit(X, y).predict_proba(X)[:, 1]
    np.testing.assert_allclose(logit(found), design @ w, atol=2e-3)


def test_units_of_a_column_do_not_matter_to_logistic_regression() -> None:
    X, y, _ = planted(800, 3)
    units = X * [1e-3, 1, 1, 1e3] + [0, 0, 5, 0]
    first = logistic_regression().fit(X, y).predict_proba(X)
    np.testing.assert_allclose(
        logistic_regression().fit(units, y).predict_proba(units), first, atol=1e-3
    )
    # The published one takes columns as they come, and the ridge flattens the small one.
    compat = logistic_regression(paper_compat=True).fit(units, y).predict_proba(units)
    assert abs(compat - first).max() > 0.2


def test_one_boosted_stump_by_hand() -> None:
    """Log-odds of the mean, and 0.1 of a Newton step in each half."""
    x = np.repeat([0.0, 1.0], [60, 40])
    y = np.concatenate([np.arange(60) < 6, np.arange(40) < 30])
    found = gradient_boosting(n_trees=1, max_depth=1).fit(x[:, None], y).predict_proba([[0], [1]])
    prior = 36 / 100
    step = np.array([6 / 60 - prior, 30 / 40 - prior]) / (prior * (1 - prior))
    np.testing.assert_allclose(found[:, 1], expit(logit(prior) + 0.1 * step), rtol=1e-9)


def test_leaves_hold_as_many_rows_as_asked(data: tuple[np.ndarray, ...]) -> None:
    """Risks of a tree on its own rows are shares; a full tree knows each row's outcome."""
    X, y, *_ = data
    full = random_forest(n_trees=20).fit(X, y).predict_proba(X)[:, 1]
    pruned = random_forest(n_trees=20, min_samples_leaf=100).fit(X, y).predict_proba(X)[:, 1]
    assert ((full > 0.5) == y).mean() > 0.97
    assert ((pruned > 0.5) == y).mean() < 0.9
    assert len(np.unique(pruned)) < 0.9 * len(pruned)


@pytest.mark.parametrize("builder", BUILDERS)
def test_importance_ranks_what_was_planted(builder: Builder, data: tuple[np.ndarray, ...]) -> None:
    X, y, *_ = data
    ranked = feature_importance(small(builder).fit(X, y), FEATURES)
    assert [name for name, _ in ranked] == ["lactate", "age", "sbp", "noise"]
    shares = [share for _, share in ranked]
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    assert shares[0] > 1.5 * shares[1]


def test_importance_of_logistic_regression_by_hand() -> None:
    """True coefficients 2, 1, 0 and -0.5 a deviation: 4/7, 2/7, 0 and 1/7."""
    X, y, _ = planted(60_000, 5)
    shares = dict(feature_importance(logistic_regression().fit(X, y), FEATURES))
    assert shares == pytest.approx(
        {"lactate": 4 / 7, "age": 2 / 7, "noise": 0, "sbp": 1 / 7}, abs=0.01
    )


@pytest.mark.parametrize("builder", BUILDERS)
def test_importance_of_what_is_not_fitted_or_named_otherwise(builder: Builder) -> None:
    with pytest.raises(WardroundError, match="not fitted"):
        feature_importance(builder(), FEATURES)
    X, y, _ = planted(100, 0)
    fitted = small(builder).fit(X, y)
    with pytest.raises(WardroundError, match="4 columns were fitted, got 3 names"):
        feature_importance(fitted, FEATURES[:3])


def test_importance_without_a_split_is_zero() -> None:
    constant = lightgbm_trees(n_trees=3).fit(np.zeros((100, 2)), np.arange(100) % 2)
    assert feature_importance(constant, ("a", "b")) == [("a", 0), ("b", 0)]


def test_lightgbm_needs_a_fit_first() -> None:
    with pytest.raises(WardroundError, match="call fit"):
        LightGBM().predict_proba(np.zeros((1, 2)))
