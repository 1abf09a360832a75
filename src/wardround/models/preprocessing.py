"""What is fitted on the training rows before a model sees the table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from wardround.errors import WardroundError

INDICATOR_SUFFIX = "_missing"


@dataclass(frozen=True)
class MedianImputer:
    """Medians of the training rows, put where a value is missing.

    Attributes:
        medians: by column name.
        indicators: add a 0/1 column `<name>_missing` for each column, behind all others.
    """

    medians: dict[str, float]
    indicators: bool = False

    @classmethod
    def fit(
        cls, frame: pl.DataFrame, columns: Iterable[str] | None = None, *, indicators: bool = False
    ) -> MedianImputer:
        """Learn the medians.

        Args:
            frame: training rows only.
            columns: those to impute; by default every numeric one, since a column without a gap
                in train may have one elsewhere.
            indicators: see the class.

        Raises:
            WardroundError: a column is missing, not numeric, or empty throughout.
        """
        if columns is None:
            columns = frame.select(pl.selectors.numeric()).columns
        columns = list(columns)
        for name in columns:
            if name not in frame.columns or not frame.schema[name].is_numeric():
                raise WardroundError(f"imputer: no numeric column {name!r} in the training rows")
        medians = frame.select(
            pl.col(name).cast(pl.Float64).fill_nan(None).median() for name in columns
        )
        empty = [name for name in columns if medians[name].item() is None]
        if empty:
            raise WardroundError(f"imputer: no training row has a value of {', '.join(empty)}")
        return cls({name: medians[name].item() for name in columns}, indicators)

    def transform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Fill nulls and NaN of the fitted columns; other columns pass through.

        Raises:
            WardroundError: a fitted column is not there.
        """
        absent = [name for name in self.medians if name not in frame.columns]
        if absent:
            raise WardroundError(f"imputer: the table lacks the columns {', '.join(absent)}")
        filled = [
            pl.when(_blank(name)).then(pl.lit(median)).otherwise(pl.col(name))
            .cast(frame.schema[name] if frame.schema[name].is_float() else pl.Float32)
            .alias(name)
            for name, median in self.medians.items()
        ]  # fmt: skip
        flags = [_blank(name).cast(pl.Int8).alias(name + INDICATOR_SUFFIX) for name in self.medians]
        return frame.with_columns(*filled, *(flags if self.indicators else ()))


def _blank(name: str) -> pl.Expr:
    return pl.col(name).is_null() | pl.col(name).cast(pl.Float64).is_nan().fill_null(False)


class Standardiser(nn.Module):
    """Subtract the mean, divide by the standard deviation; both are buffers.

    As part of a network it is saved with the weights, so that a loaded network takes the columns as
    they come. Unfitted, it lets values through.

    Args:
        n_features: size of the last dimension of the input.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        if n_features < 1:
            raise ValueError(f"n_features must be at least 1, got {n_features}")
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))

    @classmethod
    def fit(cls, X: ArrayLike) -> Standardiser:
        """Learn from training rows.

        Args:
            X: shape (…, n_features); NaN (padding, for one) is left out. A column that does not
                vary, or has no value, keeps scale 1.

        Raises:
            WardroundError: an infinite value.
        """
        rows = np.asarray(X)
        rows = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
        if np.isinf(rows).any():
            column = int(np.flatnonzero(np.isinf(rows).any(axis=0))[0])
            raise WardroundError(f"standardiser: column {column} holds an infinite value")
        known = ~np.isnan(rows)
        counts = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, rows, 0.0).sum(axis=0) / counts
        variance = (np.where(known, rows - mean, 0.0) ** 2).sum(axis=0) / counts
        scale = np.sqrt(variance)
        fitted = cls(rows.shape[1])
        fitted.mean.copy_(torch.from_numpy(mean))
        fitted.scale.copy_(torch.from_numpy(np.where(scale > 1e-6 * np.abs(mean), scale, 1.0)))
        return fitted

    def forward(self, x: Tensor) -> Tensor:
        """Standardise x, shape (…, n_features)."""
        return (x - self.mean) / self.scale
