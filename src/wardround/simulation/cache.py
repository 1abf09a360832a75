"""Keys and values that outlive a step, and the attention of a step over them."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import torch
from torch import Tensor

from wardround.models.decoder import DecoderConfig

#: Score of what a query must not see; finite, so that a row that sees nothing stays a number.
HIDDEN = -1e30


class Blocks:
    """Blocks of keys and values, each of `length` tokens, taken and given back one by one.

    There are as many as were needed at a time, with half of that to spare, and at most `most`.

    Attributes:
        keys, values: (layers, blocks, heads, length, width of a head).
    """

    def __init__(
        self,
        sizes: DecoderConfig,
        length: int,
        most: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.most = most
        shape = (sizes.layers, 0, sizes.heads, length, sizes.head_width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._free: list[int] = []

    def __len__(self) -> int:
        return self.keys.shape[1]

    def take(self) -> int:
        """Number of a free block, the lowest there is: those in use stay together."""
        if not self._free:
            count = len(self)
            more = min(1 + count // 2, self.most - count)
            self.keys, self.values = _longer(self.keys, more), _longer(self.values, more)
            self._free = list(range(count, count + more))
        return heapq.heappop(self._free)

    def give(self, block: int) -> None:
        heapq.heappush(self._free, block)


def _longer(blocks: Tensor, more: int) -> Tensor:
    layers, _, *rest = blocks.shape
    # Zeros, since what was never written meets a weight of 0, and 0 times anything must be 0.
    return torch.cat([blocks, blocks.new_zeros(layers, more, *rest)], dim=1)


class Shared(NamedTuple):
    """Neighbouring prefix blocks, and the rows that see them in this step.

    Attributes:
        start, stop: the blocks.
        length: so many tokens of each are read.
        rows: (blocks, most rows of a block) numbers of rows in the batch; filled up with any row.
        hide: (blocks, 1, rows, length) what a row must not see, or None.
    """

    start: int
    stop: int
    length: int
    rows: Tensor
    hide: Tensor | None


class Step(NamedTuple):
    """Where the rows of a batch write and read in one step.

    Attributes:
        cells: (rows * heads,) where a row's new key goes, in pages seen as (cells, width).
        pages: so many pages are read.
        owners: (pages,) the row that a page belongs to.
        hide: (pages, 1, 1, page length) what that row must not see.
        shared: the prefixes.
        parts: (rows, parts) what a row puts together: numbers of pages, then of the rows of
            `shared` one after the other, counted on.
        turn: rotation of queries that see a static context, or None where no window has moved.
    """

    cells: Tensor
    pages: int
    owners: Tensor
    hide: Tensor
    shared: list[Shared]
    parts: Tensor
    turn: Tensor | None


def look(
    queries: Tensor, keys: Tensor, values: Tensor, hide: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention with the logarithm of its normaliser, by which parts can be put together.

    Args:
        queries: (…, n, width), already scaled.
        keys, values: (…, m, width).
        hide: broadcasts to (…, n, m); true where nothing is seen.

    Returns:
        (…, n, width) and float32 (…, n, 1).
    """
    return weigh((queries @ keys.transpose(-1, -2)).float(), values, hide)


def weigh(scores: Tensor, values: Tensor, hide: Tensor | None) -> tuple[Tensor, Tensor]:
    """`look`, from scores (…, n, m) that it may overwrite."""
    if hide is not None:
        scores.masked_fill_(hide, HIDDEN)
    shares = scores.softmax(-1)
    # The largest share is 1 / (sum of exp(score - largest score)).
    normaliser = scores.amax(-1, keepdim=True) - shares.amax(-1, keepdim=True).log_()
    return shares.to(values.dtype) @ values, normaliser
