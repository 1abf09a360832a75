"""Who trains and who tests: a split by a stable hash of the subject."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from wardround.errors import WardroundError
from wardround.store.schema import SPLITS

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)


def hash_uniform(ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """Map int64 ids to floats in [0, 1), the same on every machine and in every version.

    splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"):
    neighbouring ids land far apart, so that ids given out in order of arrival do not cluster.
    """
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) + np.uint64(seed) * np.uint64(0xD1342543DE82EF95)
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def split_subjects(
    subject_ids: pl.Series,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
) -> pl.Series:
    """Assign each subject to train, tuning or held_out.

    A subject's split depends on its id, the fractions and the seed alone: adding patients moves
    nobody.

    Args:
        subject_ids: int64, any length, repeats allowed.
        fractions: shares of train, tuning and held_out; must add up to 1.
        seed: another seed, another split.

    Returns:
        Split names in the order of `subject_ids`.
    """
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise WardroundError(
            f"split fractions must be {len(SPLITS)} shares that add up to 1, got {list(fractions)}"
        )
    position = hash_uniform(subject_ids.to_numpy(), seed)
    which = np.searchsorted(np.cumsum(fractions)[:-1], position, side="right")
    return pl.Series("split", np.array(SPLITS, dtype=object)[which], dtype=pl.String)
