"""Random numbers by counter, tokens and durations drawn with them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wardround.simulation.futures import Clock

GOLDEN = 0x9E3779B97F4A7C15


def streams(seed: int, keys: np.ndarray, futures: np.ndarray) -> np.ndarray:
    """One stream of random numbers a path.

    Args:
        seed: of the simulation; its lowest 64 bits count.
        keys, futures: (n,) uint64 of a prefix and the number of its future.

    Returns:
        (n,) uint64, for `uniforms`.
    """
    root = _mix(np.array([(seed + 1) * GOLDEN % 2**64], np.uint64))
    return _mix(_mix(root ^ keys) + futures * np.uint64(GOLDEN))


def uniforms(streams: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """(n,) numbers in [0, 1), set by a stream and how far it was used, and by nothing else."""
    bits = _mix(streams + (counter.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN))
    return (bits >> np.uint64(11)) * 2.0**-53


def _mix(bits: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token a row in proportion to its weight, by inverting the distribution.

    Args:
        weights: (n, vocabulary), not negative; they need not sum to 1.
        uniforms: (n,) float64 in [0, 1).

    Returns:
        (n,) int64; never a token of weight 0; `vocabulary` where a row has no weight at all or
        one that is not a number.
    """
    heights = weights.cumsum(-1, dtype=torch.float64)
    total = heights[:, -1:]
    # Rounding must not lift the level to the total, beyond the last token that has weight.
    level = torch.minimum(uniforms[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(heights, level, right=True)[:, 0]


def durations(clock: Clock, tokens: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """(n,) seconds that tokens take: their means, or drawn between neighbouring quantiles."""
    if clock.quantiles is None:
        return clock.mean[tokens]
    last = clock.quantiles.shape[1] - 1
    place = uniforms * last
    below = place.astype(np.int64)
    low, high = clock.quantiles[tokens, below], clock.quantiles[tokens, np.minimum(below + 1, last)]
    return low + (place - below) * (high - low)
