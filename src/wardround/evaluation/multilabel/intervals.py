"""Intervals and comparisons of multi-label models: subjects resampled, decisions paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import hstack
from scipy.stats import binomtest, chi2

from wardround.errors import WardroundError
from wardround.evaluation.bootstrap import Resamples, estimate
from wardround.evaluation.multilabel.suite import MultilabelEvaluation, f1, ratio
from wardround.evaluation.results import Estimate, PairedComparison

#: Codes whose counts are resampled at once: some 12 MB at 1,000 resamples.
CODES_AT_ONCE = 512
#: Fewer discordant decisions than this get the exact test.
FEW = 25


def resample_metrics(
    evaluation: MultilabelEvaluation, resamples: Resamples
) -> dict[str, np.ndarray]:
    """Every metric but the areas and false-positive rates, in every resample of subjects.

    A resample is measured on the codes of the whole split: drawing subjects does not change what
    is asked. Macro averages are over those that the resample has, since the F1 of a code without
    a document is not 0 but undefined. Works on counts of documents and codes; no score is read.

    Args:
        evaluation: of one model.
        resamples: drawn for all documents that were given to `evaluate_multilabel`.

    Returns:
        (repeats,) draws by the names of `evaluation.metrics`.
    """
    if len(resamples.rows) != evaluation.shape[0]:
        raise WardroundError(
            f"{evaluation.shape[0]} documents were evaluated and {len(resamples.rows)} rows "
            "resampled; draw resamples of the subjects of the same documents"
        )
    part = resamples.restricted_to(evaluation.documents)
    frame = evaluation.per_document.select(
        pl.lit(1.0).alias("documents"), pl.exclude("document").cast(pl.Float64)
    )
    sums = dict(zip(frame.columns, part.sums(frame.to_numpy()).T, strict=True))
    documents = sums.pop("documents")
    hits, predicted, support = (sums.pop(k) for k in ("true_positives", "predicted", "support"))
    draws = {
        "precision_micro": ratio(hits, predicted),
        "recall_micro": ratio(hits, support),
        "f1_micro": f1(hits, predicted, support),
    }
    draws |= _macro(evaluation, part)
    names = {"exact": "exact_match_ratio", "average_precision": "map"}
    with np.errstate(invalid="ignore"):
        draws |= {names.get(name, name): total / documents for name, total in sums.items()}
    empty = documents == 0
    return {name: np.where(empty, np.nan, values) for name, values in draws.items()}


def _macro(evaluation: MultilabelEvaluation, part: Resamples) -> dict[str, np.ndarray]:
    by_code = [
        matrix.tocsc().astype(np.float64)
        for matrix in (evaluation.true_positives, evaluation.predictions, evaluation.targets)
    ]
    totals = np.zeros((3, len(part)))
    present = np.zeros(len(part))
    for start in range(0, len(evaluation.codes), CODES_AT_ONCE):
        counts = hstack([m[:, start : start + CODES_AT_ONCE] for m in by_code], format="csr")
        hits, predicted, support = np.split(part.sums(counts), 3, axis=1)
        there = support > 0
        present += there.sum(axis=1)
        totals[0] += (ratio(hits, predicted) * there).sum(axis=1)
        totals[1] += ratio(hits, support).sum(axis=1)
        totals[2] += (f1(hits, predicted, support) * there).sum(axis=1)
    means = ratio(totals, np.broadcast_to(present, totals.shape))
    return dict(zip(("precision_macro", "recall_macro", "f1_macro"), means, strict=True))


def multilabel_estimates(
    evaluation: MultilabelEvaluation, draws: Mapping[str, np.ndarray]
) -> dict[str, Estimate]:
    """Metrics with their intervals, where `draws` of `resample_metrics` has them."""
    return {
        name: estimate(value, draws.get(name, np.empty(0)))
        for name, value in evaluation.metrics.items()
    }


def compare_multilabel(
    first: MultilabelEvaluation,
    second: MultilabelEvaluation,
    first_draws: Mapping[str, np.ndarray],
    second_draws: Mapping[str, np.ndarray],
    *,
    names: tuple[str, str],
    metrics: Sequence[str] = ("f1_micro", "f1_macro", "map"),
) -> list[PairedComparison]:
    """`first` minus `second` on the same resamples of subjects.

    The p-value is twice the share of resamples on the far side of zero, one added to both counts.

    Raises:
        WardroundError: the models were measured on different documents or codes.
    """
    _check_same(first, second)
    found = []
    for metric in metrics:
        draws = first_draws[metric] - second_draws[metric]
        draws = draws[np.isfinite(draws)]
        p_value = None
        if len(draws) >= 20:
            tail = min((draws <= 0).sum(), (draws >= 0).sum())
            p_value = float(min(1.0, 2 * (tail + 1) / (len(draws) + 1)))
        found.append(
            PairedComparison(
                metric=metric,
                first=names[0],
                second=names[1],
                difference=estimate(first.metrics[metric] - second.metrics[metric], draws),
                p_value=p_value,
            )
        )
    return found


@dataclass(frozen=True)
class McNemar:
    """Decisions that only the first, and only the second model gets right, and the test.

    Attributes:
        statistic: chi-square with one degree of freedom, continuity corrected.
    """

    first_only: int
    second_only: int
    statistic: float
    p_value: float


def mcnemar(
    first: MultilabelEvaluation,
    second: MultilabelEvaluation,
    *,
    codes: np.ndarray | None = None,
) -> McNemar:
    """McNemar's test of all (document, code) decisions, as in Edin et al. 2023.

    With the continuity correction; exact (binomial) where the models disagree fewer than 25
    times. It takes decisions to be independent, which those of one document, or of one
    subject's documents, are not: its p-values are too small. `compare_multilabel` makes no such
    assumption.

    Args:
        first, second: measured on the same documents and codes.
        codes: mask of all columns of the matrices, for the rare codes alone, say.
    """
    _check_same(first, second)
    matrices = [first.targets, first.predictions, second.predictions]
    if codes is not None:
        mask = np.asarray(codes, bool)
        if mask.shape != (first.shape[1],):
            raise WardroundError(f"the mask of codes has {mask.size} entries, not {first.shape[1]}")
        matrices = [matrix[:, mask[first.codes]] for matrix in matrices]
    y, one, two = matrices
    both = one.multiply(two)
    true_one, true_two = one.multiply(y), two.multiply(y)
    true_both = true_one.multiply(two).nnz
    # Right alone: finds a code that the other misses, or is silent where the other is wrong.
    finds_one, finds_two = true_one.nnz - true_both, true_two.nnz - true_both
    false_one, false_two = one.nnz - both.nnz - finds_one, two.nnz - both.nnz - finds_two
    b, c = finds_one + false_two, finds_two + false_one
    if b + c == 0:
        return McNemar(0, 0, 0.0, 1.0)
    statistic = max(abs(b - c) - 1, 0) ** 2 / (b + c)
    p_value = binomtest(b, b + c).pvalue if b + c < FEW else chi2.sf(statistic, 1)
    return McNemar(b, c, statistic, float(p_value))


def _check_same(first: MultilabelEvaluation, second: MultilabelEvaluation) -> None:
    same = np.array_equal(first.documents, second.documents)
    same &= np.array_equal(first.codes, second.codes)
    if not same or (first.targets != second.targets).nnz:
        raise WardroundError(
            "two models can only be compared on the same documents, codes and targets; "
            "evaluate both on one split"
        )
