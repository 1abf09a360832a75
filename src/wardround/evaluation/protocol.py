"""The parts of a task's results that every system fills in alike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from wardround.evaluation.binary import paired_comparison
from wardround.evaluation.bootstrap import Resamples
from wardround.evaluation.results import Estimate, PairedComparison, SplitCount


def split_counts(frame: pl.DataFrame, splits: tuple[str, ...]) -> list[SplitCount]:
    """Size of each split.

    Args:
        frame: `subject_id`, `split`, and `boolean_value` where the outcome is binary.
        splits: in the order of the report.
    """
    counts = []
    for split in splits:
        rows = frame.filter(pl.col("split") == split)
        binary = "boolean_value" in rows.columns
        counts.append(
            SplitCount(
                split=split,
                subjects=rows["subject_id"].n_unique(),
                rows=len(rows),
                positives=int(rows["boolean_value"].sum()) if binary else None,
            )
        )
    return counts


def predictions_of(
    frame: pl.DataFrame, risk: np.ndarray, threshold: float, *, task: str, model: str
) -> pl.DataFrame:
    """A model's predictions as MEDS has them, with `task`, `model` and `split` beside.

    Args:
        frame: `subject_id`, `prediction_time`, `boolean_value`, `split`.
        risk: (n,) probabilities.
        threshold: predicted positive from here.
        task, model: names.
    """
    return frame.select(
        "subject_id",
        "prediction_time",
        "boolean_value",
        pl.Series("predicted_boolean_value", risk >= threshold),
        pl.Series("predicted_boolean_probability", risk, pl.Float64),
        pl.lit(task).alias("task"),
        pl.lit(model).alias("model"),
        "split",
    )


def comparisons_with_best(
    y: np.ndarray,
    risks: Mapping[str, np.ndarray],
    ranks: Mapping[str, float],
    labels: Mapping[str, str],
    resamples: Resamples,
) -> list[PairedComparison]:
    """The model that ranks best on tuning rows against every other on the held-out ones.

    Args:
        y: (n,) held-out outcomes.
        risks: (n,) held-out risks by model.
        ranks: AUROC on tuning rows by model.
        labels: models as people read them.
        resamples: of the held-out rows.
    """
    ranked = [name for name, value in ranks.items() if np.isfinite(value)]
    if not 0 < y.sum() < len(y) or not ranked:
        return []
    best = max(ranked, key=ranks.__getitem__)
    return [
        paired_comparison(
            y, risks[best], risks[other], resamples, first=labels[best], second=labels[other]
        )
        for other in risks
        if other != best
    ]


def spread(values: np.ndarray) -> Estimate:
    """Mean of repeats, and the middle 95 % of them."""
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(value=float(values.mean()), low=float(low), high=float(high))
