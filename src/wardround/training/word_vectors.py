"""Word vectors of a corpus: CBOW with negative sampling (Mikolov et al. 2013), by gensim.

As Edin et al., SIGIR 2023 (its `src/text_encoders/word2vec.py`) train those that their models begin
with. Training documents alone may take part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from wardround.errors import WardroundError
from wardround.progress import live
from wardround.training.multilabel import TokenDocuments

log = logging.getLogger("wardround")

#: Tokens that are counted at once.
COUNTED = 1 << 22
#: gensim reads no more of a sentence.
SENTENCE = 10_000


@dataclass(frozen=True)
class WordVectors:
    """Vectors of the words that stay, and where each word went.

    Attributes:
        words: (kept,) numbers of the words that stay, the most frequent first; ties by number.
        matrix: (kept + 2, width) float32; rows are of length 1. The row before the last is of
            unknown words, the last, zeros, of padding.
        recode: (vocabulary,) the row of each word; that of unknown for those that went.
    """

    words: np.ndarray
    matrix: np.ndarray
    recode: np.ndarray

    @property
    def unknown(self) -> int:
        """The row of unknown words."""
        return len(self.words)

    @property
    def padding(self) -> int:
        """The row of padding."""
        return len(self.words) + 1


def fit_word_vectors(
    documents: TokenDocuments,
    vocabulary: int,
    *,
    width: int = 100,
    epochs: int = 5,
    window: int = 5,
    documents_at_least: int = 3,
    seed: int = 0,
    threads: int = 1,
    what: str = "Word vectors",
) -> WordVectors:
    """Learn a vector of each word from the words around it.

    Every word takes part in learning; those in few documents go afterwards. Subsampling of frequent
    words (1e-3), negative words (5) and rates (0.025 to 0.0001) are gensim's defaults. Documents
    are read from where they lie, one at a time.

    Args:
        documents: training documents, words as numbers.
        vocabulary: how many words there are; numbers run from 0.
        width: of a vector.
        epochs: readings of all documents.
        window: words on either side, at most.
        documents_at_least: in so many documents must a word be to stay.
        seed: of everything random.
        threads: with one, two runs give the same vectors.
        what: the title of the progress bar.

    Raises:
        WardroundError: no word in enough documents, or a number that is no word.
    """
    counts, found_in = _counts(documents, vocabulary)
    kept = np.flatnonzero(found_in >= documents_at_least)
    if not len(kept):
        raise WardroundError(
            f"word vectors: no word is in {documents_at_least} of {len(documents)} documents"
        )
    kept = kept[np.argsort(-counts[kept], kind="stable")]
    learnt = _learn(documents, counts, width, epochs, window, seed, threads, what)
    matrix = np.zeros((len(kept) + 2, width), np.float32)
    matrix[: len(kept)] = learnt[kept]
    matrix[-2] = np.random.default_rng(seed).standard_normal(width)
    matrix[:-1] /= np.linalg.norm(matrix[:-1], axis=1, keepdims=True)
    recode = np.full(vocabulary, len(kept), np.int64)
    recode[kept] = np.arange(len(kept))
    log.info("word vectors: %d words stay of %d", len(kept), (counts > 0).sum())
    return WordVectors(kept, matrix, recode)


def _counts(documents: TokenDocuments, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each word occurs, and in how many documents: two of (vocabulary,)."""
    counts, found_in = np.zeros((2, vocabulary), np.int64)
    lengths = documents.lengths
    block = np.cumsum(lengths) // COUNTED
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    for begin, end in zip(starts, [*starts[1:], len(lengths)], strict=True):
        rows = np.arange(begin, end)
        words = np.concatenate([np.empty(0, np.int64), *documents.select(rows)]).astype(np.int64)
        if len(words) and not (words.min() >= 0 and words.max() < vocabulary):
            raise WardroundError(
                f"word vectors: words run from {words.min()} to {words.max()}, the vocabulary "
                f"has {vocabulary}"
            )
        counts += np.bincount(words, minlength=vocabulary)
        owner = np.repeat(np.arange(len(rows)), lengths[rows])
        once = np.unique(owner * vocabulary + words) % vocabulary
        found_in += np.bincount(once, minlength=vocabulary)
    return counts, found_in


def _learn(
    documents: TokenDocuments,
    counts: np.ndarray,
    width: int,
    epochs: int,
    window: int,
    seed: int,
    threads: int,
    what: str,
) -> np.ndarray:
    """(vocabulary, width); zeros for words that do not occur."""
    from gensim.models import Word2Vec  # takes seconds to import

    logging.getLogger("gensim").setLevel(logging.ERROR)
    model = Word2Vec(
        vector_size=width,
        window=window,
        min_count=0,
        sg=0,
        negative=5,
        epochs=epochs,
        seed=seed,
        workers=threads,
    )
    # The counts are known: gensim need not read the corpus once more to make them.
    seen = np.flatnonzero(counts)
    frequencies = dict(zip(seen.tolist(), counts[seen].tolist(), strict=True))
    model.build_vocab_from_freq(frequencies, corpus_count=len(documents))
    with live(what, epochs * len(documents)) as advance:
        corpus = _Corpus(documents, advance)
        # Rates fall by words read: a long document is several of gensim's examples.
        model.train(corpus, total_words=int(counts.sum()), epochs=epochs)
    learnt = np.zeros((len(counts), width), np.float32)
    learnt[np.array(model.wv.index_to_key)] = model.wv.vectors
    return learnt


class _Corpus:
    """Documents as lists of words, as often as gensim asks for them."""

    def __init__(self, documents: TokenDocuments, advance: Callable[[str], None]) -> None:
        self.documents, self.advance = documents, advance

    def __iter__(self) -> Iterator[list[int]]:
        for document in self.documents:
            for at in range(0, len(document), SENTENCE):
                yield document[at : at + SENTENCE].tolist()
            self.advance("")
