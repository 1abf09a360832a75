"""Metrics beside scikit-learn, an independent logistic fit, and sums written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.special import expit
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from wardround.evaluation import auprc, auroc, brier, calibration, expected_calibration_error
from wardround.evaluation.metrics import (
    Ranking,
    frequency_bins,
    logits,
    recalibrate_intercept,
    recalibrate_slope,
)

#: Few distinct scores tie often, many never do.
scores = st.one_of(
    st.lists(st.integers(0, 4).map(lambda i: i / 4), min_size=2, max_size=40),
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=40),
)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes of both classes, and scores."""
    p = np.array(draw(scores))
    y = np.array(draw(st.lists(st.booleans(), min_size=len(p), max_size=len(p))))
    assume(0 < y.sum() < len(y))
    return y, p


@given(scored())
def test_areas_equal_scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = data
    assert auroc(y, p) == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert auprc(y, p) == pytest.approx(average_precision_score(y, p), abs=1e-12)


@given(scored(), st.integers(0, 2**32 - 1))
def test_weighted_areas_equal_scikit_learn(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    y, p = data
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(y))).astype(float)
    ranking = Ranking(y, p)
    areas, precisions = ranking.areas(weights[:, ranking.order])
    for w, area, precision in zip(weights, areas, precisions, strict=True):
        kept = w > 0
        if len(np.unique(y[kept])) < 2:
            assert math.isnan(area) and math.isnan(precision)
            continue
        expected = roc_auc_score(y[kept], p[kept], sample_weight=w[kept])
        assert area == pytest.approx(expected, abs=1e-12)
        expected = average_precision_score(y[kept], p[kept], sample_weight=w[kept])
        assert precision == pytest.approx(expected, abs=1e-12)


@given(scored(), st.permutations(range(5)))
def test_areas_do_not_depend_on_the_order_of_rows_or_the_scale_of_scores(
    data: tuple[np.ndarray, np.ndarray], order: list[int]
) -> None:
    y, p = data
    p = np.round(p, 6)  # apart enough to stay apart when stretched
    turned = np.random.default_rng(order).permutation(len(y))
    for metric in (auroc, auprc):
        assert metric(y[turned], p[turned]) == pytest.approx(metric(y, p), abs=1e-12)
        assert metric(y, 50 * p - 20) == pytest.approx(metric(y, p), abs=1e-12)
    assert auroc(y, -p) == pytest.approx(1 - auroc(y, p), abs=1e-12)


@given(scored())
def test_brier_equals_scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = data
    assert brier(y, p) == pytest.approx(brier_score_loss(y, p), abs=1e-12)


@pytest.mark.parametrize("y", [np.zeros(6, bool), np.ones(6, bool), np.zeros(0, bool)])
def test_one_class_alone_is_undefined(y: np.ndarray) -> None:
    p = np.linspace(0.1, 0.6, len(y))
    found = calibration(y, p)
    assert all(math.isnan(v) for v in (auroc(y, p), auprc(y, p), found.intercept, found.slope))
    assert math.isnan(brier(y, p)) == (len(y) == 0)
    assert math.isnan(expected_calibration_error(y, p)) == (len(y) == 0)


def fitted_slope(y: np.ndarray, x: np.ndarray, w: np.ndarray) -> float:
    """Slope of a weighted logistic regression by a general optimiser."""

    def loss(beta: np.ndarray) -> tuple[float, np.ndarray]:
        eta = beta[0] + beta[1] * x
        error = w * (expit(eta) - y)
        return float(w @ (np.logaddexp(0, eta) - y * eta)), np.array([error.sum(), error @ x])

    return float(minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9}).x[1])


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    slope=st.floats(-2, 3),
    shift=st.floats(-3, 3),
    spread=st.floats(0.3, 3),
)
def test_calibration_equals_an_independent_fit(
    seed: int, slope: float, shift: float, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(-1, spread, 400)
    y = rng.random(400) < expit(shift + slope * x)
    assume(10 < y.sum() < 390)
    assume(0.02 < roc_auc_score(y, x) < 0.98)
    p = expit(x)
    found = calibration(y, p)
    root = brentq(lambda a: expit(a + logits(p)).sum() - y.sum(), -40, 40, xtol=1e-12)
    assert found.intercept == pytest.approx(root, abs=1e-7)
    expected = fitted_slope(y.astype(float), logits(p), np.ones(400))
    assert found.slope == pytest.approx(expected, abs=1e-4)


def test_grouped_calibration_weighs_its_groups() -> None:
    rng = np.random.default_rng(4)
    x = np.sort(rng.normal(-1, 1.5, 30))
    total = rng.integers(1, 40, (5, 30)).astype(float)
    positive = rng.binomial(total.astype(int), expit(0.5 + 0.7 * x)).astype(float)
    intercept = recalibrate_intercept(x[None, :], positive, total)
    slope = recalibrate_slope(x[None, :], positive, total)
    for k in range(5):
        y = np.repeat([1.0, 0.0], 30)
        weights = np.concatenate([positive[k], total[k] - positive[k]])
        assert slope[k] == pytest.approx(fitted_slope(y, np.tile(x, 2), weights), abs=1e-5)
        risk = total[k] @ expit(intercept[k] + x)
        assert risk == pytest.approx(positive[k].sum(), abs=1e-6)


def test_a_calibrated_model_has_intercept_0_and_slope_1() -> None:
    rng = np.random.default_rng(0)
    p = expit(rng.normal(-2, 1.2, 200_000))
    found = calibration(rng.random(len(p)) < p, p)
    assert abs(found.intercept) < 0.03 and abs(found.slope - 1) < 0.02
    # Twice the log-odds is overconfident by half; e times the odds is one too low.
    bold, shy = expit(2 * logits(p)), expit(logits(p) + 1)
    y = rng.random(len(p)) < p
    assert calibration(y, bold).slope == pytest.approx(0.5, abs=0.02)
    assert calibration(y, shy).intercept == pytest.approx(-1, abs=0.03)


@pytest.mark.parametrize(
    ("y", "p"),
    [
        ([0, 0, 1, 1], [0.1, 0.1, 0.9, 0.9]),
        ([0, 0, 1, 1], [0.9, 0.8, 0.2, 0.1]),
        ([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.9]),  # they touch: still no finite slope
        ([0, 1] * 10, [0.3] * 20),
        ([0] * 50 + [1] * 50, np.linspace(0.01, 0.99, 100)),
        ([0, 0, 1, 1], [0.0, 0.0, 1.0, 1.0]),
    ],
)
def test_a_slope_that_does_not_exist_is_nan(y: list[int], p: list[float]) -> None:
    assert math.isnan(calibration(np.array(y, bool), np.array(p)).slope)


def test_a_steep_slope_is_found() -> None:
    """Risks far too timid of classes that hardly overlap: Newton's steps must not go in circles."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        x = rng.normal(-1, 2, 400)
        y = rng.random(400) < expit(16 * x + rng.normal())
        if x[y].min() < x[~y].max() - 0.1:
            expected = fitted_slope(y.astype(float), x, np.ones(400))
            assert calibration(y, expit(x)).slope == pytest.approx(expected, rel=1e-3)


def test_probabilities_of_0_and_1_keep_calibration_finite() -> None:
    y = np.array([0, 1, 0, 1, 1, 0, 1, 0], bool)
    p = np.array([0, 0, 1, 1, 0.5, 0.5, 0.9, 0.1])
    found = calibration(y, p)
    assert math.isfinite(found.intercept) and math.isfinite(found.slope)


def test_ece_by_hand() -> None:
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    y = np.array([0, 0, 1, 0, 1, 0, 1, 1], bool)
    # Two bins of four: |1.0 - 1| / 8 + |3.0 - 3| / 8; four bins of two: .3, .3, .3, .3 over 8.
    assert expected_calibration_error(y, p, 2) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(y, p, 4) == pytest.approx(1.2 / 8, abs=1e-12)
    assert expected_calibration_error(y, np.full(8, 0.9)) == pytest.approx(0.4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.integers(1, 12))
def test_bins_follow_the_order_and_keep_equal_values_together(
    values: list[float], bins: int
) -> None:
    p = np.array(values)
    which = frequency_bins(p, bins)
    assert which.min() >= 0 and which.max() < bins
    order = np.argsort(p)
    assert (np.diff(which[order]) >= 0).all()
    for value in np.unique(p):
        assert len(np.unique(which[p == value])) == 1


def test_bins_of_distinct_values_are_equally_full() -> None:
    p = np.random.default_rng(0).permutation(1000) / 1000
    assert np.bincount(frequency_bins(p, 10)).tolist() == [100] * 10
