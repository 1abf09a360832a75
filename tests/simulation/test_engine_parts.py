"""The small parts: random numbers, drawing, windows, families, runs of blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wardround.simulation import Clock, Window
from wardround.simulation.cache import look
from wardround.simulation.engine import families, runs
from wardround.simulation.sampling import draw, durations, streams, uniforms


def test_uniforms_are_uniform_and_independent() -> None:
    keys, futures = np.meshgrid(np.arange(100, dtype=np.uint64), np.arange(50, dtype=np.uint64))
    own = streams(0, keys.ravel(), futures.ravel())
    assert len(np.unique(own)) == own.size
    u = np.stack([uniforms(own, np.full(own.size, step)) for step in range(20)])
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, bins=100, range=(0, 1))[0]
    assert (((counts - u.size / 100) ** 2) / (u.size / 100)).sum() < 160  # chi2(99), p < 1e-4
    correlations = np.corrcoef(u)[np.triu_indices(20, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(own.size)
    neighbours = np.corrcoef(
        u[0].reshape(50, 100)[:, :-1].ravel(), u[0].reshape(50, 100)[:, 1:].ravel()
    )
    assert abs(neighbours[0, 1]) < 5 / np.sqrt(own.size)


def test_streams_differ_by_seed() -> None:
    one = np.array([1], np.uint64)
    assert len({int(streams(seed, one, one)[0]) for seed in (-1, 0, 1, 2, 2**63)}) == 5


@given(
    hnp.arrays(np.float32, (3, 7), elements=st.sampled_from([0.0, 1e-30, 1e-7, 0.3, 1.0, 1e30])),
    st.lists(st.floats(0, 1, exclude_max=True) | st.just(1 - 2**-53), min_size=3, max_size=3),
)
def test_draw_never_takes_what_has_no_weight(weights: np.ndarray, u: list[float]) -> None:
    tokens = draw(torch.from_numpy(weights), torch.tensor(u, dtype=torch.float64)).numpy()
    heights = weights.astype(float).cumsum(axis=1)
    for row, token in enumerate(tokens):
        if not weights[row].any():
            assert token == 7
            continue
        assert weights[row, token] > 0
        assert heights[row, token] > u[row] * heights[row, -1] * (1 - 1e-12)


def test_durations_by_hand() -> None:
    clock = Clock(np.array([0.0, 9.0]), np.array([[0.0, 0, 0], [1, 3, 10]]))
    tokens, u = np.array([1, 1, 1, 1, 0]), np.array([0.0, 0.25, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(durations(clock, tokens, u), [1, 2, 3, 6.5, 0])
    np.testing.assert_allclose(durations(Clock(clock.mean), tokens, u), [9, 9, 9, 9, 0])
    assert durations(clock, np.array([1]), np.array([1 - 2**-53]))[0] == pytest.approx(10)


def test_parts_put_together_are_the_whole() -> None:
    """Two looks, weighed by their normalisers, against one softmax over everything."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 5, 8), torch.randn(2, 11, 8) * 3, torch.randn(2, 11, 8)
    hide = torch.rand(2, 5, 11) < 0.3
    hide[0, 0, :4] = True  # this row sees nothing of the first part
    parts = [look(q, k[:, a:b], v[:, a:b], hide[..., a:b]) for a, b in ((0, 4), (4, 11))]
    shares = torch.stack([n for _, n in parts]).softmax(0)
    together = (torch.stack([seen for seen, _ in parts]) * shares).sum(0)
    scores = (q @ k.transpose(1, 2)).masked_fill(hide, -torch.inf)
    torch.testing.assert_close(together, scores.softmax(-1) @ v)


@given(st.integers(8, 300), st.integers(0, 4), st.integers(0, 2000))
def test_a_window_opens_with_room_and_keeps_the_latest(size: int, context: int, known: int) -> None:
    window = Window(size, context)
    start = window.opening(known)
    kept = known - start
    room = size - context - kept
    assert start % window.chunk == 0
    assert room >= window.chunk // 2
    assert start == 0 or room < window.chunk // 2 + window.chunk
    assert kept > 0 or known == 0


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=12))
def test_families_hold_beginnings_of_their_first(windows: list[list[int]]) -> None:
    groups = families([np.array(window, np.int64) for window in windows])
    assert sorted(i for group in groups for i in group) == list(range(len(windows)))
    for group in groups:
        longest = windows[group[0]]
        assert all(longest[: len(windows[i])] == windows[i] for i in group)
    firsts = [windows[group[0]] for group in groups]
    for one in firsts:  # nobody is alone who could have joined
        assert not any(other[: len(one)] == one for other in firsts if other is not one)
    assert [len(one) for one in firsts] == sorted(map(len, firsts), reverse=True)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 500)), max_size=20),
    st.sampled_from([0.0, 1e3, 1e9]),
)
def test_runs_cover_every_block_in_use_once(blocks: list[tuple[int, int]], launch: float) -> None:
    count = np.array([rows for rows, _ in blocks], np.int64)
    length = np.array([tokens if rows else 0 for rows, tokens in blocks], np.int64)
    found = runs(count, length, launch)
    covered = [block for start, stop in found for block in range(start, stop)]
    assert len(covered) == len(set(covered))
    assert set(np.flatnonzero(count)) <= set(covered)
    if launch == 1e9:
        assert len(found) <= 1
