"""Timelines whose futures were dealt out anew: what a simulator learns from these is nothing."""

from __future__ import annotations

import numpy as np


def deal_futures(
    offsets: np.ndarray, cuts: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Deal what follows each cut to subjects at random.

    Timelines are cut where predictions are made. A subject keeps the piece before the first cut and
    is then dealt pieces of anybody until one comes that ends a timeline. All pieces are used, once;
    what follows a cut has nothing to do with what precedes it, so that the risks of a model that is
    trained on these rank held-out subjects at chance.

    Args:
        offsets: (n + 1,) bounds of each subject's tokens.
        cuts: absolute indices of tokens that begin a future. Those at a subject's first token have
            no past, and are passed over.
        seed: of the deal.

    Returns:
        Indices of the tokens in their new order, and the new offsets, (n + 1,).
    """
    starts, ends = offsets[:-1], offsets[1:]
    inner = np.setdiff1d(cuts[(cuts > 0) & (cuts < offsets[-1])], starts)
    bounds = np.union1d(np.unique(offsets), inner)
    low, high = bounds[:-1], bounds[1:]
    is_future = np.isin(low, inner)
    is_last = np.isin(high, ends)
    future = np.flatnonzero(is_future)
    if not len(future):
        return np.arange(offsets[-1]), offsets.copy()
    deck = np.random.default_rng(seed).permutation(future)
    # Each hand ends with a last piece; so must the deck.
    deck = np.roll(deck, -(np.flatnonzero(is_last[deck])[0] + 1))
    hands = np.split(deck, np.flatnonzero(is_last[deck])[:-1] + 1)
    order: list[np.ndarray] = []
    sizes = np.zeros(len(starts), np.int64)
    first_piece = np.searchsorted(low, starts)
    dealt = iter(hands)
    for subject in np.flatnonzero(ends > starts):
        piece = first_piece[subject]
        pieces = [piece] if is_last[piece] else [piece, *next(dealt)]
        tokens = [np.arange(low[p], high[p]) for p in pieces]
        order += tokens
        sizes[subject] = sum(map(len, tokens))
    return np.concatenate(order), np.concatenate([[0], np.cumsum(sizes)])
