"""Where a model is good and where it is not: by code, by group of codes, by kind of document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix, spmatrix

from wardround.errors import WardroundError
from wardround.evaluation.multilabel.suite import MultilabelEvaluation, f1

#: How often a code occurs in training: upper ends of the bands, and one above the last.
FREQUENCY_EDGES = (10, 50, 100, 500)


def code_table(evaluation: MultilabelEvaluation, names: Sequence[str]) -> pl.DataFrame:
    """`evaluation.per_code` with the codes' names, most frequent first.

    Args:
        evaluation: of one model.
        names: of all columns of the matrices, in their order.
    """
    _check_length(len(names), evaluation.shape[1], "names", "codes")
    named = pl.Series("code", list(names), pl.String).gather(evaluation.codes)
    return evaluation.per_code.with_columns(named).sort("support", "code", descending=[True, False])


def code_group_table(
    evaluation: MultilabelEvaluation, groups: pl.Series | Sequence[str | None]
) -> pl.DataFrame:
    """Metrics of groups of codes, such as chapters or bands of training frequency.

    Args:
        evaluation: of one model.
        groups: group of every column of the matrices; null ones are in no group. An Enum keeps
            its order.

    Returns:
        `group`, `codes`, `support`, `precision_micro`, `recall_micro`, `f1_micro`, `f1_macro`,
        `auc_macro`, `average_precision` (mean over codes): a row a group that the split has.
    """
    labels = pl.Series("group", groups)
    _check_length(len(labels), evaluation.shape[1], "groups", "codes")
    tp, predicted, support = (
        pl.col(name).sum() for name in ("true_positives", "predicted", "support")
    )
    return (
        evaluation.per_code.with_columns(labels.gather(evaluation.codes))
        .drop_nulls("group")
        .group_by("group")
        .agg(
            pl.len().alias("codes"),
            support,
            precision_micro=pl.when(predicted > 0).then(tp / predicted).otherwise(0.0),
            recall_micro=tp / support,
            f1_micro=2 * tp / (predicted + support),
            f1_macro=pl.col("f1").mean(),
            auc_macro=pl.col("auc").mean(),
            average_precision=pl.col("average_precision").mean(),
        )
        .sort("group")
    )


def document_group_table(
    evaluation: MultilabelEvaluation, groups: pl.Series | Sequence[str | None]
) -> pl.DataFrame:
    """Metrics of groups of documents, such as bands of length or of the number of codes.

    Args:
        evaluation: of one model.
        groups: group of every row of the matrices; null ones are in no group.

    Returns:
        `group`, `documents`, `support`, micro precision, recall and F1, `f1_macro` (over the codes
        that the group's documents have), `map`, `r_precision`, `precision_at_…`, `recall_at_…`,
        `exact_match_ratio`: a row a group.
    """
    labels = pl.Series("group", groups)
    _check_length(len(labels), evaluation.shape[0], "groups", "documents")
    frame = evaluation.per_document.with_columns(labels.gather(evaluation.documents))
    frame = frame.with_row_index("row").drop_nulls("group")
    tp, predicted, support = (
        pl.col(name).sum() for name in ("true_positives", "predicted", "support")
    )
    table = (
        frame.group_by("group")
        .agg(
            pl.len().alias("documents"),
            support,
            pl.col("row"),
            precision_micro=pl.when(predicted > 0).then(tp / predicted).otherwise(0.0),
            recall_micro=tp / support,
            f1_micro=2 * tp / (predicted + support),
            map=pl.col("average_precision").mean(),
            r_precision=pl.col("r_precision").mean(),
            means=pl.struct(pl.col("^(precision|recall)_at_.*$").mean()),
            exact_match_ratio=pl.col("exact").mean(),
        )
        .sort("group")
    )
    hits = evaluation.true_positives
    macro = [_macro(evaluation, hits, rows.to_numpy()) for rows in table["row"]]
    table = table.insert_column(
        table.columns.index("map"), pl.Series("f1_macro", macro, pl.Float64)
    )
    return table.unnest("means").drop("row")


def _macro(evaluation: MultilabelEvaluation, hits: csr_matrix, rows: np.ndarray) -> float:
    tp, predicted, support = (
        np.bincount(matrix[rows].indices, minlength=matrix.shape[1])
        for matrix in (hits, evaluation.predictions, evaluation.targets)
    )
    return float(f1(tp, predicted, support)[support > 0].mean())


def frequency_bands(counts: np.ndarray, edges: Sequence[int] = FREQUENCY_EDGES) -> pl.Series:
    """Band of each code by how often it occurs in training: 0, 1-10, 11-50, 51-100, …

    Args:
        counts: (codes,) training documents with the code.
        edges: upper ends of the bands, ascending; the last band is open.

    Returns:
        An Enum in the order of the bands.
    """
    lower = [1, *(edge + 1 for edge in edges[:-1])]
    names = ["0", *(f"{a}-{b}" for a, b in zip(lower, edges, strict=True)), f">{edges[-1]}"]
    which = np.searchsorted([0, *edges], np.asarray(counts), side="left")
    return _named("frequency", names, which)


def quantile_bands(values: np.ndarray, bands: int = 4) -> pl.Series:
    """Band of each document by a whole number, such as its words or codes; bands equally full.

    Equal values share a band. Named by the smallest and largest value that is there.

    Returns:
        An Enum in the order of the bands.
    """
    values = np.asarray(values)
    if not len(values):
        return _named("band", [], values.astype(int))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bands + 1)[1:-1], method="lower"))
    present, which = np.unique(np.searchsorted(edges, values, side="left"), return_inverse=True)
    ends = [(values[which == k].min(), values[which == k].max()) for k in range(len(present))]
    return _named("band", [f"{a}-{b}" if a != b else f"{a}" for a, b in ends], which)


def _named(name: str, names: list[str], which: np.ndarray) -> pl.Series:
    return pl.Series(name, names, pl.Enum(names)).gather(which.astype(np.int64))


def frequency_prior(train_targets: spmatrix, documents: int) -> np.ndarray:
    """Scores of a model that knows only how common each code is.

    Args:
        train_targets: (training documents, codes) sparse, bool or 0 and 1.
        documents: how many documents to score.

    Returns:
        (documents, codes) float32, the share of training documents with the code; a read-only
        view of one row, which takes no memory.
    """
    matrix = csr_matrix(train_targets)
    if not matrix.shape[0]:
        raise WardroundError("there are no training documents to count codes in")
    share = np.asarray((matrix != 0).sum(axis=0), np.float64).ravel() / matrix.shape[0]
    return np.broadcast_to(share.astype(np.float32), (documents, matrix.shape[1]))


def _check_length(found: int, expected: int, what: str, of: str) -> None:
    if found != expected:
        raise WardroundError(f"there are {found} {what} for {expected} {of}; give one for each")
