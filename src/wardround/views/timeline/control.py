"""Timelines whose futures were dealt out anew: what a simulator learns from these is nothing."""

from __future__ import annotations

import numpy as np

from wardround.views.timeline.timelines import ragged_range

#: Pieces that are gathered at once.
PIECES = 1 << 20


def deal_futures(
    begins: np.ndarray, ends: np.ndarray, cuts: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deal what follows each cut to subjects at random.

    A subject keeps the piece before the first cut and is then dealt pieces of anybody until one
    comes that ends a timeline. All pieces are used, once; what follows a cut has nothing to do with
    what precedes it. Cut at each event, timelines teach a model how often things happen, and
    nothing of whom they happen to: its risks rank held-out subjects at chance.

    Args:
        begins, ends: (n,) bounds of each subject's tokens, ascending.
        cuts: absolute indices of tokens that begin a future. Those of other subjects, or at a
            subject's first token, which has no past, are passed over.
        seed: of the deal.

    Returns:
        Where the pieces begin and end, (pieces,) each, in their new order; and the offsets of the
        subjects' tokens once the pieces lie together, (n + 1,).
    """
    owner = np.searchsorted(begins, cuts, side="right") - 1
    inside = (owner >= 0) & (cuts > begins[owner]) & (cuts < ends[owner])
    inner = np.unique(cuts[inside])
    full = np.flatnonzero(ends > begins)
    low = np.sort(np.concatenate([begins[full], inner]))
    owner = np.searchsorted(begins, low, side="right") - 1
    is_last = np.append(owner[1:] != owner[:-1], True)[: len(low)]
    high = np.where(is_last, ends[owner], np.append(low[1:], 0)[: len(low)])
    is_first = np.append(True, is_last[:-1])[: len(low)]

    deck = np.random.default_rng(seed).permutation(np.flatnonzero(~is_first))
    if len(deck):  # each hand ends with a last piece; so must the deck
        deck = np.roll(deck, -(np.flatnonzero(is_last[deck])[0] + 1))
    cards = np.flatnonzero(is_last[deck])
    hands = np.diff(cards, prepend=-1)  # how many pieces each hand has
    firsts = np.flatnonzero(is_first)
    count = np.ones(len(firsts), np.int64)
    count[~is_last[firsts]] += hands
    at = np.cumsum(count) - count
    dealt = np.empty(count.sum(), np.int64)
    dealt[at] = firsts
    rest = np.ones(len(dealt), bool)
    rest[at] = False
    dealt[rest] = deck
    length = (high - low)[dealt]
    sizes = np.zeros(len(begins), np.int64)
    if len(dealt):
        sizes[owner[firsts]] = np.add.reduceat(length, at)
    return low[dealt], high[dealt], np.concatenate([[0], np.cumsum(sizes)])


def gather(tokens: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Pieces of `tokens` one after the other, some at a time for flat memory."""
    sizes = stops - starts
    result = np.empty(int(sizes.sum()), tokens.dtype)
    ends = np.cumsum(sizes)
    for low in range(0, len(starts), PIECES):
        part = slice(low, low + PIECES)
        first = ends[low] - sizes[low]
        at = ragged_range(starts[part], sizes[part])
        result[first : first + len(at)] = tokens[at]
    return result
