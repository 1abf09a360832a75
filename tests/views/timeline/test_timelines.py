"""Arrays of timelines: cuts, context, selection, and folders that are refused."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import WardroundError
from wardround.views.timeline import ALWAYS, NEVER, Context, Timelines, Vocabulary
from wardround.views.timeline.arrays import ArrayWriter, reorder
from wardround.views.timeline.statistics import Histogram, quantiles


def timelines_of(times: list[list[int]], births: list[int] | None = None) -> Timelines:
    """Timelines with these token times; token k of the whole has id k."""
    offsets = np.cumsum([0, *map(len, times)])
    total = int(offsets[-1])
    n = len(times)
    rows = np.array([[100 + i, 200 + i] for i in range(2 * n)], np.uint16).reshape(2 * n, 2)
    context = Context(
        rows,
        np.array([ALWAYS, 50] * n, np.int64),
        np.arange(0, 2 * n + 1, 2),
        np.array(births or [ALWAYS] * n, np.int64),
        np.array([[age] for age in range(121)] + [[999]], np.uint16),
    )
    return Timelines(
        Vocabulary(tuple(f"t{i}" for i in range(max(total, 1)))),
        np.arange(total, dtype=np.uint16),
        np.array([t for own in times for t in own], np.int64),
        np.arange(total),
        offsets,
        np.arange(10, 10 + 10 * n, 10),
        context,
    )


sequences = st.lists(
    st.lists(st.integers(-20, 20), max_size=12).map(sorted), min_size=1, max_size=6
)


@given(sequences, st.data())
def test_ends_count_what_was_known(times: list[list[int]], data: st.DataObject) -> None:
    timelines = timelines_of(times)
    index = data.draw(st.lists(st.integers(0, len(times) - 1), max_size=8))
    moments = data.draw(st.lists(st.integers(-25, 25), min_size=len(index), max_size=len(index)))
    expected = [
        int(timelines.offsets[i]) + sum(t <= moment for t in times[i])
        for i, moment in zip(index, moments, strict=True)
    ]
    found = timelines.ends(index, np.array(moments, np.int64))
    assert found.tolist() == expected
    for i, moment, end in zip(index, moments, expected, strict=True):
        assert timelines.end_of(i, moment) == end


@given(sequences, st.sets(st.integers(0, 70)))
def test_select_keeps_whole_timelines(times: list[list[int]], wanted: set[int]) -> None:
    timelines = timelines_of(times)
    chosen = timelines.select(wanted)
    assert chosen.subjects.tolist() == [s for s in timelines.subjects.tolist() if s in wanted]
    for place, subject in enumerate(chosen.subjects):
        i = timelines.position(subject)
        assert chosen.position(subject) == place
        own = slice(timelines.offsets[i], timelines.offsets[i + 1])
        copied = slice(chosen.offsets[place], chosen.offsets[place + 1])
        for name in ("tokens", "times", "events"):
            assert (getattr(chosen, name)[copied] == getattr(timelines, name)[own]).all()
        for moment in (-5, 49, 50, 1000):
            assert (chosen.context(place, moment) == timelines.context(i, moment)).all()


def test_context_is_what_was_known_and_age_counts_from_birth() -> None:
    timelines = timelines_of([[0], [0]], births=[0, ALWAYS])
    assert timelines.context_size == 3
    assert timelines.context(0, 49).tolist() == [100, 200, 0]
    assert timelines.context(0, 50).tolist() == [101, 201, 0]
    for day, age in (("2016-12-31T23:59", 46), ("2017-01-01", 47), ("2470-01-01", 120)):
        assert timelines.context(0, np.datetime64(day)).tolist() == [101, 201, age]
    assert timelines.context(1, 50).tolist() == [103, 203, 999]
    assert timelines.context(0, -1).tolist() == [100, 200, 999]  # not born yet
    # The end token stands where the record ends.
    assert timelines.context(0, NEVER).tolist() == timelines.context(0, 0).tolist()
    moment = datetime(1970, 1, 1, 0, 0, 0, 50)
    assert timelines.context(0, moment).tolist() == timelines.context(0, 50).tolist()
    assert timelines.contexts([0, 1], np.array(["1970-01-01"] * 2, "datetime64[D]")).shape == (2, 3)


def test_subjects_without_a_timeline_are_named() -> None:
    timelines = timelines_of([[0], [0]])
    assert timelines.positions([20, 10]).tolist() == [1, 0]
    with pytest.raises(WardroundError, match="subject 15 has no timeline"):
        timelines.position(15)
    with pytest.raises(WardroundError, match="subject 99 has no timeline"):
        timelines.positions([10, 99])


def test_vocabulary_patterns(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("END", "DRG//1", "DRG//2", "ICU"), (1, 2, 3, 4))
    assert vocabulary.id("ICU") == 3
    assert "ICU" in vocabulary
    assert vocabulary.ids(["ICU", "DRG//*"]).tolist() == [1, 2, 3]
    assert vocabulary.mask(["DRG//1"]).tolist() == [False, True, False, False]
    for pattern in ("DRG", "SOFA*"):
        with pytest.raises(WardroundError, match=pattern.rstrip("*")):
            vocabulary.ids([pattern])
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary
    with pytest.raises(WardroundError, match="once"):
        Vocabulary(("A", "A"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tokens": [1], "counts": []}', "{}"])
def test_damaged_vocabularies_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(text)
    with pytest.raises(WardroundError, match=r"damaged.*tokenise again"):
        Vocabulary.load(path)


@given(st.lists(st.integers(0, 5), max_size=8), st.integers(1, 10), st.randoms())
def test_arrays_grow_and_reorder_on_disk(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], chunk: int, random: object
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.npy"
    pieces = [np.arange(2 * size).reshape(size, 2) + 100 * i for i, size in enumerate(sizes)]
    with ArrayWriter(path, np.int32, width=2) as writer:
        for piece in pieces:
            writer.append(piece)
    whole = np.concatenate([np.empty((0, 2), np.int32), *pieces])
    assert (np.load(path) == whole).all()
    order = np.array(random.sample(range(len(sizes)), len(sizes)), np.int64)  # type: ignore[attr-defined]
    reorder(path, np.cumsum([0, *sizes]), order, chunk)
    moved = np.concatenate([np.empty((0, 2), np.int32), *(pieces[i] for i in order)])
    loaded = np.load(path)
    assert loaded.dtype == np.int32
    assert (loaded == moved).all()


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60))
def test_quantiles_of_counts_are_numpy_s(values: list[int]) -> None:
    histogram = Histogram()
    for half in (values[::2], values[1::2]):
        import polars as pl

        histogram.add(pl.Series([7] * len(half), dtype=pl.Int64), pl.Series(half, dtype=pl.Float64))
    at = np.linspace(0, 1, 11)
    found = quantiles(*histogram.by_key()[7], at)
    np.testing.assert_allclose(found, np.quantile(values, at), atol=1e-12)
