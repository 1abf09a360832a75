"""Token timelines cut into windows, and windows packed into sequences of one length.

A window is what a decoder sees of one patient: the static context as known at the window's first
token, then the tokens. Patients share a sequence to fill it, and never see each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from wardround.errors import WardroundError

#: Label of positions that nothing is predicted at.
IGNORED = -100

#: Static context: (documents (n,), tokens (n,) as indices into `Documents.tokens`) -> (n, c) ids.
Contexts = Callable[[np.ndarray, np.ndarray], np.ndarray]

CHUNK = 1 << 24  # tokens that are checked at once


@dataclass(frozen=True)
class Documents:
    """Timelines as plain arrays, which may be memory-mapped.

    Attributes:
        tokens: (tokens,) ids of all timelines, one after the other.
        offsets: (n + 1,) where each begins; the last one's end.
        contexts: static context of timelines as known at their given tokens. It must be picklable
            (a bound method, not a lambda) where more than one device trains.
        context_size: c, the number of its tokens; 0 where there is none, and then the first token
            of a timeline is never predicted.
        chosen: which timelines take part; all, unless told.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    contexts: Contexts
    context_size: int
    chosen: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.documents)

    def select(self, documents: np.ndarray) -> Documents:
        """These timelines alone, by index; the arrays stay where they are."""
        return replace(self, chosen=np.asarray(documents))

    @property
    def documents(self) -> np.ndarray:
        """Indices of the timelines that take part."""
        return np.arange(len(self.offsets) - 1) if self.chosen is None else self.chosen

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the timelines that take part begin and end."""
        offsets = np.asarray(self.offsets, np.int64)
        return offsets[self.documents], offsets[self.documents + 1]

    def check(self, what: str, vocabulary: int, context: int) -> None:
        """Refuse timelines that a decoder of these sizes cannot read.

        Raises:
            WardroundError: nothing to predict, tokens or static context outside the vocabulary, or
                no room for timeline tokens beside the static context.
        """
        if self.context_size + 1 >= context:
            raise WardroundError(
                f"pretrain: a context of {context} tokens leaves no room beside "
                f"{self.context_size} static ones; give the decoder a longer context"
            )
        begin, end = self.bounds
        if not (end - begin > (self.context_size == 0)).any():
            raise WardroundError(f"pretrain: the {what} timelines hold no token to predict")
        ranges = [
            (part.min(), part.max())
            for at in range(0, len(self.tokens), CHUNK)
            if len(part := self.tokens[at : at + CHUNK])
        ]
        if self.context_size:
            full = end > begin
            static = self.contexts(self.documents[full], begin[full])
            if static.shape[1] != self.context_size:
                raise WardroundError(
                    f"pretrain: static context of {static.shape[1]} tokens where "
                    f"{self.context_size} were announced"
                )
            ranges.append((static.min(), static.max()))
        lowest, highest = min(low for low, _ in ranges), max(high for _, high in ranges)
        if lowest < 0 or highest >= vocabulary:
            raise WardroundError(
                f"pretrain: {what} tokens run from {lowest} to {highest}, the decoder knows "
                f"{vocabulary}; build it with the vocabulary that wrote the timelines"
            )


@dataclass(frozen=True)
class Batch:
    """Sequences as a decoder reads them, each field (batch, context).

    Attributes:
        tokens: ids; 0 where a sequence is filled up.
        positions: from 0 in each window.
        segments: number of the window in its sequence, from 1; 0 where it is filled up.
        labels: the token that comes next, or `IGNORED`.
    """

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(part.to(device, non_blocking=True) for part in self.parts))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.tokens, self.positions, self.segments, self.labels

    @staticmethod
    def join(batches: list[Batch]) -> Batch:
        """One after the other."""
        return Batch(*map(torch.cat, zip(*(batch.parts for batch in batches), strict=True)))


def document_mask(segments: Tensor) -> Tensor:
    """Who sees whom, (batch, 1, time, time): what came before in the same window."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same & torch.ones_like(same[0, 0]).tril()


class Sequences(Protocol):
    """What one epoch reads, in the order in which it is read."""

    def __len__(self) -> int: ...

    def labels(self, numbers: np.ndarray) -> int:
        """How many tokens these sequences predict."""

    def batch(self, numbers: np.ndarray) -> Batch:
        """These sequences, read from the timelines."""


@dataclass(frozen=True)
class PackedWindows:
    """Windows, sorted by the sequence that they lie in.

    Attributes:
        documents: what they are cut from.
        context: length of a sequence.
        document: (windows,) number of the timeline among those that take part.
        start: (windows,) first token predicted.
        length: (windows,) number of tokens predicted. The last of them is never an input, so that
            the window takes one place fewer.
        skip: (windows,) of these, how many at the beginning are no labels.
        bounds: (sequences + 1,) the windows of each sequence.
    """

    documents: Documents
    context: int
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray
    skip: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def labels(self, numbers: np.ndarray) -> int:
        _, windows = self._windows(numbers)
        return int((self.length[windows] - self.skip[windows]).sum())

    def targets(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that are labels and the timelines they are of, in the order of a batch."""
        _, windows = self._windows(numbers)
        start, skip = self.start[windows], self.skip[windows]
        owner, rank = spread(self.length[windows] - skip)
        return (start + skip)[owner] + rank, self.document[windows][owner]

    def batch(self, numbers: np.ndarray) -> Batch:
        row, windows = self._windows(numbers)
        lead = _lead(self.documents)
        document, start = self.document[windows], self.start[windows]
        length, skip = self.length[windows], self.skip[windows]
        sizes = lead + length - 1
        # Places of a sequence are numbered through the batch; a window begins where the windows
        # before it in its sequence end.
        before = np.cumsum(sizes) - sizes
        first = np.searchsorted(row, np.arange(len(numbers)))
        at = row * self.context + before - before[first][row]

        places = len(numbers) * self.context
        tokens, positions, segments = (np.zeros(places, np.int64) for _ in range(3))
        labels = np.full(places, IGNORED, np.int64)
        owner, rank = spread(sizes)
        positions[at[owner] + rank] = rank
        segments[at[owner] + rank] = (np.arange(len(windows)) - first[row] + 1)[owner]
        tokens[at[:, None] + np.arange(lead)] = _prefix(self.documents, document, start)
        owner, rank = spread(length)
        read = self.documents.tokens[start[owner] + rank].astype(np.int64)
        place = at[owner] + lead + rank
        seen, asked = rank < length[owner] - 1, rank >= skip[owner]
        tokens[place[seen]] = read[seen]
        labels[place[asked] - 1] = read[asked]
        shape = (len(numbers), self.context)
        return Batch(
            *(torch.from_numpy(a.reshape(shape)) for a in (tokens, positions, segments, labels))
        )

    def _windows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The row in the batch, and the number, of each window of these sequences."""
        row, rank = spread(self.bounds[numbers + 1] - self.bounds[numbers])
        return row, self.bounds[numbers][row] + rank


def pack_windows(
    documents: Documents, context: int, *, seed: int = 0, epoch: int | None = None
) -> PackedWindows:
    """Cut timelines into windows and pack these into shuffled sequences.

    Each token is predicted once. A timeline that fits one window is one; a longer one is cut
    anew in each epoch, so that windows do not always begin at the same tokens.

    Args:
        documents: the timelines.
        context: length of a sequence; a window's inputs are at most that long.
        seed, epoch: of the cuts and the order. Without an epoch, windows begin at the first token.
    """
    span = window_span(documents, context)
    rng = np.random.default_rng(seed if epoch is None else (seed, epoch))
    begin, end = documents.bounds
    begin = begin + (documents.context_size == 0)
    total = np.maximum(end - begin, 0)
    first = np.minimum(total, span)
    if epoch is not None:
        first = np.where(total > span, rng.integers(1, span + 1, len(total)), first)
    pieces = (total > 0) + -(-(total - first) // span)
    owner, rank = spread(pieces)
    start = begin[owner] + np.where(rank == 0, 0, first[owner] + (rank - 1) * span)
    stop = np.minimum(begin[owner] + first[owner] + rank * span, end[owner])
    order = rng.permutation(len(owner))
    owner, start, length = owner[order], start[order], (stop - start)[order]
    return _packed(documents, context, owner, start, length, np.zeros_like(length), rng)


def scored_windows(documents: Documents, context: int, stride: int) -> PackedWindows:
    """Windows that start every `stride` tokens and predict only what none before them did.

    Each token but those of the first window is predicted from at least `span - stride` before it,
    where `span` is what `window_span` says.
    """
    span = window_span(documents, context)
    begin, end = documents.bounds
    begin = begin + (documents.context_size == 0)
    total = np.maximum(end - begin, 0)
    pieces = (total > 0) + np.maximum(-(-(total - span) // stride), 0)
    owner, rank = spread(pieces)
    start = begin[owner] + rank * stride
    length = np.minimum(span, end[owner] - start)
    skip = np.where(rank == 0, 0, span - stride)
    return _packed(documents, context, owner, start, length, skip, np.random.default_rng(0))


def window_span(documents: Documents, context: int) -> int:
    """How many tokens a window predicts: the last one is no input and takes no place."""
    return context - _lead(documents) + 1


def first_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The bin of each piece, longest first, into the fullest bin that has room.

    Args:
        lengths: (n,) in 1..capacity.
        capacity: of a bin.
    """
    bins = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms, used = 0, 0  # bit r of `rooms`: some bin has exactly r places left
    for piece, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, chosen, used = capacity, used, used + 1
        by_room[room - length].append(chosen)
        rooms |= 1 << (room - length)
        bins[piece] = chosen
    return bins


@dataclass(frozen=True)
class PublishedWindows:
    """Windows of ETHOS' own training: one stream of all patients, cut anywhere.

    A window runs on into the next patient with the static context of the one it began in, and
    nothing hides that patient (official code, `src/ethos/datasets`).

    Attributes:
        documents: what the stream is made of.
        context: length of a sequence, which is one window.
        start: (sequences,) first token predicted, counted along the stream.
    """

    documents: Documents
    context: int
    start: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def labels(self, numbers: np.ndarray) -> int:
        return len(numbers) * window_span(self.documents, self.context)

    def batch(self, numbers: np.ndarray) -> Batch:
        begin, end = self.documents.bounds
        total = np.cumsum(end - begin)
        lead, start = _lead(self.documents), self.start[numbers]
        stream = start[:, None] + np.arange(window_span(self.documents, self.context))
        owner = np.searchsorted(total, stream, side="right")
        read = self.documents.tokens[(end - total)[owner] + stream].astype(np.int64)
        first = (end - total)[owner[:, 0]] + start
        prefix = _prefix(self.documents, owner[:, 0], first)
        tokens = np.concatenate([prefix, read[:, :-1]], axis=1)
        labels = np.full_like(tokens, IGNORED)
        labels[:, lead - 1 :] = read
        positions = np.broadcast_to(np.arange(self.context), tokens.shape).copy()
        parts = (tokens, positions, np.ones_like(tokens), labels)
        return Batch(*map(torch.from_numpy, parts))


def published_windows(
    documents: Documents, context: int, *, seed: int = 0, epoch: int = 0
) -> PublishedWindows:
    """As many windows as fill the stream once, each beginning anywhere.

    Raises:
        WardroundError: the stream is shorter than one window.
    """
    span = window_span(documents, context)
    begin, end = documents.bounds
    early = int(documents.context_size == 0)  # a token must come before the first one predicted
    places = int((end - begin).sum()) - span + 1 - early
    if places < 1:
        raise WardroundError(
            f"pretrain: all timelines together are shorter than one window ({span} tokens); "
            "set windows=packed or a shorter context"
        )
    rng = np.random.default_rng((seed, epoch))
    start = early + rng.integers(0, places, -(-places // span))
    return PublishedWindows(documents, context, start)


@dataclass
class Stream:
    """Sequences of one epoch after the other, without end.

    Attributes:
        documents, context, windows, seed: as the epochs are made.
        epoch, at: the next sequence; what a checkpoint keeps.
    """

    documents: Documents
    context: int
    windows: Literal["packed", "published"]
    seed: int
    epoch: int = 0
    at: int = 0

    def __post_init__(self) -> None:
        self._sequences = self._plan()

    def take(self, count: int) -> Piece:
        """The next `count` sequences, read when asked for."""
        parts: list[tuple[Sequences, np.ndarray]] = []
        while count:
            if self.at == len(self._sequences):
                self.epoch, self.at = self.epoch + 1, 0
                self._sequences = self._plan()
            numbers = np.arange(self.at, min(self.at + count, len(self._sequences)))
            parts.append((self._sequences, numbers))
            self.at += len(numbers)
            count -= len(numbers)
        return Piece(parts)

    def _plan(self) -> Sequences:
        make = pack_windows if self.windows == "packed" else published_windows
        return make(self.documents, self.context, seed=self.seed, epoch=self.epoch)


@dataclass(frozen=True)
class Piece:
    """Sequences to be read, of one epoch or of neighbouring ones."""

    parts: list[tuple[Sequences, np.ndarray]]

    @property
    def labels(self) -> int:
        return sum(sequences.labels(numbers) for sequences, numbers in self.parts)

    def batch(self) -> Batch:
        return Batch.join([sequences.batch(numbers) for sequences, numbers in self.parts])


def batches(sequences: PackedWindows, size: int) -> Iterator[np.ndarray]:
    """Numbers of the sequences of each batch, in order."""
    for at in range(0, len(sequences), size):
        yield np.arange(at, min(at + size, len(sequences)))


def spread(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(owner, rank) of each of `counts.sum()` members: 3, 2 -> 0 0 0 1 1, 0 1 2 0 1."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]


def _lead(documents: Documents) -> int:
    """Places before the first token predicted: the static context, or else the token before."""
    return max(documents.context_size, 1)


def _prefix(documents: Documents, document: np.ndarray, first: np.ndarray) -> np.ndarray:
    """What stands there: (n, lead) for windows of the timelines at `document` of those chosen."""
    if documents.context_size:
        return documents.contexts(documents.documents[document], first).astype(np.int64)
    return documents.tokens[first - 1].astype(np.int64)[:, None]


def _packed(
    documents: Documents,
    context: int,
    document: np.ndarray,
    start: np.ndarray,
    length: np.ndarray,
    skip: np.ndarray,
    rng: np.random.Generator,
) -> PackedWindows:
    bins = first_fit(_lead(documents) + length - 1, context)
    count = int(bins.max(initial=-1)) + 1
    bins = rng.permutation(count)[bins]
    order = np.argsort(bins, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=count))])
    return PackedWindows(
        documents, context, document[order], start[order], length[order], skip[order], bounds
    )
