"""Percentile bootstrap that draws subjects, not rows: rows of one subject are not independent."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from wardround.evaluation.metrics import Ranking
from wardround.evaluation.results import Estimate

#: Weights held at once, in rows times resamples: a few tens of megabytes.
BLOCK = 2_000_000


class Resamples:
    """How often each subject was drawn in each resample; one set serves every model of a task.

    Attributes:
        counts: (repeats, subjects) uint8.
        rows: (n,) index of each row's subject.
    """

    def __init__(self, subjects: np.ndarray, repeats: int = 1000, seed: int = 0) -> None:
        distinct, self.rows = np.unique(subjects, return_inverse=True)
        rng = np.random.default_rng(seed)
        size = len(distinct)
        self.counts = np.empty((repeats, size), np.uint8)
        for resample in self.counts:
            resample[:] = np.bincount(rng.integers(0, size, size), minlength=size) if size else 0

    def __len__(self) -> int:
        return len(self.counts)

    def restricted_to(self, mask: np.ndarray) -> Resamples:
        """The same resamples of some rows."""
        part = object.__new__(Resamples)
        part.counts, part.rows = self.counts, self.rows[mask]
        return part

    @cached_property
    def _areas(self) -> dict[bytes, tuple[np.ndarray, np.ndarray]]:
        return {}

    @cached_property
    def _as_float(self) -> np.ndarray:
        return self.counts.astype(np.float32)

    def sums(self, values: np.ndarray | csr_matrix) -> np.ndarray:
        """Weighted column sums of `values` (n, m) in every resample: (repeats, m)."""
        n, m = values.shape
        by_subject = csr_matrix(
            (np.ones(n, np.float64), (self.rows, np.arange(n))), shape=(self.counts.shape[1], n)
        ) @ csr_matrix(values)
        return np.asarray((by_subject.T @ self._as_float.T).T).reshape(len(self), m)

    def areas(self, y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AUROC and AUPRC of every resample: two arrays (repeats,).

        Kept for the next call: a model's interval and each of its comparisons ask for the same.
        """
        key = hashlib.blake2b(np.asarray(y, bool).tobytes() + np.asarray(p, float).tobytes())
        if key.digest() not in self._areas:
            self._areas[key.digest()] = self._resampled_areas(y, p)
        return self._areas[key.digest()]

    def _resampled_areas(self, y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ranking = Ranking(y, p)
        rows = self.rows[ranking.order]
        step = max(1, BLOCK // max(len(rows), 1))
        parts = [
            ranking.areas(self.counts[start : start + step, rows].astype(np.float64))
            for start in range(0, len(self), step)
        ]
        if not parts:
            return np.empty(0), np.empty(0)
        return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])


def estimate(value: float, draws: np.ndarray) -> Estimate:
    """A value with the 2.5th and 97.5th percentile of its draws; null where undefined."""
    if not np.isfinite(value):
        return Estimate(value=None)
    defined = draws[np.isfinite(draws)]
    if len(defined) < max(20, len(draws) / 2):  # too rare an outcome to resample
        return Estimate(value=float(value))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value=float(value), low=float(low), high=float(high))
