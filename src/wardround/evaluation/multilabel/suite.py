"""Every metric of a multi-label classifier on one split (Edin et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix, spmatrix

from wardround.errors import WardroundError
from wardround.evaluation.multilabel.part import Part, select
from wardround.evaluation.multilabel.ranking import (
    Pool,
    average_precision,
    code_areas,
    locate,
    ranks,
)

PRECISION_AT = (5, 8, 15)
RECALL_AT = (10, 15)


@dataclass(frozen=True)
class MultilabelEvaluation:
    """What a model does on a split.

    Attributes:
        threshold: a code is predicted where its score is above.
        shape: documents and codes of the matrices that came in.
        documents: (n,) rows that were measured: those with a measured code.
        codes: (m,) columns that were measured: those that occur in the split.
        targets, predictions: (n, m) bool.
        metrics: by name; see `evaluate_multilabel`.
        per_document: a row a measured document: `document` (row), `support` (true codes),
            `predicted`, `true_positives`, `exact`, `average_precision`, `r_precision`,
            `precision_at_…`, `recall_at_…`.
        per_code: a row a measured code: `code` (column), `support`, `predicted`,
            `true_positives`, `false_positives`, `false_negatives`, `precision`, `recall`, `f1`,
            `auc`, `average_precision` (the last two null where undefined or not asked for).
    """

    threshold: float
    shape: tuple[int, int]
    documents: np.ndarray
    codes: np.ndarray
    targets: csr_matrix
    predictions: csr_matrix
    metrics: dict[str, float]
    per_document: pl.DataFrame
    per_code: pl.DataFrame

    @property
    def true_positives(self) -> csr_matrix:
        """(n, m) bool: predicted and true."""
        return self.targets.multiply(self.predictions).tocsr()


def evaluate_multilabel(
    targets: spmatrix,
    scores: np.ndarray,
    threshold: float,
    *,
    codes: np.ndarray | None = None,
    areas: bool = True,
    paper_compat: bool = False,
) -> MultilabelEvaluation:
    """Measure scores of codes.

    Codes that no document of the split has are left out, then documents without a code.

    - `precision_`, `recall_`, `f1_`, `fpr_` with `micro` (all decisions pooled) and `macro` (mean
      over codes); a ratio of nothing is 0.
    - `f1_macro` is the mean of the codes' F1. `f1_macro_mullenbach` is the formula that it
      corrects (Mullenbach et al. 2018): the harmonic mean of macro precision and macro recall over
      all codes and documents that came in, where absent codes score 0.
    - `exact_match_ratio`: documents with every decision right.
    - `precision_at_k` = hits among the k best / k; `recall_at_k` = those hits / true codes;
      `r_precision` = precision at the number of true codes; means over documents. Equal scores
      rank in the order of the codes.
    - `map`: mean over documents of the average precision of their ranked codes; equal scores are
      taken in together, as in `sklearn.metrics.average_precision_score`.
    - `auc_micro` over all pairs, `auc_macro` mean over codes that some and not all documents have;
      ties count half. Exact.

    Memory beyond the arguments: some 200 MB, and the predictions as a sparse matrix.

    Args:
        targets: (documents, codes) sparse, bool or 0 and 1.
        scores: (documents, codes) float32 logits or probabilities; may be memory-mapped. float64
            is kept; half precision becomes float32, but has lost the order of its ties.
        threshold: on the scale of the scores; a code is predicted where `score > threshold`.
        codes: columns to keep, mask or indices, for diagnoses or procedures alone.
        areas: AUC and what else needs more than one sort of each document; without them a tuning
            pass takes a third of the time.
        paper_compat: `auc_micro` over all codes and documents, also those left out elsewhere, as
            the published code computes it by mistake. The negatives that no document has are
            easy, so that it comes out higher.

    Raises:
        WardroundError: shapes differ, a score is missing (NaN), or no document has a code.
    """
    part = select(targets, scores, codes=codes)
    if not part.targets.nnz:
        raise WardroundError(
            "no document of the split has a code that is measured; check the split and label set"
        )
    everything = _Pass(part, float(threshold), areas)
    metrics = everything.metrics()
    metrics["f1_macro_mullenbach"] = _mullenbach(
        part, everything, float(threshold), scores.shape[1] if codes is None else _width(codes)
    )
    area = average = np.full(len(part.codes), np.nan)
    if areas:
        area, average = code_areas(part)
        metrics["auc_micro"] = everything.pool.auroc()
        if paper_compat:
            metrics["auc_micro"] = auc_micro(targets, scores, codes=codes, filter_codes=False)
        defined = area[np.isfinite(area)]
        metrics["auc_macro"] = float(defined.mean()) if len(defined) else np.nan
    return MultilabelEvaluation(
        threshold=float(threshold),
        shape=(scores.shape[0], scores.shape[1]),
        documents=part.documents,
        codes=part.codes,
        targets=part.targets,
        predictions=everything.predictions(),
        metrics=metrics,
        per_document=everything.per_document(),
        per_code=everything.per_code(area, average),
    )


def auc_micro(
    targets: spmatrix,
    scores: np.ndarray,
    *,
    codes: np.ndarray | None = None,
    filter_codes: bool = True,
) -> float:
    """Area under the ROC curve of all (document, code) pairs; arguments as above."""
    part = select(targets, scores, codes=codes, filter_codes=filter_codes)
    pool = Pool(part.positive_scores)
    for ordered in part.sorted_blocks():
        pool.add(ordered)
    return pool.auroc()


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`above / below`, 0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.asarray(below) > 0)


def f1(true_positives: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """F1 from counts: TP / (TP + (FP + FN) / 2)."""
    return ratio(2.0 * true_positives, predicted + support)


class _Pass:
    """One reading of the scores, document by document."""

    def __init__(self, part: Part, threshold: float, areas: bool) -> None:
        n, m = part.targets.shape
        self.part = part
        self.support = np.diff(part.targets.indptr).astype(np.int64)
        self.code_support = np.bincount(part.targets.indices, minlength=m)
        self.pool = Pool(part.positive_scores)
        hit = part.positive_scores > threshold
        self.hits = np.bincount(part.rows, hit, minlength=n).astype(np.int64)
        self.code_hits = np.bincount(part.targets.indices, hit, minlength=m).astype(np.int64)
        self.predicted = np.zeros(n, np.int64)
        self.rank = np.empty(part.targets.nnz, np.int64)
        self.average_precision = np.empty(n)
        self._predicted_codes: list[np.ndarray] = []
        for start, stop, block in part.row_blocks():
            above = block > threshold
            self.predicted[start:stop] = np.count_nonzero(above, axis=1)
            self._predicted_codes.append((np.flatnonzero(above) % m).astype(np.int32))
            ordered = np.sort(block, axis=1)
            part.check(block, start, ordered[:, -1])
            self._rank(start, stop, block, ordered)
            if areas:
                everything = ordered.reshape(-1)
                everything.sort()
                self.pool.add(everything)

    def _rank(self, start: int, stop: int, block: np.ndarray, ordered: np.ndarray) -> None:
        part, m = self.part, block.shape[1]
        these = slice(part.targets.indptr[start], part.targets.indptr[stop])
        row, column = part.rows[these] - start, part.targets.indices[these]
        value = part.positive_scores[these]
        below, upto = (locate(ordered, row, value, side) for side in ("left", "right"))
        self.average_precision[start:stop] = average_precision(row, value, m - below, stop - start)
        deepest = np.maximum(self.support[start:stop], max(PRECISION_AT + RECALL_AT))[row]
        self.rank[these] = ranks(block, row, column, value, below, upto, deepest)

    def predictions(self) -> csr_matrix:
        indices = np.concatenate([*self._predicted_codes, np.empty(0, np.int32)])
        indptr = np.concatenate([[0], np.cumsum(self.predicted)])
        data = np.ones(len(indices), bool)
        return csr_matrix((data, indices, indptr), shape=self.part.targets.shape)

    @property
    def code_predicted(self) -> np.ndarray:
        m = len(self.part.codes)
        total = np.zeros(m, np.int64)
        for codes in self._predicted_codes:
            total += np.bincount(codes, minlength=m)
        return total

    def _within(self, k: int | np.ndarray) -> np.ndarray:
        """How many true codes of each document are among its k best."""
        top = self.rank < (k if isinstance(k, int) else k[self.part.rows])
        return np.bincount(self.part.rows, top, minlength=len(self.support))

    def per_document(self) -> pl.DataFrame:
        columns = {
            "document": self.part.documents,
            "support": self.support,
            "predicted": self.predicted,
            "true_positives": self.hits,
            "exact": (self.hits == self.support) & (self.predicted == self.support),
            "average_precision": self.average_precision,
            "r_precision": self._within(self.support) / self.support,
        }
        columns |= {f"precision_at_{k}": self._within(k) / k for k in PRECISION_AT}
        columns |= {f"recall_at_{k}": self._within(k) / self.support for k in RECALL_AT}
        return pl.DataFrame(columns)

    def per_code(self, area: np.ndarray, average: np.ndarray) -> pl.DataFrame:
        predicted = self.code_predicted
        return pl.DataFrame(
            {
                "code": self.part.codes,
                "support": self.code_support,
                "predicted": predicted,
                "true_positives": self.code_hits,
                "false_positives": predicted - self.code_hits,
                "false_negatives": self.code_support - self.code_hits,
                "precision": ratio(self.code_hits, predicted),
                "recall": ratio(self.code_hits, self.code_support),
                "f1": f1(self.code_hits, predicted, self.code_support),
                "auc": area,
                "average_precision": average,
            }
        ).with_columns(pl.col("auc", "average_precision").fill_nan(None))

    def metrics(self) -> dict[str, float]:
        n = len(self.part.documents)
        hits, support, predicted = self.code_hits, self.code_support, self.code_predicted
        false, negatives = predicted - hits, n - support
        per_code = {
            "precision": (hits, predicted),
            "recall": (hits, support),
            "f1": (2.0 * hits, predicted + support),
            "fpr": (false, negatives),
        }
        found: dict[str, float] = {}
        for name, (above, below) in per_code.items():
            found[f"{name}_micro"] = float(ratio(above.sum(), below.sum()))
            found[f"{name}_macro"] = float(ratio(above, below).mean())
        means = self.per_document().drop("document", "support", "predicted", "true_positives")
        names = {"exact": "exact_match_ratio", "average_precision": "map"}
        means = means.rename(names).cast(pl.Float64).mean()
        return found | means.row(0, named=True)


def _width(codes: np.ndarray) -> int:
    chosen = np.asarray(codes)
    return int(chosen.sum()) if chosen.dtype == bool else len(np.unique(chosen))


def _mullenbach(part: Part, found: _Pass, threshold: float, codes: int) -> float:
    """Harmonic mean of precision and recall, each a mean over all codes that came in."""
    predicted = found.code_predicted
    for block in part.unmeasured_rows():
        predicted = predicted + np.count_nonzero(block > threshold, axis=0)
    precision = ratio(found.code_hits, predicted).sum() / codes
    recall = ratio(found.code_hits, found.code_support).sum() / codes
    return float(ratio(2 * precision * recall, precision + recall))
