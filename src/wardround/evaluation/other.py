"""Outcomes that are not binary: times, and one of many classes."""

from __future__ import annotations

import numpy as np

from wardround.errors import WardroundError
from wardround.evaluation.bootstrap import Resamples, estimate
from wardround.evaluation.results import ModelResult


def evaluate_number(
    name: str, label: str, truth: np.ndarray, predicted: np.ndarray, resamples: Resamples
) -> ModelResult:
    """Mean absolute error and bias.

    Args:
        name, label: of the model.
        truth, predicted: (n,) finite numbers of one unit.
        resamples: drawn for these n rows.

    Returns:
        `mae` (unit of the truth) and `bias` (predicted minus true, mean).
    """
    truth, predicted = np.asarray(truth, float), np.asarray(predicted, float)
    _same_length(name, truth, predicted, resamples)
    if not np.isfinite(truth).all() or not np.isfinite(predicted).all():
        raise WardroundError(f"{name}: a true or predicted value is missing")
    gap = predicted - truth
    return _means(name, label, {"mae": np.abs(gap), "bias": gap}, resamples)


def evaluate_classes(
    name: str, label: str, truth: np.ndarray, ranked: np.ndarray, resamples: Resamples
) -> ModelResult:
    """How often the true class is among the first one and five.

    Args:
        name, label: of the model.
        truth: (n,) class ids.
        ranked: (n, k) class ids, the most probable first, k from 5 unless there are fewer classes.
        resamples: drawn for these n rows.

    Returns:
        `top_1` and `top_5`, shares.
    """
    truth = np.asarray(truth)
    _same_length(name, truth, ranked, resamples)
    hit = ranked[:, :5] == truth[:, None]
    columns = {"top_1": hit[:, :1].any(axis=1), "top_5": hit.any(axis=1)}
    return _means(name, label, {k: v.astype(float) for k, v in columns.items()}, resamples)


def _means(
    name: str, label: str, columns: dict[str, np.ndarray], resamples: Resamples
) -> ModelResult:
    table = np.column_stack(list(columns.values()))
    value = table.mean(axis=0) if len(table) else np.full(len(columns), np.nan)
    draws = np.empty((0, len(columns)))
    if len(resamples):
        draws = resamples.sums(table) / np.maximum(resamples.sums(np.ones((len(table), 1))), 1)
    metrics = {
        metric: estimate(float(value[number]), draws[:, number])
        for number, metric in enumerate(columns)
    }
    return ModelResult(name=name, label=label, metrics=metrics)


def _same_length(name: str, truth: np.ndarray, other: np.ndarray, resamples: Resamples) -> None:
    if not len(truth) == len(other) == len(resamples.rows):
        raise WardroundError(
            f"{name}: {len(truth)} outcomes, {len(other)} predictions, "
            f"{len(resamples.rows)} rows resampled"
        )
