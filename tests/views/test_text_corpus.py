"""A tokenised corpus on disk."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
from numpy.testing import assert_array_equal

from wardround.errors import WardroundError
from wardround.views.text import Corpus, WordTokeniser, fit_words, train_bpe, write_corpus

TOKENISER = WordTokeniser(("heart", "failure", "of"), max_words=4)


def notes(*texts: str | None, first: int = 0) -> pl.DataFrame:
    numbers = range(first, first + len(texts))
    return pl.DataFrame(
        {
            "note_id": [f"n{i}" for i in numbers],
            "subject_id": [100 + i // 2 for i in numbers],
            "hadm_id": [None if i == 3 else 200 + i for i in numbers],
            "text": list(texts),
        },
        schema_overrides={"hadm_id": pl.Int64, "text": pl.String},
    )


BATCHES = [
    notes("Heart failure.", "", "of heart of heart of heart"),
    notes(),
    notes("the failure", first=3),
]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_corpus(tmp_path / "corpus", BATCHES, TOKENISER)


def test_documents_by_hand(corpus: Corpus) -> None:
    assert [corpus.document(i).tolist() for i in range(len(corpus))] == [
        [0, 1],
        [],
        [2, 0, 2, 0],
        [3, 1],
    ]
    assert corpus.tokens.dtype == np.uint16 and corpus.offsets.tolist() == [0, 2, 2, 6, 8]
    assert corpus.lengths.tolist() == [2, 0, 4, 2]
    assert corpus.documents.to_dicts() == [
        {
            "note_id": f"n{i}",
            "subject_id": 100 + i // 2,
            "hadm_id": None if i == 3 else 200 + i,
            "num_words": words,
            "num_tokens": tokens,
            "truncated": words > tokens,
        }
        for i, (words, tokens) in enumerate([(2, 2), (0, 0), (6, 4), (2, 2)])
    ]
    assert corpus.tokeniser == TOKENISER
    assert not corpus.document(0).flags.writeable
    for outside in (-1, 4):
        with pytest.raises(IndexError, match="a corpus of 4"):
            corpus.document(outside)


def test_documents_are_found_by_note(corpus: Corpus) -> None:
    assert corpus.positions(["n3", "n0", "n3"]).tolist() == [3, 0, 3]
    assert corpus.positions([]).tolist() == []
    with pytest.raises(WardroundError, match="note n9 is none of the 4 documents"):
        corpus.positions(["n0", "n9"])


def test_the_corpus_is_what_the_tokeniser_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["heart", "failure", "mild", "Aspirin,", "81mg", "12", "\n"])
    texts = [" ".join(rng.choice(words, rng.integers(0, 30))) for _ in range(2_500)]
    batches = [notes(*texts[:2_100]), notes(*texts[2_100:], first=2_100)]
    tokeniser = train_bpe(batches, range(100, 400), vocabulary_size=280, max_tokens=12)
    corpus = write_corpus(tmp_path / "corpus", iter(batches), tokeniser)
    encoded = tokeniser.encode(texts)
    assert_array_equal(corpus.tokens, encoded.tokens)
    assert_array_equal(corpus.offsets, encoded.offsets)
    assert_array_equal(corpus.documents["num_words"], encoded.words)
    assert_array_equal(corpus.documents["truncated"], encoded.truncated)
    assert corpus.tokeniser == tokeniser


def test_large_vocabularies_take_wider_ids(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(65_535)]
    at_edge = WordTokeniser(tuple(words[:-1]))  # with unknown and padding 65,536 ids
    past = WordTokeniser(tuple(words))
    for tokeniser, dtype in ((at_edge, np.uint16), (past, np.int32)):
        corpus = write_corpus(tmp_path / "corpus", [notes("w0 w65533 w65534 x")], tokeniser)
        assert corpus.tokens.dtype == dtype
        last = 65_534 if tokeniser is past else tokeniser.unk_id
        assert corpus.document(0).tolist() == [0, 65_533, last, tokeniser.unk_id]


def test_an_empty_corpus(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", [], TOKENISER)
    assert len(corpus) == 0 and corpus.positions([]).tolist() == []


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([notes("a").drop("hadm_id")], "lack the columns hadm_id"),
        ([notes("a", None)], "note n1 has no text"),
        ([notes("a"), notes("b", "c").with_columns(note_id=pl.lit("n7"))], "note n7 comes twice"),
        ([notes("a"), notes("b")], "note n0 comes twice"),
    ],
)
def test_notes_that_are_none(tmp_path: Path, batches: list[pl.DataFrame], words: str) -> None:
    with pytest.raises(WardroundError, match=words):
        write_corpus(tmp_path / "corpus", batches, TOKENISER)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["tokens.npy", "offsets.npy", "documents.parquet"])
def test_a_damaged_corpus_is_refused(corpus: Corpus, name: str) -> None:
    path = corpus.folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(WardroundError, match=f"{name} has .* bytes, not"):
        Corpus.open(corpus.folder)
    path.write_bytes(b"x" * len(content))
    with pytest.raises(WardroundError, match="is damaged"):
        Corpus.open(corpus.folder)
    path.unlink()
    with pytest.raises(WardroundError, match=f"{name} is missing"):
        Corpus.open(corpus.folder)


def test_arrays_of_another_corpus_are_refused(corpus: Corpus) -> None:
    np.save(corpus.folder / "offsets.npy", corpus.offsets + 1)
    with pytest.raises(WardroundError, match="do not fit"):
        Corpus.open(corpus.folder)


def test_a_damaged_manifest_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    path = corpus.folder / "corpus.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"layout": 2}))
    with pytest.raises(WardroundError, match="layout 2"):
        Corpus.open(corpus.folder)
    path.write_text("{")
    with pytest.raises(WardroundError, match="is damaged"):
        Corpus.open(corpus.folder)
    with pytest.raises(WardroundError, match="holds no corpus"):
        Corpus.open(tmp_path)


def test_a_failure_leaves_the_old_corpus(corpus: Corpus) -> None:
    def failing() -> Iterator[pl.DataFrame]:
        yield notes("heart", first=50)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_corpus(corpus.folder, failing(), TOKENISER)
    assert len(Corpus.open(corpus.folder)) == 4
    assert [path.name for path in corpus.folder.parent.iterdir()] == ["corpus"]
    assert len(write_corpus(corpus.folder, [notes("heart")], TOKENISER)) == 1


KILLED = """
import os, signal, sys, pathlib
import polars as pl
from wardround.views.text import WordTokeniser, write_corpus
def batches():
    for i in range(3):
        yield pl.DataFrame({"note_id": [f"n{i}"], "subject_id": [1], "hadm_id": [2], "text": ["a"]})
    os.kill(os.getpid(), signal.SIGKILL)
write_corpus(pathlib.Path(sys.argv[1]), batches(), WordTokeniser(("a",)))
"""


def test_a_killed_write_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not folder.exists() and len([*tmp_path.iterdir()]) == 1  # what it was writing
    with pytest.raises(WardroundError, match="holds no corpus"):
        Corpus.open(folder)
    write_corpus(folder, BATCHES, TOKENISER)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_memory_is_that_of_a_batch(tmp_path: Path) -> None:
    """Of 24 batches, the last 18 (22 MB of text, 14 MB of tokens) take no more than the first."""
    words = [f"w{i}" for i in range(70_000)]
    tokeniser = WordTokeniser(tuple(words), max_words=None)
    drawn = np.random.default_rng(0).integers(0, 70_000, (400, 500))
    texts = pl.Series("text", [" ".join(words[i] for i in row) for row in drawn])
    resident: list[int] = []

    def batches(count: int) -> Iterator[pl.DataFrame]:
        for number in range(count):
            yield notes(*[""] * 400, first=400 * number).with_columns(texts + f" {number}")
            gc.collect()
            resident.append(psutil.Process().memory_info().rss)

    corpus = write_corpus(tmp_path / "corpus", batches(24), tokeniser)
    assert len(corpus.tokens) == 4_800_000 and corpus.tokens.dtype == np.int32
    grown = max(resident[6:]) - max(resident[:6])
    assert grown < 10e6, f"{grown / 1e6:.0f} MB"


def test_words_of_train_subjects_alone(tmp_path: Path) -> None:
    """From notes to ids: a word of a held-out subject is unknown in the corpus, too."""
    batches = [notes("heart failure", "heart mild", "heart zebra", "zebra")]
    tokeniser = fit_words(batches, [100], min_documents=1)
    corpus = write_corpus(tmp_path / "corpus", batches, tokeniser)
    names: list[Any] = [tokeniser.tokens(corpus.document(i)) for i in range(4)]
    assert names == [["heart", "failure"], ["heart", "mild"], ["heart", "<UNK>"], ["<UNK>"]]
