"""Notes as token ids: words, byte pairs learned from the corpus, or a tokenizer from a folder.

Whatever is learned is learned from the notes of training subjects: the functions that fit ask for
them, and pass over the notes of everybody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import polars as pl

from wardround.errors import WardroundError
from wardround.store import atomic_write
from wardround.views.text.clean import (
    CLEAN,
    RAW,
    CleaningOptions,
    clean_text,
    count_words,
    first_words,
    split_words,
    trace_cleaning,
    words_with_spans,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: The first words of a note that are read (Edin et al. 2023: 4,000, before tokenisation).
MAX_WORDS = 4_000
#: A word stays in the vocabulary that so many training documents hold (Edin et al. 2023).
MIN_DOCUMENTS = 3

UNKNOWN, PADDING = "<UNK>", "<PAD>"
#: Where a special token, which stands for no character, is said to lie.
NO_SPAN = -1

DESCRIPTION = "tokeniser.json"
SUBWORDS = "tokenizer.json"
#: Version of the layout of a tokeniser's folder.
LAYOUT = 1

PreTokeniser = Literal["bytes", "words"]
_BPE_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
#: Documents tokenised at once: what a library keeps of each token takes a hundred bytes or more.
_SUBWORD_BATCH = 64
#: Documents counted at once, and rows of counts kept before they are added up.
_COUNT_BATCH, _COUNT_ROWS = 2_000, 2_000_000


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids of documents, one document after the other.

    Attributes:
        tokens: int32 ids, shape (total,), special tokens included.
        offsets: int64, shape (n + 1,): document i is `tokens[offsets[i]:offsets[i + 1]]`.
        words: int32, shape (n,): words of the cleaned document before any cut.
        truncated: bool, shape (n,): whether something was cut off.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    words: np.ndarray
    truncated: np.ndarray

    def __len__(self) -> int:
        return len(self.words)

    def document(self, index: int) -> np.ndarray:
        """Ids of one document."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


class TextTokeniser(Protocol):
    """What turns notes into ids; `len()` is the number of ids, special ones included.

    A note is cleaned, cut after `max_words` words, tokenised, and cut to `max_tokens` tokens, the
    special ones (`prefix`, `suffix`) included. Cutting into chunks is the model's work.
    """

    @property
    def kind(self) -> str:
        """`words` or `subwords`."""

    @property
    def cleaning(self) -> CleaningOptions:
        """What is done to a note first."""

    @property
    def max_words(self) -> int | None:
        """Words of a document that are read; None: all."""

    @property
    def max_tokens(self) -> int | None:
        """The longest sequence that `encode` gives; None: any length."""

    @property
    def pad_id(self) -> int:
        """Fills up a batch; never given by `encode`."""

    @property
    def unk_id(self) -> int | None:
        """Stands for what the vocabulary lacks; None where it lacks nothing."""

    @property
    def prefix(self) -> tuple[int, ...]:
        """Ids put before each document, such as [CLS] or <s>."""

    @property
    def suffix(self) -> tuple[int, ...]:
        """Ids put after each document, such as [SEP] or </s>."""

    def __len__(self) -> int: ...

    def encode(self, texts: pl.Series | Sequence[str | None]) -> EncodedTexts:
        """Tokenise documents; a null one is an empty one."""

    def spans(self, text: str) -> np.ndarray:
        """Where the tokens of one document stand in it.

        Returns:
            int64 (n, 2), as many rows as `encode` gives tokens: characters `[start, end)` of
            the note as written; (-1, -1) for special tokens.
        """

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Names of ids."""

    def save(self, folder: Path) -> None:
        """Write a folder that `load_tokeniser` reads."""


@dataclass(frozen=True)
class WordTokeniser:
    """Words of cleaned notes; ids follow frequency, then come unknown and, last, padding.

    Attributes:
        words: the vocabulary, the most frequent word first.
        documents: how many training documents hold each.
        counts: how often the training documents hold each.
        unknown_count: how often they hold words that the vocabulary lacks.
    """

    words: tuple[str, ...] = field(repr=False)
    documents: tuple[int, ...] = field(default=(), repr=False)
    counts: tuple[int, ...] = field(default=(), repr=False)
    unknown_count: int = 0
    cleaning: CleaningOptions = CLEAN
    max_words: int | None = MAX_WORDS
    max_tokens: int | None = None
    kind = "words"
    prefix: tuple[int, ...] = field(default=(), init=False, repr=False)
    suffix: tuple[int, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        _check_limits(self.max_words, self.max_tokens, 0)
        if len({*self.words, UNKNOWN, PADDING}) != len(self):
            raise WardroundError(
                f"a vocabulary names a word once, and neither {UNKNOWN} nor {PADDING}; this one "
                "repeats some"
            )

    def __len__(self) -> int:
        return len(self.words) + 2

    @property
    def unk_id(self) -> int:
        """Id of every word that the vocabulary lacks."""
        return len(self.words)

    @property
    def pad_id(self) -> int:
        """The last id."""
        return len(self.words) + 1

    @cached_property
    def _vocabulary(self) -> pl.Enum:
        return pl.Enum(pl.Series(self.words, dtype=pl.String))

    @property
    def _limit(self) -> int | None:
        limits = [limit for limit in (self.max_words, self.max_tokens) if limit is not None]
        return min(limits, default=None)

    def encode(self, texts: pl.Series | Sequence[str | None]) -> EncodedTexts:
        """Look up each word; see `TextTokeniser.encode`."""
        cleaned = clean_text(pl.col("text"), self.cleaning)
        words = _as_frame(texts).select(words=split_words(cleaned, self.cleaning))["words"]
        sizes = words.list.len().to_numpy().astype(np.int64)
        kept = sizes if self._limit is None else np.minimum(sizes, self._limit)
        if self._limit is not None:
            words = words.list.head(self._limit)
        flat = words.list.explode(empty_as_null=False)
        # Categories are numbered as the vocabulary is; what is none of them becomes null.
        ids = flat.cast(self._vocabulary, strict=False).to_physical().cast(pl.Int32)
        return EncodedTexts(
            ids.fill_null(self.unk_id).to_numpy(),
            _offsets(kept),
            sizes.astype(np.int32),
            kept < sizes,
        )

    def spans(self, text: str) -> np.ndarray:
        """Where each word stands; see `TextTokeniser.spans`."""
        return words_with_spans(text, self.cleaning, self._limit)[1]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Words of ids."""
        names = (*self.words, UNKNOWN, PADDING)
        return [names[i] for i in ids]

    def save(self, folder: Path) -> None:
        """Write a folder that `load_tokeniser` reads."""
        content = _description(self) | {
            "words": self.words,
            "documents": self.documents,
            "counts": self.counts,
            "unknown_count": self.unknown_count,
        }
        with atomic_write(Path(folder)) as temporary:
            temporary.mkdir()
            _write_json(temporary / DESCRIPTION, content)


@dataclass(frozen=True)
class SubwordTokeniser:
    """Parts of words, cut by a `tokenizers.Tokenizer`; made by `train_bpe`, `read_pretrained`.

    Text that spells a special token ("</s>") is tokenised as text.

    Attributes:
        backend: the library's tokenizer.
        pad_id, unk_id: as in `TextTokeniser`.
        specials: whether each document gets the tokenizer's own `prefix` and `suffix`.
    """

    backend: Tokenizer = field(repr=False, compare=False)
    pad_id: int
    unk_id: int | None
    cleaning: CleaningOptions = CLEAN
    max_words: int | None = MAX_WORDS
    max_tokens: int | None = None
    specials: bool = True
    kind = "subwords"

    def __post_init__(self) -> None:
        # Cuts and special tokens are ours to make; a tokenizer.json may carry settings of its own.
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True
        _check_limits(self.max_words, self.max_tokens, len(self.prefix) + len(self.suffix))

    def __len__(self) -> int:
        return self._size

    @cached_property
    def _size(self) -> int:
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if not self.specials:
            return (), ()
        probe = self.backend.encode("a")
        inner = [i for i, special in enumerate(probe.special_tokens_mask) if not special]
        if not inner:
            raise WardroundError("the tokenizer gives no token for the letter a; take another")
        return tuple(probe.ids[: inner[0]]), tuple(probe.ids[inner[-1] + 1 :])

    @property
    def prefix(self) -> tuple[int, ...]:
        """Ids put before each document."""
        return self._around[0]

    @property
    def suffix(self) -> tuple[int, ...]:
        """Ids put after each document."""
        return self._around[1]

    @property
    def _room(self) -> int | None:
        """Tokens of text that a sequence has room for."""
        if self.max_tokens is None:
            return None
        return self.max_tokens - len(self.prefix) - len(self.suffix)

    def encode(self, texts: pl.Series | Sequence[str | None]) -> EncodedTexts:
        """Cut documents into subwords; see `TextTokeniser.encode`."""
        cleaned, words = _clean(texts, self.cleaning, self.max_words)
        sizes = words.to_numpy().astype(np.int32)
        truncated = np.zeros(len(sizes), bool) if self.max_words is None else sizes > self.max_words
        room, before, after = self._room, self.prefix, self.suffix
        pieces: list[np.ndarray] = []
        for first in range(0, len(cleaned), _SUBWORD_BATCH):
            batch = cleaned.slice(first, _SUBWORD_BATCH).to_list()
            encodings = self.backend.encode_batch_fast(batch, add_special_tokens=False)
            for row, encoding in enumerate(encodings, first):
                ids = encoding.ids
                truncated[row] |= room is not None and len(ids) > room
                pieces.append(np.array([*before, *ids[:room], *after], np.int32))
        lengths = np.array([len(piece) for piece in pieces], np.int64)
        tokens = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
        return EncodedTexts(tokens, _offsets(lengths), sizes, truncated)

    def spans(self, text: str) -> np.ndarray:
        """Where each subword stands, without the space before it; see `TextTokeniser.spans`."""
        traced = trace_cleaning(text, self.cleaning).head(self.max_words)
        encoding = self.backend.encode(traced.cleaned, add_special_tokens=False)
        trimmed = [_trim(traced.cleaned, *span) for span in encoding.offsets[: self._room]]
        inner = traced.original_spans(np.array(trimmed, np.int64))
        around = [np.full((len(ids), 2), NO_SPAN, np.int64) for ids in self._around]
        return np.concatenate([around[0], inner, around[1]])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Subwords of ids, as the library spells them; "" for an id that it leaves out."""
        return [self.backend.id_to_token(int(i)) or "" for i in ids]

    def save(self, folder: Path) -> None:
        """Write a folder that `load_tokeniser` reads; needs the original folder no longer."""
        content = _description(self) | {
            "pad_id": self.pad_id,
            "unk_id": self.unk_id,
            "specials": self.specials,
        }
        with atomic_write(Path(folder)) as temporary:
            temporary.mkdir()
            self.backend.save(str(temporary / SUBWORDS))
            _write_json(temporary / DESCRIPTION, content)


def fit_words(
    notes: Iterable[pl.DataFrame],
    train_subjects: Iterable[int] | pl.Series,
    *,
    min_documents: int = MIN_DOCUMENTS,
    cleaning: CleaningOptions = CLEAN,
    max_words: int | None = MAX_WORDS,
    max_tokens: int | None = None,
) -> WordTokeniser:
    """Learn the words of the training subjects' notes.

    Args:
        notes: `subject_id`, `text`, a batch (a shard) at a time; gone through once.
        train_subjects: the notes of others are passed over.
        min_documents: a word stays that so many training documents hold; what a document holds
            past `max_words` does not count.
        cleaning, max_words, max_tokens: as in `TextTokeniser`.

    Raises:
        WardroundError: no training subject has a note, or no word is left.
    """
    _check_limits(max_words, max_tokens, 0)
    parts: list[pl.DataFrame] = []
    for texts in training_texts(notes, train_subjects):
        for first in range(0, len(texts), _COUNT_BATCH):
            parts.append(_word_counts(texts.slice(first, _COUNT_BATCH), cleaning, max_words))
            if sum(map(len, parts)) > _COUNT_ROWS:
                parts = [_add_up(parts)]
    counted = _add_up(parts)
    # A note may hold the name of a special token, which then is as unknown as any rare word.
    named = pl.col("word").is_in([UNKNOWN, PADDING])
    kept = counted.filter(pl.col("documents") >= min_documents, ~named)
    if not len(kept):
        raise WardroundError(
            f"no word occurs in {min_documents} training documents (there are {len(counted):,} "
            "words); lower min_documents or give more notes"
        )
    kept = kept.sort("count", "word", descending=[True, False])
    return WordTokeniser(
        tuple(kept["word"].to_list()),
        tuple(kept["documents"].to_list()),
        tuple(kept["count"].to_list()),
        int(counted["count"].sum()) - int(kept["count"].sum()),
        cleaning,
        max_words,
        max_tokens,
    )


def train_bpe(
    notes: Iterable[pl.DataFrame],
    train_subjects: Iterable[int] | pl.Series,
    *,
    vocabulary_size: int = 32_000,
    pre_tokeniser: PreTokeniser = "bytes",
    min_frequency: int = 2,
    cleaning: CleaningOptions = CLEAN,
    max_words: int | None = MAX_WORDS,
    max_tokens: int | None = None,
    specials: bool = True,
) -> SubwordTokeniser:
    """Learn byte-pair encoding (Sennrich et al. 2016) from the training subjects' notes.

    Args:
        notes, train_subjects: as for `fit_words`.
        vocabulary_size: at most so many ids, with the four special ones.
        pre_tokeniser: what a token never crosses. `bytes`: words and the space before them,
            spelled in bytes, so that no character is unknown (as GPT-2 and RoBERTa); `words`:
            words and punctuation, spelled in the characters of the training notes.
        min_frequency: a pair is merged that occurs so often.
        cleaning, max_words, max_tokens: as in `TextTokeniser`.
        specials: put <s> before and </s> after each document.

    Raises:
        WardroundError: no training subject has a note, or the vocabulary has no room for bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    _check_limits(max_words, max_tokens, 2 * specials)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if pre_tokeniser == "bytes" else []
    least = len(alphabet) + len(_BPE_SPECIALS)
    if pre_tokeniser not in get_args(PreTokeniser):
        raise WardroundError(
            f"unknown pre-tokeniser {pre_tokeniser!r}; choose one of "
            f"{', '.join(get_args(PreTokeniser))}"
        )
    if vocabulary_size <= least:
        raise WardroundError(
            f"vocabulary_size is {vocabulary_size}; it must exceed {least}, the special tokens"
            f"{' and the bytes' if alphabet else ''}"
        )
    backend = Tokenizer(models.BPE(unk_token=_BPE_SPECIALS[3]))
    if pre_tokeniser == "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
    else:
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_frequency,
        special_tokens=list(_BPE_SPECIALS),
        initial_alphabet=alphabet,
        show_progress=False,
    )

    def documents() -> Iterator[list[str]]:
        for texts in training_texts(notes, train_subjects):
            for first in range(0, len(texts), _COUNT_BATCH):
                batch = texts.slice(first, _COUNT_BATCH)
                yield _clean(batch, cleaning, max_words)[0].to_list()

    backend.train_from_iterator(documents(), trainer)
    # The trainer numbers them first, in this order.
    begin, pad, end, unknown = range(len(_BPE_SPECIALS))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{_BPE_SPECIALS[0]} $A {_BPE_SPECIALS[2]}",
        special_tokens=[(_BPE_SPECIALS[0], begin), (_BPE_SPECIALS[2], end)],
    )
    return SubwordTokeniser(backend, pad, unknown, cleaning, max_words, max_tokens, specials)


def read_pretrained(
    path: str | Path,
    *,
    cleaning: CleaningOptions = RAW,
    max_words: int | None = MAX_WORDS,
    max_tokens: int | None = None,
    specials: bool = True,
) -> SubwordTokeniser:
    """Read the tokenizer of a Hugging Face model from a folder; nothing is fetched.

    Args:
        path: a folder with `tokenizer.json`, or with files that transformers makes one from.
        cleaning: nothing is done to the notes unless told; PLM-ICD in Edin et al. 2023 reads
            `CLEAN` ones.
        max_words, max_tokens: as in `TextTokeniser`.
        specials: put the tokenizer's own special tokens around each document.

    Raises:
        WardroundError: no folder, no tokenizer in it, or one that cannot say where its tokens
            stand or has no padding token.
    """
    path = Path(path)
    if not path.is_dir():
        raise WardroundError(
            f"{path}: no such folder; download the model with its tokenizer and name the folder"
        )
    from transformers import AutoTokenizer

    try:
        found: Any = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # transformers raises what its readers happen to raise
        raise WardroundError(
            f"{path} holds no tokenizer that transformers reads ({_first_line(error)}); the "
            "folder needs tokenizer.json, or the vocabulary files of a known model"
        ) from error
    if not getattr(found, "is_fast", False):
        raise WardroundError(
            f"the tokenizer in {path} is a slow one, which cannot say where its tokens stand; "
            "convert it to a tokenizer.json"
        )
    if found.pad_token_id is None:
        raise WardroundError(f"the tokenizer in {path} has no padding token; give it one")
    # A copy: settings of ours do not reach the one that transformers holds.
    backend = type(found.backend_tokenizer).from_str(found.backend_tokenizer.to_str())
    return SubwordTokeniser(
        backend,
        int(found.pad_token_id),
        None if found.unk_token_id is None else int(found.unk_token_id),
        cleaning,
        max_words,
        max_tokens,
        specials,
    )


def load_tokeniser(folder: str | Path) -> WordTokeniser | SubwordTokeniser:
    """Read what `save` wrote.

    Raises:
        WardroundError: nothing there, or not that.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text("utf-8"))
        kind, layout = content.pop("kind"), content.pop("layout")
        if layout != LAYOUT or kind not in ("words", "subwords"):
            raise WardroundError(
                f"{path} is a tokeniser of kind {kind!r} and layout {layout}, which this version "
                "does not know; fit it again"
            )
        content["cleaning"] = CleaningOptions.from_dict(content["cleaning"])
        if kind == "words":
            for name in ("words", "documents", "counts"):
                content[name] = tuple(content[name])
            return WordTokeniser(**content)
        from tokenizers import Tokenizer

        # Bytes: the library's own error on a missing or broken file is a bare Exception.
        backend = Tokenizer.from_buffer((folder / SUBWORDS).read_bytes())
        return SubwordTokeniser(backend, **content)
    except FileNotFoundError as error:
        raise WardroundError(f"{error.filename}: no such file; fit the tokeniser again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise WardroundError(
            f"{path} is damaged ({type(error).__name__}: {_first_line(error)}); fit the tokeniser "
            "again"
        ) from error


def training_texts(
    notes: Iterable[pl.DataFrame], train_subjects: Iterable[int] | pl.Series
) -> Iterator[pl.Series]:
    """Texts of the training subjects, batch after batch.

    Args:
        notes: `subject_id`, `text`.
        train_subjects: whose notes to keep.

    Raises:
        WardroundError: a column is missing; or, at the end, no note was left.
    """
    subjects = pl.DataFrame({"subject_id": pl.Series(train_subjects, dtype=pl.Int64).unique()})
    found = False
    for batch in notes:
        missing = {"subject_id", "text"} - set(batch.columns)
        if missing:
            raise WardroundError(
                f"notes lack the columns {', '.join(sorted(missing))} (found: "
                f"{', '.join(batch.columns)})"
            )
        kept = batch.join(subjects, on="subject_id", how="semi")["text"].drop_nulls()
        if len(kept):
            found = True
            yield kept
    if not found:
        raise WardroundError(
            f"none of the {len(subjects):,} training subjects has a note; check the split, and "
            "that the notes are of the same source"
        )


def _as_frame(texts: pl.Series | Sequence[str | None]) -> pl.DataFrame:
    column = texts if isinstance(texts, pl.Series) else pl.Series(list(texts), dtype=pl.String)
    return pl.DataFrame({"text": column.cast(pl.String).fill_null("")})


def _clean(
    texts: pl.Series | Sequence[str | None], cleaning: CleaningOptions, max_words: int | None
) -> tuple[pl.Series, pl.Series]:
    """Cleaned documents cut to `max_words`, and their numbers of words before the cut."""
    frame = _as_frame(texts).select(clean_text(pl.col("text"), cleaning))
    frame = frame.with_columns(words=count_words(pl.col("text"), cleaning))
    return first_words(frame["text"], frame["words"], max_words), frame["words"]


def _word_counts(texts: pl.Series, cleaning: CleaningOptions, limit: int | None) -> pl.DataFrame:
    words = split_words(clean_text(pl.col("text"), cleaning), cleaning)
    lists = _as_frame(texts).select(word=words if limit is None else words.list.head(limit))
    return (
        lists.lazy()
        .with_row_index("document")
        .explode("word", empty_as_null=False)
        .group_by("document", "word")
        .agg(count=pl.len().cast(pl.Int64))
        .group_by("word")
        .agg(documents=pl.len().cast(pl.Int64), count=pl.col("count").sum())
        .collect()
    )


def _add_up(parts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(parts).group_by("word").agg(pl.col("documents", "count").sum())


def _trim(text: str, first: int, last: int) -> tuple[int, int]:
    """A span without the blanks at its ends."""
    while first < last and text[first].isspace():
        first += 1
    while first < last and text[last - 1].isspace():
        last -= 1
    return first, last


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _check_limits(max_words: int | None, max_tokens: int | None, specials: int) -> None:
    if max_words is not None and max_words < 1:
        raise WardroundError(f"max_words is {max_words}, expected at least 1, or None for no limit")
    if max_tokens is not None and max_tokens <= specials:
        raise WardroundError(
            f"max_tokens is {max_tokens}, expected more than the {specials} special tokens, or "
            "None for no limit"
        )


def _description(tokeniser: TextTokeniser) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "kind": tokeniser.kind,
        "cleaning": tokeniser.cleaning.to_dict(),
        "max_words": tokeniser.max_words,
        "max_tokens": tokeniser.max_tokens,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
