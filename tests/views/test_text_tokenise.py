"""Three kinds of tokenisers under one contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from wardround.errors import WardroundError
from wardround.views.text import (
    CLEAN,
    RAW,
    TextTokeniser,
    WordTokeniser,
    fit_words,
    load_tokeniser,
    read_pretrained,
    train_bpe,
    words_with_spans,
)

NOTES = [
    (1, "Heart failure, heart disease. Failure of the heart"),
    (1, "The heart; disease 12 of"),
    (2, "the failure"),
    (3, "the patient took aspirin 81mg"),
    (9, "zebra zebra the"),
    (9, "zebra of the heart"),
    (9, "zebra heart"),
]
TRAIN = [1, 2, 3]


def batches(size: int = 3) -> list[pl.DataFrame]:
    frame = pl.DataFrame(NOTES, schema={"subject_id": pl.Int64, "text": pl.String}, orient="row")
    return [frame[i : i + size] for i in range(0, len(frame), size)]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it: a tokenizer in the manner of RoBERTa."""
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("roberta")
    backend = train_bpe(batches(), TRAIN, vocabulary_size=300, cleaning=RAW).backend
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=512,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make(pretrained: Path) -> Callable[..., Any]:
    def make(kind: str, **how: Any) -> Any:
        if kind == "words":
            return fit_words(batches(), TRAIN, min_documents=1, **how)
        if kind == "pretrained":
            return read_pretrained(pretrained, **how)
        form = "words" if kind == "bpe-words" else "bytes"
        return train_bpe(batches(), TRAIN, vocabulary_size=300, pre_tokeniser=form, **how)

    return make


KINDS = pytest.mark.parametrize("kind", ["words", "bpe", "bpe-words", "pretrained"])


# Words


def test_the_vocabulary_is_that_of_training_documents() -> None:
    tokeniser = fit_words(batches(), TRAIN, min_documents=2)
    # Occurrences (documents): heart 4 (2), failure 3 (2), the 4 (4), disease 2 (2), of 2 (2).
    assert tokeniser.words == ("heart", "the", "failure", "disease", "of")
    assert tokeniser.counts == (4, 4, 3, 2, 2)
    assert tokeniser.documents == (2, 4, 2, 2, 2)
    assert tokeniser.unknown_count == 4  # patient, took, aspirin, 81mg
    assert (tokeniser.unk_id, tokeniser.pad_id, len(tokeniser)) == (5, 6, 7)
    assert (tokeniser.prefix, tokeniser.suffix, tokeniser.kind) == ((), (), "words")


def test_a_word_of_held_out_text_alone_is_unknown() -> None:
    tokeniser = fit_words(batches(), TRAIN, min_documents=1)
    assert "zebra" not in tokeniser.words
    encoded = tokeniser.encode(["zebra heart"])
    assert encoded.tokens.tolist() == [tokeniser.unk_id, 0]
    assert tokeniser.tokens([*encoded.tokens, tokeniser.pad_id]) == ["<UNK>", "heart", "<PAD>"]


def test_batches_do_not_matter() -> None:
    assert fit_words(batches(1), TRAIN) == fit_words(batches(9), pl.Series(TRAIN))


def test_words_past_the_cut_are_not_learned() -> None:
    tokeniser = fit_words(batches(), TRAIN, min_documents=1, max_words=2)
    assert set(tokeniser.words) == {"heart", "failure", "the", "patient"}


def test_names_of_special_tokens_in_a_note_are_no_words() -> None:
    notes = [pl.DataFrame({"subject_id": [1], "text": ["<PAD> and <UNK>"]})]
    tokeniser = fit_words(notes, [1], min_documents=1, cleaning=RAW)
    assert tokeniser.words == ("and",)
    assert tokeniser.encode(["<PAD> and <UNK>"]).tokens.tolist() == [1, 0, 1]


@given(st.lists(st.text(alphabet="ab1 .\n", max_size=12), max_size=6), st.integers(1, 4))
def test_looking_up_words(notes: list[str], limit: int) -> None:
    """Against a dictionary and a loop."""
    tokeniser = WordTokeniser(("a", "ab", "b", "a1"), max_words=limit)
    ids = {word: i for i, word in enumerate(tokeniser.words)}
    encoded = tokeniser.encode(notes)
    assert len(encoded) == len(notes) and encoded.tokens.dtype == np.int32
    assert len(encoded.tokens) == encoded.offsets[-1]
    for i, note in enumerate(notes):
        words, _ = words_with_spans(note)
        assert encoded.document(i).tolist() == [ids.get(w, 4) for w in words[:limit]]
        assert encoded.words[i] == len(words) and encoded.truncated[i] == (len(words) > limit)


def test_a_vocabulary_is_checked() -> None:
    with pytest.raises(WardroundError, match="names a word once"):
        WordTokeniser(("a", "a"))
    with pytest.raises(WardroundError, match="names a word once"):
        WordTokeniser(("a", "<UNK>"))
    assert WordTokeniser(()).encode(["a b"]).tokens.tolist() == [0, 0]


# Subwords


def test_merges_are_learned_from_training_notes_only() -> None:
    words = train_bpe(batches(), TRAIN, vocabulary_size=300, pre_tokeniser="words")
    assert words.tokens(words.encode(["heart"]).tokens) == ["<s>", "heart", "</s>"]
    vocabulary = words.backend.get_vocab()
    assert "z" not in vocabulary and "aspirin" not in vocabulary  # held out; seen once
    assert words.unk_id in words.encode(["zebra"]).tokens
    sized = train_bpe(batches(), TRAIN, vocabulary_size=270)
    assert len(sized) == 270 and sized.unk_id not in sized.encode(["zebra 🫀"]).tokens


def test_learning_is_repeatable() -> None:
    one, two = (train_bpe(batches(n), TRAIN, vocabulary_size=300) for n in (1, 9))
    assert one.backend.to_str() == two.backend.to_str()


def test_subwords_agree_with_transformers(pretrained: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(pretrained)
    for length in (None, 9):
        ours = read_pretrained(pretrained, max_tokens=length)
        notes = [note for _, note in NOTES] + ["", "Ünïcode °C"]
        expected = theirs(notes, truncation=length is not None, max_length=length)["input_ids"]
        encoded = ours.encode(notes)
        assert [encoded.document(i).tolist() for i in range(len(notes))] == expected
    assert (ours.pad_id, ours.unk_id, ours.prefix, ours.suffix) == (1, 3, (0,), (2,))


def test_a_special_token_in_a_note_is_text(make: Any) -> None:
    for kind in ("bpe", "pretrained"):
        tokeniser = make(kind, cleaning=RAW)
        ids = tokeniser.encode(["a </s> <pad> b"]).tokens
        assert list(ids).count(2) == 1 and 1 not in ids


def test_many_documents_come_in_order(make: Any) -> None:
    tokeniser = make("bpe")
    notes = [f"heart {'failure ' * (i % 7)}{i}x" for i in range(150)]
    encoded = tokeniser.encode(notes)
    for i in (0, 63, 64, 149):
        assert_array_equal(encoded.document(i), tokeniser.encode([notes[i]]).tokens)


# All kinds


@KINDS
@pytest.mark.parametrize("cleaning", [CLEAN, RAW])
def test_spans_are_those_of_the_tokens(make: Any, kind: str, cleaning: Any) -> None:
    tokeniser = make(kind, cleaning=cleaning)
    note = "  Heart\n\nFAILURE, 12 of the  heart; İ 81mg °C zebra "
    spans, ids = tokeniser.spans(note), tokeniser.encode([note]).tokens
    assert len(spans) == len(ids) and spans.dtype == np.int64
    special = {*tokeniser.prefix, *tokeniser.suffix}
    covered = set()
    for token, (start, end) in zip(ids, spans.tolist(), strict=True):
        assert (start == end == -1) == (token in special)
        if token not in special:
            assert note[start:end] == note[start:end].strip()
            covered |= set(range(start, end))
    words, where = words_with_spans(note, cleaning)
    # Together the tokens cover the words and nothing else.
    assert covered == {c for start, end in where.tolist() for c in range(start, end)}
    assert len(words) == tokeniser.encode([note]).words[0]


@KINDS
@given(note=st.text(st.sampled_from(list("abHé İ12.,\n\x85🫀")), max_size=25))
def test_as_many_spans_as_tokens(make: Any, kind: str, note: str) -> None:
    for cleaning in (CLEAN, RAW):
        tokeniser = make_once(make, kind, cleaning)
        spans = tokeniser.spans(note)
        assert len(spans) == len(tokeniser.encode([note]).tokens)
        assert (spans <= len(note)).all() and (spans[:, 0] <= spans[:, 1]).all()


_MADE: dict[Any, Any] = {}


def make_once(make: Any, kind: str, cleaning: Any) -> TextTokeniser:
    key = (kind, cleaning)
    if key not in _MADE:
        _MADE[key] = make(kind, cleaning=cleaning, max_words=6, max_tokens=8)
    return _MADE[key]


@KINDS
def test_cuts(make: Any, kind: str) -> None:
    note = "heart failure of the heart zebra zebra"
    full = make(kind)
    whole = replace(full, max_words=None).encode([note, "heart"])
    assert whole.words.tolist() == [7, 1] and not whole.truncated.any()
    by_word = replace(full, max_words=3).encode([note, "heart"])
    short = full.encode(["heart failure of"])
    assert_array_equal(by_word.document(0), short.document(0))
    assert by_word.truncated.tolist() == [True, False] and by_word.words.tolist() == [7, 1]
    tokeniser = replace(full, max_tokens=4)
    by_token = tokeniser.encode([note, "heart"])
    before, after = len(tokeniser.prefix), len(tokeniser.suffix)
    room = 4 - before - after
    first = whole.document(0)
    expected = [*first[: before + room], *first[len(first) - after :]]
    assert by_token.document(0).tolist() == expected
    assert by_token.truncated[0] and len(tokeniser.spans(note)) == 4


@KINDS
def test_an_empty_document(make: Any, kind: str) -> None:
    tokeniser = make(kind, cleaning=CLEAN)
    around = [*tokeniser.prefix, *tokeniser.suffix]
    encoded = tokeniser.encode(pl.Series(["", None, "heart", " \n"], dtype=pl.String))
    assert [encoded.document(i).tolist() for i in (0, 1, 3)] == [around] * 3
    assert encoded.words.tolist() == [0, 0, 1, 0]
    assert len(tokeniser.encode([])) == 0 and tokeniser.encode([]).offsets.tolist() == [0]


@KINDS
def test_saved_and_loaded(make: Any, kind: str, tmp_path: Path) -> None:
    tokeniser = make(kind, max_words=5, max_tokens=7)
    tokeniser.save(tmp_path / "tokeniser")
    again = load_tokeniser(tmp_path / "tokeniser")
    assert again == tokeniser and len(again) == len(tokeniser)
    notes = [note for _, note in NOTES]
    for one, two in zip(again.encode(notes).tokens, tokeniser.encode(notes).tokens, strict=True):
        assert one == two
    assert_array_equal(again.spans(notes[0]), tokeniser.spans(notes[0]))
    again.save(tmp_path / "tokeniser")  # over what is there
    assert [path.name for path in tmp_path.iterdir()] == ["tokeniser"]


@KINDS
def test_half_a_tokeniser_is_refused(make: Any, kind: str, tmp_path: Path) -> None:
    with pytest.raises(WardroundError, match="no such file"):
        load_tokeniser(tmp_path)
    make(kind).save(tmp_path / "it")
    path = tmp_path / "it" / "tokeniser.json"
    content = json.loads(path.read_text())
    for change in ({"cleaning": {}}, {"max_words": "x"}, {"layout": 9}, {"colour": 1}):
        path.write_text(json.dumps(content | change))
        with pytest.raises(WardroundError):
            load_tokeniser(tmp_path / "it")
    path.write_text(json.dumps(content)[:-9])
    with pytest.raises(WardroundError, match="is damaged"):
        load_tokeniser(tmp_path / "it")
    path.write_text(json.dumps(content))
    subwords = tmp_path / "it" / "tokenizer.json"
    if subwords.exists():
        subwords.write_text(subwords.read_text()[:100])
        with pytest.raises(WardroundError, match="is damaged"):
            load_tokeniser(tmp_path / "it")
        subwords.unlink()
        with pytest.raises(WardroundError, match="no such file"):
            load_tokeniser(tmp_path / "it")


# Mistakes


def test_limits_are_checked(make: Any) -> None:
    for kind in ("words", "bpe"):
        with pytest.raises(WardroundError, match="max_words is 0"):
            make(kind, max_words=0)
    with pytest.raises(WardroundError, match="max_tokens is 0"):
        make("words", max_tokens=0)
    with pytest.raises(WardroundError, match="more than the 2 special"):
        make("bpe", max_tokens=2)
    assert len(make("bpe", max_tokens=2, specials=False).encode(["heart failure x"]).tokens) == 2
    with pytest.raises(WardroundError, match=r"vocabulary_size is 260; it must exceed 260"):
        train_bpe(batches(), TRAIN, vocabulary_size=260)
    with pytest.raises(WardroundError, match="unknown pre-tokeniser 'letters'"):
        train_bpe(batches(), TRAIN, pre_tokeniser="letters")  # type: ignore[arg-type]


@pytest.mark.parametrize("fit", [fit_words, train_bpe])
def test_there_must_be_training_notes(fit: Any) -> None:
    with pytest.raises(WardroundError, match="none of the 1 training subjects has a note"):
        fit(batches(), [77])
    with pytest.raises(WardroundError, match="lack the columns subject_id"):
        fit([pl.DataFrame({"text": ["a"]})], [1])


def test_there_must_be_a_word() -> None:
    with pytest.raises(WardroundError, match="no word occurs in 5 training documents"):
        fit_words(batches(), TRAIN, min_documents=5)


def test_a_pretrained_tokenizer_must_be_there(tmp_path: Path, pretrained: Path) -> None:
    with pytest.raises(WardroundError, match="no such folder; download"):
        read_pretrained(tmp_path / "nothing")
    with pytest.raises(WardroundError, match="holds no tokenizer"):
        read_pretrained(tmp_path)
    settings = json.loads((pretrained / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (tmp_path / "tokenizer.json").write_text((pretrained / "tokenizer.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(WardroundError, match="no padding token"):
        read_pretrained(tmp_path)
