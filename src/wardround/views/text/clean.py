"""Cleaning of notes before they are cut into words, and the way back to the original characters.

One list of patterns says what cleaning is. Polars runs it over columns, Python's `re` over one
document while keeping track of where each character came from, so that a word that a model points
at can be shown in the note as it was written.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from wardround.errors import WardroundError

# Unicode's White_Space, spelled out: `\s` means another set to Python than to polars.
_BLANKS_BUT_SPACE = r"\t-\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_BLANK = rf"[ {_BLANKS_BUT_SPACE}]"
_WORD = rf"[^ {_BLANKS_BUT_SPACE}]+"

# A lone space, which would be replaced by itself, is passed over: half of the matches, and time.
_NOT_ALPHANUMERIC = r"[^A-Za-z0-9]{2,}|[^A-Za-z0-9 ]"
_LOOSE_BLANKS = rf"{_BLANK}{{2,}}|[{_BLANKS_BUT_SPACE}]"
_DIGITS = rf"(?:^|{_BLANK})[0-9]+(?:{_BLANK}+[0-9]+)*(?:{_BLANK}|$)"
_DIGITS_PUBLISHED = rf"(?:{_BLANK}[0-9]+)+{_BLANK}"

_FIND_WORD = re.compile(_WORD)
_STRIP = re.compile(rf"^{_BLANK}+|{_BLANK}+\Z")


@dataclass(frozen=True)
class CleaningOptions:
    """What is done to a note, in this order. The defaults are those of Edin et al. 2023.

    Attributes:
        lowercase: upper case goes.
        alphanumeric: every run of characters that are not ASCII letters or digits becomes a space.
        drop_digits: words made of digits alone go; "500mg" and "b12" stay.
        collapse: runs of white space become a space, and none is left at either end.
        paper_compat: `drop_digits` as published: `(\\s\\d+)+\\s` is replaced by a space. That
            takes white space on both sides, so a number stays that is the very first or the very
            last thing in the document (with nothing before or after it, not even a full stop). Of
            several numbers there, one stays; inside a document, all of a row go.
    """

    lowercase: bool = True
    alphanumeric: bool = True
    drop_digits: bool = True
    collapse: bool = True
    paper_compat: bool = False

    @property
    def raw(self) -> bool:
        """Whether nothing is done at all."""
        return not (self.lowercase or self.alphanumeric or self.drop_digits or self.collapse)

    def to_dict(self) -> dict[str, bool]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> CleaningOptions:
        """Read what `to_dict` gave; `WardroundError` on another key or value."""
        names = set(cls.__dataclass_fields__)
        odd = sorted(set(content) ^ names)
        if odd or not all(isinstance(value, bool) for value in content.values()):
            raise WardroundError(
                f"cleaning options need true or false for each of {', '.join(sorted(names))}; "
                f"found {content}"
            )
        return cls(**content)


#: Lower case, ASCII letters and digits only, no numbers (Edin et al. 2023).
CLEAN = CleaningOptions()
#: The same with the published treatment of a number at either end.
PUBLISHED = CleaningOptions(paper_compat=True)
#: The note as it stands, for tokenisers that know of case and punctuation.
RAW = CleaningOptions(lowercase=False, alphanumeric=False, drop_digits=False, collapse=False)


def clean_text(text: pl.Expr, options: CleaningOptions = CLEAN) -> pl.Expr:
    """Return cleaned notes; null stays null.

    Args:
        text: notes.
        options: what to do to them.

    Examples:
        >>> notes = pl.DataFrame({"text": ["Pt. is 64 y/o, on 500mg b.i.d.  \\n2 stents"]})
        >>> notes.select(clean_text(pl.col("text"))).item()
        'pt is y o on 500mg b i d stents'
    """
    if options.lowercase:
        text = text.str.to_lowercase()
    for pattern in _patterns(options):
        text = text.str.replace_all(pattern, " ")
    return text.str.strip_chars() if options.collapse else text


def split_words(cleaned: pl.Expr, options: CleaningOptions = CLEAN) -> pl.Expr:
    """Return the words of cleaned notes as lists of strings; of an empty note, an empty list.

    Args:
        cleaned: what `clean_text` gave with the same options.
    """
    if not options.collapse:
        return cleaned.str.extract_all(_WORD)
    # Splitting is three times as fast as matching, and gives "" for an empty note.
    words = cleaned.str.split(" ")
    return pl.when(cleaned == "").then(words.list.head(0)).otherwise(words)


def count_words(cleaned: pl.Expr, options: CleaningOptions = CLEAN) -> pl.Expr:
    """Return the number of words of cleaned notes, uint32."""
    if not options.collapse:
        return cleaned.str.count_matches(_WORD)
    spaces = cleaned.str.count_matches(" ", literal=True)
    return pl.when(cleaned == "").then(pl.lit(0, pl.UInt32)).otherwise(spaces + 1)


def first_words(cleaned: pl.Series, counts: pl.Series, limit: int | None) -> pl.Series:
    """Cut cleaned notes after `limit` words, leaving all before that as it is.

    Args:
        cleaned: what `clean_text` gave.
        counts: their numbers of words.
        limit: None cuts nothing.
    """
    if limit is None or not (long := (counts > limit).fill_null(False)).any():
        return cleaned
    # Few notes are that long, and no expression cuts without taking all of them apart.
    rows = np.flatnonzero(long.to_numpy())
    cut = [text[: _end_of_words(text, limit)] for text in cleaned.gather(rows).to_list()]
    return cleaned.scatter(rows, cut)


def words_with_spans(
    text: str, options: CleaningOptions = CLEAN, limit: int | None = None
) -> tuple[list[str], np.ndarray]:
    """Return the words of one cleaned note and where each stands in the note as written.

    Args:
        text: the note.
        options: as for `clean_text`, whose words these are.
        limit: the first so many only.

    Returns:
        The words, and int64 (n, 2): `text[start:end]` is the word before cleaning.
    """
    traced = trace_cleaning(text, options)
    found = list(itertools.islice(_FIND_WORD.finditer(traced.cleaned), limit))
    ends = np.array([match.span() for match in found], np.int64).reshape(-1, 2)
    return [match.group() for match in found], traced.original_spans(ends)


@dataclass(frozen=True)
class TracedText:
    """A cleaned note that knows where its characters came from.

    Attributes:
        cleaned: what `clean_text` gives.
        starts, ends: int64, as long as `cleaned`: character i stems from
            `original[starts[i]:ends[i]]`.
    """

    cleaned: str
    starts: np.ndarray
    ends: np.ndarray

    def original_spans(self, spans: np.ndarray | Sequence[tuple[int, int]]) -> np.ndarray:
        """Map spans of the cleaned note, (n, 2), to spans of the original.

        An empty span stays empty, at the start of what follows it.
        """
        spans = np.asarray(spans, np.int64).reshape(-1, 2)
        length = self.ends[-1:] if len(self.ends) else np.zeros(1, np.int64)
        first = np.concatenate([self.starts, length])[spans[:, 0]]
        last = np.concatenate([np.zeros(1, np.int64), self.ends])[spans[:, 1]]
        return np.stack([first, np.maximum(first, last)], axis=1)

    def head(self, words: int | None) -> TracedText:
        """The same up to the end of so many words."""
        if words is None:
            return self
        end = _end_of_words(self.cleaned, words)
        return TracedText(self.cleaned[:end], self.starts[:end], self.ends[:end])


def trace_cleaning(text: str, options: CleaningOptions = CLEAN) -> TracedText:
    """Clean one note as `clean_text` does and keep the way back."""
    starts = np.arange(len(text), dtype=np.int64)
    traced = TracedText(text, starts, starts + 1)
    if options.lowercase:
        traced = _lower(traced)
    for pattern in _patterns(options):
        traced = _replace(traced, re.compile(pattern), " ")
    return _replace(traced, _STRIP, "") if options.collapse else traced


def _patterns(options: CleaningOptions) -> list[str]:
    """What is replaced by a space, one pattern after the other, by polars or by `re`."""
    patterns = []
    if options.alphanumeric:
        patterns.append(_NOT_ALPHANUMERIC)
    if options.drop_digits:
        patterns.append(_DIGITS_PUBLISHED if options.paper_compat else _DIGITS)
    if options.collapse:
        patterns.append(_LOOSE_BLANKS)
    return patterns


def _lower(traced: TracedText) -> TracedText:
    # By polars, whose tables of Unicode need not be of the same age as Python's.
    lowered = pl.Series([traced.cleaned]).str.to_lowercase().item()
    if len(lowered) == len(traced.cleaned):
        return TracedText(lowered, traced.starts, traced.ends)
    # A dotted capital I becomes two characters.
    sizes = pl.Series(list(traced.cleaned)).str.to_lowercase().str.len_chars().to_numpy()
    return TracedText(lowered, np.repeat(traced.starts, sizes), np.repeat(traced.ends, sizes))


def _replace(traced: TracedText, pattern: re.Pattern[str], by: str) -> TracedText:
    """Replace every match by `by`, which then stems from all that was matched."""
    matches = np.array([match.span() for match in pattern.finditer(traced.cleaned)], np.int64)
    if not len(matches):
        return traced
    first, last = matches[:, 0], matches[:, 1]
    # The place of each match keeps its first character, if anything is to stand there.
    keep = np.ones(len(traced.cleaned), bool)
    keep[_ranges(first + len(by), last)] = False
    ends = traced.ends.copy()
    if by:
        ends[first] = traced.ends[last - 1]
    return TracedText(pattern.sub(by, traced.cleaned), traced.starts[keep], ends[keep])


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """`first[i], …, last[i] - 1` of each i, one after the other."""
    sizes = last - first
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    ranges: np.ndarray = np.arange(total) + np.repeat(first - (ends - sizes), sizes)
    return ranges


def _end_of_words(text: str, limit: int) -> int:
    """Where the `limit`-th word ends; the whole length if there are fewer."""
    if limit <= 0:
        return 0
    nth = next(itertools.islice(_FIND_WORD.finditer(text), limit - 1, None), None)
    return len(text) if nth is None else nth.end()
