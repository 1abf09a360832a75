"""The hospital's notes: MIMIC-IV-Note's files, and an oracle that says where what is mentioned."""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from wardround.errors import WardroundError
from wardround.sources.hospital import chunk as chunk_module
from wardround.sources.hospital import generate as generate_module
from wardround.sources.hospital import generate_hospital
from wardround.sources.hospital.files import columns
from wardround.sources.hospital.notes import WIDTH, wrap
from wardround.sources.hospital.wording import misspell, name_code, reword_title, sentence

HEADINGS = """Name|Admission Date|Date of Birth|Service|Allergies|Attending|Chief Complaint
Major Surgical or Invasive Procedure|History of Present Illness|Past Medical History|Social History
Family History|Physical Exam|Pertinent Results|Brief Hospital Course|Medications on Admission
Discharge Medications|Discharge Disposition|Discharge Diagnosis|Discharge Condition
Discharge Instructions|Followup Instructions"""
SECTIONS = re.split(r"[|\n]", HEADINGS)
NOTE = "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text"
DETAIL = "note_id,subject_id,field_name,field_value,field_ordinal"
CODE = {"icd_code": pl.String}


@pytest.fixture(scope="module")
def folder(once: Any) -> Path:
    return once("hospital-notes", lambda path: generate_hospital(path, patients=250, seed=7))


@pytest.fixture(scope="module")
def table(folder: Path) -> Callable[[str], pl.DataFrame]:
    def read(name: str) -> pl.DataFrame:
        path = folder / f"{name}.csv.gz"
        whole = pl.read_csv(
            path, try_parse_dates=True, infer_schema_length=None, schema_overrides=CODE
        )
        return whole

    return read


@pytest.fixture(scope="module")
def mentions(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "oracle" / "mentions.parquet")


@pytest.fixture(scope="module")
def summaries(table: Callable[[str], pl.DataFrame]) -> pl.DataFrame:
    return table("note/discharge")


@pytest.fixture(scope="module")
def coded(table: Callable[[str], pl.DataFrame], summaries: pl.DataFrame) -> pl.DataFrame:
    """Codes of the admissions that have a summary."""
    kinds = (("diagnosis", "diagnoses"), ("procedure", "procedures"))
    frames = [
        table(f"hosp/{name}_icd").select("hadm_id", kind=pl.lit(kind), code="icd_code").unique()
        for kind, name in kinds
    ]
    return pl.concat(frames).join(summaries, on="hadm_id", how="semi")


def test_the_files_are_mimics_and_every_reader_reads_the_same(folder: Path) -> None:
    for name in ("discharge", "discharge_detail", "radiology", "radiology_detail"):
        path = folder / "note" / f"{name}.csv.gz"
        with gzip.open(path, "rt", newline="") as stream:
            header, *rows = csv.reader(stream)
        assert ",".join(header) == (DETAIL if name.endswith("detail") else NOTE)
        assert len(rows) > 200 and len({row[0] for row in rows}) > 200
        frame = pl.read_csv(path, infer_schema=False, missing_utf8_is_empty_string=True)
        assert [list(row) for row in frame.iter_rows()] == rows
        found = duckdb.read_csv(str(path), all_varchar=True, header=True).fetchall()
        assert [[value or "" for value in row] for row in found] == rows


def test_keys_and_times(table: Callable[[str], pl.DataFrame], summaries: pl.DataFrame) -> None:
    reports = table("note/radiology")
    stays = table("hosp/admissions")
    assert summaries["note_id"].is_unique().all() and summaries["hadm_id"].is_unique().all()
    assert reports["note_id"].is_unique().all()
    both = pl.concat([summaries, reports])
    made = pl.format("{}-{}-{}", "subject_id", "note_type", "note_seq")
    assert both.select(same=made == pl.col("note_id"))["same"].all()
    assert (both["storetime"] >= both["charttime"]).all()
    assert 0.93 < len(summaries) / len(stays) < 1
    on = summaries.join(stays, on=["hadm_id", "subject_id"])
    assert len(on) == len(summaries)
    assert (on["charttime"] == on["dischtime"].dt.truncate("1d")).all()
    assert (on["storetime"] > on["dischtime"]).all()
    seen = reports.drop_nulls("hadm_id").join(stays, on=["hadm_id", "subject_id"])
    assert len(seen) == reports["hadm_id"].is_not_null().sum() > 200
    begins = pl.coalesce("edregtime", "admittime")
    assert seen.select(pl.col("charttime").is_between(begins, "dischtime").all()).item()
    alone = reports.filter(pl.col("hadm_id").is_null())
    visits = table("ed/edstays").filter(pl.col("hadm_id").is_null())
    held = alone.join(visits, on="subject_id").filter(
        pl.col("charttime").is_between("intime", "outtime")
    )
    assert len(alone) > 100 and set(held["note_id"]) == set(alone["note_id"])
    details = table("note/radiology_detail")
    assert set(details["field_name"]) == {
        *("exam_code", "exam_name", "cpt_code", "addendum_note_id", "parent_note_id")
    }
    parents = details.filter(pl.col("field_name") == "parent_note_id")
    assert set(parents["note_id"]) == set(reports.filter(note_type="AR")["note_id"])
    assert set(parents["field_value"]) <= set(reports.filter(note_type="RR")["note_id"])


def test_every_mention_stands_where_the_oracle_says(
    table: Callable[[str], pl.DataFrame], mentions: pl.DataFrame, summaries: pl.DataFrame
) -> None:
    texts = dict(pl.concat([summaries, table("note/radiology")])["note_id", "text"].iter_rows())
    for note, start, stop, said in mentions["note_id", "start", "stop", "mention"].iter_rows():
        assert texts[note][start:stop] == said and said.strip() == said != ""


def test_coded_is_what_the_tables_list(mentions: pl.DataFrame, coded: pl.DataFrame) -> None:
    listed = set(coded.iter_rows())
    for row in mentions.join(coded, on="hadm_id", how="semi").iter_rows(named=True):
        assert row["coded"] == ((row["hadm_id"], row["kind"], row["code"]) in listed)
    away = mentions.filter(pl.col("status") != "affirmed")
    assert not away["coded"].any(), "what is denied, past or a relative's is not billed"
    assert not mentions.filter(pl.col("hadm_id").is_null())["coded"].any()


def test_the_share_of_what_misleads_and_of_what_is_missing(
    mentions: pl.DataFrame, coded: pl.DataFrame, summaries: pl.DataFrame
) -> None:
    own = mentions.join(summaries, on="note_id", how="semi")
    shares = dict(own["status"].value_counts(normalize=True).iter_rows())
    assert 0.08 < shares["negated"] < 0.25
    assert 0.03 < shares["historical"] < 0.15 and 0.02 < shares["family"] < 0.12
    affirmed = (
        own.filter(status="affirmed")
        .group_by("hadm_id", "kind", "code")
        .agg(pl.col("coded").all(), pl.col("evidence").all())
    )
    assert 0.01 < 1 - affirmed["coded"].mean() < 0.05  # type: ignore[operator]
    whole = coded.join(affirmed, on=["hadm_id", "kind", "code"], how="left")
    assert 0.03 < whole["coded"].is_null().mean() < 0.07  # type: ignore[operator]
    assert 0.01 < whole["evidence"].fill_null(False).mean() < 0.06  # type: ignore[operator]
    negated = summaries.join(own.filter(status="negated"), on="note_id", how="semi")
    assert len(negated) > 0.6 * len(summaries)


def test_a_code_has_many_names(mentions: pl.DataFrame) -> None:
    forms = (
        mentions.filter(pl.col("status") == "affirmed", ~pl.col("evidence"))
        .with_columns(form=pl.col("mention").str.replace_all("\n", " ").str.to_lowercase())
        .group_by("code")
        .agg(pl.len(), pl.col("form").n_unique())
    )
    frequent = forms.filter(pl.col("len") >= 100)
    assert len(frequent) > 5 and (frequent["form"] > 30).all()
    assert len(forms.filter(pl.col("len") < 10)) > 500, "a long tail"
    one = mentions.filter(code="4019", status="affirmed")["mention"]
    assert one.str.contains("HTN").any() and one.str.contains("(?i)high\\s+blood").any()


def test_the_layout_and_the_blanks(summaries: pl.DataFrame) -> None:
    for text in summaries["text"]:
        places = [text.find(f"{name}:") for name in SECTIONS]
        assert min(places) >= 0 and places == sorted(places)
        head = text[: text.find("Chief Complaint:")]
        assert re.search(r"Name:\s+___\s+Unit No:\s+___\s", head)
        assert re.search(r"Admission Date:\s+___\s+Discharge Date:\s+___\s", head)
        assert re.search(r"Date of Birth:\s+___\s+Sex:\s+[FM]\s", head)
        assert re.search(r"Attending: ___\.", head) and not re.search(r"\d", head)
        assert text.isascii() and max(map(len, text.split("\n"))) <= WIDTH + 60


def test_lengths_have_a_tail(summaries: pl.DataFrame, tmp_path: Path) -> None:
    words = summaries["text"].str.count_matches(r"\S+")
    middle = words.median()
    assert 800 < middle < 1_500  # type: ignore[operator]
    assert words.quantile(0.99) > 2 * middle and words.max() > 2_000  # type: ignore[operator]
    generate_hospital(tmp_path / "short", patients=40, seed=7, note_length=0.2)
    short = pl.read_csv(tmp_path / "short/note/discharge.csv.gz")["text"]
    assert short.str.count_matches(r"\S+").median() < 0.7 * middle  # type: ignore[operator]


def test_results_are_the_stays_own(
    table: Callable[[str], pl.DataFrame], summaries: pl.DataFrame
) -> None:
    creatinine = (
        table("hosp/labevents")
        .filter(pl.col("itemid") == 50912, pl.col("hadm_id").is_not_null())
        .group_by("hadm_id")
        .agg(pl.col("valuenum"))
    )
    real = dict(creatinine.iter_rows())
    told = 0
    for hadm_id, text in summaries["hadm_id", "text"].iter_rows():
        for value in re.findall(r"\bCreat-([\d.]+)", text):
            assert float(value) in real[hadm_id]
            told += 1
    assert told > 300


def test_later_notes_copy_earlier_ones(summaries: pl.DataFrame) -> None:
    def social(text: str) -> str:
        return text.split("Social History:\n")[1].split("\n \nFamily History")[0].strip()

    pairs = copied = 0
    for _, notes in summaries.sort("charttime").group_by("subject_id", maintain_order=True):
        listed = [social(text) for text in notes["text"] if len(social(text)) > 60]
        pairs += len(listed) - 1 if listed else 0
        copied += sum(a == b for a, b in itertools.pairwise(listed))
    assert pairs > 30 and 0.3 < copied / pairs < 0.98
    assert summaries["text"].str.contains(r"Per\s+prior\s+discharge\s+summary: #").any()


def test_the_switch_and_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (chunk_module, generate_module):
        monkeypatch.setattr(module, "CHUNK", 20)

    def digests(name: str, **options: Any) -> dict[str, str]:
        generate_hospital(tmp_path / name, **({"patients": 30, "seed": 4} | options))
        return {
            str(path.relative_to(tmp_path / name)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (tmp_path / name).rglob("*")
            if path.is_file() and path.name != "SYNTHETIC.json"
        }

    with_notes, again = digests("one"), digests("two")
    assert with_notes == again
    without = digests("none", notes=False)
    more = {name for name in with_notes if name.startswith("note/") or "mentions" in name}
    assert len(more) == 5 and set(without) == set(with_notes) - more
    assert all(with_notes[name] == digest for name, digest in without.items())
    assert {f"{n}.csv.gz" for n in columns(notes=True)} - {
        f"{n}.csv.gz" for n in columns()
    } == more - {"oracle/mentions.parquet"}
    digests("first", patients=20)
    whole, first = (
        pl.read_csv(tmp_path / name / "note/discharge.csv.gz") for name in ("one", "first")
    )
    assert len(first) > 5 and whole.head(len(first)).equals(first)


@pytest.mark.parametrize("length", [0, -1.0, 11])
def test_a_length_that_is_none(length: float, tmp_path: Path) -> None:
    with pytest.raises(WardroundError, match="note_length must be above 0 and at most 10"):
        generate_hospital(tmp_path / "h", patients=3, note_length=length)


def test_lines_break_without_moving_a_character() -> None:
    text = " ".join(["word"] * 60) + "\n" + "x" * 200 + "\nshort line\n\n" + "ab " * 50
    broken = wrap(text)
    assert len(broken) == len(text) and broken.replace("\n", " ") == text.replace("\n", " ")
    assert all(len(line) <= WIDTH for line in broken.split("\n") if " " in line.strip())


def test_sentences_are_filled_by_pronoun_and_choice() -> None:
    read = sentence("{He} [took|had] {drug}.")
    assert read.needs == {"drug"} and len(read.ways[0]) == 2
    assert {way[0] for way in read.ways[1]} == {"She took ", "She had "}


def test_names_of_the_tail_keep_what_a_title_says() -> None:
    r = random.Random(3).random
    said = {reword_title("Idiopathic gout, right hip", r).lower() for _ in range(200)}
    assert len(said) > 15 and all("hip" in form for form in said)
    assert any("of r hip" in form or "of right hip" in form for form in said)
    slips = {misspell("severe pneumonia", r) for _ in range(50)}
    assert all(abs(len(slip) - 16) <= 1 for slip in slips) and len(slips) > 15
    assert misspell("CHF AF", r) == "CHF AF"
    names = {name_code("diagnosis", "4280", 9, r) for _ in range(300)}
    assert len(names) > 60 and "CHF" in names
