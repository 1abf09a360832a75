"""Futures dealt out anew."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wardround.views.timeline.control import deal_futures, gather


def deal(offsets: np.ndarray, cuts: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the tokens in their new order, and the new offsets."""
    starts, stops, new = deal_futures(offsets[:-1], offsets[1:], cuts, seed)
    pieces = [np.arange(a, b) for a, b in zip(starts, stops, strict=True)]
    return np.concatenate([np.empty(0, np.int64), *pieces]), new


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=30),
    st.integers(0, 2**31),
    st.floats(0, 1),
)
def test_every_token_is_dealt_once(sizes: list[int], seed: int, share: float) -> None:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    rng = np.random.default_rng(seed)
    cuts = np.flatnonzero(rng.random(offsets[-1]) < share)
    order, new = deal(offsets, cuts, seed)
    assert sorted(order) == list(range(offsets[-1]))
    assert len(new) == len(offsets) and new[0] == 0 and new[-1] == len(order)
    ends = set(offsets[1:] - 1)
    for subject, (a, b) in enumerate(itertools.pairwise(new)):
        if sizes[subject]:
            assert order[a] == offsets[subject], "a subject keeps the beginning"
            assert order[b - 1] in ends, "and ends where a timeline ends"
            assert not ends & set(order[a : b - 1]), "nothing follows an end"
    steps = np.flatnonzero(np.diff(order) != 1)
    jumps = {int(order[s + 1]) for s in steps}
    assert jumps <= set(cuts) | set(offsets), "pieces stay whole"


def test_past_and_future_are_independent() -> None:
    """A trait that the whole timeline repeats says nothing of the dealt future."""
    n = 4000
    trait = np.random.default_rng(0).random(n) < 0.3
    offsets = np.arange(n + 1) * 4
    order, new = deal(offsets, np.sort(np.concatenate([offsets[:-1] + 1, offsets[:-1] + 3])))
    owner = order // 4
    followed = order[new[:-1] + 1] // 4
    past, future = trait[owner[new[:-1]]], trait[followed]
    assert abs(future[past].mean() - future[~past].mean()) < 0.04
    assert abs(trait.mean() - future.mean()) < 0.04


def test_without_cuts_nothing_moves() -> None:
    order, new = deal(np.array([0, 3, 3, 5]), np.array([0, 3], np.int64))
    assert order.tolist() == [0, 1, 2, 3, 4] and new.tolist() == [0, 3, 3, 5]


def test_pieces_are_gathered_in_order(monkeypatch) -> None:
    monkeypatch.setattr("wardround.views.timeline.control.PIECES", 2)
    starts, stops = np.array([5, 0, 3, 9]), np.array([7, 2, 3, 10])
    tokens = np.arange(10, dtype=np.uint16) * 10
    assert gather(tokens, starts, stops).tolist() == [50, 60, 0, 10, 90]
    assert gather(tokens, starts[:0], stops[:0]).tolist() == []
