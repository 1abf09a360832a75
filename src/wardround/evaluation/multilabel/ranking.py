"""Exact ranks of the positives: all that areas, average precision and top-k metrics need.

Positives are few (some fifteen codes of thousands). Scores are therefore sorted as plain numbers,
which is several times as fast as sorting their indices, and the positives are looked up in them.
"""

from __future__ import annotations

import numpy as np

from wardround.evaluation.multilabel.part import BLOCK, Part


def locate(ordered: np.ndarray, row: np.ndarray, value: np.ndarray, side: str) -> np.ndarray:
    """`np.searchsorted` of each value in a row of its own.

    Args:
        ordered: (rows, m), each row ascending.
        row: (k,) row of each value.
        value: (k,).
        side: `left` counts the entries below the value, `right` those up to it.
    """
    m = ordered.shape[1]
    low = np.zeros(len(row), np.int64)
    high = np.full(len(row), m, np.int64)
    for _ in range(m.bit_length()):
        middle = (low + high) >> 1
        entry = ordered[row, np.minimum(middle, m - 1)]
        beyond = (entry < value) if side == "left" else (entry <= value)
        beyond &= low < high
        low = np.where(beyond, middle + 1, low)
        high = np.where(beyond, high, middle)
    return low


def ranks(
    block: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    value: np.ndarray,
    below: np.ndarray,
    upto: np.ndarray,
    deepest: np.ndarray,
) -> np.ndarray:
    """Rank of each positive in its document, 0 the first; equal scores in the order of the codes.

    Args:
        block: (rows, m) scores.
        row, column, value: (k,) of the positives.
        below, upto: (k,) how many scores of the row are below, and not above, the value.
        deepest: (k,) rank up to which ties are told apart; beyond it the best of the tied
            ranks stands for all.
    """
    m = block.shape[1]
    rank = m - upto
    tied = np.flatnonzero((upto - below > 1) & (rank < deepest))
    codes = np.arange(m)
    step = max(1, BLOCK // (8 * m))
    for start in range(0, len(tied), step):
        some = tied[start : start + step]
        same = block[row[some]] == value[some, None]
        rank[some] += (same & (codes < column[some, None])).sum(axis=1)
    return rank


def average_precision(
    group: np.ndarray, value: np.ndarray, at_least: np.ndarray, groups: int
) -> np.ndarray:
    """Average precision of each group; NaN where it has no positive.

    Precision at each distinct score, weighted by the recall gained there: what
    `sklearn.metrics.average_precision_score` gives, ties included.

    Args:
        group: (k,) document or code of each positive.
        value: (k,) its score.
        at_least: (k,) how many scores of the group are not below it.
        groups: how many there are.

    Returns:
        (groups,).
    """
    order = np.lexsort((-value, group))
    g, v = group[order], value[order]
    support = np.bincount(group, minlength=groups)
    first = np.cumsum(support) - support
    last = np.ones(len(g), bool)
    last[:-1] = (g[1:] != g[:-1]) | (v[1:] != v[:-1])
    run = np.cumsum(last) - last  # equal scores of a group share a run
    hits = (np.flatnonzero(last) + 1)[run] - first[g]
    total = np.bincount(g, hits / at_least[order], minlength=groups)
    with np.errstate(invalid="ignore"):
        return np.where(support > 0, total / support, np.nan)


class Pool:
    """How the positives stand among all scores of the matrix, gathered block by block.

    Attributes:
        value: (d,) distinct scores of positives, ascending.
        count: (d,) positives of each.
        below, upto: (d,) int64, scores of the matrix below, and not above, each.
        next_lower: (d,) the largest score of the matrix below each; -inf where there is none.
        size: scores seen.
    """

    def __init__(self, positive_scores: np.ndarray) -> None:
        self.value, self.count = np.unique(positive_scores, return_counts=True)
        self.below = np.zeros(len(self.value), np.int64)
        self.upto = np.zeros(len(self.value), np.int64)
        self.next_lower = np.full(len(self.value), -np.inf, self.value.dtype)
        self.size = 0

    def add(self, ordered: np.ndarray) -> None:
        """Count a block. ordered: (k,) ascending, of the dtype of the positives' scores."""
        if not len(ordered):
            return
        left = np.searchsorted(ordered, self.value, side="left")
        lower = np.where(left > 0, ordered[np.maximum(left - 1, 0)], -np.inf)
        np.maximum(self.next_lower, lower, out=self.next_lower)
        self.below += left
        self.upto += np.searchsorted(ordered, self.value, side="right")
        self.size += len(ordered)

    def auroc(self) -> float:
        """Area under the ROC curve of all (document, code) pairs; ties count half."""
        positives = int(self.count.sum())
        negatives = self.size - positives
        if not positives or not negatives:
            return np.nan
        # Among themselves positives win exactly half of positives**2 comparisons.
        twice = int((self.count * (self.below + self.upto)).sum()) - positives**2
        return twice / (2 * positives * negatives)


def code_areas(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision of each code, from one sort per column.

    Returns:
        Two arrays (m,); an area is NaN where no document has the code, or all have.
    """
    n, m = part.targets.shape
    by_code = part.targets.tocsc()
    support = np.diff(by_code.indptr)
    area, average = np.full(m, np.nan), np.full(m, np.nan)
    for start, stop, block in part.column_blocks():
        low, high = by_code.indptr[start], by_code.indptr[stop]
        code = np.repeat(np.arange(stop - start), support[start:stop])
        value = block[code, by_code.indices[low:high]]
        block.sort(axis=1)
        below, upto = (locate(block, code, value, side) for side in ("left", "right"))
        here = support[start:stop].astype(np.float64)
        won = (np.bincount(code, below + upto, minlength=stop - start) - here**2) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            area[start:stop] = won / (here * (n - here))
        average[start:stop] = average_precision(code, value, n - below, stop - start)
    return area, average
