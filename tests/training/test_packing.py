"""Windows of timelines: each token predicted once, from its own patient alone."""

from __future__ import annotations

import math
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import WardroundError
from wardround.models import Decoder, DecoderConfig
from wardround.training import Documents
from wardround.training.packing import (
    IGNORED,
    Batch,
    PackedWindows,
    Stream,
    document_mask,
    first_fit,
    pack_windows,
    published_windows,
    scored_windows,
    window_span,
)
from wardround.training.pretraining import share_memmaps

STATIC = 10_000  # where ids of static tokens begin in these tests


class Static:
    """Static context that tells the timeline and the token that it was asked for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, documents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        about = np.stack([documents, tokens, *[documents] * self.size], axis=1)
        return STATIC + about[:, : self.size]


def timelines(lengths: list[int], static: int = 2) -> Documents:
    """Tokens that are their own indices."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Documents(np.arange(offsets[-1]), offsets, Static(static), static)


def everything(windows: PackedWindows) -> Batch:
    return windows.batch(np.arange(len(windows)))


def segments(batch: Batch) -> list[dict[str, np.ndarray]]:
    """The windows of a batch, one by one."""
    rows = []
    for row in range(len(batch.tokens)):
        numbers = batch.segments[row]
        for number in range(1, int(numbers.max()) + 1):
            at = numbers == number
            names = ("tokens", "positions", "labels")
            rows.append({name: getattr(batch, name)[row][at].numpy() for name in names})
    return rows


LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(lambda n: max(n) > 1)


@settings(deadline=None, max_examples=150)
@given(LENGTHS, st.integers(0, 3), st.integers(6, 24), st.integers(0, 5))
def test_each_token_is_predicted_once_from_its_own_timeline(
    lengths: list[int], static: int, context: int, epoch: int
) -> None:
    documents = timelines(lengths, static)
    windows = pack_windows(documents, context, seed=3, epoch=epoch)
    batch = everything(windows)
    assert batch.tokens.shape == (len(windows), context)
    predicted = batch.labels[batch.labels != IGNORED].numpy()
    first = set(documents.offsets[:-1][np.diff(documents.offsets) > 0]) if static == 0 else set()
    assert sorted(predicted) == sorted(set(range(documents.offsets[-1])) - first)
    assert windows.labels(np.arange(len(windows))) == len(predicted)
    for window in segments(batch):
        labels = window["labels"][max(static, 1) - 1 :]
        owner = np.searchsorted(documents.offsets, labels, side="right") - 1
        assert len(set(owner)) == 1
        assert np.array_equal(labels, np.arange(labels[0], labels[0] + len(labels)))
        before = (
            documents.contexts(owner[:1], labels[:1])[0] if static else np.array([labels[0] - 1])
        )
        assert np.array_equal(window["tokens"], np.concatenate([before, labels[:-1]]))
        assert np.array_equal(window["positions"], np.arange(len(labels) + len(before) - 1))
        assert (window["labels"][: len(before) - 1] == IGNORED).all()
    filled = batch.segments == 0
    assert (batch.labels[filled] == IGNORED).all() and (batch.tokens[filled] == 0).all()


def test_long_timelines_are_cut_anew_in_each_epoch_and_short_ones_never() -> None:
    documents = timelines([500, 9])
    starts = []
    for epoch in range(50):
        windows = pack_windows(documents, 22, epoch=epoch)
        assert (windows.length[windows.document == 1] == 9).all()
        starts.append(np.sort(windows.start[windows.document == 0])[1])
    span = window_span(documents, 22)
    assert span == 21
    assert min(starts) < 4 and max(starts) > span - 4 and max(starts) <= span
    fixed = pack_windows(documents, 22)
    assert np.array_equal(np.sort(fixed.start[fixed.document == 0]), np.arange(0, 500, span))


def test_an_epoch_is_the_same_each_time_it_is_made() -> None:
    documents = timelines([80, 7, 33, 41, 12])
    once, again, other, later = (
        everything(pack_windows(documents, 16, seed=seed, epoch=epoch))
        for seed, epoch in ((1, 4), (1, 4), (2, 4), (1, 5))
    )
    assert torch.equal(once.tokens, again.tokens) and torch.equal(once.labels, again.labels)
    for changed in (other, later):
        assert not torch.equal(once.tokens, changed.tokens)


def test_a_batch_is_part_of_the_epoch() -> None:
    windows = pack_windows(timelines([80, 7, 33, 41, 12, 5, 5]), 16, epoch=0)
    whole, some = everything(windows), np.array([4, 1, 7])
    part = windows.batch(some)
    for name in ("tokens", "positions", "segments", "labels"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[some])


def test_timelines_can_be_chosen_without_moving_tokens() -> None:
    documents = timelines([30, 4, 25, 9]).select(np.array([1, 2]))
    batch = everything(pack_windows(documents, 12, epoch=0))
    predicted = batch.labels[batch.labels != IGNORED].numpy()
    assert sorted(predicted) == list(range(30, 59))
    assert {int(w["tokens"][0]) - STATIC for w in segments(batch)} == {1, 2}


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.integers(40, 64))
def test_bins_hold_their_pieces_and_are_few(lengths: list[int], capacity: int) -> None:
    """Best fit, longest first, needs at most 11/9 of the fewest bins and one more."""
    bins = first_fit(np.array(lengths), capacity)
    loads = np.bincount(bins, weights=lengths)
    assert loads.min() > 0 and loads.max() <= capacity
    # Pieces above half a bin cannot share one, so that both are lower bounds.
    fewest = max(math.ceil(sum(lengths) / capacity), sum(n > capacity / 2 for n in lengths))
    assert len(loads) <= 1.5 * fewest + 1


def test_sequences_are_nearly_full() -> None:
    rng = np.random.default_rng(0)
    windows = pack_windows(timelines(rng.integers(1, 900, 400).tolist()), 256, epoch=0)
    filled = everything(windows).segments > 0
    assert filled.float().mean() > 0.97


def test_the_mask_is_causal_and_blocks_other_windows() -> None:
    numbers = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    mask = document_mask(numbers)
    assert mask.shape == (2, 1, 6, 6)
    for row in range(2):
        for i in range(6):
            for j in range(6):
                seen = j <= i and numbers[row, i] == numbers[row, j]
                assert mask[row, 0, i, j] == seen


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_packed_patient_gets_the_scores_that_it_gets_alone(positions) -> None:
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(200, 32, 2, 2, 16, 32, positions=positions, dropout=0.0)).eval()
    documents = Documents(
        np.random.default_rng(0).integers(0, 200, 90),
        np.array([0, 11, 20, 90]),
        lambda documents, tokens: np.stack([documents, tokens % 7], axis=1),
        2,
    )
    batch = everything(pack_windows(documents, 32, epoch=0))
    assert (batch.segments.max(1).values > 1).any()
    with torch.no_grad():
        packed = model(
            batch.tokens,
            positions=batch.positions,
            attend=model.masked(document_mask(batch.segments)),
        )
        for row in range(len(batch.tokens)):
            for number in range(1, int(batch.segments[row].max()) + 1):
                at = batch.segments[row] == number
                alone = model(batch.tokens[row, at][None])[0]
                assert torch.allclose(packed[row, at], alone, atol=1e-5)
    assert torch.isfinite(packed).all()


@settings(deadline=None, max_examples=100)
@given(LENGTHS, st.integers(0, 3), st.integers(6, 24), st.integers(1, 20))
def test_scored_windows_predict_each_token_once_with_its_past(
    lengths: list[int], static: int, context: int, stride: int
) -> None:
    documents = timelines(lengths, static)
    span = window_span(documents, context)
    stride = min(stride, span)
    windows = scored_windows(documents, context, stride)
    batch = everything(windows)
    predicted = batch.labels[batch.labels != IGNORED].numpy()
    targets, document = windows.targets(np.arange(len(windows)))
    assert np.array_equal(targets, predicted)
    assert np.array_equal(document, np.searchsorted(documents.offsets, targets, side="right") - 1)
    assert len(set(targets)) == len(targets) == sum(max(n - (static == 0), 0) for n in lengths)
    for window in segments(batch):
        at = np.flatnonzero(window["labels"] != IGNORED)
        begin = documents.offsets[
            np.searchsorted(documents.offsets, window["labels"][at[0]], side="right") - 1
        ]
        past = at - (max(static, 1) - 1)
        assert ((past >= span - stride) | (past >= window["labels"][at] - begin - 1)).all()


def test_published_windows_run_on_into_the_next_patient() -> None:
    documents = timelines([7, 3, 20, 4]).select(np.array([0, 2, 3]))
    windows = published_windows(documents, 10, seed=0, epoch=0)
    stream = np.r_[0:7, 10:34]
    span = window_span(documents, 10)
    assert len(windows) == math.ceil((len(stream) - span + 1) / span)
    crossed = False
    for epoch in range(30):
        windows = published_windows(documents, 10, seed=0, epoch=epoch)
        batch = windows.batch(np.arange(len(windows)))
        assert windows.labels(np.arange(len(windows))) == int((batch.labels != IGNORED).sum())
        assert (batch.segments == 1).all()
        assert torch.equal(batch.positions, torch.arange(10).expand_as(batch.positions))
        for row, start in enumerate(windows.start):
            expected = stream[start : start + span]
            owner = np.searchsorted(documents.offsets, expected, side="right") - 1
            crossed |= len(set(owner)) > 1
            assert np.array_equal(batch.labels[row, 1:], expected)
            assert batch.labels[row, 0] == IGNORED
            static = documents.contexts(owner[:1], expected[:1])[0]
            assert np.array_equal(batch.tokens[row], [*static, *expected[:-1]])
    assert crossed
    with pytest.raises(WardroundError, match="shorter than one window"):
        published_windows(timelines([3, 2]), 12)


@pytest.mark.parametrize("windows", ["packed", "published"])
def test_a_stream_goes_on_where_a_checkpoint_left_it(windows) -> None:
    documents = timelines([50, 9, 31, 17])
    stream = Stream(documents, 12, windows, seed=1)
    pieces, marks = [], []
    for _ in range(9):
        marks.append((stream.epoch, stream.at))
        pieces.append(stream.take(4))
    assert stream.epoch >= 2
    for mark, piece in zip(marks, pieces, strict=True):
        again = Stream(documents, 12, windows, 1, *mark).take(4)
        batch = piece.batch()
        assert torch.equal(again.batch().tokens, batch.tokens) and len(batch.tokens) == 4
        assert piece.labels == int((batch.labels != IGNORED).sum())


def test_memory_maps_travel_to_processes_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.arange(100_000, dtype=np.uint16))
    tokens = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    share_memmaps()
    documents = Documents(tokens, np.array([0, 100_000]), Static(2), 2)
    sent = bytes(ForkingPickler.dumps(documents))
    assert len(sent) < 2_000
    got = ForkingPickler.loads(sent).tokens
    assert isinstance(got, np.memmap) and np.array_equal(got, tokens)
    part = ForkingPickler.loads(ForkingPickler.dumps(tokens[50:90:2]))
    assert np.array_equal(part, tokens[50:90:2])


@pytest.mark.parametrize(
    ("documents", "context", "message"),
    [
        (timelines([0, 0]), 16, "no token to predict"),
        (timelines([1, 1], static=0), 16, "no token to predict"),
        (timelines([9]).select(np.array([], int)), 16, "no token to predict"),
        (timelines([9], static=5), 6, "leaves no room beside 5"),
        (timelines([9]), 16, "run from 0 to 10000, the decoder knows 20"),
        (timelines([30], static=0), 16, "run from 0 to 29, the decoder knows 20"),
        (
            Documents(np.arange(4), np.array([0, 4]), Static(2), 3),
            16,
            "2 tokens where 3 were announced",
        ),
        (Documents(np.array([-1, 3]), np.array([0, 2]), Static(0), 0), 16, "run from -1 to 3"),
    ],
)
def test_what_a_decoder_cannot_read_is_refused(documents, context, message) -> None:
    with pytest.raises(WardroundError, match=message):
        documents.check("training", 20, context)
