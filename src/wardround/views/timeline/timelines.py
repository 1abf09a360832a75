"""Timelines: the tokens of many subjects in a few flat arrays, mapped from disk or in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wardround.errors import WardroundError
from wardround.views.timeline.vocabulary import Vocabulary

#: Times of tokens that nobody knows until a record is closed (the end), and that are known always
#: (the start; static context). Below and above every date.
ALWAYS, NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max
#: `events` of a token that stems from no event.
NO_EVENT = -1

MANIFEST = "timelines.json"
#: Version of the layout of the folder.
LAYOUT = 1


@dataclass(frozen=True)
class Context:
    """Static context of each timeline as it changed over time.

    Attributes:
        rows: tokens, shape (m, slots); a timeline's first row is what is known always.
        times: int64 µs, shape (m,): since when a row holds; ascending within a timeline.
        offsets: int64, shape (n + 1,): rows of timeline i are `offsets[i]:offsets[i + 1]`.
        births: int64 µs, shape (n,); `ALWAYS` where not known.
        ages: tokens of each year of age, then those of an unknown one, shape (years + 1, k).
    """

    rows: np.ndarray
    times: np.ndarray
    offsets: np.ndarray
    births: np.ndarray
    ages: np.ndarray

    @property
    def size(self) -> int:
        """Tokens of one context."""
        return self.rows.shape[1] + self.ages.shape[1]


@dataclass(frozen=True)
class Timelines:
    """Token sequences of subjects, each ordered by the time at which a token became known.

    The tokens of subject i are `tokens[offsets[i] : offsets[i + 1]]`; those with `times <= t` are a
    prefix, and all that was known at `t` (`end_of`).

    Attributes:
        vocabulary: what the ids mean.
        tokens: uint16 or uint32, shape (total,).
        times: int64 µs since 1970, shape (total,), ascending within a timeline. An interval token
            has the time of the event after it, the end token `NEVER`, a start token `ALWAYS`.
        events: int64, shape (total,): the source event, as number of its row in the store (counted
            over the shards in their order); `NO_EVENT` for interval, start and end tokens, and
            below that for derived events.
        offsets: int64, shape (n + 1,).
        subjects: int64 ids, shape (n,), ascending.
        context: static context; None if there is none.
    """

    vocabulary: Vocabulary
    tokens: np.ndarray
    times: np.ndarray
    events: np.ndarray
    offsets: np.ndarray
    subjects: np.ndarray
    context_table: Context | None = None

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def context_size(self) -> int:
        """Tokens of static context before a window."""
        return self.context_table.size if self.context_table else 0

    def position(self, subject_id: int) -> int:
        """Index of a subject's timeline; `WardroundError` if there is none."""
        return int(self.positions([subject_id])[0])

    def positions(self, subject_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Indices of subjects' timelines, int64; `WardroundError` if one has none."""
        wanted = np.asarray(subject_ids, np.int64)
        index = np.searchsorted(self.subjects, wanted)
        found = index < len(self)
        found[found] = self.subjects[index[found]] == wanted[found]
        if not found.all():
            raise WardroundError(
                f"subject {wanted[~found][0]} has no timeline (there are {len(self):,}); it has no "
                "event that the preset keeps, or belongs to another store"
            )
        return index

    def end_of(self, index: int, time: Any) -> int:
        """Number of the token after the last one of timeline `index` that was known at `time`.

        Absolute: the prefix is `tokens[offsets[index] : end_of(index, time)]`. `time` is int µs
        since 1970 or a datetime.
        """
        return int(self.ends([index], _micros([time]))[0])

    def ends(self, indices: Sequence[int] | np.ndarray, times: Any) -> np.ndarray:
        """`end_of` for many: int64, as many as `indices`."""
        return _after(self.times, self.offsets, np.asarray(indices, np.int64), _micros(times))

    def context(self, index: int, time: Any) -> np.ndarray:
        """Static tokens of timeline `index` as known at `time`, shape (context_size,)."""
        return self.contexts([index], _micros([time]))[0]

    def contexts(self, indices: Sequence[int] | np.ndarray, times: Any) -> np.ndarray:
        """`context` for many: int64, shape (len(indices), context_size)."""
        index, moments = np.asarray(indices, np.int64), _micros(times)
        table = self.context_table
        if table is None:
            return np.empty((len(index), 0), np.int64)
        closed = moments == NEVER
        if closed.any():
            # An end token stands after all that was ever known, and not at the end of time.
            last = self.ends(index, np.full_like(moments, NEVER - 1)) - 1
            moments = np.where(closed, self.times[np.maximum(last, 0)], moments)
        row = _after(table.times, table.offsets, index, moments) - 1
        births = np.asarray(table.births[index])
        oldest = len(table.ages) - 2
        known = (births != ALWAYS) & (births <= moments)
        age = np.full(len(index), oldest + 1)
        age[known] = np.minimum(_years(births[known], moments[known]), oldest)
        return np.concatenate([table.rows[row], table.ages[age]], axis=1).astype(np.int64)

    def select(self, subject_ids: Iterable[int]) -> Timelines:
        """The timelines of some subjects (those without any are left out), ascending.

        Neighbouring timelines stay mapped; others are copied into memory. To train on a split that
        memory does not hold, write it to a folder of its own.
        """
        wanted = np.unique(np.fromiter(subject_ids, np.int64))
        index = np.flatnonzero(np.isin(self.subjects, wanted, assume_unique=True))
        at, offsets = _gather(self.offsets, index)
        context = self.context_table
        if context is not None:
            rows, row_offsets = _gather(context.offsets, index)
            context = Context(
                context.rows[rows],
                context.times[rows],
                row_offsets,
                context.births[index],
                context.ages,
            )
        return Timelines(
            self.vocabulary,
            self.tokens[at],
            self.times[at],
            self.events[at],
            offsets,
            self.subjects[index],
            context,
        )

    @classmethod
    def open(cls, folder: str | Path) -> Timelines:
        """Map the folder that `Tokeniser.write` made.

        Raises:
            WardroundError: nothing there, or a file is missing or not what it was.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise WardroundError(f"{folder} holds no timelines (no {MANIFEST}); tokenise a store")
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            files = dict(manifest["files"])
            layout = int(manifest["layout"])
        except (ValueError, KeyError, TypeError) as error:
            raise WardroundError(
                f"{folder / MANIFEST} is damaged ({type(error).__name__}: {error}); tokenise again"
            ) from error
        if layout != LAYOUT:
            raise WardroundError(
                f"{folder} has layout {layout}, this version reads {LAYOUT}; tokenise again"
            )
        for name, size in files.items():
            path = folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                what = "is missing" if found is None else f"has {found:,} bytes, not {size:,}"
                raise WardroundError(
                    f"the timelines {folder} are damaged: {name} {what}; tokenise again"
                )
        vocabulary = Vocabulary.load(folder / "vocabulary.json")

        def read(name: str, mapped: bool = True) -> np.ndarray:
            path = folder / f"{name}.npy"
            try:
                return _load(path, mapped)
            except (ValueError, OSError, EOFError) as error:
                raise WardroundError(
                    f"the timelines {folder} are damaged: {name}.npy ({error}); tokenise again"
                ) from error

        timelines = cls(
            vocabulary,
            read("tokens"),
            read("times"),
            read("events"),
            read("offsets", mapped=False),
            read("subjects", mapped=False),
            Context(
                read("contexts"),
                read("context_times"),
                read("context_offsets", mapped=False),
                read("births", mapped=False),
                read("ages", mapped=False),
            ),
        )
        timelines._check(folder)
        return timelines

    def _check(self, folder: Path) -> None:
        """Refuse arrays that do not belong together."""
        context = self.context_table
        assert context is not None
        total, n = len(self.tokens), len(self)
        wrong = (
            len(self.times) != total
            or len(self.events) != total
            or len(self.offsets) != n + 1
            or self.offsets[0] != 0
            or self.offsets[-1] != total
            or (np.diff(self.offsets) < 0).any()
            or (np.diff(self.subjects) <= 0).any()
            or len(context.offsets) != n + 1
            or context.offsets[-1] != len(context.rows)
            or len(context.times) != len(context.rows)
            or len(context.births) != n
        )
        if wrong:
            raise WardroundError(
                f"the timelines {folder} are damaged: their arrays do not fit; tokenise again"
            )


def _load(path: Path, mapped: bool) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    # A plain view: memmap's own indexing runs Python code at each access.
    return array.view(np.ndarray)


def _micros(times: Any) -> np.ndarray:
    """Times as int64 µs: they come so, or as datetimes."""
    array = np.asarray(times)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    return array.astype("datetime64[us]").astype(np.int64)


def _years(births: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Whole years between two times, by the calendar."""
    (born, birth_month), (now, month) = (
        (times.astype("datetime64[us]"), times.astype("datetime64[us]").astype("datetime64[M]"))
        for times in (births, moments)
    )
    early = now - month < born - birth_month
    months = (month - birth_month).astype(np.int64) - early
    years: np.ndarray = months // 12
    return years


def _after(
    times: np.ndarray, offsets: np.ndarray, index: np.ndarray, moments: np.ndarray
) -> np.ndarray:
    """Positions after the last of `times[offsets[i]:offsets[i + 1]]` that is `<=` the moment.

    A binary search in all segments at once.
    """
    low, high = offsets[index].copy(), offsets[index + 1].copy()
    while (open_ := low < high).any():
        middle = (low + high) >> 1
        known = np.zeros(len(index), bool)
        known[open_] = times[middle[open_]] <= moments[open_]
        low = np.where(open_ & known, middle + 1, low)
        high = np.where(open_ & ~known, middle, high)
    return low


def _gather(offsets: np.ndarray, index: np.ndarray) -> tuple[slice | np.ndarray, np.ndarray]:
    """Where the segments `index` lie, and their offsets once they lie together."""
    sizes = offsets[index + 1] - offsets[index]
    moved = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    if not len(index) or index[-1] - index[0] + 1 == len(index):
        first = offsets[index[0]] if len(index) else 0
        return slice(int(first), int(first + moved[-1])), moved
    return ragged_range(offsets[index], sizes), moved


def ragged_range(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`start, start + 1, …` of each segment, one segment after the other."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - sizes), sizes)
