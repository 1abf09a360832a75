"""What goes into a simulation and what comes out of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: Why a path ended (`Futures.reason`).
STOPPED, HORIZON, MAX_TOKENS = 0, 1, 2


@dataclass(frozen=True)
class Prefix:
    """What is known of one patient at one prediction time.

    Attributes:
        context: (c,) static tokens, kept in every window.
        tokens: (n,) tokens of the timeline, oldest first, of any length.
        horizon: seconds of simulated time after which a path ends; may be infinite.
        key: number that random draws hang on; a hash of the tokens unless told, so that equal
            prefixes have equal futures.
    """

    context: np.ndarray
    tokens: np.ndarray
    horizon: float
    key: int | None = None

    @property
    def stream(self) -> int:
        """The key, or the hash in its place: 64 bits."""
        if self.key is not None:
            return self.key % 2**64
        content = hashlib.blake2b(digest_size=8)
        for part in (self.context, self.tokens):
            content.update(len(part).to_bytes(8, "little"))
            content.update(np.ascontiguousarray(part, "<i8").tobytes())
        return int.from_bytes(content.digest(), "little")


@dataclass(frozen=True)
class Stops:
    """What is watched, and what ends a path.

    Attributes:
        sets: bool (k, vocabulary): the watched sets of tokens.
        ends: bool (vocabulary,): tokens that end a path.
        max_tokens: a path ends after so many tokens, too.
    """

    sets: np.ndarray
    ends: np.ndarray
    max_tokens: int = 10_000


@dataclass(frozen=True)
class Clock:
    """How long a token takes: nothing, unless it stands for an interval.

    Attributes:
        mean: (vocabulary,) seconds.
        quantiles: (vocabulary, m) seconds at m evenly spaced levels from 0 to 1, between which
            durations are drawn; None adds means, as the published clock does.
    """

    mean: np.ndarray
    quantiles: np.ndarray | None = None


@dataclass(frozen=True)
class Futures:
    """R simulated futures of one prefix.

    Attributes:
        first: (R, k) seconds until a set was first reached; infinite where it was not.
        clock: (R,) seconds at the end of the path; beyond the horizon where that ended it.
        reason: (R,) int8: 0 stopped, 1 horizon, 2 max_tokens.
        steps: (R,) tokens sampled.
        absorbed: (R, k) probability with which each set is reached; None when counting. The mean
            over R is unbiased, single values may exceed 1.
        survived: (R,) probability of being left at the horizon; None when counting.
        paths: the sampled tokens of each path, if they were asked for.
    """

    first: np.ndarray
    clock: np.ndarray
    reason: np.ndarray
    steps: np.ndarray
    absorbed: np.ndarray | None = None
    survived: np.ndarray | None = None
    paths: list[np.ndarray] | None = None


class Window(NamedTuple):
    """Which part of a timeline the model sees: the static context, then the latest tokens.

    A full window drops its oldest quarter at once, so that what is cached stays good for long,
    and the opening keeps an eighth free to run in.  Openings are multiples of that quarter, so
    that prefixes of one stay begin at the same token and can share a cache.
    """

    size: int
    context: int

    @property
    def chunk(self) -> int:
        return (self.size - self.context) // 4

    def opening(self, known: int) -> int:
        """First token of the timeline that is kept where `known` tokens are known."""
        over = known + self.chunk // 2 - (self.size - self.context)
        return max(0, -(-over // self.chunk)) * self.chunk

    def overfull(self, start: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Whether timeline[start:known] and the context no longer fit: `start` moves by a chunk."""
        return self.context + known - start > self.size
