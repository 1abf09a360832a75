"""Sparse aggregates of everything that is known, over windows that end at the prediction time.

The features of MEDS-Tab (Oufattole et al. 2024): for each code and window, how often it occurred
and what its values were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from wardround.errors import WardroundError
from wardround.store import PatientStore, atomic_write, known_at
from wardround.views.records import (
    ROW,
    Records,
    by_shard,
    number_rows,
    one_row_each,
    require_columns,
)

WINDOWS = ("1d", "7d", "30d", "365d", "full")
AGGREGATIONS = (
    *("static/present", "code/count"),
    *("value/count", "value/sum", "value/sum_sqd", "value/min", "value/max"),
)
STATIC = "static/present"
FULL = "full"
FORMAT = 1
#: (prediction, event) pairs that are in memory at a time: about half a gigabyte.
PAIRS = 4_000_000

_HOURS = {"h": 1, "d": 24}
#: How an aggregate comes from the rows of a code, and how from the same aggregate of two windows.
_VALUE = pl.col("value")
_FROM_ROWS = {
    "code/count": pl.len().cast(pl.Float64),
    "value/count": _VALUE.count().cast(pl.Float64),
    "value/sum": _VALUE.sum(),
    "value/sum_sqd": (_VALUE**2).sum(),
    "value/min": _VALUE.min(),
    "value/max": _VALUE.max(),
}


@dataclass(frozen=True)
class WindowedCounts:
    """Fitted columns of the table.

    Attributes:
        codes: codes whose occurrences are counted, sorted.
        numeric: those of them whose values are aggregated, sorted.
        static: codes without a time whose presence is told, sorted.
        windows: lengths such as "12h" or "30d", ascending, and last, if at all, "full".
        aggregations: of `AGGREGATIONS`.
    """

    codes: tuple[str, ...]
    numeric: tuple[str, ...]
    static: tuple[str, ...]
    windows: tuple[str, ...] = WINDOWS
    aggregations: tuple[str, ...] = AGGREGATIONS

    @classmethod
    def fit(
        cls,
        store: PatientStore,
        predictions: pl.DataFrame,
        *,
        min_count: int = 10,
        windows: Sequence[str] = WINDOWS,
        aggregations: Sequence[str] = AGGREGATIONS,
        codes: pl.Expr | None = None,
    ) -> WindowedCounts:
        """Choose the codes: those that these predictions know at least `min_count` times.

        An event counts once, however many predictions of its subject know it.

        Args:
            store: any patient store.
            predictions: `subject_id`, `prediction_time`; the training rows and no others.
            min_count: events a code needs; as many values, for its values to be aggregated.
            windows: lengths such as "12h" or "30d" in any order, and "full" for all that is known.
            aggregations: of `AGGREGATIONS`.
            codes: filter on event rows; all codes unless told.

        Raises:
            WardroundError: a column is missing, a window or an aggregation is unknown, or no code
                occurs often enough.
        """
        require_columns(predictions, ("subject_id", "prediction_time"))
        if not windows or not aggregations:
            raise WardroundError("windowed counts need at least one window and one aggregation")
        odd = [name for name in aggregations if name not in AGGREGATIONS]
        if odd:
            raise WardroundError(
                f"no aggregation is called {', '.join(odd)}; choose from {', '.join(AGGREGATIONS)}"
            )
        ordered = sorted(dict.fromkeys(windows), key=lambda name: length(name) or timedelta.max)
        # What a subject's last prediction knows is all that any of them knows.
        last = predictions.group_by("subject_id").agg(pl.col("prediction_time").max())

        def count(shard: str) -> pl.DataFrame:
            known = store.known_at(
                last, codes=codes, columns=["code", "numeric_value"], shards=[shard]
            )
            return (
                known.group_by("code", static=pl.col("time").is_null())
                .agg(events=pl.len(), values=pl.col("numeric_value").fill_nan(None).count())
                .collect()
            )

        shards = store.map_shards(count, what="Counting codes")
        empty = {"code": pl.String, "static": pl.Boolean, "events": pl.UInt32, "values": pl.UInt32}
        seen = (
            pl.concat([pl.DataFrame(schema=empty), *shards], how="vertical_relaxed")
            .group_by("code", "static")
            .agg(pl.col("events", "values").sum())
            .filter(pl.col("events") >= min_count)
            .sort("code")
        )
        if seen.is_empty():
            raise WardroundError(
                f"no code is known at least {min_count} times to the {len(predictions)} training "
                "predictions; lower min_count or pass more of them"
            )
        dated = seen.filter(~pl.col("static"))
        return cls(
            codes=tuple(dated["code"]),
            numeric=tuple(dated.filter(pl.col("values") >= min_count)["code"]),
            static=tuple(seen.filter("static")["code"]),
            windows=tuple(ordered),
            aggregations=tuple(name for name in AGGREGATIONS if name in aggregations),
        )

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns, `<code>/<window>/<aggregation>` and `<code>/static/present`."""
        names = [f"{code}/{STATIC}" for code in self.static] if self._has_static else []
        return names + [
            f"{code}/{window}/{aggregation}"
            for window in self.windows
            for aggregation in self._dated
            for code in self._codes_of(aggregation)
        ]

    def transform(self, store: PatientStore, predictions: pl.DataFrame) -> csr_matrix:
        """Aggregate what each prediction knows.

        An event lies in the window of length w when t - w < time <= t, and counts when it could be
        read by t. Of a code that the fit did not choose nothing is counted.

        Args:
            store: any patient store, that of the fit or another.
            predictions: `subject_id`, `prediction_time`, one row a prediction.

        Returns:
            float32, shape (n, len(columns)), rows in the order of `predictions`. What is not stored
            is zero for counts and sums, and missing for minima and maxima, which store a zero that
            was measured; xgboost and lightgbm read both as missing.

        Raises:
            WardroundError: a column is missing.
        """
        require_columns(predictions, ("subject_id", "prediction_time"))
        wanted = pl.col("code").is_in([*self.codes, *self.static])
        keys = predictions.select("subject_id", "prediction_time")
        rows = by_shard(store, keys, self._block, codes=wanted, what="Windowed counts")
        lengths = rows["column"].list.len().to_numpy()
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        column, value = (
            rows.select(pl.col(name).list.explode(keep_nulls=False, empty_as_null=False))
            .to_series()
            .to_numpy()
            for name in ("column", "value")
        )
        return csr_matrix((value, column, starts), shape=(len(predictions), len(self.columns)))

    def save(self, path: Path) -> None:
        """Write the columns as JSON, atomically."""
        with atomic_write(path) as partial:
            partial.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1))

    @classmethod
    def load(cls, path: Path) -> WindowedCounts:
        """Read what `save` wrote.

        Raises:
            WardroundError: no such file, or not one of ours.
        """
        try:
            content = json.loads(path.read_text())
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            fitted = cls(**{name: tuple(map(str, value)) for name, value in content.items()})
            if not set(fitted.aggregations) <= set(AGGREGATIONS):
                raise ValueError("unknown aggregations")
            _ = [length(window) for window in fitted.windows]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, WardroundError) as error:
            raise WardroundError(
                f"{path}: cannot read the columns of the windowed counts ({error}); fit them again"
            ) from error
        return fitted

    @property
    def _has_static(self) -> bool:
        return STATIC in self.aggregations

    @property
    def _dated(self) -> tuple[str, ...]:
        return tuple(name for name in self.aggregations if name != STATIC)

    def _codes_of(self, aggregation: str) -> tuple[str, ...]:
        return self.codes if aggregation == "code/count" else self.numeric

    @cached_property
    def _vocabulary(self) -> pl.DataFrame:
        """`id`, `code`, and its places among the three kinds of code; null where it is none."""
        places = {"counted": self.codes, "valued": self.numeric, "static": self.static}
        frame = pl.DataFrame({"code": sorted({*self.codes, *self.static})})
        for name, codes in places.items():
            place = pl.DataFrame(
                {"code": codes, name: range(len(codes))}, schema={"code": pl.String, name: pl.Int32}
            )
            frame = frame.join(place, on="code", how="left")
        return frame.with_row_index("id").with_columns(pl.col("id").cast(pl.UInt32))

    def _block(self, records: Records, predictions: pl.DataFrame) -> pl.DataFrame:
        vocabulary = self._vocabulary.lazy()
        events = (
            records.events()
            .join(vocabulary.select("code", "id"), on="code")
            .select(
                "subject_id",
                "time",
                "available_time",
                "id",
                value=pl.col("numeric_value").cast(pl.Float64).fill_nan(None),
            )
            .collect()
        )
        rows = number_rows(predictions)
        parts = [self._aggregate(events, chunk) for chunk in chunks(rows, events)]
        types = {"column": pl.List(pl.Int32), "value": pl.List(pl.Float32)}
        stacked = pl.concat([pl.DataFrame(schema={ROW: pl.UInt32, **types}), *parts])
        empty = [pl.lit([], dtype) for dtype in types.values()]
        return one_row_each(rows, stacked.lazy(), types).with_columns(
            pl.col(name).fill_null(nothing) for name, nothing in zip(types, empty, strict=True)
        )

    def _aggregate(self, events: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
        """Columns and values of each prediction that knows anything."""
        spans = [length(window) for window in self.windows]
        longest = None if not spans or spans[-1] is None else spans[-1]
        age = pl.col("prediction_time") - pl.col("time")
        # The place of the shortest window that holds the event: it lies in all longer ones.
        shortest = pl.sum_horizontal(
            pl.lit(0, pl.UInt8), *((age >= span).cast(pl.UInt8) for span in spans if span)
        )
        known = (
            known_at(events.lazy(), rows, longest)
            .select(ROW, "id", "value", dated=pl.col("time").is_not_null(), window=shortest)
            .collect()
        )
        ids = self._vocabulary
        pieces = []
        if self._has_static:
            present = known.filter(~pl.col("dated")).select(ROW, "id").unique()
            present = present.join(ids, on="id").drop_nulls("static")
            pieces.append(present.select(ROW, column="static", value=pl.lit(1.0)))
        first = len(self.static) if self._has_static else 0
        by_window = (
            known.filter("dated")
            .group_by(ROW, "id", "window")
            .agg(**{name: _FROM_ROWS[name] for name in self._dated})
            .join(ids.select("id", "counted", "valued"), on="id")
        )
        for place, _ in enumerate(self.windows):
            within = by_window.filter(pl.col("window") <= place)
            merged = within.group_by(ROW, "counted", "valued").agg(
                _merge(name) for name in self._dated
            )
            for name in self._dated:
                at = "counted" if name == "code/count" else "valued"
                column = pl.col(at) + first
                some = merged.select(ROW, column=column, value=name).drop_nulls()
                pieces.append(some if name in _EXTREMES else some.filter(pl.col("value") != 0))
                first += len(self._codes_of(name))
        return (
            pl.concat(pieces)
            .sort(ROW, "column")
            .group_by(ROW, maintain_order=True)
            .agg(pl.col("column").cast(pl.Int32), pl.col("value").cast(pl.Float32))
        )


_EXTREMES = ("value/min", "value/max")


def _merge(aggregation: str) -> pl.Expr:
    column = pl.col(aggregation)
    return {"value/min": column.min(), "value/max": column.max()}.get(aggregation, column.sum())


def length(window: str) -> timedelta | None:
    """Return how long a window such as "12h" or "30d" is; None for "full".

    Raises:
        WardroundError: it is neither.
    """
    if window == FULL:
        return None
    match = re.fullmatch(r"([1-9]\d*)([hd])", window)
    if match is None:
        raise WardroundError(f"window {window!r} is no length such as 12h or 30d, nor full")
    return timedelta(hours=int(match[1]) * _HOURS[match[2]])


def chunks(rows: pl.DataFrame, events: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Split predictions so that about `PAIRS` pairs with events are joined at a time.

    Args:
        rows: what `number_rows` gave.
        events: with `subject_id`. Predictions of subjects without events are left out.
    """
    counts = events.group_by("subject_id").len("events")
    met = rows.join(counts, on="subject_id").sort("subject_id")
    part = (met["events"].cum_sum() - met["events"]) // PAIRS
    for (_,), chunk in (
        met.drop("events").with_columns(part=part).group_by("part", maintain_order=True)
    ):
        yield chunk.drop("part")
