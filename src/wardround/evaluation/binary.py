"""Measuring a binary risk model: intervals, thresholds, curves, subgroups, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from wardround.errors import WardroundError
from wardround.evaluation.bootstrap import Resamples, estimate
from wardround.evaluation.metrics import (
    auprc,
    auroc,
    brier,
    calibration,
    expected_calibration_error,
    frequency_bins,
    logits,
    recalibrate_intercept,
    recalibrate_slope,
)
from wardround.evaluation.results import (
    CalibrationBin,
    Curves,
    Estimate,
    Importance,
    ModelResult,
    OperatingPoint,
    PairedComparison,
    SubgroupRow,
)

#: Groups of equal log-odds that the calibration of a resample is solved on.
LOGIT_GROUPS = 200
ECE_BINS = 10
CURVE_POINTS = 200
#: Smaller subgroups are listed, not measured.
SMALLEST_GROUP = 10


def evaluate_binary(
    name: str,
    label: str,
    y: np.ndarray,
    p: np.ndarray,
    resamples: Resamples,
    *,
    thresholds: Mapping[str, float] | None = None,
    subgroups: pl.DataFrame | None = None,
    curves: bool = True,
    importance: Sequence[Importance] = (),
    importance_kind: str = "",
    note: str = "",
) -> ModelResult:
    """Measure predicted risks on the held-out split.

    Args:
        name, label: of the model.
        y: (n,) bool outcomes.
        p: (n,) probabilities.
        resamples: drawn once for these n rows; without repeats there are no intervals.
        thresholds: by the rule that chose them on the tuning split; positive is `p >= threshold`.
        subgroups: (n, attributes) strings; null rows belong to no group.
        curves: keep the points of ROC, PR and calibration curves.

    Raises:
        WardroundError: lengths differ, or a probability is outside [0, 1] or missing.
    """
    y, p = np.asarray(y, bool), np.asarray(p, float)
    if not len(y) == len(p) == len(resamples.rows):
        raise WardroundError(
            f"{name}: {len(y)} outcomes, {len(p)} predictions, {len(resamples.rows)} rows resampled"
        )
    if not np.all((p >= 0) & (p <= 1)):
        raise WardroundError(f"{name}: a predicted probability is missing or not within 0 and 1")
    return ModelResult(
        name=name,
        label=label,
        metrics=_discrimination(y, p, resamples) | _calibration(y, p, resamples),
        curves=_curves(y, p) if curves and 0 < y.sum() < len(y) else None,
        operating_points=[
            operating_point(y, p, resamples, rule=rule, threshold=threshold)
            for rule, threshold in (thresholds or {}).items()
        ],
        subgroups=_subgroups(y, p, resamples, subgroups) if subgroups is not None else [],
        importance=list(importance),
        importance_kind=importance_kind,
        note=note,
    )


def _discrimination(y: np.ndarray, p: np.ndarray, resamples: Resamples) -> dict[str, Estimate]:
    areas, precisions = resamples.areas(y, p)
    return {"auroc": estimate(auroc(y, p), areas), "auprc": estimate(auprc(y, p), precisions)}


def _calibration(y: np.ndarray, p: np.ndarray, resamples: Resamples) -> dict[str, Estimate]:
    """Brier, intercept, slope and ECE.

    Resamples are solved on groups of near-equal log-odds, which moves no interval's end in its
    second decimal; the values themselves come from the rows. ECE has no interval: a sum of
    absolute gaps grows with noise, so that its percentiles lie above the value they belong to.
    """
    whole = calibration(y, p)
    values = {
        "brier": brier(y, p),
        "calibration_intercept": whole.intercept,
        "calibration_slope": whole.slope,
        "ece": expected_calibration_error(y, p, ECE_BINS),
    }
    if not len(resamples) or not len(y):
        return {name: estimate(value, np.empty(0)) for name, value in values.items()}
    x = logits(p)
    group = frequency_bins(x, LOGIT_GROUPS)
    present, group = np.unique(group, return_inverse=True)
    centre = np.bincount(group, x) / np.bincount(group)
    k = len(present)
    total = resamples.sums(_one_hot(group, k, np.ones(len(y))))
    positive = resamples.sums(_one_hot(group, k, y.astype(float)))
    squares = resamples.sums(((p - y) ** 2)[:, None])[:, 0]
    size = np.maximum(total.sum(axis=1), 1)
    draws = {
        "brier": squares / size,
        "calibration_intercept": recalibrate_intercept(centre[None, :], positive, total),
        "calibration_slope": recalibrate_slope(centre[None, :], positive, total),
        "ece": np.empty(0),
    }
    return {name: estimate(value, draws[name]) for name, value in values.items()}


def _one_hot(group: np.ndarray, groups: int, values: np.ndarray) -> csr_matrix:
    return csr_matrix((values, (np.arange(len(group)), group)), shape=(len(group), groups))


def operating_point(
    y: np.ndarray, p: np.ndarray, resamples: Resamples, *, rule: str, threshold: float
) -> OperatingPoint:
    """What alerting at `p >= threshold` does to (n,) outcomes."""
    y, alert = np.asarray(y, bool), np.asarray(p) >= threshold
    cells = np.stack([y & alert, ~y & alert, y & ~alert, ~y & ~alert], axis=1).astype(float)
    value = _ratios(cells.sum(axis=0)[None, :])
    draws = _ratios(resamples.sums(cells)) if len(resamples) else {}
    found = {name: estimate(float(v[0]), draws.get(name, np.empty(0))) for name, v in value.items()}
    return OperatingPoint(rule=rule, threshold=float(threshold), **found)


def _ratios(cells: np.ndarray) -> dict[str, np.ndarray]:
    """Rates from (k, 4) counts of true and false positives, false and true negatives."""
    tp, fp, fn, tn = cells.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "alert_rate": (tp + fp) / (tp + fp + fn + tn),
        }


def choose_thresholds(y: np.ndarray, p: np.ndarray, sensitivity: float = 0.9) -> dict[str, float]:
    """Thresholds for `p >= threshold`, chosen on the tuning split.

    Returns:
        By rule: the point of the ROC curve nearest to (0, 1), which is how the ED triage benchmark
        chooses, and the highest threshold that reaches `sensitivity`. Empty where a class is
        missing.
    """
    y, p = np.asarray(y, bool), np.asarray(p, float)
    if not 0 < y.sum() < len(y):
        return {}
    order = np.argsort(-p, kind="stable")
    last = np.append(np.diff(p[order]) != 0, True)  # the last row of each tied score
    true = np.cumsum(y[order])[last] / y.sum()
    false = np.cumsum(~y[order])[last] / (~y).sum()
    scores = p[order][last]
    return {
        "nearest to the ROC corner on tuning": float(scores[np.argmin((1 - true) ** 2 + false**2)]),
        f"sensitivity ≥ {sensitivity:.2f} on tuning": float(
            scores[np.argmax(true >= sensitivity - 1e-12)]
        ),
    }


def _curves(y: np.ndarray, p: np.ndarray) -> Curves:
    order = np.argsort(-p, kind="stable")
    last = np.append(np.diff(p[order]) != 0, True)
    true, false = np.cumsum(y[order])[last], np.cumsum(~y[order])[last]
    recall, fallout = true / y.sum(), false / (~y).sum()
    precision = true / (true + false)
    roc = np.column_stack([np.append(0, fallout), np.append(0, recall)])
    pr = np.column_stack([recall, precision])
    bins = []
    which = frequency_bins(p, ECE_BINS)
    for number in np.unique(which):
        here = which == number
        low, high = wilson_interval(int(y[here].sum()), int(here.sum()))
        bins.append(
            CalibrationBin(
                predicted=round(float(p[here].mean()), 5),
                observed=round(float(y[here].mean()), 5),
                low=round(low, 5),
                high=round(high, 5),
                count=int(here.sum()),
            )
        )
    return Curves(roc=_thinned(roc), pr=_thinned(pr), calibration=bins)


def _thinned(points: np.ndarray) -> list[tuple[float, float]]:
    """At most `CURVE_POINTS`, evenly along the curve's own length, both ends kept."""
    length = np.append(0, np.cumsum(np.abs(np.diff(points, axis=0)).sum(axis=1)))
    at = np.linspace(0, length[-1], CURVE_POINTS)
    kept = np.unique(np.append(np.searchsorted(length, at), [0, len(points) - 1]))
    kept = kept[kept < len(points)]
    return [(round(float(a), 5), round(float(b), 5)) for a, b in points[kept]]


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion."""
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    return float(max(0, centre - half)), float(min(1, centre + half))


def _subgroups(
    y: np.ndarray, p: np.ndarray, resamples: Resamples, groups: pl.DataFrame
) -> list[SubgroupRow]:
    rows = []
    for attribute in groups.columns:
        column = groups[attribute]
        for group in column.drop_nulls().unique().sort().to_list():
            mask = (column == group).fill_null(False).to_numpy()
            metrics = {"auroc": Estimate(value=None), "auprc": Estimate(value=None)}
            if mask.sum() >= SMALLEST_GROUP:
                metrics = _discrimination(y[mask], p[mask], resamples.restricted_to(mask))
            rows.append(
                SubgroupRow(
                    attribute=attribute,
                    group=str(group),
                    rows=int(mask.sum()),
                    positives=int(y[mask].sum()),
                    metrics=metrics,
                )
            )
    return rows


def paired_comparison(
    y: np.ndarray,
    p_first: np.ndarray,
    p_second: np.ndarray,
    resamples: Resamples,
    *,
    first: str,
    second: str,
    metric: str = "auroc",
) -> PairedComparison:
    """Difference of two models in `auroc` or `auprc` on the same resamples of subjects.

    The p-value is twice the share of resamples on the far side of zero, one added to both counts.
    """
    which = {"auroc": 0, "auprc": 1}[metric]
    exact = auroc if metric == "auroc" else auprc
    value = exact(y, p_first) - exact(y, p_second)
    draws = resamples.areas(y, p_first)[which] - resamples.areas(y, p_second)[which]
    draws = draws[np.isfinite(draws)]
    p_value = None
    if len(draws) >= 20:
        tail = min((draws <= 0).sum(), (draws >= 0).sum())
        p_value = float(min(1.0, 2 * (tail + 1) / (len(draws) + 1)))
    return PairedComparison(
        metric=metric,
        first=first,
        second=second,
        difference=estimate(value, draws),
        p_value=p_value,
    )


def shuffle_labels(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same outcomes on other rows: what a model learns from these is nothing."""
    return rng.permutation(np.asarray(y))
