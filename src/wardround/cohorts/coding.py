"""Discharge notes and the codes that their admissions were billed with (Edin et al. 2023).

This is coding and no prognosis. A discharge summary is written when all is over, billing codes are
assigned after that, and both become available at or after the discharge: a model reads the answer
in another form. Neither these notes nor these labels belong into a task that predicts anything
during the stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix, load_npz, save_npz

from wardround.cohorts.cohort import Flow, FlowStep
from wardround.errors import WardroundError
from wardround.ontology import CodeKind, describe_codes, dotted_icd, parse_icd_event_code
from wardround.store import SPLITS, PatientStore, atomic_write

#: A code stays that so many documents have (Edin et al. 2023).
MIN_COUNT = 10

Several = Literal["concatenate", "last", "separate"]
#: From the subject of each document, (n,) int64, and the codes of each, (n, codes), to a frame of
#: `subject_id`, `split`. `wardround.cohorts.stratify.stratified_split` is one.
SplitMaker = Callable[[np.ndarray, csr_matrix], pl.DataFrame]

_ICD_SYSTEM = re.compile(r"icd(9|10)(?:-([1-9]\d*))?")
_ICD_EVENTS = ("DIAGNOSIS//ICD//", "PROCEDURE//ICD//")
#: Between the notes of one admission.
_JOIN = "\n\n"

_ADMISSION = ["subject_id", "hadm_id"]
_LABEL = ["kind", "code"]
_DOCUMENTS, _LABELS, _TARGETS, _FLOW, _COVERAGE, _NAME = (
    "documents.parquet",
    "labels.parquet",
    "targets.npz",
    "flow.parquet",
    "coverage.parquet",
    "name.json",
)


@dataclass(frozen=True)
class CodeSelector:
    """Which events of the store are labels, for code systems other than ICD.

    Attributes:
        pattern: a regular expression over event codes; its group `code` is the label, and a group
            `kind`, if there is one, the kind of code. `^HCPCS//(?P<code>.+)$` takes procedures
            billed by HCPCS, `^LAB//(?P<code>\\d+)` the labs that were taken.
        top: keep the so many most frequent codes; None: those that are frequent enough.
        name: of the code system.
    """

    pattern: str
    top: int | None = None
    name: str = "codes"

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.pattern).groupindex
            pl.select(pl.lit("").str.extract(self.pattern, 1))  # polars has rules of its own
        except (re.error, pl.exceptions.PolarsError) as error:
            raise WardroundError(
                f"the code pattern {self.pattern!r} is no regular expression ({error})"
            ) from error
        if "code" not in groups:
            raise WardroundError(
                f"the code pattern {self.pattern!r} needs a group (?P<code>…) around the label"
            )
        if self.top is not None and self.top < 1:
            raise WardroundError(f"top is {self.top}, expected at least 1, or None for all")


@dataclass(frozen=True)
class CodingOptions:
    """Rules of a coding cohort; the published ones where the paper's are sound.

    Attributes:
        note_types: notes that make a document. MIMIC-IV keeps addenda apart, as
            `discharge_addendum`.
        several: of several notes of an admission, join them in the order of their times, keep the
            `last`, or make each a document (`separate`), which gives an admission several
            predictions and several votes. None: `concatenate`.
        min_count: codes of fewer documents are no labels.
        paper_compat: as published. Codes are counted over all documents, those held out included,
            so that which codes exist is learned from them, too; `several` is `separate`.
    """

    note_types: tuple[str, ...] = ("discharge",)
    several: Several | None = None
    min_count: int = MIN_COUNT
    paper_compat: bool = False

    def __post_init__(self) -> None:
        if self.several is not None and self.several not in get_args(Several):
            raise WardroundError(
                f"several is {self.several!r}; choose one of {', '.join(get_args(Several))}"
            )
        if self.min_count < 1:
            raise WardroundError(f"min_count is {self.min_count}, expected at least 1")
        if not self.note_types:
            raise WardroundError("note_types is empty; name the notes to code, such as discharge")

    @property
    def treatment(self) -> Several:
        """What becomes of several notes of an admission."""
        return self.several or ("separate" if self.paper_compat else "concatenate")


@dataclass(frozen=True)
class CodingCohort:
    """Documents, the codes that may be given to them, and those that were.

    Attributes:
        name: of the code system.
        documents: one row a document, in the order in which `texts` reads them: `note_id` (of its
            first note; unique), `subject_id`, `hadm_id`, `note_type`, `time` and `available_time`
            (of the last of its notes), `note_ids` (all of them, in order), `shard`, `split`.
        labels: one row a column of `targets`: `code` (as printed: I50.9, 038.9 with its zero, I10
            without a dot at its end), `kind` (diagnosis, procedure, or what a selector
            says), `description` (null if the store has none), `count` (of the documents it was
            chosen by) and `documents` (of this cohort).
        targets: int32 0 or 1, shape (documents, labels), sparse.
        flow: the rules that led to it; rows are notes, then documents.
        coverage: of each split, `pairs` of document and code, and how many `kept`: the rest has
            codes that are no labels, which no model here can give.
    """

    name: str
    documents: pl.DataFrame = field(repr=False)
    labels: pl.DataFrame = field(repr=False)
    targets: csr_matrix = field(repr=False)
    flow: list[FlowStep] = field(default_factory=list, repr=False)
    coverage: pl.DataFrame = field(default_factory=pl.DataFrame, repr=False)

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def codes(self) -> list[str]:
        """Labels, in the order of the columns of `targets`."""
        return self.labels["code"].to_list()

    def codes_of(self, document: int) -> list[str]:
        """Codes of one document."""
        columns = self.targets.indices[
            self.targets.indptr[document] : self.targets.indptr[document + 1]
        ]
        return self.labels["code"].gather(np.sort(columns)).to_list()

    def rows(self, split: str) -> np.ndarray:
        """Numbers of the documents of a split, int64, ascending."""
        if split not in SPLITS:
            raise WardroundError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        return np.flatnonzero((self.documents["split"] == split).to_numpy())

    def positions(self, codes: Sequence[str]) -> np.ndarray:
        """Columns of codes, int64; -1 for those that are no labels.

        A dot at the end is passed over: published label sets spell I10 as "I10.".
        """
        wanted = pl.Series(codes, dtype=pl.String).str.strip_chars_end(".")
        own = self.labels["code"]
        columns = pl.int_range(len(own), eager=True, dtype=pl.Int64)
        return wanted.replace_strict(own, columns, default=-1, return_dtype=pl.Int64).to_numpy()

    def texts(self, store: PatientStore, split: str | None = None) -> Iterator[pl.DataFrame]:
        """Read the documents' texts, a shard at a time.

        Args:
            store: the one that the cohort is of.
            split: documents of this split alone.

        Yields:
            `note_id`, `subject_id`, `hadm_id`, `text`: put together, the rows of `documents` in
            their order. Notes of one document stand with an empty line between them.

        Raises:
            WardroundError: the store lacks a note of the cohort.
        """
        chosen = self.documents
        if split is not None:
            chosen = chosen[self.rows(split)]
        for (shard,), rows in chosen.group_by("shard", maintain_order=True):
            yield _read_texts(store, str(shard), rows)


def coding_documents(
    store: PatientStore,
    *,
    code_system: str | CodeSelector = "icd10",
    options: CodingOptions | None = None,
    splits: pl.DataFrame | SplitMaker | None = None,
) -> CodingCohort:
    """Build the documents and labels of a coding task; see the module on what this is not.

    Rules, in order: notes of the wanted types with text and an admission; of notes of one
    admission with the same text the first; several notes of an admission as the options say; the
    admission has a code of the system; of repeated codes of an admission one; codes that are rare
    are no labels, counted among documents, diagnoses and procedures apart; documents without a
    label go.

    Which codes are labels is learned from training subjects, since for the others that is what is
    to be predicted. `paper_compat` counts over everybody.

    Args:
        store: with notes.
        code_system: "icd9" or "icd10": billed diagnoses and procedures of that version. With a
            number, "icd10-50": the so many most frequent codes, without the rule of rare ones. Or
            a selector of other events.
        options: the rules; None: the defaults.
        splits: `subject_id`, `split`, or what makes them of documents and codes (of codes that
            are not rare over all documents). None: the store's own.

    Raises:
        WardroundError: no notes, no codes or no label; an unknown system; a subject without a
            split.
    """
    options = options or CodingOptions()
    system = _system(code_system)
    if not store.has_notes:
        raise WardroundError(
            f"coding reads notes, and {store.path} has none; ingest the note module too"
        )
    parts = store.map_shards(lambda shard: _read_shard(store, shard, system, options), what="Codes")
    flow = Flow(
        pl.concat([part.notes for part in parts]), f"{' and '.join(options.note_types)} notes"
    )
    flow.keep(pl.col("has_text"), "with text")
    flow.keep(pl.col("hadm_id").is_not_null(), "of an admission")
    flow.keep(~pl.col("repeat"), "repeats nothing of the admission")
    _make_documents(flow, options.treatment)
    assigned = pl.concat([part.codes for part in parts])
    coded = assigned.select(*_ADMISSION, coded=True).unique()
    flow.frame = flow.frame.join(coded, on=_ADMISSION, how="left", maintain_order="left")
    flow.keep(pl.col("coded").is_not_null(), f"the admission has a code of {system.name}")
    flow.frame = flow.frame.drop("coded").with_row_index("document")
    pairs = flow.frame.select("document", *_ADMISSION).join(assigned, on=_ADMISSION)
    flow.frame = _add_splits(flow.frame, pairs, store, splits, system, options)

    everybody = options.paper_compat
    judges = flow.frame if everybody else flow.frame.filter(pl.col("split") == "train")
    labels = _choose_labels(pairs.join(judges, on="document", how="semi"), system, options)
    whose = "documents" if everybody else "training documents"
    if not len(labels):
        raise WardroundError(
            f"no code of {system.name} is given to {options.min_count} {whose} (there are "
            f"{len(judges):,} with a code); lower min_count, or check the split"
        )
    chosen = pairs.join(labels.select(*_LABEL).with_row_index("label"), on=_LABEL)
    flow.frame = flow.frame.join(
        chosen.select("document", labelled=True).unique(),
        on="document",
        how="left",
        maintain_order="left",
    )
    coverage = _coverage(flow.frame, pairs, chosen)
    if system.top is None:
        rule = f"has a code that {options.min_count} {whose} have"
    else:
        rule = f"has one of the {len(labels)} most frequent codes of {whose}"
    flow.keep(pl.col("labelled").is_not_null(), rule)
    return _assemble(store, system, flow, labels, chosen, coverage)


def write_coding(cohort: CodingCohort, folder: Path) -> None:
    """Write a cohort to a folder that `read_coding` reads; it holds ids and codes, and no text."""
    with atomic_write(Path(folder)) as temporary:
        temporary.mkdir()
        cohort.documents.write_parquet(temporary / _DOCUMENTS)
        cohort.labels.write_parquet(temporary / _LABELS)
        cohort.coverage.write_parquet(temporary / _COVERAGE)
        flow = [{"step": s.step, "rows": s.rows, "subjects": s.subjects} for s in cohort.flow]
        schema = {"step": pl.String, "rows": pl.Int64, "subjects": pl.Int64}
        pl.DataFrame(flow, schema=schema).write_parquet(temporary / _FLOW)
        save_npz(temporary / _TARGETS, cohort.targets)
        (temporary / _NAME).write_text(json.dumps({"name": cohort.name}), "utf-8")


def read_coding(folder: Path) -> CodingCohort:
    """Read what `write_coding` wrote.

    Raises:
        WardroundError: a file is missing, or they do not belong together.
    """
    folder = Path(folder)
    try:
        name = json.loads((folder / _NAME).read_text("utf-8"))["name"]
        documents, labels, coverage, flow = (
            pl.read_parquet(folder / file, glob=False)
            for file in (_DOCUMENTS, _LABELS, _COVERAGE, _FLOW)
        )
        targets = csr_matrix(load_npz(folder / _TARGETS))
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise WardroundError(f"{folder} holds no whole coding cohort: {error}") from error
    if targets.shape != (len(documents), len(labels)):
        raise WardroundError(
            f"{folder} holds targets of {targets.shape[0]} documents and {targets.shape[1]} codes "
            f"beside {len(documents)} documents and {len(labels)} codes; build the cohort again"
        )
    steps = [FlowStep(**row) for row in flow.iter_rows(named=True)]
    return CodingCohort(name, documents, labels, targets, steps, coverage)


def chapters(
    codes: Sequence[str], version: int, kind: CodeKind | Sequence[CodeKind] = "diagnosis"
) -> list[str]:
    """Name the chapter that each ICD code lies in, for reports by chapter.

    Args:
        codes: in any spelling.
        version: 9 or 10.
        kind: of all codes, or of each.

    Returns:
        Such as "I00-I99 Diseases of the circulatory system"; for ICD-10-PCS the section
        ("0 Medical and Surgical"); "unknown" where no chapter holds the code.
    """
    kinds = [kind] * len(codes) if isinstance(kind, str) else list(kind)
    if len(kinds) != len(codes):
        raise WardroundError(f"there are {len(kinds)} kinds for {len(codes)} codes")
    asked = pl.DataFrame(
        {"icd_code": codes, "kind": kinds},
        schema={"icd_code": pl.String, "kind": pl.String},
    ).with_columns(icd_version=pl.lit(version, pl.Int64))
    found = [
        describe_codes(asked.filter(pl.col("kind") == one), kind=one).select(
            "icd_code",
            pl.lit(one).alias("kind"),
            name=pl.concat_str("chapter", "chapter_title", separator=" ", ignore_nulls=True),
            known=pl.col("chapter").is_not_null(),
        )
        for one in get_args(CodeKind)
    ]
    names = asked.join(pl.concat(found), on=["icd_code", "kind"], how="left", maintain_order="left")
    known = pl.when(pl.col("known")).then(pl.col("name")).fill_null("unknown")
    return names.select(known)["name"].to_list()


class _System(NamedTuple):
    """A code system: a filter of events, and (kind, code) of an event code."""

    name: str
    events: pl.Expr
    kind: pl.Expr
    code: pl.Expr
    top: int | None


class _ShardPart(NamedTuple):
    notes: pl.DataFrame
    codes: pl.DataFrame


def _system(code_system: str | CodeSelector) -> _System:
    event = pl.col("code")
    if isinstance(code_system, CodeSelector):
        groups = re.compile(code_system.pattern).groupindex
        pattern = code_system.pattern
        kind = event.str.extract(pattern, groups["kind"]) if "kind" in groups else pl.lit("code")
        code = event.str.extract(pattern, groups["code"]).str.strip_chars()
        wanted = event.str.contains(pattern)
        return _System(code_system.name, wanted, kind, code, code_system.top)
    match = _ICD_SYSTEM.fullmatch(code_system)
    if match is None:
        raise WardroundError(
            f"unknown code system {code_system!r}; choose icd9, icd10, one of them with a number "
            "of codes (icd10-50), or pass a CodeSelector"
        )
    version = int(match[1])
    parsed = parse_icd_event_code(event)
    kind, plain = parsed.struct.field("kind"), parsed.struct.field("icd_code")
    dotted = pl.when(kind == "procedure").then(dotted_icd(plain, pl.lit(version), "procedure"))
    code = dotted.otherwise(dotted_icd(plain, pl.lit(version), "diagnosis"))
    starts = [event.str.starts_with(f"{prefix}{version}//") for prefix in _ICD_EVENTS]
    top = None if match[2] is None else int(match[2])
    return _System(f"ICD-{version}", pl.any_horizontal(starts), kind, code, top)


def _read_shard(
    store: PatientStore, shard: str, system: _System, options: CodingOptions
) -> _ShardPart:
    """Ids of a shard's notes and codes of their admissions; text is looked at and let go."""
    notes = (
        store.notes(options.note_types, shards=[shard])
        .select(
            "note_id",
            *_ADMISSION,
            "note_type",
            "note_seq",
            "time",
            "available_time",
            has_text=pl.col("text").str.contains(r"\S").fill_null(False),
            text=pl.col("text").hash(),
            shard=pl.lit(shard),
        )
        .sort("subject_id", "time", "note_seq", "note_id", maintain_order=True)
        .collect()
    )
    again = ~pl.struct("hadm_id", "text").is_first_distinct()
    notes = notes.with_columns(repeat=again.over("has_text")).drop("text")
    events = store.events([shard]).filter(system.events, pl.col("hadm_id").is_not_null())
    codes = (
        events.select(*_ADMISSION, kind=system.kind, code=system.code)
        .drop_nulls()
        .join(notes.lazy(), on=_ADMISSION, how="semi")
        .unique()
        .collect()
    )
    return _ShardPart(notes, codes)


def _make_documents(flow: Flow, several: Several) -> None:
    """Turn a flow of notes into one of documents."""
    notes = flow.frame.drop("has_text", "repeat", "note_seq")
    if several == "concatenate":
        last = pl.col("note_type", "time", "shard").last()
        flow.frame = notes.group_by(_ADMISSION, maintain_order=True).agg(
            pl.col("note_id").first(),
            last,
            pl.col("available_time").max(),
            note_ids=pl.col("note_id"),
        )
        flow.keep(pl.lit(True), "an admission's notes are one document")
        return
    flow.frame = notes.with_columns(note_ids=pl.concat_list("note_id"))
    if several == "last":
        flow.keep(pl.struct(_ADMISSION).is_last_distinct(), "the last note of the admission")


def _add_splits(
    documents: pl.DataFrame,
    pairs: pl.DataFrame,
    store: PatientStore,
    splits: pl.DataFrame | SplitMaker | None,
    system: _System,
    options: CodingOptions,
) -> pl.DataFrame:
    """Add `split`."""
    if splits is None:
        frame = store.splits()
    elif isinstance(splits, pl.DataFrame):
        frame = splits
    else:
        # What is rare among all documents is rare in every part of them: such codes are no labels
        # whoever is asked, and documents without another will go. Neither should sway the split.
        least = 1 if system.top is not None else options.min_count
        common = pairs.filter(pl.len().over(_LABEL) >= least)
        held = documents.join(common, on="document", how="semi")
        matrix = _matrix(held["document"], common.select(*_LABEL).unique().sort(_LABEL), common)
        frame = splits(held["subject_id"].to_numpy(), matrix)
        rest = documents.join(held, on="subject_id", how="anti").select("subject_id").unique()
        frame = pl.concat(
            [frame.select("subject_id", "split"), rest.with_columns(split=pl.lit("train"))]
        )
    missing = [name for name in ("subject_id", "split") if name not in frame.columns]
    if missing:
        raise WardroundError(
            f"the split frame lacks the column {', '.join(missing)} (found: "
            f"{', '.join(frame.columns)})"
        )
    frame = frame.select("subject_id", "split").unique()
    twice = frame.filter(pl.col("subject_id").is_duplicated())
    if len(twice):
        raise WardroundError(
            f"subject {twice['subject_id'][0]} is in several splits; give each subject one"
        )
    odd = frame.filter(~pl.col("split").is_in(SPLITS))
    if len(odd):
        raise WardroundError(
            f"subject {odd['subject_id'][0]} is in the split {odd['split'][0]!r}; splits are "
            f"{', '.join(SPLITS)}"
        )
    placed = documents.join(frame, on="subject_id", how="left", maintain_order="left")
    lost = placed.filter(pl.col("split").is_null())
    if len(lost):
        raise WardroundError(
            f"{lost['subject_id'].n_unique():,} subjects with notes are in no split (first: "
            f"{lost['subject_id'][0]}); give a split for every subject of the store"
        )
    return placed


def _choose_labels(pairs: pl.DataFrame, system: _System, options: CodingOptions) -> pl.DataFrame:
    """`kind`, `code`, `count`: the labels in their order."""
    counts = pairs.group_by(_LABEL).agg(count=pl.len().cast(pl.Int64))
    if system.top is None:
        counts = counts.filter(pl.col("count") >= options.min_count)
    else:
        by_count = counts.sort("count", *_LABEL, descending=[True, False, False])
        counts = by_count.head(system.top)
    return counts.sort(_LABEL)


def _coverage(documents: pl.DataFrame, pairs: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    """Of each split, pairs of document and code, and those whose code is a label."""
    split = documents.select("document", "split")
    counts = (
        frame.join(split, on="document").group_by("split").agg(pl.len().cast(pl.Int64).alias(name))
        for frame, name in ((pairs, "pairs"), (chosen, "kept"))
    )
    all_splits = pl.DataFrame({"split": SPLITS}, schema={"split": pl.String})
    for count in counts:
        all_splits = all_splits.join(count, on="split", how="left", maintain_order="left")
    return all_splits.with_columns(pl.col("pairs", "kept").fill_null(0))


def _assemble(
    store: PatientStore,
    system: _System,
    flow: Flow,
    labels: pl.DataFrame,
    chosen: pl.DataFrame,
    coverage: pl.DataFrame,
) -> CodingCohort:
    targets = _matrix(flow.frame["document"], labels, chosen)
    described = (
        store.codes()
        .filter(system.events, pl.col("description").is_not_null())
        .select(kind=system.kind, code=system.code, description=pl.col("description"))
        .unique(_LABEL, keep="first", maintain_order=True)
        .collect()
    )
    labels = labels.join(described, on=_LABEL, how="left", maintain_order="left").select(
        "code",
        "kind",
        "description",
        "count",
        documents=pl.Series(np.asarray(targets.sum(axis=0)).ravel(), dtype=pl.Int64),
    )
    documents = flow.frame.select(
        "note_id",
        *_ADMISSION,
        "note_type",
        "time",
        "available_time",
        "note_ids",
        "shard",
        "split",
    )
    top = "" if system.top is None else f", the {system.top} most frequent"
    return CodingCohort(system.name + top, documents, labels, targets, flow.steps, coverage)


def _matrix(documents: pl.Series, labels: pl.DataFrame, pairs: pl.DataFrame) -> csr_matrix:
    """Documents x labels of pairs (`document`, `kind`, `code`); other pairs are passed over."""
    rows = documents.to_frame("document").with_row_index("row")
    columns = labels.select(*_LABEL).with_row_index("column")
    placed = (
        pairs.select("document", *_LABEL)
        .join(rows, on="document")
        .join(columns, on=_LABEL)
        .sort("row", "column")
    )
    ones = np.ones(len(placed), np.int32)
    index = (placed["row"].to_numpy(), placed["column"].to_numpy())
    return csr_matrix((ones, index), shape=(len(rows), len(columns)))


def _read_texts(store: PatientStore, shard: str, rows: pl.DataFrame) -> pl.DataFrame:
    wanted = rows.select("note_id", *_ADMISSION, part="note_ids").explode("part")
    texts = (
        store.notes(shards=[shard])
        .select(part=pl.col("note_id"), text=pl.col("text"))
        .join(wanted.lazy(), on="part", how="semi")
        .collect()
    )
    found = wanted.join(texts, on="part", how="left", maintain_order="left")
    lost = found.filter(pl.col("text").is_null())
    if len(lost):
        raise WardroundError(
            f"{store.path} has no note {lost['part'][0]}, which the cohort names; take both from "
            "the same store"
        )
    return found.group_by("note_id", *_ADMISSION, maintain_order=True).agg(
        pl.col("text").str.join(_JOIN)
    )
