"""Distributions learned in one pass: every value with its count, so that quantiles are exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

#: Rows of new counts that may wait to be merged.
MERGE_AT = 1 << 18


class Histogram:
    """Counts of (key, value) that grow shard by shard.

    Memory goes by the number of distinct values, which measurements, being rounded, have few of.
    """

    def __init__(self) -> None:
        self._merged = pl.DataFrame(
            schema={"key": pl.Int64, "value": pl.Float64, "count": pl.Int64}
        )
        self._parts: list[pl.DataFrame] = []

    def add(self, keys: pl.Series, values: pl.Series, counts: pl.Series | None = None) -> None:
        """Count pairs; those with a null value are passed over."""
        pairs = pl.DataFrame(
            {"key": keys, "value": values, "count": 1 if counts is None else counts},
            schema_overrides={"key": pl.Int64, "value": pl.Float64, "count": pl.Int64},
            strict=False,
        )
        self._parts.append(_summed(pairs.drop_nulls()))
        # Merging costs as much as there is: wait until as much again has come.
        if sum(map(len, self._parts)) > max(len(self._merged), MERGE_AT):
            self._merge()

    @property
    def counts(self) -> pl.DataFrame:
        """`key`, `value`, `count`: a row for each distinct pair."""
        self._merge()
        return self._merged

    def by_key(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Ascending values and their counts, for each key."""
        parts = self.counts.sort("key", "value").partition_by("key", as_dict=True)
        return {
            int(key): (part["value"].to_numpy(), part["count"].to_numpy())
            for (key,), part in parts.items()
        }

    def _merge(self) -> None:
        if self._parts:
            self._merged, self._parts = _summed(pl.concat([self._merged, *self._parts])), []


def _summed(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.group_by("key", "value").agg(pl.col("count").sum())


def quantiles(
    values: np.ndarray, counts: np.ndarray, at: Sequence[float] | np.ndarray
) -> np.ndarray:
    """`numpy.quantile` (linear) of ascending `values`, each standing `counts` times."""
    ends = np.cumsum(counts)
    place = np.asarray(at) * (ends[-1] - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, ends[-1] - 1)
    low = values[np.searchsorted(ends, below, side="right")]
    high = values[np.searchsorted(ends, above, side="right")]
    return low + (high - low) * (place - below)
