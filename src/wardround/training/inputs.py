"""Training rows in the layouts that the networks take, cut into batches without a row loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Inputs(Protocol):
    """Rows of a network's input."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """The arguments of the network's `forward` for these row numbers."""
        ...


@dataclass(frozen=True)
class DenseInputs:
    """Columns alone: float32, shape (n, d), nothing missing."""

    tabular: np.ndarray

    def __len__(self) -> int:
        return len(self.tabular)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """One tensor (rows, d)."""
        return (_tensor(self.tabular[rows]),)


@dataclass(frozen=True)
class BagInputs:
    """Columns, and ragged lists of ids as in `wardround.views.codes.EncodedLists`.

    Attributes:
        tabular: float32, shape (n, d).
        values: int64 ids, shape (total,).
        offsets: int64, shape (n + 1,).
    """

    tabular: np.ndarray
    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.tabular)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """Columns, the rows' ids one after the other, and where each row begins and ends."""
        sizes = (self.offsets[1:] - self.offsets[:-1])[rows]
        ends = np.concatenate([[0], np.cumsum(sizes)])
        place = np.arange(ends[-1]) - np.repeat(ends[:-1], sizes)
        ids = self.values[np.repeat(self.offsets[rows], sizes) + place]
        return _tensor(self.tabular[rows]), torch.from_numpy(ids), torch.from_numpy(ends)


@dataclass(frozen=True)
class SequenceInputs:
    """Columns, and padded sequences.

    Attributes:
        tabular: float32, shape (n, d).
        values: float32, shape (n, hours, channels), nothing missing.
        lengths: int64, shape (n,), from 1.
    """

    tabular: np.ndarray
    values: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.tabular)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """Columns, sequences cut at the longest of the batch, and lengths."""
        lengths = self.lengths[rows]
        longest = int(lengths.max(initial=1))
        values = self.values[rows, :longest]
        return _tensor(self.tabular[rows]), _tensor(values), torch.from_numpy(lengths)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
