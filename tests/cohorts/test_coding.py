"""Documents and labels of medical coding, rule by rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from wardround.cohorts.coding import (
    CodeSelector,
    CodingCohort,
    CodingOptions,
    chapters,
    coding_documents,
    read_coding,
    write_coding,
)
from wardround.errors import WardroundError
from wardround.store import NOTE_SCHEMA, PatientStore, StoreWriter, open_store
from wardround.views.text import fit_words, write_corpus

DISCHARGE = datetime(2150, 6, 15, 12)
NOTE_COLUMNS = {
    "note_id": pl.String,
    "subject_id": pl.Int64,
    "hadm_id": pl.Int64,
    "note_type": pl.String,
    "note_seq": pl.Int32,
    "time": pl.Datetime("us"),
    "available_time": pl.Datetime("us"),
    "text": pl.String,
}
ALL = CodingOptions(min_count=1)


@dataclass(frozen=True)
class NotedStore(PatientStore):
    """A store whose notes are a frame; they lie in the shard of their subject's events."""

    frame: pl.DataFrame = field(default_factory=pl.DataFrame, repr=False)

    @property
    def has_notes(self) -> bool:
        return bool(len(self.frame))

    def notes(self, note_type: Any = None, *, shards: Any = None) -> pl.LazyFrame:
        found = self.frame.lazy()
        if shards is not None:
            subjects = self.events(shards).select("subject_id").unique()
            found = found.join(subjects, on="subject_id", how="semi", maintain_order="left")
        if note_type is not None:
            wanted = [note_type] if isinstance(note_type, str) else list(note_type)
            found = found.filter(pl.col("note_type").is_in(wanted))
        return found


def with_notes(store: PatientStore, notes: list[dict[str, Any]]) -> NotedStore:
    return NotedStore(store.path, store.provenance, pl.DataFrame(notes, schema=NOTE_COLUMNS))


class Ward:
    """Collects admissions with their codes and notes."""

    def __init__(self, make_store: Callable[..., PatientStore]) -> None:
        self._make = make_store
        self.events: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []

    def codes(self, subject: int, hadm: int | None, *codes: str) -> None:
        """Event codes of an admission; "9:4019", "10:I10", "9p:0066", "10p:…" are ICD codes."""
        for code in codes:
            version, colon, plain = code.partition(":")
            if colon:
                table = "PROCEDURE" if version.endswith("p") else "DIAGNOSIS"
                code = f"{table}//ICD//{version.rstrip('p')}//{plain}"
            row = {"subject_id": subject, "time": DISCHARGE, "code": code, "hadm_id": hadm}
            self.events.append(row)

    def note(
        self,
        subject: int,
        hadm: int | None,
        text: str | None = None,
        *,
        hours: float = 0,
        note_type: str = "discharge",
    ) -> str:
        note = f"{subject}-{len(self.notes)}"
        time = DISCHARGE + timedelta(hours=hours)
        text = f"note of {hadm}" if text is None else text
        values = (note, subject, hadm, note_type, 1, time, time, text)
        self.notes.append(dict(zip(NOTE_COLUMNS, values, strict=True)))
        return note

    def write(self, shards: int = 1) -> NotedStore:
        return with_notes(self._make(self.events, shards=shards), self.notes)


@pytest.fixture
def ward(make_store: Callable[..., PatientStore]) -> Ward:
    return Ward(make_store)


def everybody(store: PatientStore, split: str = "train") -> pl.DataFrame:
    return store.splits().with_columns(split=pl.lit(split))


def code(store: PatientStore, system: Any, **how: Any) -> CodingCohort:
    how = {"options": ALL, "splits": everybody(store)} | how
    return coding_documents(store, code_system=system, **how)


def codes_by_admission(cohort: CodingCohort) -> dict[int, set[str]]:
    hadm = cohort.documents["hadm_id"]
    return {hadm[i]: set(cohort.codes_of(i)) for i in range(len(cohort))}


def steps(cohort: CodingCohort) -> list[tuple[int, int]]:
    return [(step.rows, step.subjects) for step in cohort.flow]


# How codes are printed, and which version they are of


def test_codes_are_printed_with_their_dots_and_zeros(ward: Ward) -> None:
    ward.codes(1, 10, "9:0389", "9:4019", "9:V1582", "9:E8859", "9:E885", "9:042", "9:V30")
    ward.codes(1, 10, "9p:0066", "9p:3722", "9p:93")
    ward.codes(1, 11, "10:I10", "10:I509", "10:E1140", "10p:0210093", "10p:3E0436Z")
    ward.note(1, 10), ward.note(1, 11)
    store = ward.write()
    nine, ten = code(store, "icd9"), code(store, "icd10")
    diagnoses = ["038.9", "042", "401.9", "E885", "E885.9", "V15.82", "V30"]
    assert nine.codes == [*diagnoses, "00.66", "37.22", "93"]
    assert nine.labels["kind"].to_list() == ["diagnosis"] * 7 + ["procedure"] * 3
    assert ten.codes == ["E11.40", "I10", "I50.9", "0210093", "3E0436Z"]
    assert not any(c.endswith(".") for c in nine.codes + ten.codes)


def test_an_admission_belongs_to_the_versions_that_it_has_codes_of(ward: Ward) -> None:
    ward.codes(1, 10, "9:4019"), ward.note(1, 10)
    ward.codes(1, 11, "10:I10"), ward.note(1, 11)
    ward.codes(2, 20, "9:4019", "10p:0210093"), ward.note(2, 20)
    ward.codes(3, 30, "HCPCS//SOMETHING"), ward.note(3, 30)
    store = ward.write()
    assert codes_by_admission(code(store, "icd9")) == {10: {"401.9"}, 20: {"401.9"}}
    assert codes_by_admission(code(store, "icd10")) == {11: {"I10"}, 20: {"0210093"}}


def test_codes_of_the_emergency_department_and_of_no_admission_do_not_count(ward: Ward) -> None:
    ward.codes(1, 10, "10:I10", "ED//DIAGNOSIS//ICD//10//R079", "PROCEDURE//START//225401")
    ward.codes(1, None, "10:J189")
    ward.codes(1, 11, "10:A419")  # of another admission, which has no note
    ward.note(1, 10)
    assert codes_by_admission(code(ward.write(), "icd10")) == {10: {"I10"}}


def test_a_repeated_code_is_one_label(ward: Ward) -> None:
    ward.codes(1, 10, "10:I10", "10:I10", "10:I50.9", "10:I509"), ward.note(1, 10)
    cohort = code(ward.write(), "icd10")
    assert cohort.codes == ["I10", "I50.9"]
    assert cohort.targets.toarray().tolist() == [[1, 1]]
    assert cohort.labels["count"].to_list() == [1, 1]


def test_published_spelling_finds_its_column(ward: Ward) -> None:
    ward.codes(1, 10, "10:I10", "10:I509", "10p:0210093"), ward.note(1, 10)
    cohort = code(ward.write(), "icd10")
    found = cohort.positions(["I10.", "0210093", "I50.9", "I10", "Z99", "I509"])
    assert found.tolist() == [0, 2, 1, 0, -1, -1]


# Which notes are documents


@pytest.fixture
def odd_notes(ward: Ward) -> NotedStore:
    """Subject 1: three notes of admission 10, two of them alike, then a blank and a null one."""
    ward.codes(1, 10, "10:I10")
    ward.codes(1, 11, "10:I10")
    ward.codes(2, 20, "10:A419")
    ward.note(1, 10, "second", hours=2)
    ward.note(1, 10, "first", hours=1)
    ward.note(1, 10, "second", hours=3)
    ward.note(1, 10, " \n", hours=4)
    ward.note(1, 11, "second")  # the same text of another admission is no repeat
    ward.note(2, 20, "alone")
    ward.note(2, 20, "a chest film", note_type="radiology")
    ward.note(2, 20, "addendum", note_type="discharge_addendum", hours=1)
    ward.note(2, None, "of no admission")
    ward.notes.append(ward.notes[-1] | {"note_id": "2-9", "hadm_id": 20, "text": None})
    return ward.write()


def texts(store: PatientStore, cohort: CodingCohort) -> list[tuple[str, str]]:
    read = pl.concat(cohort.texts(store))
    return [*zip(read["note_id"], read["text"], strict=True)]


def test_notes_of_an_admission_are_joined_in_the_order_of_their_times(
    odd_notes: NotedStore,
) -> None:
    cohort = code(odd_notes, "icd10")
    expected = [("1-4", "second"), ("1-1", "first\n\nsecond"), ("2-5", "alone")]
    assert sorted(texts(odd_notes, cohort)) == sorted(expected)
    joined = cohort.documents.row(by_predicate=pl.col("note_id") == "1-1", named=True)
    assert joined["note_ids"] == ["1-1", "1-0"]
    assert joined["time"] == joined["available_time"] == DISCHARGE + timedelta(hours=2)
    # Of 8 discharge notes 6 have text, 5 an admission … counted by hand.
    assert steps(cohort) == [(8, 2), (6, 2), (5, 2), (4, 2), (3, 2), (3, 2), (3, 2)]


def test_the_last_note_alone(odd_notes: NotedStore) -> None:
    cohort = code(odd_notes, "icd10", options=CodingOptions(several="last", min_count=1))
    assert sorted(texts(odd_notes, cohort)) == [
        ("1-0", "second"),
        ("1-4", "second"),
        ("2-5", "alone"),
    ]


@pytest.mark.parametrize(
    "options",
    [
        CodingOptions(several="separate", min_count=1),
        CodingOptions(paper_compat=True, min_count=1),
    ],
)
def test_each_note_a_document(odd_notes: NotedStore, options: CodingOptions) -> None:
    cohort = code(odd_notes, "icd10", options=options)
    notes = sorted(texts(odd_notes, cohort))
    assert notes == [("1-0", "second"), ("1-1", "first"), ("1-4", "second"), ("2-5", "alone")]
    i10 = cohort.codes.index("I10")
    assert cohort.labels["count"][i10] == 3  # a vote of each document


def test_other_types_of_note(odd_notes: NotedStore) -> None:
    options = CodingOptions(note_types=("discharge", "discharge_addendum"), min_count=1)
    cohort = code(odd_notes, "icd10", options=options)
    assert ("2-5", "alone\n\naddendum") in texts(odd_notes, cohort)


def test_texts_come_in_the_order_of_the_documents(ward: Ward) -> None:
    for subject in range(1, 31):
        hadm = 100 + subject
        ward.codes(subject, hadm, "10:I10"), ward.note(subject, hadm)
    store = ward.write(shards=3)
    cohort = coding_documents(store, options=ALL)
    read = pl.concat(cohort.texts(store))
    assert_frame_equal(
        read.drop("text"), cohort.documents.select("note_id", "subject_id", "hadm_id")
    )
    assert read["text"].to_list() == [f"note of {hadm}" for hadm in read["hadm_id"]]
    for split in ("train", "tuning", "held_out"):
        part = cohort.documents[cohort.rows(split)]
        assert set(part["split"]) <= {split}
        found = [frame["note_id"] for frame in cohort.texts(store, split)]
        assert [note for notes in found for note in notes] == part["note_id"].to_list()
    assert set(cohort.documents["shard"]) == set(store.shards)


def test_texts_of_another_store(ward: Ward) -> None:
    ward.codes(1, 10, "10:I10"), ward.note(1, 10)
    store = ward.write()
    cohort = code(store, "icd10")
    other = NotedStore(store.path, store.provenance, store.frame.clear())
    with pytest.raises(WardroundError, match="no note 1-0"):
        list(cohort.texts(other))


# Which codes are labels


@pytest.fixture
def rare(ward: Ward) -> tuple[NotedStore, pl.DataFrame]:
    """Subjects 1 to 10 train, 11 to 20 are held out. I10 has 10 rows, 5 of them in train."""
    for subject in range(1, 21):
        hadm = 100 + subject
        ward.note(subject, hadm)
        if subject <= 10:
            ward.codes(subject, hadm, "10:E119")  # 10 in train, 0 held out
        else:
            ward.codes(subject, hadm, "10:A419")  # 0 in train, 10 held out
        if (subject % 2 and subject <= 10) or subject > 15:
            ward.codes(subject, hadm, "10:I10")
        if subject <= 9:
            ward.codes(subject, hadm, "10p:0210093")  # 9 in train and in all
    store = ward.write()
    side = pl.when(pl.col("subject_id") <= 10).then(pl.lit("train")).otherwise(pl.lit("held_out"))
    return store, store.splits().with_columns(split=side)


def test_rare_codes_are_counted_among_training_subjects(rare: Any) -> None:
    store, splits = rare
    cohort = coding_documents(store, splits=splits)
    assert cohort.codes == ["E11.9"]
    assert cohort.labels.select("count", "documents").row(0) == (10, 10)
    assert set(cohort.documents["split"]) == {"train"}  # the others have no label left
    assert (cohort.flow[-2].rows, cohort.flow[-1].rows) == (20, 10)
    assert cohort.coverage.rows() == [("train", 24, 10), ("tuning", 0, 0), ("held_out", 15, 0)]


def test_published_rare_codes_are_counted_among_all(rare: Any) -> None:
    store, splits = rare
    cohort = coding_documents(store, splits=splits, options=CodingOptions(paper_compat=True))
    assert cohort.codes == ["A41.9", "E11.9", "I10"]  # the procedure has 9 rows
    assert cohort.labels["count"].to_list() == [10, 10, 10]
    assert len(cohort) == 20
    assert cohort.coverage["kept"].to_list() == [15, 0, 15]


def test_min_count_is_inclusive(rare: Any) -> None:
    store, splits = rare
    for least, expected in ((9, ["E11.9", "0210093"]), (5, ["E11.9", "I10", "0210093"])):
        cohort = coding_documents(store, splits=splits, options=CodingOptions(min_count=least))
        assert cohort.codes == expected


def test_most_frequent_codes(rare: Any) -> None:
    store, splits = rare
    two = coding_documents(store, code_system="icd10-2", splits=splits)
    assert two.codes == ["E11.9", "0210093"]  # in training; no rule of ten
    assert len(two) == 10
    compat = CodingOptions(paper_compat=True)
    tied = coding_documents(store, code_system="icd10-2", splits=splits, options=compat)
    assert tied.codes == ["A41.9", "E11.9"]  # three have ten: the first by name
    many = coding_documents(store, code_system="icd10-50", splits=splits)
    assert many.codes == ["E11.9", "I10", "0210093"]


def test_targets_are_the_codes_of_the_documents(rare: Any) -> None:
    store, splits = rare
    cohort = coding_documents(store, splits=splits, options=CodingOptions(min_count=5))
    events = store.events().collect()
    for row, hadm in enumerate(cohort.documents["hadm_id"]):
        own = set(events.filter(pl.col("hadm_id") == hadm)["code"])
        names = {"DIAGNOSIS//ICD//10//E119": "E11.9", "DIAGNOSIS//ICD//10//I10": "I10"}
        names["PROCEDURE//ICD//10//0210093"] = "0210093"
        expected = [c for event, c in names.items() if event in own]
        assert cohort.codes_of(row) == [c for c in cohort.codes if c in expected]
        assert cohort.targets[row].toarray().sum() == len(expected)
    assert cohort.targets.shape == (len(cohort), 3) and cohort.targets.dtype == np.int32


def test_other_code_systems(ward: Ward) -> None:
    ward.codes(
        1, 10, "HCPCS//Hospital observation", "HCPCS//Hospital observation", "LAB//50912//mg"
    )
    ward.codes(1, 11, "LAB//50912//mg", "LAB//51006//mg", "DRUG//aspirin")
    ward.note(1, 10), ward.note(1, 11)
    store = ward.write()
    billed = code(store, CodeSelector(r"^HCPCS//(?P<code>.+)$", name="HCPCS"))
    assert codes_by_admission(billed) == {10: {"Hospital observation"}}
    mixed = code(store, CodeSelector(r"^(?P<kind>LAB|DRUG)//(?P<code>\w+)"))
    assert mixed.codes == ["aspirin", "50912", "51006"]
    assert mixed.labels["kind"].to_list() == ["DRUG", "LAB", "LAB"]
    top = code(store, CodeSelector(r"^LAB//(?P<code>\d+)", top=1))
    assert codes_by_admission(top) == {10: {"50912"}, 11: {"50912"}}


# Splits


def test_a_split_may_be_made_of_what_is_to_be_split(ward: Ward) -> None:
    for subject in range(1, 13):
        ward.codes(subject, 100 + subject, "10:I10" if subject < 11 else "10:Z99")
        ward.note(subject, 100 + subject)
        if subject == 1:
            ward.codes(1, 200, "10:I10", "10:A419"), ward.note(1, 200)
    store = ward.write()
    seen = {}

    def halves(subjects: np.ndarray, labels: Any) -> pl.DataFrame:
        seen.update(subjects=subjects.tolist(), labels=labels.toarray().tolist())
        side = ["train" if s < 11 else "tuning" for s in sorted(set(subjects))]
        return pl.DataFrame({"subject_id": sorted(set(subjects)), "split": side})

    cohort = coding_documents(store, splits=halves)
    # Neither A41.9 nor Z99 is had by ten documents.
    assert sorted(seen["subjects"]) == [1, *range(1, 11)] and seen["labels"] == [[1]] * 11
    assert cohort.codes == ["I10"] and set(cohort.documents["split"]) == {"train"}


def test_the_stratified_split_fits(rare: Any) -> None:
    from wardround.cohorts.stratify import stratified_split

    store, _ = rare
    cohort = coding_documents(store, splits=stratified_split, options=CodingOptions(min_count=2))
    assert set(cohort.documents["split"]) >= {"train", "held_out"}
    by_subject = cohort.documents.group_by("subject_id").agg(pl.col("split").n_unique())
    assert by_subject["split"].max() == 1


def test_splits_that_do_not_fit(ward: Ward) -> None:
    ward.codes(1, 10, "10:I10"), ward.note(1, 10)
    ward.codes(2, 20, "10:I10"), ward.note(2, 20)
    store = ward.write()
    whole = everybody(store)
    twice = pl.concat([whole, whole.with_columns(split=pl.lit("tuning"))])
    for splits, words in (
        (whole.filter(pl.col("subject_id") == 1), r"1 subjects .* no split \(first: 2\)"),
        (whole.drop("split"), "lacks the column split"),
        (twice, "in several splits"),
        (whole.with_columns(split=pl.lit("test")), "the split 'test'"),
    ):
        with pytest.raises(WardroundError, match=words):
            code(store, "icd10", splits=splits)


def test_no_training_subject_no_label(ward: Ward) -> None:
    ward.codes(1, 10, "10:I10"), ward.note(1, 10)
    store = ward.write()
    with pytest.raises(WardroundError, match=r"no code of ICD-10 .* 1 training documents"):
        code(store, "icd10", splits=everybody(store, "held_out"))


# Mistakes


def test_mistakes_are_named(ward: Ward) -> None:
    ward.codes(1, 10, "10:I10")
    store = ward.write()
    with pytest.raises(WardroundError, match="ingest the note module"):
        code(store, "icd10")
    ward.note(1, 10)
    store = ward.write()
    for wrong in ("icd11", "icd10-0", "ICD10", "icd10-"):
        with pytest.raises(WardroundError, match="unknown code system"):
            code(store, wrong)
    with pytest.raises(WardroundError, match="unknown split 'test'"):
        code(store, "icd10").rows("test")


def test_selectors_and_options_are_checked() -> None:
    for pattern, words in (
        ("(", "no regular"),
        ("LAB//(.+)", "needs a group"),
        (r"(?P<code>a)\1", "no regular"),
    ):
        with pytest.raises(WardroundError, match=words):
            CodeSelector(pattern)
    with pytest.raises(WardroundError, match="top is 0"):
        CodeSelector("(?P<code>.)", top=0)
    with pytest.raises(WardroundError, match="choose one of concatenate"):
        CodingOptions(several="first")  # type: ignore[arg-type]
    with pytest.raises(WardroundError, match="min_count is 0"):
        CodingOptions(min_count=0)
    with pytest.raises(WardroundError, match="note_types is empty"):
        CodingOptions(note_types=())


# To disk and back


def test_a_cohort_comes_back(rare: Any, tmp_path: Path) -> None:
    store, splits = rare
    cohort = coding_documents(store, splits=splits, options=CodingOptions(min_count=5))
    write_coding(cohort, tmp_path / "cohort")
    again = read_coding(tmp_path / "cohort")
    assert_frame_equal(again.documents, cohort.documents)
    assert_frame_equal(again.labels, cohort.labels)
    assert_frame_equal(again.coverage, cohort.coverage)
    assert (again.name, again.flow) == (cohort.name, cohort.flow)
    assert (again.targets != cohort.targets).nnz == 0
    smaller = coding_documents(store, splits=splits)
    smaller.labels.write_parquet(tmp_path / "cohort" / "labels.parquet")
    with pytest.raises(WardroundError, match="3 codes beside"):
        read_coding(tmp_path / "cohort")
    (tmp_path / "cohort" / "targets.npz").unlink()
    with pytest.raises(WardroundError, match="no whole coding cohort"):
        read_coding(tmp_path / "cohort")


# Chapters


def test_chapters() -> None:
    nine = chapters(["038.9", "E885.9", "V30", "no"], 9)
    assert [name.split()[0] for name in nine[:3]] == ["001-139", "E000-E999", "V01-V91"]
    assert nine[3] == "unknown"
    mixed = chapters(["I10", "0210093", "I10"], 10, ["diagnosis", "procedure", "diagnosis"])
    assert mixed[0] == mixed[2] and mixed[0].startswith("I00-I99 ")
    assert mixed[1].startswith("0 ")
    assert chapters([], 10) == []
    with pytest.raises(WardroundError, match="1 kinds for 2 codes"):
        chapters(["I10", "I11"], 10, ["diagnosis"])


# On notes that lie in a store


def test_from_a_store_to_a_corpus(ward: Ward, tmp_path: Path) -> None:
    """Rows of the targets are documents of the corpus, whatever the shards."""
    for subject in range(1, 16):
        for hadm in range(10 * subject, 10 * subject + 1 + subject % 3):
            ward.codes(subject, hadm, "10:I10", *(["10:A419"] if hadm % 2 else []))
            ward.note(subject, hadm, f"Pressure of {hadm}x" + (" and fever" if hadm % 2 else ""))
    store = stored(ward, tmp_path / "noted")
    assert store.has_notes and len(store.shards) >= 3
    splits = everybody(store).with_columns(
        split=pl.when(pl.col("subject_id") < 12).then(pl.lit("train")).otherwise(pl.lit("tuning"))
    )
    cohort = coding_documents(store, splits=splits, options=ALL)
    train = splits.filter(pl.col("split") == "train")["subject_id"]
    tokeniser = fit_words(cohort.texts(store), train, min_documents=1)
    corpus = write_corpus(tmp_path / "corpus", cohort.texts(store), tokeniser)
    assert corpus.documents["note_id"].equals(cohort.documents["note_id"])
    fever = tokeniser.words.index("fever")
    has_fever = [fever in corpus.document(i) for i in range(len(corpus))]
    column = cohort.targets[:, cohort.codes.index("A41.9")].toarray().ravel()
    assert has_fever == (column == 1).tolist() and 0 < sum(has_fever) < len(cohort)
    for row in cohort.rows("tuning"):
        assert tokeniser.unk_id in corpus.document(row)  # its admission's own number


def stored(ward: Ward, path: Path) -> PatientStore:
    """The same store with the notes written into it, each in its subject's shard."""
    plain = ward.write(shards=3)
    with StoreWriter(path) as writer:
        for shard in plain.shards:
            events = plain.events([shard]).collect()
            writer.write_shard(shard, events)
            notes = plain.notes(shards=[shard]).sort("subject_id", "time", "note_seq").collect()
            empty = pl.from_arrow(NOTE_SCHEMA.empty_table())
            details = pl.lit([], empty["details"].dtype)  # type: ignore[call-overload]
            writer.write_notes(shard, notes.with_columns(details=details).select(empty.columns))
        writer.finish(
            codes=plain.codes().collect(),
            stays=plain.stays().collect(),
            splits=plain.splits(),
            provenance={"source": "test", "source_version": "0", "access": "synthetic"},
            dataset={"dataset_name": "test"},
        )
    return open_store(path)


# The real thing


@pytest.mark.parametrize("version", [9, 10])
def test_codes_of_the_demo(demo: PatientStore, shared_data: Path, version: int) -> None:
    """Counts against the demo's own tables; the notes are made up, one an admission."""
    folder = shared_data / "mimic-iv-demo" / "2.2" / "hosp"
    tables = {}
    for kind, name in (("diagnosis", "diagnoses_icd"), ("procedure", "procedures_icd")):
        path = next(folder.glob(f"{name}.csv*"))
        rows = pl.read_csv(path, schema_overrides={"icd_code": pl.String})
        rows = rows.filter(pl.col("icd_version") == version)
        tables[kind] = rows.select(
            "subject_id", "hadm_id", pl.col("icd_code").str.strip_chars()
        ).unique()
    admissions = pl.concat(tables.values()).select("subject_id", "hadm_id").unique().sort("hadm_id")
    notes = [
        dict(
            zip(
                NOTE_COLUMNS,
                (f"n{h}", s, h, "discharge", 1, DISCHARGE, DISCHARGE, f"note {h}"),
                strict=True,
            )
        )
        for s, h in admissions.iter_rows()
    ]
    store = with_notes(demo, notes)
    train = demo.splits().filter(pl.col("split") == "train")
    for options in (CodingOptions(), CodingOptions(paper_compat=True), ALL):
        cohort = coding_documents(store, code_system=f"icd{version}", options=options)
        expected = {}
        for kind, rows in tables.items():
            judges = rows if options.paper_compat else rows.join(train, on="subject_id", how="semi")
            counts = judges["icd_code"].value_counts().filter(pl.col("count") >= options.min_count)
            expected |= {(kind, c): n for c, n in counts.iter_rows()}
        found = cohort.labels.select(
            "kind", pl.col("code").str.replace(".", "", literal=True), "count"
        )
        assert {(k, c): n for k, c, n in found.iter_rows()} == expected
        for kind, rows in tables.items():
            wanted = pl.Series([c for k, c in expected if k == kind], dtype=pl.String)
            pairs = rows.filter(pl.col("icd_code").is_in(wanted.implode()))
            columns = np.flatnonzero((cohort.labels["kind"] == kind).to_numpy())
            assert cohort.targets[:, columns].nnz == len(pairs)
        described = cohort.labels["description"].null_count()
        assert described == 0
    assert {"401.9", "V15.82"} <= set(cohort.codes) or {"I10", "Z87.891"} <= set(cohort.codes)
