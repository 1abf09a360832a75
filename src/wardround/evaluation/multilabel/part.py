"""The part of a score matrix that is measured, read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix, spmatrix

from wardround.errors import WardroundError

#: Scores held at once: 64 MB of float32, and as much again for their sorted copy.
BLOCK = 16_000_000


@dataclass(frozen=True)
class Part:
    """Targets and scores of the documents and codes that are measured.

    Attributes:
        targets: (n, m) bool; no explicit zeros, indices sorted.
        scores: (documents, codes) as the caller gave them; never copied whole.
        documents: (n,) rows of `scores`, ascending.
        codes: (m,) columns of `scores`, ascending.
    """

    targets: csr_matrix
    scores: np.ndarray
    documents: np.ndarray
    codes: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        """What scores are compared in: float64 stays, all else becomes float32."""
        given = self.scores.dtype
        return given if given in (np.float32, np.float64) else np.dtype(np.float32)

    @cached_property
    def rows(self) -> np.ndarray:
        """(positives,) row of each positive, in the order of `targets.indices`."""
        return np.repeat(np.arange(self.targets.shape[0]), np.diff(self.targets.indptr))

    @cached_property
    def positive_scores(self) -> np.ndarray:
        """(positives,) score of each positive, in the order of `targets.indices`."""
        found = self.scores[self.documents[self.rows], self.codes[self.targets.indices]]
        found = np.asarray(found, self.dtype)
        wrong = np.flatnonzero(np.isnan(found))
        if len(wrong):
            row, column = self.rows[wrong[0]], self.targets.indices[wrong[0]]
            raise _not_a_number(self.documents[row], self.codes[column])
        return found

    def row_blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield start, stop and (stop - start, m) scores; these may be a view, do not write."""
        n, m = self.targets.shape
        step = max(1, BLOCK // max(m, 1))
        for start in range(0, n, step):
            stop = min(start + step, n)
            yield start, stop, self._read(self.documents[start:stop], self.codes)

    def sorted_blocks(self) -> Iterator[np.ndarray]:
        """Yield the scores of blocks of documents as one ascending array each."""
        for start, _, block in self.row_blocks():
            ordered = block.flatten()
            ordered.sort()
            self.check(block, start, ordered[-1:])
            yield ordered

    def column_blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield start, stop and (stop - start, n) scores of codes, contiguous and writable."""
        n, m = self.targets.shape
        step = max(1, BLOCK // max(n, 1))
        for start in range(0, m, step):
            stop = min(start + step, m)
            block = np.empty((stop - start, n), self.dtype)
            block[:] = self._read(self.documents, self.codes[start:stop]).T
            yield start, stop, block

    def unmeasured_rows(self) -> Iterator[np.ndarray]:
        """Yield blocks of scores of the documents that are left out, same codes."""
        left_out = np.setdiff1d(np.arange(self.scores.shape[0]), self.documents)
        step = max(1, BLOCK // max(len(self.codes), 1))
        for start in range(0, len(left_out), step):
            yield self._read(left_out[start : start + step], self.codes)

    def check(self, block: np.ndarray, start: int, largest: np.ndarray) -> None:
        """Refuse missing scores. NaN sorts last, so that the `largest` of each row shows them."""
        if np.isnan(largest).any():
            row, column = np.argwhere(np.isnan(block))[0]
            raise _not_a_number(self.documents[start + row], self.codes[column])

    def _read(self, documents: np.ndarray, codes: np.ndarray) -> np.ndarray:
        if not len(documents) or not len(codes):
            return np.empty((len(documents), len(codes)), self.dtype)
        block = self.scores[documents[0] : documents[-1] + 1]
        if codes[-1] - codes[0] + 1 == len(codes):
            block = block[:, codes[0] : codes[-1] + 1]
        else:  # `block[:, codes]` would give columns first in memory, which sorts slowly
            block = block.take(codes, axis=1)
        if block.shape[0] != len(documents):
            block = block[documents - documents[0]]
        return np.asarray(block, self.dtype)


def _not_a_number(document: int, code: int) -> WardroundError:
    return WardroundError(
        f"the score of document {document} (row) for code {code} (column) is not a number; "
        "look for a loss that overflowed and score the documents again"
    )


def select(
    targets: spmatrix,
    scores: np.ndarray,
    *,
    codes: np.ndarray | None = None,
    filter_codes: bool = True,
) -> Part:
    """Choose what is measured.

    Args:
        targets: (documents, codes) sparse, bool or 0 and 1.
        scores: (documents, codes) logits or probabilities; may be memory-mapped.
        codes: columns to keep, as a mask or as indices; all by default.
        filter_codes: drop codes that occur in no document, then documents without a code
            (Edin et al. 2023).

    Raises:
        WardroundError: shapes differ, or a target is neither 0 nor 1.
    """
    y = csr_matrix(targets, dtype=np.int32, copy=True)
    if scores.ndim != 2 or y.shape != scores.shape:
        raise WardroundError(
            f"targets are {y.shape[0]} documents x {y.shape[1]} codes and scores "
            f"{' x '.join(map(str, scores.shape))}; they must be of the same shape"
        )
    y.sum_duplicates()
    y.eliminate_zeros()
    wrong = np.flatnonzero(y.data != 1)
    if len(wrong):
        row = int(np.searchsorted(y.indptr, wrong[0], side="right")) - 1
        raise WardroundError(
            f"the target of document {row} (row) for code {y.indices[wrong[0]]} (column) is "
            f"{y.data[wrong[0]]}; targets are 0 or 1"
        )
    columns = _columns(codes, y.shape[1])
    documents = np.arange(y.shape[0])
    if len(columns) < y.shape[1]:
        y = y[:, columns]
    if filter_codes:
        present = np.flatnonzero(np.bincount(y.indices, minlength=y.shape[1]))
        documents = np.flatnonzero(np.diff(y.indptr))
        if len(present) < y.shape[1]:
            y, columns = y[:, present], columns[present]
        if len(documents) < y.shape[0]:
            y = y[documents]
    y.sort_indices()
    return Part(y.astype(bool), scores, documents, columns)


def _columns(codes: np.ndarray | None, width: int) -> np.ndarray:
    if codes is None:
        return np.arange(width)
    chosen = np.asarray(codes)
    if chosen.dtype == bool:
        if chosen.shape != (width,):
            raise WardroundError(f"the mask of codes has {chosen.size} entries, not {width}")
        return np.flatnonzero(chosen)
    columns = np.unique(chosen.astype(np.int64))
    if len(columns) and (columns[0] < 0 or columns[-1] >= width):
        raise WardroundError(
            f"codes are columns from 0 to {width - 1}, got {columns[0]} to {columns[-1]}"
        )
    return columns
