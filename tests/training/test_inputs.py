"""Batches beside a loop over rows."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from wardround.training import BagInputs, DenseInputs, SequenceInputs

lists = st.lists(st.lists(st.integers(1, 50), max_size=6), min_size=1, max_size=8)


@given(lists, st.data())
def test_bags_of_any_rows_in_any_order(bags: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(bags) - 1), max_size=12))
    inputs = BagInputs(
        np.arange(len(bags), dtype=np.float64)[:, None],
        np.array([code for bag in bags for code in bag], np.int64),
        np.concatenate([[0], np.cumsum([len(bag) for bag in bags])]),
    )
    assert len(inputs) == len(bags)
    tabular, codes, offsets = inputs.batch(np.array(chosen, np.int64))
    assert tabular.dtype == torch.float32 and tabular.flatten().tolist() == chosen
    assert codes.dtype == offsets.dtype == torch.int64
    found = [codes[offsets[i] : offsets[i + 1]].tolist() for i in range(len(chosen))]
    assert found == [bags[row] for row in chosen]
    assert offsets[0] == 0 and offsets[-1] == len(codes)


def test_columns_of_the_rows_asked_for() -> None:
    table = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    inputs = DenseInputs(table)
    assert len(inputs) == 4
    (found,) = inputs.batch(np.array([3, 0, 3]))
    assert found.dtype == torch.float32
    assert found.tolist() == table[[3, 0, 3]].tolist()


def test_sequences_are_cut_at_the_longest_of_the_batch() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 9, 2)).astype(np.float32)
    inputs = SequenceInputs(rng.normal(size=(5, 3)), values, np.array([1, 4, 9, 2, 4]))
    assert len(inputs) == 5
    tabular, found, lengths = inputs.batch(np.array([3, 1]))
    assert (tabular.shape, found.shape, lengths.tolist()) == ((2, 3), (2, 4, 2), [2, 4])
    np.testing.assert_array_equal(found, values[[3, 1], :4])
    assert inputs.batch(np.array([2, 0]))[1].shape == (2, 9, 2)


def test_a_batch_does_not_share_memory_with_the_table() -> None:
    """What a network does to its input in place stays in the batch."""
    table, codes, offsets = np.zeros((2, 3), np.float32), np.array([1, 2, 3]), np.array([0, 1, 3])
    rows = np.arange(2)
    for inputs in (
        DenseInputs(table),
        BagInputs(table, codes, offsets),
        SequenceInputs(table, np.zeros((2, 4, 1), np.float32), np.array([4, 4])),
    ):
        for part in inputs.batch(rows):
            part += 1
    assert table.max() == 0 and codes.tolist() == [1, 2, 3] and offsets.tolist() == [0, 1, 3]
