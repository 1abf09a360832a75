"""A tokenised corpus: the notes of a cohort as flat arrays on disk, mapped when read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wardround.errors import WardroundError
from wardround.progress import track
from wardround.store import atomic_write
from wardround.views.text.tokenise import (
    SubwordTokeniser,
    TextTokeniser,
    WordTokeniser,
    load_tokeniser,
)
from wardround.views.timeline.arrays import ArrayWriter

MANIFEST = "corpus.json"
#: Version of the layout of the folder.
LAYOUT = 1

_TOKENS, _OFFSETS, _DOCUMENTS, _TOKENISER = (
    "tokens.npy",
    "offsets.npy",
    "documents.parquet",
    "tokeniser",
)
#: Documents tokenised at once.
_BATCH = 1_000

#: One row a document, in the order of the tokens. `num_words`: of the cleaned note, before any
#: cut; `num_tokens`: as stored, special tokens included.
DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("hadm_id", pa.int64()),
        pa.field("num_words", pa.int32(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Corpus:
    """Token ids of documents.

    Attributes:
        folder: where it lies.
        tokens: uint16 or int32 ids, shape (total,), mapped from disk: the tokens of document i are
            `tokens[offsets[i]:offsets[i + 1]]`.
        offsets: int64, shape (n + 1,).
        documents: `DOCUMENT_SCHEMA`, n rows.
    """

    folder: Path
    tokens: np.ndarray = field(repr=False)
    offsets: np.ndarray = field(repr=False)
    documents: pl.DataFrame = field(repr=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64 (n,)."""
        lengths: np.ndarray = np.diff(self.offsets)
        return lengths

    @cached_property
    def tokeniser(self) -> WordTokeniser | SubwordTokeniser:
        """What made the tokens."""
        return load_tokeniser(self.folder / _TOKENISER)

    def document(self, index: int) -> np.ndarray:
        """Ids of one document: a view of the mapped file, read-only.

        Raises:
            IndexError: `index` is not in [0, n).
        """
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of a corpus of {len(self)}")
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def positions(self, note_ids: Sequence[str] | pl.Series) -> np.ndarray:
        """Numbers of documents by their note ids, int64.

        Raises:
            WardroundError: a note has no document.
        """
        wanted = pl.Series("note_id", note_ids, dtype=pl.String)
        found = (
            wanted.to_frame()
            .join(
                self.documents.select("note_id").with_row_index("position"),
                on="note_id",
                how="left",
                maintain_order="left",
            )["position"]
            .cast(pl.Int64)
        )
        if found.null_count():
            raise WardroundError(
                f"note {wanted.filter(found.is_null())[0]} is none of the {len(self):,} documents "
                f"of the corpus {self.folder}; write the corpus of this cohort"
            )
        return found.to_numpy()

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Map the folder that `write_corpus` made.

        Raises:
            WardroundError: nothing there, or a file is missing or not what it was.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise WardroundError(f"{folder} holds no corpus (no {MANIFEST}); tokenise the notes")
        try:
            manifest = json.loads(path.read_text())
            files, layout = dict(manifest["files"]), int(manifest["layout"])
        except (ValueError, KeyError, TypeError) as error:
            raise WardroundError(
                f"{path} is damaged ({type(error).__name__}: {error}); tokenise the notes again"
            ) from error
        if layout != LAYOUT:
            raise WardroundError(
                f"{folder} has layout {layout}, this version reads {LAYOUT}; tokenise the notes "
                "again"
            )
        for name, size in files.items():
            file = folder / name
            length = file.stat().st_size if file.is_file() else None
            if length != size:
                what = "is missing" if length is None else f"has {length:,} bytes, not {size:,}"
                raise WardroundError(
                    f"the corpus {folder} is damaged: {name} {what}; tokenise the notes again"
                )
        try:
            # Plain views: memmap's own indexing runs Python code at each access.
            tokens = np.load(folder / _TOKENS, mmap_mode="r").view(np.ndarray)
            offsets = np.load(folder / _OFFSETS)
            documents = pl.read_parquet(folder / _DOCUMENTS, glob=False)
            fits = (
                len(offsets) == len(documents) + 1
                and offsets[0] == 0
                and offsets[-1] == len(tokens)
                and (np.diff(offsets) == documents["num_tokens"].to_numpy()).all()
            )
        except (ValueError, OSError, EOFError, pl.exceptions.PolarsError) as error:
            raise WardroundError(
                f"the corpus {folder} is damaged ({error}); tokenise the notes again"
            ) from error
        if not fits:
            raise WardroundError(
                f"the corpus {folder} is damaged: its arrays do not fit; tokenise the notes again"
            )
        return cls(folder, tokens, offsets, documents)


def write_corpus(
    folder: str | Path,
    notes: Iterable[pl.DataFrame],
    tokeniser: TextTokeniser,
    *,
    total: int | None = None,
) -> Corpus:
    """Tokenise notes and write them to a folder, which stands there whole or not at all.

    Memory holds one batch of notes at a time and the tokens of a thousand documents.

    Args:
        folder: replaced if there is one.
        notes: `note_id` (each once), `subject_id`, `hadm_id`, `text`, a batch (a shard) at a time,
            such as `CodingCohort.texts` gives; other columns are ignored.
        tokeniser: fitted on training subjects.
        total: number of batches, for the progress bar.

    Raises:
        WardroundError: a column is missing, a text or id is null, or a note comes twice.
    """
    folder = Path(folder)
    dtype = np.uint16 if len(tokeniser) <= np.iinfo(np.uint16).max + 1 else np.int32
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        tokeniser.save(temporary / _TOKENISER)
        seen = pl.Series(dtype=pl.UInt64)
        end = 0
        with (
            ArrayWriter(temporary / _TOKENS, dtype) as tokens,
            ArrayWriter(temporary / _OFFSETS, np.int64) as offsets,
            pq.ParquetWriter(temporary / _DOCUMENTS, DOCUMENT_SCHEMA) as documents,
        ):
            offsets.append(np.zeros(1, np.int64))
            for batch in track(notes, "Tokenising", total):
                seen = _check(batch, seen)
                for first in range(0, len(batch), _BATCH):
                    part = batch.slice(first, _BATCH)
                    encoded = tokeniser.encode(part["text"])
                    tokens.append(encoded.tokens)
                    offsets.append(encoded.offsets[1:] + end)
                    end += len(encoded.tokens)
                    rows = part.select("note_id", "subject_id", "hadm_id").with_columns(
                        num_words=pl.Series(encoded.words),
                        num_tokens=pl.Series(np.diff(encoded.offsets)),
                        truncated=pl.Series(encoded.truncated),
                    )
                    documents.write_table(rows.to_arrow().cast(DOCUMENT_SCHEMA))
        files = {
            str(path.relative_to(temporary)): path.stat().st_size
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        (temporary / MANIFEST).write_text(json.dumps({"layout": LAYOUT, "files": files}, indent=1))
    return Corpus.open(folder)


def _check(batch: pl.DataFrame, seen: pl.Series) -> pl.Series:
    """Refuse what is no batch of notes; return hashes of the note ids so far."""
    needed = ("note_id", "subject_id", "hadm_id", "text")
    missing = [name for name in needed if name not in batch.columns]
    if missing:
        raise WardroundError(
            f"notes lack the columns {', '.join(missing)} (found: {', '.join(batch.columns)})"
        )
    for name in ("note_id", "subject_id", "text"):
        if batch[name].null_count():
            which = batch.filter(pl.col(name).is_null())["note_id"][0]
            raise WardroundError(
                f"note {which} has no {name}; leave out such notes before tokenising"
            )
    # Hashes, since ids of millions of notes as text would outweigh the batch.
    seen = pl.concat([seen, batch["note_id"].hash()])
    if seen.n_unique() < len(seen):
        repeated = batch.filter(
            pl.col("note_id").hash().is_in(seen.filter(seen.is_duplicated()).implode())
        )
        raise WardroundError(
            f"note {repeated['note_id'][0]} comes twice; each document needs an id of its own"
        )
    return seen
