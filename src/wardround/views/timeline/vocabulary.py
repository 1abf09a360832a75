"""Tokens and their ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from wardround.errors import WardroundError
from wardround.store import atomic_write


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokeniser; a token's id is its place, from 0.

    Attributes:
        tokens: in the order of their ids.
        counts: how often training subjects have each; empty if nobody counted.
    """

    tokens: tuple[str, ...]
    counts: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if len(set(self.tokens)) != len(self.tokens):
            raise WardroundError("a vocabulary names a token once; this one repeats some")
        if self.counts and len(self.counts) != len(self.tokens):
            raise WardroundError(
                f"a vocabulary of {len(self.tokens)} tokens has {len(self.counts)} counts"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest type that holds every id: uint16 or uint32."""
        return np.uint16 if len(self) <= np.iinfo(np.uint16).max + 1 else np.uint32

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def id(self, token: str) -> int:
        """The id of a token; `WardroundError` where there is none such."""
        try:
            return self._ids[token]
        except KeyError:
            raise WardroundError(f"the vocabulary has no token {token!r}") from None

    def ids(self, patterns: Sequence[str]) -> np.ndarray:
        """Ids, ascending and distinct, of tokens: each named in full, or by a beginning and `*`.

        Raises:
            WardroundError: a pattern fits no token.
        """
        return np.flatnonzero(self.mask(patterns))

    def mask(self, patterns: Sequence[str]) -> np.ndarray:
        """The same as a bool array (len,)."""
        mask = np.zeros(len(self), bool)
        for pattern in patterns:
            if pattern.endswith("*"):
                fits = [i for i, token in enumerate(self.tokens) if token.startswith(pattern[:-1])]
            else:
                fits = [self.id(pattern)]
            if not fits:
                raise WardroundError(f"no token of the vocabulary fits {pattern!r}")
            mask[fits] = True
        return mask

    def save(self, path: str | Path) -> None:
        """Write a JSON file of tokens and counts."""
        content = {"tokens": self.tokens, "counts": self.counts}
        with atomic_write(Path(path)) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False, indent=0), "utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what `save` wrote; `WardroundError` if it is not there or not that."""
        try:
            content = json.loads(Path(path).read_text("utf-8"))
            tokens, counts = content["tokens"], content["counts"]
            if not all(isinstance(token, str) for token in tokens):
                raise TypeError("a token is no text")
            return cls(tuple(tokens), tuple(int(count) for count in counts))
        except FileNotFoundError:
            raise WardroundError(f"{path}: no such vocabulary; tokenise again") from None
        except (ValueError, KeyError, TypeError) as error:
            raise WardroundError(
                f"{path} is damaged ({type(error).__name__}: {error}); tokenise again"
            ) from error
