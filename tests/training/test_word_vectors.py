"""Word vectors: planted synonyms, rows, what stays, and reproducibility."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wardround.errors import WardroundError
from wardround.training import word_vectors
from wardround.training.multilabel import TokenDocuments
from wardround.training.word_vectors import WordVectors, fit_word_vectors

TOPICS, VOCABULARY = 6, 60


def packed(notes: list[list[int]]) -> TokenDocuments:
    offsets = np.concatenate([[0], np.cumsum([len(words) for words in notes])])
    return TokenDocuments(np.concatenate(notes).astype(np.uint16), offsets)


def corpus(count: int = 150) -> TokenDocuments:
    """Sentences of a topic; words t and t + 6 are said one for the other among its words."""
    rng = np.random.default_rng(0)
    notes = []
    for _ in range(count):
        words: list[int] = []
        for topic in rng.integers(0, TOPICS, 8):
            around = (12 + topic * 8 + rng.integers(0, 8, 6)).tolist()
            around[3] = int(topic + TOPICS * rng.integers(0, 2))
            words += around
        notes.append(words)
    return packed(notes)


def fit(documents: TokenDocuments | None = None, **options) -> WordVectors:
    given = {"width": 16, "epochs": 8, **options}
    return fit_word_vectors(corpus() if documents is None else documents, VOCABULARY, **given)


def test_planted_synonyms_are_near() -> None:
    found = fit()
    rows = found.matrix[found.recode[: 2 * TOPICS]]
    near = rows @ rows.T
    np.fill_diagonal(near, -1)
    assert near.argmax(1).tolist() == [*range(6, 12), *range(6)]


def test_rows() -> None:
    documents = corpus()
    found = fit(documents)
    assert found.matrix.dtype == np.float32 and found.matrix.shape == (len(found.words) + 2, 16)
    np.testing.assert_allclose(np.linalg.norm(found.matrix[:-1], axis=1), 1, rtol=1e-5)
    assert not found.matrix[-1].any() and found.padding == len(found.matrix) - 1
    unknown = np.random.default_rng(0).standard_normal(16)
    np.testing.assert_allclose(found.matrix[found.unknown], unknown / np.linalg.norm(unknown), 1e-5)
    counts = np.bincount(documents.tokens, minlength=VOCABULARY)[found.words]
    assert (np.diff(counts) <= 0).all()
    assert found.recode[found.words].tolist() == list(range(len(found.words)))


def test_words_of_few_documents_go(monkeypatch) -> None:
    monkeypatch.setattr(word_vectors, "COUNTED", 7)  # several blocks
    notes = [[1, 2, 2, 2, 5], [1, 2, 9], [1, 3, 9, 9], [], [3, 1, 9]]
    found = fit(packed(notes))
    assert found.words.tolist() == [1, 9]  # each four times: the lower number first
    assert found.recode.tolist() == [0 if w == 1 else 1 if w == 9 else 2 for w in range(60)]
    two = fit(packed(notes), documents_at_least=2)
    assert set(two.words.tolist()) == {1, 2, 3, 9}
    with pytest.raises(WardroundError, match="no word is in 3 of 2 documents"):
        fit(packed(notes[:2]))
    with pytest.raises(WardroundError, match="from 1 to 60, the vocabulary has 60"):
        fit(packed([[1, 60]] * 3))


def test_only_chosen_documents_and_their_beginnings_are_read() -> None:
    documents = corpus(40)
    chosen = np.arange(0, 40, 2)
    copied = packed([words[:9].tolist() for words in documents.select(chosen)])
    part = TokenDocuments(documents.tokens, documents.offsets, limit=9, chosen=chosen)
    np.testing.assert_array_equal(fit(part).matrix, fit(copied).matrix)


def test_seeds() -> None:
    first, again, other = fit(seed=1), fit(seed=1), fit(seed=2)
    np.testing.assert_array_equal(first.matrix, again.matrix)
    assert np.abs(first.matrix - other.matrix).max() > 0.01


def test_long_documents_are_read_to_their_end(monkeypatch) -> None:
    whole = fit()
    monkeypatch.setattr(word_vectors, "SENTENCE", 20)
    cut = fit()
    assert cut.words.tolist() == whole.words.tolist()
    near = (cut.matrix[:-1] * whole.matrix[:-1]).sum(1)
    assert 0.5 < near[:-1].mean() < 0.9999


@pytest.mark.slow
def test_the_same_in_another_process() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import zlib, test_word_vectors as t\nprint(zlib.crc32(t.fit().matrix.tobytes()))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert len(seen) == 1
