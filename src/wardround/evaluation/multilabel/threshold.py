"""One decision threshold for all codes, chosen on the tuning split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import spmatrix
from scipy.special import logit

from wardround.errors import WardroundError
from wardround.evaluation.multilabel.part import Part, select
from wardround.evaluation.multilabel.ranking import Pool


@dataclass(frozen=True)
class Threshold:
    """A code is predicted where `score > value`; `f1_micro` is what that gives where tuned."""

    value: float
    f1_micro: float


def tune_threshold(
    targets: spmatrix,
    scores: np.ndarray,
    *,
    grid: int | None = None,
    logits: bool = False,
    codes: np.ndarray | None = None,
    filter_codes: bool = False,
) -> Threshold:
    """The threshold with the highest micro-F1; the lowest of several.

    By default the exact optimum. Micro-F1 can only peak where a positive is just taken in, so that
    the distinct scores of positives are all that needs looking at, and one sort of the scores
    counts the predictions at each. The published rule (Edin et al. 2023) tries 100
    probabilities; that misses an optimum between two of them, which matters where a
    model is shy and most of its probabilities lie in the first steps.

    Args:
        targets: (documents, codes) sparse, of the tuning split.
        scores: (documents, codes); may be memory-mapped.
        grid: try so many points from 0 to 1 instead; 100 is the published rule.
        logits: with a grid, scores are logits and the grid is of their sigmoids.
        codes: columns to keep.
        filter_codes: leave out the codes that the tuning split does not have. By default, as in
            the published code, they count: a false alarm is one in any case.

    Returns:
        Threshold on the scale of the scores. An exact one lies midway between the lowest score
        that is taken in and the next lower one.

    Raises:
        WardroundError: no document has a code, a score is missing, or a grid meets scores that
            are no probabilities.
    """
    part = select(targets, scores, codes=codes, filter_codes=filter_codes)
    positives = part.targets.nnz
    if not positives:
        raise WardroundError(
            "no document of the tuning split has a code, so no threshold can be tuned; "
            "check the split and the label set"
        )
    if grid is not None:
        return _on_grid(part, grid, logits)
    pool = Pool(part.positive_scores)
    for ordered in part.sorted_blocks():
        pool.add(ordered)
    hits = np.cumsum(pool.count[::-1])[::-1]
    f1 = 2 * hits / (pool.size - pool.below + positives)
    best = int(np.argmax(f1))
    return Threshold(_between(pool.next_lower[best], pool.value[best]), float(f1[best]))


def _between(lower: np.floating, upper: np.floating) -> float:
    """A number of their kind with lower <= number < upper, midway if there is room."""
    if not np.isfinite(lower):
        return float(np.nextafter(upper, -upper.dtype.type(np.inf)))
    middle = lower.dtype.type(lower / 2 + upper / 2)
    return float(middle if lower <= middle < upper else lower)


def _on_grid(part: Part, points: int, logits: bool) -> Threshold:
    positives = part.targets.nnz
    share = np.linspace(0, 1, points)
    at = np.asarray(logit(share) if logits else share, part.dtype)
    above = np.zeros(points, np.int64)
    for ordered in part.sorted_blocks():
        if not logits and (ordered[0] < 0 or ordered[-1] > 1):
            raise WardroundError(
                f"a grid from 0 to 1 needs probabilities, but scores reach from {ordered[0]:g} "
                f"to {ordered[-1]:g}; say logits=True if they are logits"
            )
        above += len(ordered) - np.searchsorted(ordered, at, side="right")
    hits = positives - np.searchsorted(np.sort(part.positive_scores), at, side="right")
    f1 = 2 * hits / (above + positives)
    best = int(np.argmax(f1))
    return Threshold(float(at[best]), float(f1[best]))
