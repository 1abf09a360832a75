"""Arrays that grow on disk."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.lib import format as npy


class ArrayWriter:
    """Appends to a `.npy` file, whose header is written last: memory holds a piece at a time.

    Args:
        path: the file.
        dtype: of the array.
        width: columns of a matrix; None for a vector.
    """

    def __init__(self, path: Path, dtype: np.dtype | type, width: int | None = None) -> None:
        self._dtype, self._width, self._rows = np.dtype(dtype), width, 0
        self._stream = path.open("wb")
        self._write_header()

    def __len__(self) -> int:
        return self._rows

    def append(self, piece: np.ndarray) -> None:
        """Add rows."""
        self._stream.write(np.ascontiguousarray(piece, self._dtype).tobytes())
        self._rows += len(piece)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._stream.seek(0)
            self._write_header()
        self._stream.close()

    def _write_header(self) -> None:
        shape = (self._rows,) if self._width is None else (self._rows, self._width)
        # numpy leaves room in the header for the first axis to grow to any length.
        npy.write_array_header_1_0(
            self._stream,
            {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape},
        )


def reorder(path: Path, offsets: np.ndarray, order: np.ndarray, chunk: int = 1 << 22) -> None:
    """Rewrite an array's segments in another order, a chunk of rows in memory at a time.

    Args:
        path: a `.npy` file, replaced.
        offsets: segments of the array, shape (n + 1,).
        order: which segment stands where, shape (n,).
    """
    from wardround.views.timeline.timelines import ragged_range

    old = np.load(path, mmap_mode="r")
    temporary = path.with_suffix(".reordered")
    starts, sizes = offsets[:-1][order], np.diff(offsets)[order]
    begins = np.concatenate([[0], np.cumsum(sizes)])
    width = old.shape[1] if old.ndim == 2 else None
    with ArrayWriter(temporary, old.dtype, width) as writer:
        first = 0
        while first < len(order):
            last = int(np.searchsorted(begins, begins[first] + chunk, side="right")) - 1
            last = max(last, first + 1)
            writer.append(old[ragged_range(starts[first:last], sizes[first:last])])
            first = last
    del old
    temporary.replace(path)
