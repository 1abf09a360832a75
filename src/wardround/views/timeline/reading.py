"""Reading the rows that may become events, shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl

from wardround.errors import WardroundError
from wardround.progress import track
from wardround.store import PatientStore
from wardround.views.records import Records
from wardround.views.timeline.assembly import CodeBook, select_rows
from wardround.views.timeline.compiler import STORE_CODE

#: Events that are computed, such as a score: `subject_id`, `time`, `available_time`, `code` and
#: `numeric_value` (further columns are ignored) from the records of a shard.
Derived = Callable[[Records], pl.DataFrame]


@dataclass(frozen=True)
class Part:
    """Rows of a shard that may become something, and how many there are that no rule takes."""

    rows: pl.DataFrame
    births: pl.DataFrame
    unwanted: int


@dataclass(frozen=True)
class ShardRecords:
    """The records of a shard, read when asked for; of some `subjects` alone, if there are any."""

    store: PatientStore
    shard: str
    subjects: pl.DataFrame | None = None

    def events(self) -> pl.LazyFrame:
        """Rows of `EVENT_SCHEMA`."""
        return only(self.store.events([self.shard]), self.subjects)

    def stays(self) -> pl.LazyFrame:
        """Rows of `STAY_SCHEMA`."""
        subjects = self.events().select("subject_id").unique()
        return self.store.stays().join(subjects, on="subject_id", how="semi")


def only(rows: pl.LazyFrame, subjects: pl.DataFrame | None) -> pl.LazyFrame:
    """The rows of some subjects; all where these are not named."""
    if subjects is None:
        return rows
    return rows.join(subjects.lazy(), on="subject_id", how="semi", maintain_order="left")


def read_store(
    store: PatientStore,
    book: CodeBook,
    subjects: pl.DataFrame | None,
    derived: Derived | None,
    what: str,
) -> Iterator[Part]:
    """Each shard's rows, numbered over the whole store."""
    first = 0
    for shard in track(store.shards, what):
        rows = select_rows(store.events([shard]), book)
        yield read(only(rows, subjects), ShardRecords(store, shard, subjects), book, derived, first)
        first += int(store.provenance["shards"][shard]["rows"])


def read(
    rows: pl.LazyFrame,
    records: Records,
    book: CodeBook,
    derived: Derived | None,
    first: int = 0,
) -> Part:
    """Collect selected rows, add the derived events, and have the book learn their codes.

    Args:
        rows: what `select_rows` gives.
        records: of the same subjects.
        book: the codes.
        derived: computes further events.
        first: number of the first row.
    """
    found = rows.with_columns(pl.col("row") + first).collect()
    total = int(records.events().select(pl.len()).collect().item())
    if derived is not None:
        computed = _derived_rows(derived(records), found)
        found, total = pl.concat([found, computed]), total + len(computed)
    book.learn(found["code"].unique())
    ruled = book.codes.filter(pl.col("rule").is_not_null())[STORE_CODE].unique()
    unwanted = total - int(found["code"].is_in(ruled.implode()).sum())
    births = pl.DataFrame(schema={"subject_id": pl.Int64, "birth": pl.Int64})
    if book.preset.age:
        births = (
            found.filter(pl.col("code").str.contains(book.preset.age.codes))
            .group_by("subject_id")
            .agg(birth=pl.col("time").min().dt.timestamp("us"))
        )
    return Part(found, births, unwanted)


def _derived_rows(derived: pl.DataFrame, like: pl.DataFrame) -> pl.DataFrame:
    needed = ["subject_id", "time", "available_time", "code", "numeric_value"]
    missing = [name for name in needed if name not in derived.columns]
    if missing:
        raise WardroundError(f"derived events lack the columns {', '.join(missing)}")
    return derived.select(
        (-2 - pl.int_range(pl.len(), dtype=pl.Int64)).alias("row"),
        *needed,
        pl.lit(None, pl.String).alias("text_value"),
    ).select(pl.col(name).cast(like.schema[name]) for name in like.columns)
