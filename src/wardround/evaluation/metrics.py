"""Metrics of a binary risk. Undefined ones (no positive, no negative) are NaN."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

#: Probabilities are kept this far from 0 and 1 where their logit is taken.
EPSILON = 1e-6


def auroc(y: np.ndarray, p: np.ndarray) -> float:
    """Area under the ROC curve; ties count half. y: (n,) bool, p: (n,) any real score."""
    return float(Ranking(y, p).areas(np.ones((1, len(y))))[0][0])


def auprc(y: np.ndarray, p: np.ndarray) -> float:
    """Average precision: precision at each distinct score, weighted by the recall gained."""
    return float(Ranking(y, p).areas(np.ones((1, len(y))))[1][0])


class Ranking:
    """Outcomes in the order of their scores, sorted once for any number of weightings."""

    def __init__(self, y: np.ndarray, p: np.ndarray) -> None:
        self.order = np.argsort(-p, kind="stable")
        self._positive = np.asarray(y, bool)[self.order]
        ordered = p[self.order]
        first = np.ones(len(p), bool)
        first[1:] = ordered[1:] != ordered[:-1]
        self._starts = np.flatnonzero(first)
        self._tied = len(self._starts) < len(p)

    def areas(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AUROC and AUPRC of every row of weights.

        Args:
            weights: (k, n), in the order of `self.order`.

        Returns:
            Two arrays (k,); NaN where a weighting leaves one class empty.
        """
        if weights.shape[1] == 0:
            nothing = np.full(len(weights), np.nan)
            return nothing, nothing.copy()
        positive = weights * self._positive
        negative = weights - positive
        if self._tied:
            positive = np.add.reduceat(positive, self._starts, axis=1)
            negative = np.add.reduceat(negative, self._starts, axis=1)
        true, false = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
        all_true, all_false = true[:, -1], false[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            # Each positive beats the negatives after it, and half of those beside it.
            won = (positive * (all_false[:, None] - false + negative / 2)).sum(axis=1)
            area = won / (all_true * all_false)
            precision = true / np.maximum(true + false, 1e-300)
            average = (positive * precision).sum(axis=1) / all_true
        defined = (all_true > 0) & (all_false > 0)
        return np.where(defined, area, np.nan), np.where(defined, average, np.nan)


def brier(y: np.ndarray, p: np.ndarray) -> float:
    """Mean squared difference of probability and outcome."""
    return float(np.mean((p - y) ** 2)) if len(y) else np.nan


def expected_calibration_error(y: np.ndarray, p: np.ndarray, bins: int = 10) -> float:
    """Mean distance of predicted and observed risk over bins of equal size."""
    if len(y) == 0:
        return np.nan
    which = frequency_bins(p, bins)
    return float(np.abs(np.bincount(which, p - y)).sum() / len(y))


def frequency_bins(p: np.ndarray, bins: int) -> np.ndarray:
    """Bin number of each probability, bins about equally full; equal values share one."""
    edges = np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(np.unique(edges), p, side="right")


@dataclass(frozen=True)
class Calibration:
    """Calibration-in-the-large, and slope of the recalibration (0 and 1 are perfect)."""

    intercept: float
    slope: float


def calibration(y: np.ndarray, p: np.ndarray) -> Calibration:
    """Intercept with the logit as offset; slope of outcome on logit (Van Calster et al. 2019)."""
    if len(y) == 0:
        return Calibration(np.nan, np.nan)
    x = logits(p)[None, :]
    positive = np.asarray(y, float)[None, :]
    total = np.ones_like(positive)
    return Calibration(
        float(recalibrate_intercept(x, positive, total)[0]),
        float(recalibrate_slope(x, positive, total)[0]),
    )


def logits(p: np.ndarray) -> np.ndarray:
    """Log-odds of clipped probabilities."""
    return logit(np.clip(p, EPSILON, 1 - EPSILON))


def recalibrate_intercept(x: np.ndarray, positive: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Solve for a in `sum positive = sum total * sigmoid(a + x)`, row by row.

    Args:
        x: (1, b) log-odds of groups of predictions.
        positive, total: (k, b) weighted outcomes and sizes of the groups.

    Returns:
        (k,); NaN where only one class is there.
    """
    target, size = positive.sum(axis=1), total.sum(axis=1)
    a = np.zeros(len(positive))
    for _ in range(100):
        risk = expit(a[:, None] + x)
        slope = (total * risk * (1 - risk)).sum(axis=1)
        step = (target - (total * risk).sum(axis=1)) / np.maximum(slope, 1e-12)
        a += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return np.where((target > 0) & (target < size), a, np.nan)


def recalibrate_slope(x: np.ndarray, positive: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Slope of a logistic regression of outcome on log-odds; arguments as above.

    NaN where it does not exist: one class alone, one value alone, classes separated or all but.
    """
    k = len(positive)
    centre, scale = x.mean(), max(float(x.std()), 1e-12)
    z = (x - centre) / scale
    a, b = np.zeros(k), np.zeros(k)
    change = np.full(k, np.inf)
    for _ in range(100):
        risk = expit(a[:, None] + b[:, None] * z)
        weight = total * risk * (1 - risk)
        error = positive - total * risk
        g0, g1 = error.sum(axis=1), (error * z).sum(axis=1)
        h00, h01, h11 = weight.sum(axis=1), (weight * z).sum(axis=1), (weight * z * z).sum(axis=1)
        determinant = np.maximum(h00 * h11 - h01**2, 1e-12)
        da, db = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
        change = np.maximum(np.abs(da), np.abs(db))
        shorter = np.minimum(1, 2 / np.maximum(change, 1e-12))  # the direction is kept
        a, b = a + shorter * da, b + shorter * db
        if change.max() < 1e-9:
            break
    mixed = (positive.sum(axis=1) > 0) & (positive.sum(axis=1) < total.sum(axis=1))
    sound = mixed & (change < 1e-6) & (float(x.std()) > 1e-9)
    return np.where(sound, b / scale, np.nan)
