"""A patient's earlier ICD codes as ragged lists, for models that embed codes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

import numpy as np
import polars as pl

from wardround.errors import WardroundError
from wardround.ontology import crosswalk, parse_icd_event_code
from wardround.store import PatientStore, known_at
from wardround.views.records import (
    ROW,
    Records,
    by_shard,
    number_rows,
    one_row_each,
    require_columns,
)
from wardround.views.table.diagnoses import DIAGNOSIS_PREFIX

Scheme = Literal["icd10", "icd9", "3digit"]


@dataclass(frozen=True)
class CodeLists:
    """Ragged lists: row i holds `values[offsets[i] : offsets[i + 1]]`.

    Attributes:
        values: codes as strings, shape (total,).
        offsets: int64, shape (n + 1,), starting at 0.
    """

    values: pl.Series
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class EncodedLists:
    """Ragged lists of positive ids, laid out as `torch.nn.EmbeddingBag` takes them.

    Attributes:
        values: int64 ids from 1, shape (total,).
        offsets: int64, shape (n + 1,).
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def padded(self, length: int | None = None) -> np.ndarray:
        """Return an int64 matrix (n, length), each row filled up with 0 and cut at `length`.

        `length` defaults to that of the longest list (at least 1).
        """
        sizes = np.diff(self.offsets)
        width = max(int(sizes.max(initial=0)), 1) if length is None else length
        matrix = np.zeros((len(self), width), np.int64)
        row = np.repeat(np.arange(len(self)), sizes)
        column = np.arange(len(self.values)) - np.repeat(self.offsets[:-1], sizes)
        keep = column < width
        matrix[row[keep], column[keep]] = self.values[keep]
        return matrix


@dataclass(frozen=True)
class Vocabulary:
    """Codes that a model knows; ids from 1, with 0 left for padding.

    Attributes:
        codes: in the order of their ids.
    """

    codes: tuple[str, ...]

    @classmethod
    def fit(cls, lists: CodeLists, rows: np.ndarray, min_count: int = 1) -> Vocabulary:
        """Learn the vocabulary of some rows.

        Args:
            lists: of all rows.
            rows: boolean mask, shape (n,): the training rows and no others.
            min_count: leave out codes that fewer of these rows hold.
        """
        of_rows = np.repeat(rows, np.diff(lists.offsets))
        counts = lists.values.filter(pl.Series(of_rows)).value_counts()
        name = lists.values.name
        kept = counts.filter(pl.col("count") >= min_count)[name]
        return cls(tuple(kept.sort().to_list()))

    def __len__(self) -> int:
        """Number of codes; an embedding needs one row more, for padding."""
        return len(self.codes)

    def encode(self, lists: CodeLists) -> EncodedLists:
        """Replace codes by ids and drop codes that are not in the vocabulary."""
        table = pl.Series(self.codes, dtype=pl.String)
        ids = lists.values.replace_strict(
            table, pl.int_range(1, len(table) + 1, eager=True), default=0, return_dtype=pl.Int64
        ).to_numpy()
        known = ids > 0
        before = np.concatenate([[0], np.cumsum(known)])
        return EncodedLists(ids[known], before[lists.offsets].astype(np.int64))


def prior_codes(
    store: PatientStore,
    predictions: pl.DataFrame,
    scheme: Scheme = "icd10",
    *,
    lookback: timedelta | None = None,
    before: str = "prediction_time",
) -> CodeLists:
    """The distinct hospital diagnoses that were known of each subject strictly before a moment.

    The same diagnoses that `wardround.views.table.prior_diagnosis_groups` sorts into groups.

    Args:
        store: any patient store.
        predictions: `subject_id` and the column named by `before`.
        scheme: how codes of both ICD versions are brought together:

            - "icd10", "icd9": codes of the other version go through the General Equivalence
              Mappings to their best target (`wardround.ontology.crosswalk`); those without one
              are left out;
            - "3digit": categories, the first three characters of the ICD-10 code.
        lookback: ignore codes dated at or before that moment - lookback.
        before: column with the moment; not after the prediction time.

    Returns:
        One list a prediction, in order; within a list codes ascend.

    Raises:
        WardroundError: an unknown scheme, or columns are missing.
    """
    if scheme not in get_args(Scheme):
        raise WardroundError(
            f"unknown code scheme {scheme!r}; choose one of {', '.join(get_args(Scheme))}"
        )

    def block(records: Records, rows: pl.DataFrame) -> pl.DataFrame:
        moments = rows.with_columns(prediction_time=before)
        return _code_lists(records, moments, scheme, lookback)

    require_columns(predictions, ("subject_id", before))
    wanted = pl.col("code").str.starts_with(DIAGNOSIS_PREFIX)
    lists = by_shard(store, predictions, block, codes=wanted, what="Prior codes")["codes"]
    offsets = np.concatenate([[0], np.cumsum(lists.list.len().to_numpy())]).astype(np.int64)
    return CodeLists(lists.list.explode(empty_as_null=False), offsets)


def _code_lists(
    records: Records, predictions: pl.DataFrame, scheme: Scheme, lookback: timedelta | None
) -> pl.DataFrame:
    rows = number_rows(predictions)
    events = records.events().select("subject_id", "time", "available_time", "code")
    mapped = events.join(_harmonise(events, scheme).lazy(), on="code").drop("code").unique()
    lists = (
        known_at(mapped, rows, lookback)
        .filter(pl.col("available_time") < pl.col("prediction_time"))
        .group_by(ROW)
        .agg(pl.col("value").unique().sort().alias("codes"))
    )
    aligned = one_row_each(rows, lists, {"codes": pl.List(pl.String)})
    return aligned.with_columns(pl.col("codes").fill_null(pl.lit([], pl.List(pl.String))))


def _harmonise(events: pl.LazyFrame, scheme: Scheme) -> pl.DataFrame:
    """`code` (event codes, unique) and `value`, the code under the scheme."""
    parsed = parse_icd_event_code(pl.col("code")).struct.unnest()
    codes = events.select(pl.col("code").unique()).with_columns(parsed).collect()
    targets = crosswalk(codes, 9 if scheme == "icd9" else 10)
    value = pl.col("target").str.slice(0, 3) if scheme == "3digit" else pl.col("target")
    return (
        codes.join(targets, on=["icd_code", "icd_version"])
        .select("code", value.alias("value"))
        .drop_nulls()
    )
