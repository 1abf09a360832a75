"""Numbers and classes as outcomes."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.errors import WardroundError
from wardround.evaluation import Resamples, evaluate_classes, evaluate_number


def test_error_and_bias_by_hand() -> None:
    truth, predicted = np.array([1.0, 2, 4]), np.array([2.0, 2, 1])
    found = evaluate_number("m", "M", truth, predicted, Resamples(np.arange(3), 0)).metrics
    assert found["mae"].value == pytest.approx(4 / 3)
    assert found["bias"].value == pytest.approx(-2 / 3)


def test_interval_is_that_of_resampled_subjects() -> None:
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(60), 5)
    truth = rng.normal(size=300) + np.repeat(rng.normal(size=60), 5)
    resamples = Resamples(subjects, 400, seed=1)
    found = evaluate_number("m", "M", truth, np.zeros(300), resamples).metrics["mae"]
    by_hand = []
    for counts in resamples.counts:
        rows = np.concatenate([np.flatnonzero(subjects == s) for s in np.repeat(range(60), counts)])
        by_hand.append(np.abs(truth[rows]).mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(by_hand, [2.5, 97.5])))


def test_ranks_of_the_true_class() -> None:
    ranked = np.array([[3, 1, 2, 0, 4, 5], [1, 3, 2, 0, 4, 5], [1, 2, 0, 4, 5, 3]])
    found = evaluate_classes("m", "M", np.array([3, 3, 3]), ranked, Resamples(np.arange(3), 0))
    assert found.metrics["top_1"].value == pytest.approx(1 / 3)
    assert found.metrics["top_5"].value == pytest.approx(2 / 3)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(WardroundError, match="2 outcomes, 3 predictions"):
        evaluate_number("m", "M", np.zeros(2), np.zeros(3), Resamples(np.arange(2), 0))
    with pytest.raises(WardroundError, match="missing"):
        evaluate_number("m", "M", np.zeros(2), np.array([0, np.nan]), Resamples(np.arange(2), 0))
