"""MIMIC-IV-Note into a store: texts to the byte, times that leak nothing, every row counted."""

from __future__ import annotations

import gzip
import json
import random
import re
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from wardround.cli import app
from wardround.errors import WardroundError
from wardround.sources.mimic import format_report, ingest_mimic
from wardround.store import open_store

PATIENTS = [(s, "F", 50, 2150, None) for s in range(1, 9)]
COLUMNS = {
    "hosp/patients": ["subject_id", "gender", "anchor_age", "anchor_year", "dod"],
    "hosp/admissions": [
        *("subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "admission_type"),
        *("admission_location", "discharge_location", "insurance", "language", "marital_status"),
        *("race", "edregtime", "edouttime", "hospital_expire_flag"),
    ],
    "note/discharge": [
        *("note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime", "storetime"),
        "text",
    ],
    "note/discharge_detail": [
        *("note_id", "subject_id", "field_name", "field_value", "field_ordinal"),
    ],
}
COLUMNS["note/radiology"] = COLUMNS["note/discharge"]
COLUMNS["note/radiology_detail"] = COLUMNS["note/discharge_detail"]
ADMISSION = {
    "subject_id": 1,
    "hadm_id": 10,
    "admittime": "2150-03-01 08:00:00",
    "dischtime": "2150-03-05 17:15:00",
    "admission_type": "URGENT",
    "hospital_expire_flag": 0,
}


def quoted(value: object) -> str:
    """A cell as PostgreSQL exports it: quotes where they are needed, nothing for null."""
    if value is None:
        return ""
    text = str(value)
    if text == "" or re.search('[",\r\n]', text):
        return '"' + text.replace('"', '""') + '"'
    return text


def write(folder: Path, table: str, rows: list[dict], end: str = "\n", zipped: bool = True) -> Path:
    columns = COLUMNS[table]
    lines = [",".join(columns), *(",".join(quoted(r.get(c)) for c in columns) for r in rows)]
    content = "".join(line + end for line in lines).encode()
    path = folder / f"{table}.csv{'.gz' if zipped else ''}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    return path


def summary(number: int = 1, **changes: object) -> dict:
    subject = changes.get("subject_id", 1)
    return {
        "note_id": f"{subject}-DS-{number}",
        "subject_id": 1,
        "hadm_id": 10,
        "note_type": "DS",
        "note_seq": number,
        "charttime": "2150-03-05 00:00:00",
        "storetime": "2150-03-07 15:26:00",
        "text": f"Name:  ___\n\nsummary {number}",
        **changes,
    }


def film(number: int = 1, **changes: object) -> dict:
    subject = changes.get("subject_id", 1)
    return {
        **summary(number),
        "note_id": f"{subject}-RR-{number}",
        "note_type": "RR",
        "charttime": "2150-03-01 07:10:00",
        "storetime": "2150-03-01 07:40:00",
        "text": f"EXAMINATION:  CHEST\n\nIMPRESSION: {number}",
        **changes,
    }


def detail(note: dict, name: str, value: str | None, ordinal: int | None = 1) -> dict:
    return {
        "note_id": note["note_id"],
        "subject_id": note["subject_id"],
        "field_name": name,
        "field_value": value,
        "field_ordinal": ordinal,
    }


@pytest.fixture
def ingest(tmp_path):
    """Write MIMIC-IV and MIMIC-IV-Note as two folders, and ingest both."""

    def run(notes: dict[str, list[dict]], admissions=(ADMISSION,), end: str = "\n", **options):
        patients = [dict(zip(COLUMNS["hosp/patients"], p, strict=True)) for p in PATIENTS]
        write(tmp_path / "mimiciv", "hosp/patients", patients)
        write(tmp_path / "mimiciv", "hosp/admissions", list(admissions))
        for table, rows in notes.items():
            write(tmp_path / "mimic-iv-note", f"note/{table}", rows, end)
        folders = [tmp_path / "mimiciv", *([tmp_path / "mimic-iv-note"] if notes else [])]
        report = ingest_mimic(folders, tmp_path / "store", overwrite=True, **options)
        return report, open_store(tmp_path / "store")

    return run


def texts(store) -> dict[str, str]:
    return dict(store.notes().select("note_id", "text").collect().iter_rows())


# Texts to the byte ---------------------------------------------------------------------------

AWKWARD = [
    "one line",
    "  leading and trailing \t \n\n",
    "lines\nand\r\nlines\rand\n\rlines",
    'quotes " "" """ and "a quoted, comma"',
    '"',
    '""',
    "'",
    ",,,\n,,,",
    " ",
    "\n",
    "\r\n",
    "NULL",
    '\\N and \\" and \\n',
    "café 漢字 😀 ‎ \u2028 \u00a0 \x0b\x0c\x1c",
    "\ufeffa mark",
    "#comment\n--\n//",
    "\n".join(f'{n},"{n}","DS"' for n in range(3000)),
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_is_kept_to_the_byte(ingest, end):
    rng = random.Random(5)
    drawn = ["".join(rng.choices('ab", \n\r\té漢', k=rng.randrange(1, 200))) for _ in range(400)]
    rows = [summary(n, text=text) for n, text in enumerate(AWKWARD + drawn)]
    report, store = ingest({"discharge": rows}, end=end)
    assert texts(store) == {row["note_id"]: row["text"] for row in rows}
    assert report.tables["note/discharge"].kept == len(rows)


def test_a_text_of_megabytes_is_kept(ingest):
    text = "".join(f'row {n}: "é"\n' for n in range(200_000))
    assert len(text.encode()) > 2_500_000
    _, store = ingest({"radiology": [film(1), film(2, text=text), film(3)]})
    assert texts(store)["1-RR-2"] == text


@settings(max_examples=10)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1),
        min_size=1,
        max_size=30,
    )
)
def test_any_text_is_kept(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("any")
    write(folder, "hosp/patients", [dict(zip(COLUMNS["hosp/patients"], PATIENTS[0], strict=True))])
    write(folder, "note/discharge", [summary(n, text=text) for n, text in enumerate(drawn)])
    ingest_mimic([folder], folder / "store")
    found = texts(open_store(folder / "store"))
    assert found == {f"1-DS-{n}": text for n, text in enumerate(drawn)}


# Times ---------------------------------------------------------------------------------------


def known(store, note_id: str) -> datetime | None:
    rows = store.notes().filter(pl.col("note_id") == note_id).collect()
    return rows["available_time"].item()


@pytest.mark.parametrize(
    ("changes", "available"),
    [
        ({}, "2150-03-07 15:26:00"),
        # Stored on the morning of the discharge, and without a storetime.
        ({"storetime": "2150-03-05 09:00:00"}, "2150-03-05 17:15:00"),
        ({"storetime": None}, "2150-03-05 23:59:59.999999"),
        # Charted and stored days before: the text still tells how the stay ended.
        ({"charttime": "2150-03-02 00:00:00", "storetime": None}, "2150-03-05 17:15:00"),
        ({"charttime": "2150-03-02", "storetime": "2150-03-03 10:00:00"}, "2150-03-05 17:15:00"),
        # Of no admission, or of one that the source does not have.
        ({"hadm_id": None, "storetime": "2150-03-05 09:00:00"}, "2150-03-05 09:00:00"),
        ({"hadm_id": 99, "storetime": None}, "2150-03-05 23:59:59.999999"),
        # Never before its own time.
        ({"charttime": "2150-03-09 00:00:00"}, "2150-03-09 00:00:00"),
    ],
)
def test_a_summary_is_not_known_before_it_was_stored_nor_before_the_discharge(
    changes, available, ingest
):
    _, store = ingest({"discharge": [summary(**changes)]})
    assert known(store, "1-DS-1") == datetime.fromisoformat(available)


def test_the_summary_of_one_who_died_waits_for_the_death(ingest):
    """MIMIC-IV lists some of the dead as discharged at the midnight before."""
    dead = {**ADMISSION, "dischtime": "2150-03-05 00:00:00", "deathtime": "2150-03-05 21:00:00"}
    dead |= {"hospital_expire_flag": 1}
    _, store = ingest({"discharge": [summary(storetime="2150-03-05 01:00:00")]}, [dead])
    assert known(store, "1-DS-1") == datetime(2150, 3, 5, 21)


def test_a_report_is_known_when_stored(ingest):
    report, store = ingest({"radiology": [film(1), film(2, storetime=None)]})
    assert known(store, "1-RR-1") == datetime(2150, 3, 1, 7, 40)
    assert known(store, "1-RR-2") == datetime(2150, 3, 1, 23, 59, 59, 999999)
    assert report.tables["note/radiology"].unfiled == {"radiology": 1}


def test_a_report_from_the_ed_hides_the_admission_until_it_begins(ingest):
    _, store = ingest({"radiology": [film()]})
    rows = pl.DataFrame(
        {
            "subject_id": [1, 1, 1],
            "prediction_time": [datetime(2150, 3, 1, h, m) for h, m in ((7, 39), (7, 40), (8, 0))],
        },
        schema_overrides={"prediction_time": pl.Datetime("us")},
    )
    seen = store.notes_known_at(rows).sort("prediction_time").collect()
    assert seen.select("prediction_time", "hadm_id").rows() == [
        (datetime(2150, 3, 1, 7, 40), None),
        (datetime(2150, 3, 1, 8), 10),
    ]


# Rows in and out -----------------------------------------------------------------------------


def test_notes_types_details_and_order(ingest):
    addendum = film(8, note_id="1-AR-8", note_type="AR", charttime="2150-03-01 09:00:00")
    addendum |= {"storetime": "2150-03-01 09:30:00"}
    of_two = summary(subject_id=2, hadm_id=None)
    report, store = ingest(
        {
            "discharge": [of_two, summary(), summary(2, note_id="1-AD-2", note_type="AD")],
            "discharge_detail": [detail(summary(), "author", "___, MD")],
            "radiology": [film(7), addendum, film(3)],
            "radiology_detail": [
                detail(film(7), "exam_code", "C11"),
                detail(addendum, "parent_note_id", "1-RR-7"),
                detail(film(7), "exam_name", 'CHEST (PA, "LAT")', 2),
                detail(film(7), "note", None, None),
            ],
        }
    )
    notes = store.notes().filter(pl.col("subject_id") == 1).collect()
    assert notes.select("note_id", "note_type", "note_seq", "hadm_id").rows() == [
        ("1-RR-3", "radiology", 3, 10),
        ("1-RR-7", "radiology", 7, 10),
        ("1-AR-8", "radiology_addendum", 8, 10),
        ("1-DS-1", "discharge", 1, 10),
        ("1-AD-2", "discharge_addendum", 2, 10),
    ]
    assert dict(notes.select("note_id", "details").iter_rows()) == {
        "1-RR-3": [],
        "1-RR-7": [
            {"name": "exam_code", "value": "C11", "ordinal": 1},
            {"name": "exam_name", "value": 'CHEST (PA, "LAT")', "ordinal": 2},
            {"name": "note", "value": None, "ordinal": None},
        ],
        "1-AR-8": [{"name": "parent_note_id", "value": "1-RR-7", "ordinal": 1}],
        "1-DS-1": [{"name": "author", "value": "___, MD", "ordinal": 1}],
        "1-AD-2": [],
    }
    kinds = {"discharge": 2, "discharge_addendum": 1, "radiology": 2, "radiology_addendum": 1}
    assert report.note_types == kinds
    written = json.loads((store.path / "ingest-report.json").read_text())
    assert written["note_types"] == kinds
    terminal = Console(width=100, record=True)
    terminal.print(format_report(report))
    assert "Notes: 2 discharge, 1 discharge_addendum" in terminal.export_text()
    assert len(store.notes("radiology").collect()) == 2


def test_rejected_rows_are_named_by_their_reason(ingest):
    good = [summary(n) for n in range(20, 40)]
    bad = [
        ("text is missing", summary(1, text=None)),
        ("text is missing", summary(2, text="")),
        ("unknown subject", summary(3, subject_id=77)),
        ("subject_id is missing", summary(4, subject_id=None)),
        ("note_id is there twice", summary(20, text="another text")),
        ("charttime is not a time", summary(5, charttime="soon")),
        ("charttime is missing", summary(6, charttime=None)),
        ("storetime is not a time", summary(7, storetime="2150-13-01 00:00:00")),
        ("note_type is none of DS, AD", summary(8, note_type="RR")),
        ("note_type is none of DS, AD", summary(9, note_type=None)),
        ("note_id is missing", summary(10, note_id=None)),
        ("hadm_id is not a number", summary(11, hadm_id="ten")),
    ]
    details = [detail(note, "author", "x") for note in good]
    strays = [
        ("no note with this note_id", detail(summary(99), "author", "x")),
        ("no note with this note_id", detail(bad[0][1], "author", "x")),
        ("no note with this note_id", {**details[0], "subject_id": 2}),
        ("field_name is missing", {**details[0], "field_name": None}),
        ("field_ordinal is not a number", {**details[0], "field_ordinal": "first"}),
    ]
    report, store = ingest(
        {
            "discharge": [*good, *(row for _, row in bad)],
            "discharge_detail": [*details, *(row for _, row in strays)],
        }
    )
    for table, kept, lost in (
        ("note/discharge", good, bad),
        ("note/discharge_detail", details, strays),
    ):
        ledger = report.tables[table]
        reasons = [reason for reason, _ in lost]
        assert ledger.rejected == {reason: reasons.count(reason) for reason in reasons}
        assert ledger.first_row == {r: 2 + len(kept) + reasons.index(r) for r in reasons}
        assert (ledger.rows, ledger.kept) == (len(kept) + len(lost), len(kept))
    assert texts(store) == {note["note_id"]: note["text"] for note in good}
    assert store.notes().select(pl.col("details").list.len().unique()).collect().item() == 1


def test_a_note_whose_subject_has_no_events_is_counted(tmp_path):
    """A patient of whom nothing is known but the number stays out of the store."""
    patients = [{"subject_id": s, "gender": "F" if s == 1 else None} for s in (1, 2)]
    write(tmp_path, "hosp/patients", patients)
    notes = [summary(), summary(2, subject_id=2, note_id="2-DS-2"), summary(3)]
    write(tmp_path, "note/discharge", notes)
    report = ingest_mimic([tmp_path], tmp_path / "store")
    ledger = report.tables["note/discharge"]
    assert (ledger.kept, ledger.rejected) == (2, {"the subject has no events": 1})
    assert ledger.first_row == {"the subject has no events": 3}
    assert set(texts(open_store(tmp_path / "store"))) == {"1-DS-1", "1-DS-3"}


def test_the_same_id_in_both_tables_counts_once(ingest):
    same = [film(n, note_id=f"1-DS-{n}") for n in (1, 2)]
    report, store = ingest({"discharge": [summary()], "radiology": [*same, film(3), film(4)]})
    assert report.tables["note/radiology"].rejected == {"note_id is there twice": 1}
    assert texts(store)["1-DS-1"] == summary()["text"]


def test_notes_lie_in_the_shards_of_their_subjects(ingest):
    rng = random.Random(1)
    rows = [film(n, subject_id=s, hadm_id=None) for n in range(40) for s in range(1, 9) if s != 4]
    rng.shuffle(rows)
    report, store = ingest({"radiology": rows}, subjects_per_block=2)
    assert report.tables["note/radiology"].kept == len(rows)
    for shard in store.shards:
        notes = store.notes(shards=[shard]).collect()
        subjects = store.events([shard]).collect()["subject_id"].unique().sort().to_list()
        assert notes["subject_id"].unique().sort().to_list() == [s for s in subjects if s != 4]
        assert notes.equals(notes.sort("subject_id", "time", "note_seq"))
        assert store.note_counts.get(shard, 0) == len(notes)
    assert sum(store.note_counts.values()) == len(rows)


def test_without_notes_a_store_is_what_it_was(ingest):
    report, with_notes = ingest({"discharge": [summary()]})
    described = dict(with_notes.provenance["store_files"])
    assert any(name.startswith("notes/") for name in described)
    report, bare = ingest({})
    assert not bare.has_notes and "notes" not in bare.provenance
    assert not (bare.path / "notes").exists()
    rest = {name: f for name, f in described.items() if not name.startswith("notes/")}
    assert bare.provenance["store_files"] == rest
    assert not [name for name in report.missing if name.startswith("note/")]


# What is read --------------------------------------------------------------------------------


def test_chosen_tables_of_notes_alone(ingest):
    whole = {"discharge": [summary()], "radiology": [film()]}
    whole["discharge_detail"] = [detail(summary(), "author", "x")]
    chosen = ["hosp/patients", "hosp/admissions", "note/discharge"]
    report, store = ingest(whole, tables=chosen)
    assert list(report.tables) == chosen
    assert set(texts(store)) == {"1-DS-1"}
    assert {"note/radiology", "note/discharge_detail"} <= set(report.left_out)
    report, store = ingest(whole, tables=["hosp", "note"])
    assert set(texts(store)) == {"1-DS-1", "1-RR-1"}
    with pytest.raises(WardroundError, match=r"needs the table discharge .* add note/discharge to"):
        ingest(whole, tables=["hosp/patients", "note/discharge_detail"])


def test_by_the_command(ingest, tmp_path):
    ingest({"discharge": [summary()]})
    flat = tmp_path / "mimic-iv-note" / "note"
    run = CliRunner().invoke(
        app, ["ingest", str(tmp_path / "mimiciv"), str(flat), str(tmp_path / "other")]
    )
    assert run.exit_code == 0, run.output
    assert set(texts(open_store(tmp_path / "other"))) == {"1-DS-1"}
    run = CliRunner().invoke(app, ["doctor", "--data", str(tmp_path / "other")])
    assert "every file as written" in " ".join(run.output.split())


def test_credentialed_notes_make_the_store_credentialed(ingest, tmp_path):
    ingest({"discharge": [summary()]})
    (tmp_path / "mimiciv" / "LICENSE.txt").write_text("ODC Open Database License (ODbL)")
    both = ingest_mimic([tmp_path / "mimiciv", tmp_path / "mimic-iv-note"], tmp_path / "b")
    alone = ingest_mimic([tmp_path / "mimiciv"], tmp_path / "a")
    assert (both.access, alone.access) == ("credentialed", "open")


# Damaged files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: gzip.compress(c)[:-300], "not a whole gzip file"),
        (lambda c: gzip.compress(c.replace(b"text", b"body", 1)), "needs the column 'text'"),
        (lambda c: gzip.compress(c[:-40]), "quote"),
        (lambda c: gzip.compress(c.replace(b"-DS-7,1,", b'-DS-7,"1,', 1)), "row|quote"),
        (lambda c: gzip.compress(c.replace(b"caf\xc3\xa9", b"caf\xe9", 1)), "not UTF-8"),
        (lambda c: gzip.compress(c.replace(b"-DS-7,1,", b"-DS-7,", 1)), "number of columns"),
        (lambda c: gzip.compress(re.sub(rb"-DS-(\d+),1,", rb"-DS-\1,99,", c)), "unknown subject"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name(damage, said, ingest, tmp_path):
    rows = [summary(n, text=f'café "{n}"\n' * 50) for n in range(60)]
    ingest({"discharge": rows})
    path = tmp_path / "mimic-iv-note" / "note" / "discharge.csv.gz"
    path.write_bytes(damage(gzip.decompress(path.read_bytes())))
    before = open_store(tmp_path / "store").fingerprint
    with pytest.raises(WardroundError, match=said) as caught:
        ingest_mimic(
            [tmp_path / "mimiciv", tmp_path / "mimic-iv-note"], tmp_path / "store", overwrite=True
        )
    message = str(caught.value)
    assert "discharge.csv.gz" in message and "\n" not in message
    assert "duckdb" not in message.lower()
    assert open_store(tmp_path / "store").fingerprint == before
