"""Cleaning of notes, by columns and with the way back."""

from __future__ import annotations

import itertools
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import WardroundError
from wardround.views.text import (
    CLEAN,
    PUBLISHED,
    RAW,
    CleaningOptions,
    clean_text,
    count_words,
    split_words,
    trace_cleaning,
    words_with_spans,
)
from wardround.views.text.clean import first_words

#: Every combination of what may be done.
COMBINATIONS = [CleaningOptions(*flags) for flags in itertools.product([False, True], repeat=5)]
#: Notes: words, numbers, punctuation, blanks that engines disagree on, letters that grow when
#: lowered ("İ"), become ASCII (the Kelvin sign) or depend on their place ("Σ").
NOTES = st.text(
    st.sampled_from([*"aB1290  \n\t.,-_/'°µß\x1c\x85\u2028\xa0", "İ", "\u212a", "Σ", "é", "🫀"]),
    max_size=40,
) | st.text(max_size=30)


def clean(text: str | None, options: CleaningOptions = CLEAN) -> str | None:
    frame = pl.DataFrame({"text": [text]}, schema={"text": pl.String})
    return frame.select(clean_text(pl.col("text"), options)).item()


def published(text: str) -> str:
    """The published steps, as the paper's script words them."""
    text = re.sub("[^A-Za-z0-9]+", " ", text.lower())
    text = re.sub(r"(\s\d+)+\s", " ", text)
    return re.sub(r"\s+", " ", text).strip()


def test_a_note_by_hand() -> None:
    note = "Admission Date:  [**2150-6-15**]\nPt is 64 y/o; took 500mg B12 ___ b.i.d.\t(2 stents)."
    expected = "admission date pt is y o took 500mg b12 b i d stents"
    assert clean(note) == clean(note, PUBLISHED) == expected
    assert clean(note, RAW) == note
    assert clean("") == "" and clean(None) is None and clean(" \n.") == ""


def test_steps_are_options() -> None:
    note = "Temp 38.5 C,\n  12 mg"
    keep = CleaningOptions(lowercase=False, drop_digits=False)
    assert clean(note, keep) == "Temp 38 5 C 12 mg"
    letters = CleaningOptions(alphanumeric=False)
    assert clean(note, letters) == "temp 38.5 c, mg"  # 38.5 is no group of digits
    blanks = CleaningOptions(lowercase=False, alphanumeric=False, drop_digits=False)
    assert clean(note, blanks) == "Temp 38.5 C, 12 mg"
    lower = CleaningOptions(alphanumeric=False, drop_digits=False, collapse=False)
    assert clean(note, lower) == "temp 38.5 c,\n  12 mg"


@pytest.mark.parametrize(
    ("note", "all_gone", "as_published"),
    [
        ("a 1 b", "a b", "a b"),
        ("a 1 2 3 b", "a b", "a b"),  # a row of them is one match
        ("a 1 b 2 c", "a b c", "a b c"),
        ("1 a", "a", "1 a"),  # nothing before it
        ("1 2 a", "a", "1 a"),
        ("a 1", "a", "a 1"),  # nothing after it
        ("a 1 2", "a", "a 2"),
        ("1", "", "1"),
        ("1 2", "", "1 2"),
        ("1 2 3", "", "1 3"),
        ("\n1 a", "a", "a"),  # a blank before it is enough
        ("a 1.", "a", "a"),  # as is a full stop after it
        ("a 12b 3c", "a 12b 3c", "a 12b 3c"),
    ],
)
def test_numbers(note: str, all_gone: str, as_published: str) -> None:
    assert clean(note) == all_gone
    assert clean(note, PUBLISHED) == as_published == published(note)


@given(NOTES)
def test_published_steps(note: str) -> None:
    assert clean(note, PUBLISHED) == published(note)


@given(NOTES)
def test_no_number_is_left(note: str) -> None:
    words = clean(note).split()
    assert words == [word for word in re.findall("[a-z0-9]+", note.lower()) if not word.isdigit()]


@given(NOTES, st.sampled_from([*COMBINATIONS, CLEAN, PUBLISHED]))
def test_both_ways_of_cleaning_agree(note: str, options: CleaningOptions) -> None:
    """The column's words and counts are those of the document whose characters are traced."""
    row = pl.DataFrame({"text": [note]}).select(text=clean_text(pl.col("text"), options))
    row = row.select(
        "text",
        words=split_words(pl.col("text"), options),
        count=count_words(pl.col("text"), options),
    )
    text, expected, count = row.row(0)
    traced = trace_cleaning(note, options)
    assert traced.cleaned == text
    assert len(traced.starts) == len(traced.ends) == len(text)
    words, spans = words_with_spans(note, options)
    assert words == expected and len(words) == count == len(spans)


@given(NOTES, st.sampled_from(COMBINATIONS))
def test_spans_hold_the_words_as_written(note: str, options: CleaningOptions) -> None:
    words, spans = words_with_spans(note, options)
    written = [note[start:end] for start, end in spans]
    for word, original in zip(words, written, strict=True):
        lowered = pl.Series([original]).str.to_lowercase().item() if options.lowercase else original
        # Cut at another place, a capital sigma is lowered to another letter, "İ" to two.
        assert word.replace("ς", "σ") in lowered.replace("ς", "σ")
        assert len(lowered) - len(word) <= original.count("İ")
    assert (spans[:, 0] < spans[:, 1]).all() and (spans[1:, 0] >= spans[:-1, 1] - 1).all()


def test_spans_by_hand() -> None:
    note = "Pt: 64 y/o\n\nCHF."
    words, spans = words_with_spans(note)
    assert words == ["pt", "y", "o", "chf"]
    assert [note[a:b] for a, b in spans] == ["Pt", "y", "o", "CHF"]
    assert spans.dtype == np.int64
    first, cut = words_with_spans(note, limit=2)
    assert first == ["pt", "y"] and np.array_equal(cut, spans[:2])
    none, empty = words_with_spans(" 12 ")
    assert none == [] and empty.shape == (0, 2)


@pytest.mark.parametrize("options", [CLEAN, RAW])
def test_cutting_after_so_many_words(options: CleaningOptions) -> None:
    notes = pl.DataFrame({"text": ["a b  c d", "a", "", "a\nb c.", None]})
    cleaned = notes.select(clean_text(pl.col("text"), options)).to_series()
    counts = cleaned.to_frame().select(count_words(pl.col("text"), options)).to_series()
    assert counts.to_list() == [4, 1, 0, 3, None]
    assert first_words(cleaned, counts, None).equals(cleaned)
    expected = ["a b", "a", "", "a b" if options is CLEAN else "a\nb", None]
    assert first_words(cleaned, counts, 2).to_list() == expected
    assert trace_cleaning("a b  c d", options).head(2).cleaned == "a b"


def test_options_come_back() -> None:
    for options in COMBINATIONS:
        assert CleaningOptions.from_dict(options.to_dict()) == options
        assert options.raw == (options == RAW or options == CleaningOptions(*[False] * 4, True))
    for wrong in ({}, CLEAN.to_dict() | {"stem": True}, CLEAN.to_dict() | {"lowercase": 1}):
        with pytest.raises(WardroundError, match="need true or false"):
            CleaningOptions.from_dict(wrong)
