"""Thresholds, operating points, curves and what is refused, all by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from wardround.errors import WardroundError
from wardround.evaluation import (
    Resamples,
    choose_thresholds,
    evaluate_binary,
    operating_point,
    wilson_interval,
)

CORNER, SENSITIVE = "nearest to the ROC corner on tuning", "sensitivity ≥ 0.90 on tuning"


def none(rows: int) -> Resamples:
    return Resamples(np.arange(rows), 0)


def test_rates_at_a_threshold_by_hand() -> None:
    y = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], bool)
    p = np.array([0.9, 0.5, 0.2, 0.8, 0.5, 0.4, 0.3, 0.3, 0.1, 0.0])
    point = operating_point(y, p, none(10), rule="fixed", threshold=0.5)
    assert (point.rule, point.threshold) == ("fixed", 0.5)
    assert point.sensitivity.value == pytest.approx(2 / 3)  # 0.9, and 0.5 itself
    assert point.specificity.value == pytest.approx(5 / 7)
    assert point.ppv.value == pytest.approx(2 / 4)
    assert point.npv.value == pytest.approx(5 / 6)
    assert point.alert_rate.value == pytest.approx(4 / 10)


def test_rates_without_alerts_or_without_positives_are_undefined() -> None:
    y, p = np.array([1, 0, 0], bool), np.array([0.3, 0.2, 0.1])
    silent = operating_point(y, p, none(3), rule="r", threshold=0.9)
    assert (silent.sensitivity.value, silent.ppv.value, silent.alert_rate.value) == (0, None, 0)
    healthy = operating_point(np.zeros(3, bool), p, none(3), rule="r", threshold=0.15)
    assert healthy.sensitivity.value is None and healthy.ppv.value == 0
    assert healthy.alert_rate.value == pytest.approx(2 / 3)


def test_thresholds_by_hand() -> None:
    y = np.array([0, 0, 1, 0, 0, 0, 1, 1, 1, 1], bool)
    p = np.arange(10) / 10
    # At 0.6: 4 of 5 and no false alarm; at 0.2: all, with three.
    assert choose_thresholds(y, p) == {CORNER: 0.6, SENSITIVE: 0.2}
    assert choose_thresholds(y, p, sensitivity=0.8)["sensitivity ≥ 0.80 on tuning"] == 0.6


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=60),
    st.floats(0.05, 1),
)
def test_thresholds_equal_a_search_over_all_scores(
    rows: list[tuple[bool, int]], sensitivity: float
) -> None:
    y = np.array([r[0] for r in rows])
    p = np.array([r[1] / 12 for r in rows])
    assume(0 < y.sum() < len(y))
    rates = {t: ((p >= t)[y].mean(), (p >= t)[~y].mean()) for t in np.unique(p)}
    corner, sensitive = choose_thresholds(y, p, sensitivity).values()
    far = {t: np.hypot(1 - true, false) for t, (true, false) in rates.items()}
    assert far[corner] == pytest.approx(min(far.values()))
    assert sensitive == max(t for t, (true, _) in rates.items() if true >= sensitivity - 1e-12)


def test_one_class_gives_no_threshold() -> None:
    assert choose_thresholds(np.zeros(5, bool), np.arange(5) / 5) == {}
    assert choose_thresholds(np.ones(5, bool), np.arange(5) / 5) == {}


def test_thresholds_come_from_the_tuning_data() -> None:
    """Held-out risks lie higher: its own threshold would be another, and this one alerts more."""
    rng = np.random.default_rng(0)
    y_tuning, y_held = rng.random(2_000) < 0.3, rng.random(2_000) < 0.3
    p_tuning = np.clip(rng.normal(0.3 + 0.2 * y_tuning, 0.1), 0, 1)
    p_held = np.clip(rng.normal(0.4 + 0.2 * y_held, 0.1), 0, 1)
    chosen = choose_thresholds(y_tuning, p_tuning)
    points = evaluate_binary(
        "m", "M", y_held, p_held, none(2_000), thresholds=chosen
    ).operating_points
    assert {p.rule: p.threshold for p in points} == chosen
    assert all(chosen[rule] != t for rule, t in choose_thresholds(y_held, p_held).items())
    sensitive = points[1]
    at = p_held >= chosen[SENSITIVE]
    assert sensitive.alert_rate.value == pytest.approx(at.mean())
    assert sensitive.sensitivity.value == pytest.approx(at[y_held].mean())
    assert sensitive.sensitivity.value > 0.97, "not 0.90, which is what it is on tuning"
    assert (p_tuning >= chosen[SENSITIVE])[y_tuning].mean() == pytest.approx(0.9, abs=0.003)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # by the formula, worked out in a table of Newcombe (1998): 81/263, 15/148, 0/20, 1/29
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_the_score_equation(counts: tuple[int, int]) -> None:
    successes, trials = counts
    share = successes / trials
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(share - end) == pytest.approx(1.96 * math.sqrt(end * (1 - end) / trials))


def test_curves_lie_on_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.random(5_000) < 0.2
    p = np.clip(rng.normal(0.2 + 0.2 * y, 0.15), 0, 1)
    curves = evaluate_binary("m", "M", y, p, none(5_000)).curves
    assert curves is not None
    fallout, recall, _ = roc_curve(y, p, drop_intermediate=False)
    exact = {(round(a, 5), round(b, 5)) for a, b in zip(fallout, recall, strict=True)}
    assert set(curves.roc) <= exact and len(curves.roc) <= 202
    assert curves.roc[0] == (0, 0) and curves.roc[-1] == (1, 1)
    area = np.trapezoid([b for _, b in curves.roc], [a for a, _ in curves.roc])
    assert area == pytest.approx(np.trapezoid(recall, fallout), abs=2e-3)
    assert curves.pr[-1] == (1, pytest.approx(y.mean(), abs=1e-5))
    assert sum(b.count for b in curves.calibration) == 5_000
    for b in curves.calibration:
        expected = wilson_interval(round(b.observed * b.count), b.count)
        assert (b.low, b.high) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([0.1, 0.2], "3 outcomes, 2 predictions, 3 rows"),
        ([0.1, 0.2, 1.1], "not within 0 and 1"),
        ([0.1, -0.2, 0.1], "not within 0 and 1"),
        ([0.1, math.nan, 0.1], "missing"),
    ],
)
def test_what_is_no_probability_is_refused(p: list[float], message: str) -> None:
    with pytest.raises(WardroundError, match=message):
        evaluate_binary("m", "M", np.array([True, False, True]), np.array(p), none(3))


def test_resamples_of_other_rows_are_refused() -> None:
    with pytest.raises(WardroundError, match="4 rows resampled"):
        evaluate_binary("m", "M", np.array([True, False]), np.array([0.1, 0.2]), none(4))
