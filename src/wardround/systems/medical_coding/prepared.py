"""Documents, codes, splits and tokens of each code system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import polars as pl

from wardround import __version__
from wardround.cohorts import (
    CodeSelector,
    CodingCohort,
    CodingOptions,
    coding_documents,
    read_coding,
    stratified_split,
    write_coding,
    write_splits,
)
from wardround.errors import WardroundError
from wardround.progress import track
from wardround.store import PatientStore
from wardround.systems.medical_coding.config import MedicalCodingConfig
from wardround.training import TokenDocuments
from wardround.views.text import (
    CLEAN,
    PUBLISHED,
    RAW,
    CleaningOptions,
    Corpus,
    TextTokeniser,
    fit_words,
    read_pretrained,
    train_bpe,
    write_corpus,
)
from wardround.workdir import Workdir

#: Kinds of tokens.
WORDS, SUBWORDS = "words", "subwords"


@dataclass(frozen=True)
class Coding:
    """One code system: where its cohort and its tokens lie."""

    name: str
    folder: Path
    tokens: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def cohort(self) -> CodingCohort:
        return read_coding(self.folder / "cohort")

    def corpus(self, kind: str) -> Corpus:
        """The documents as words or sub-words, in the order of the cohort."""
        return Corpus.open(self.tokens[kind] / "corpus")

    def split(self, kind: str, split: str) -> TokenDocuments:
        """The documents of a split, as training takes them."""
        corpus = self.corpus(kind)
        return TokenDocuments(corpus.tokens, corpus.offsets, chosen=self.cohort.rows(split))


@dataclass(frozen=True)
class Prepared:
    """What fitting and evaluation read; `skipped` holds the reasons of systems left out."""

    store: PatientStore
    codings: dict[str, Coding]
    skipped: dict[str, str] = field(default_factory=dict)


def prepare(store: PatientStore, config: MedicalCodingConfig, workdir: Workdir) -> Prepared:
    """Build the stages that the models share, or find them.

    Raises:
        WardroundError: the store has no notes, or no code system has documents.
    """
    prepared = Prepared(store, {})
    for name in track(config.code_systems, "Code systems"):
        try:
            prepared.codings[name] = _prepare(name, store, config, workdir)
        except WardroundError as error:
            if not store.has_notes:
                raise
            prepared.skipped[name] = str(error)
    if not prepared.codings:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in prepared.skipped.items())
        raise WardroundError(f"{store.path} gives no documents with codes ({reasons})")
    return prepared


def _prepare(
    name: str, store: PatientStore, config: MedicalCodingConfig, workdir: Workdir
) -> Coding:
    inputs = {
        "store": store.fingerprint,
        "version": __version__,
        "documents": config.documents.model_dump(),
        "pattern": config.patterns.get(name),
        "published": config.paper_compat,
    }

    def build(folder: Path) -> None:
        cohort = _cohort(name, store, config)
        write_coding(cohort, folder / "cohort")
        splits = cohort.documents.select("subject_id", "split").unique().sort("subject_id")
        write_splits(splits, folder / "subject_splits.parquet")

    coding = Coding(name, workdir.stage(f"work/{name}/documents", build, inputs=inputs))
    wanted = [WORDS] * config.needs_words + [SUBWORDS] * config.needs_subwords
    for kind in wanted:
        coding.tokens[kind] = _tokenise(kind, coding, store, config, workdir)
    return coding


def _cohort(name: str, store: PatientStore, config: MedicalCodingConfig) -> CodingCohort:
    own = config.documents
    pattern = config.patterns.get(name)
    by_codes = partial(stratified_split, seed=own.split_seed, paper_compat=config.paper_compat)
    cohort = coding_documents(
        store,
        code_system=name if pattern is None else CodeSelector(pattern, name=name),
        options=CodingOptions(
            several=own.several, min_count=own.min_count, paper_compat=config.paper_compat
        ),
        splits=by_codes if own.split == "stratified" else None,
    )
    for split in ("tuning", "held_out"):
        if not len(cohort.rows(split)):
            raise WardroundError(f"no {split} document has a code of {name}")
    return cohort


def cleaning_of(config: MedicalCodingConfig) -> CleaningOptions:
    """What is done to notes before they are cut into tokens."""
    if config.text.cleaning == "raw":
        return RAW
    return PUBLISHED if config.paper_compat else CLEAN


def _tokenise(
    kind: str, coding: Coding, store: PatientStore, config: MedicalCodingConfig, workdir: Workdir
) -> Path:
    cohort = coding.cohort
    train = cohort.documents["subject_id"].gather(cohort.rows("train"))

    def texts() -> Iterator[pl.DataFrame]:
        return cohort.texts(store)

    def tokeniser() -> TextTokeniser:
        cleaning, words = cleaning_of(config), config.text.max_words
        if kind == WORDS:
            least = config.text.min_documents
            return fit_words(
                texts(), train, min_documents=least, cleaning=cleaning, max_words=words
            )
        if config.encoder.path is not None:
            return read_pretrained(config.encoder.path, cleaning=cleaning, max_words=words)
        return train_bpe(
            texts(),
            train,
            vocabulary_size=config.text.subwords,
            cleaning=cleaning,
            max_words=words,
        )

    def build(folder: Path) -> None:
        shards = cohort.documents["shard"].n_unique()
        write_corpus(folder / "corpus", texts(), tokeniser(), total=shards)

    inputs = {
        "documents": workdir.fingerprint(f"work/{coding.name}/documents"),
        "text": config.text.model_dump(),
        "published": config.paper_compat,
    }
    if kind == SUBWORDS:
        inputs["encoder"] = config.file_hashes()
    return workdir.stage(f"work/{coding.name}/{kind}", build, inputs=inputs)
