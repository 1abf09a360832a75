"""Notes in a store: beside their subjects' events, whole, and read as known at a time."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import WardroundError
from wardround.store import NOTE_SCHEMA, StoreWriter, notes_known_at, open_store

T = datetime(2150, 3, 1, 12)
HOUR = timedelta(hours=1)
SCHEMA = dict(pl.from_arrow(NOTE_SCHEMA.empty_table()).schema)
EVENTS = [{"subject_id": s, "time": T, "code": "A"} for s in range(1, 40)]


def note(subject: int, number: int = 1, **changes: object) -> dict[str, object]:
    return {
        "note_id": f"{subject}-{number}",
        "subject_id": subject,
        "hadm_id": None,
        "note_type": "discharge",
        "note_seq": number,
        "time": T,
        "available_time": T,
        "text": f"note {number}",
        "details": [],
        **changes,
    }


def frame(*notes: dict[str, object]) -> pl.DataFrame:
    return pl.DataFrame(notes, schema=SCHEMA)


@pytest.fixture
def make(make_store, tmp_path):
    """A store with these notes, written over one without."""

    def write(notes: list[dict[str, object]], shards: int = 1, stays=()):
        bare = make_store(EVENTS, stays, shards=shards)
        rows = frame(*notes).sort("subject_id", "time", "note_seq")
        with StoreWriter(tmp_path / "noted", overwrite=True) as writer:
            for shard in bare.shards:
                events = bare.events([shard]).collect()
                writer.write_shard(shard, events)
                here = pl.col("subject_id").is_in(events["subject_id"].unique().implode())
                writer.write_notes(shard, rows.filter(here))
            writer.finish(
                codes=bare.codes().collect(),
                stays=bare.stays().collect(),
                splits=bare.splits(),
                provenance={"source": "test", "source_version": "0", "access": "synthetic"},
                dataset={"dataset_name": "test"},
            )
        return bare, open_store(tmp_path / "noted")

    return write


def at(subject: int, t: datetime = T) -> pl.DataFrame:
    return pl.DataFrame(
        {"subject_id": [subject], "prediction_time": [t]},
        schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")},
    )


def test_notes_come_back_as_written_from_the_shards_of_their_subjects(make):
    details = [{"name": "author", "value": "x", "ordinal": 1}]
    rows = [note(s, n, details=details, text=" \r\né\n") for s in (3, 5, 8, 30) for n in (1, 2)]
    rows += [note(5, 3, text="", note_type="radiology", note_seq=None)]
    _, store = make(rows, shards=3)
    assert store.has_notes
    assert store.notes().collect().sort("note_id").equals(frame(*rows).sort("note_id"))
    for shard in store.shards:
        subjects = store.events([shard]).collect()["subject_id"]
        found = store.notes(shards=[shard]).collect()
        assert found["subject_id"].is_in(subjects.implode()).all()
        assert store.note_counts.get(shard, 0) == len(found)
    for name in store.note_counts:
        assert pq.read_schema(store.path / f"notes/{name}.parquet").equals(NOTE_SCHEMA)
    assert store.notes("radiology").collect()["note_id"].to_list() == ["5-3"]
    assert len(store.notes(["radiology", "discharge"]).collect()) == len(rows)
    assert len(store.notes("nursing").collect()) == 0


def test_without_notes_nothing_changes(make):
    bare, none = make([])
    assert "notes" not in none.provenance and not (none.path / "notes").exists()
    _, store = make([note(1)])
    assert not bare.has_notes and bare.notes().collect().equals(frame())
    assert bare.notes_known_at(at(1)).collect().is_empty()
    assert none.fingerprint == bare.fingerprint != store.fingerprint
    same = {k: v for k, v in store.provenance["store_files"].items() if "notes/" not in k}
    assert same == bare.provenance["store_files"]


def test_a_note_file_counts_for_the_stores_integrity(make):
    _, store = make([note(1)])
    (file,) = store.path.glob("notes/*/*.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(WardroundError, match=r"0\.parquet has changed"):
        open_store(store.path).verify()
    file.unlink()
    with pytest.raises(WardroundError, match=r"notes/.*/0.parquet is missing"):
        open_store(store.path)


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ([note(2), note(1)], "out of"),
        ([note(1, 2), note(1, 1)], r"note 1-1 is out of \(subject_id, time, note_seq\) order"),
        ([note(1), note(1, 2, note_id="1-1")], "note 1-1 is there twice"),
        ([note(99)], "note 99-1 is of a subject without events"),
        ([note(1, available_time=T - HOUR)], "note 1-1 is known before its time"),
        ([note(1, text=None)], "nulls in text"),
        ([note(1, time=None)], "nulls in time"),
    ],
)
def test_notes_out_of_shape_are_refused(notes, message, make_store, tmp_path):
    events = make_store(EVENTS[:2]).events().collect().sort("subject_id")
    with StoreWriter(tmp_path / "new") as writer:
        writer.write_shard("train/0", events)
        with pytest.raises(ValueError, match=message):
            writer.write_notes("train/0", frame(*notes))
        with pytest.raises(ValueError, match="whose events are not written"):
            writer.write_notes("train/1", frame(note(1)))


# What was known ------------------------------------------------------------------------------


def test_a_note_is_known_when_it_could_be_read(make):
    stays = [{"subject_id": 1, "stay_id": 20, "kind": "hospital", "start": T + HOUR}]
    later = [
        {"name": "exam_code", "value": "C11", "ordinal": 1},
        {"name": "addendum_note_id", "value": "1-9", "ordinal": 1},
        {"name": "cpt_code", "value": "71020", "ordinal": 1},
        {"name": None, "value": "x", "ordinal": None},
    ]
    rows = [
        note(1, 1, time=T - HOUR, hadm_id=20, details=later, note_type="radiology"),
        note(1, 2, time=T - HOUR, available_time=T + HOUR, hadm_id=20),
        note(1, 3, time=T - HOUR, available_time=None),
        note(1, 4, time=T - 9 * HOUR),
        note(2, 1),
    ]
    _, store = make(rows, stays=stays)
    seen = store.notes_known_at(at(1)).collect().sort("note_id")
    assert seen.select("note_id", "hadm_id").rows() == [("1-1", None), ("1-4", None)]
    names = [d["name"] for d in seen["details"][0].to_list()]
    assert names == ["exam_code", None], "an addendum and a bill come later"
    assert len(store.notes().collect()["details"][0]) in (0, 4), "the store keeps them"
    one = store.notes_known_at(
        at(1).with_columns(visit=7), note_type="radiology", columns=["note_id", "text"]
    ).collect()
    assert one.columns == [
        *("subject_id", "prediction_time", "visit", "time", "available_time", "note_id", "text")
    ]
    assert one["visit"].to_list() == [7]
    recent = store.notes_known_at(at(1), lookback=2 * HOUR, columns=["note_id"]).collect()
    assert recent["note_id"].to_list() == ["1-1"]
    at_last = store.notes_known_at(at(1, T + HOUR)).collect().sort("note_id")
    assert at_last.select("note_id", "hadm_id").rows() == [("1-1", 20), ("1-2", 20), ("1-4", None)]


moments = st.integers(0, 12).map(lambda h: T + h * HOUR)


@given(
    rows=st.lists(
        st.tuples(st.integers(1, 3), moments, st.none() | moments, st.sampled_from([None, 20, 21])),
        max_size=20,
    ),
    asked=st.lists(st.tuples(st.integers(1, 4), moments), max_size=5, unique=True),
)
def test_equals_the_definition_note_by_note(rows, asked):
    notes = frame(
        *(
            note(s, i, time=time, available_time=available, hadm_id=hadm)
            for i, (s, time, available, hadm) in enumerate(rows)
        )
    )
    starts = {(s, h): T + (s + h % 5) * HOUR for s in (1, 2) for h in (20, 21)}
    stays = pl.DataFrame(
        [(s, h, "hospital", start) for (s, h), start in starts.items()],
        schema={
            "subject_id": pl.Int64,
            "stay_id": pl.Int64,
            "kind": pl.String,
            "start": pl.Datetime("us"),
        },
        orient="row",
    )
    predictions = pl.DataFrame(
        asked, schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")}, orient="row"
    )
    seen = notes_known_at(notes.lazy(), predictions, stays=stays.lazy()).collect()
    expected = {
        (subject, t, f"{s}-{i}", hadm if starts.get((s, hadm), t + HOUR) <= t else None)
        for subject, t in asked
        for i, (s, time, available, hadm) in enumerate(rows)
        if s == subject and time <= t and available is not None and available <= t
    }
    found = seen.select("subject_id", "prediction_time", "note_id", "hadm_id").rows()
    assert set(found) == expected and len(found) == len(expected)
