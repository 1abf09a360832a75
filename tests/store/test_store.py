"""Writing, opening, refusing: a store is whole or it is not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import meds
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import WardroundError
from wardround.store import StoreWriter, open_store, split_subjects

DAY = datetime(2150, 1, 1)
ROWS = [
    {"subject_id": s, "time": t, "code": c, "numeric_value": v}
    for s in range(1, 60)
    for t, c, v in [
        (None, "GENDER//F", None),
        (DAY, "MEDS_BIRTH", None),
        (DAY.replace(day=2 + s % 20), "LAB//RESULT//50912//mg/dL", s / 10),
    ]
]


def test_is_a_valid_meds_dataset(make_store):
    store = make_store(ROWS, shards=3)
    subjects: list[int] = []
    for shard in store.shards:
        table = pq.read_table(store.path / "data" / f"{shard}.parquet")
        meds.DataSchema.validate(table)
        assert {shard.split("/")[0]} == set(
            store.splits()
            .filter(pl.col("subject_id").is_in(table["subject_id"].to_pylist()))["split"]
            .to_list()
        )
        subjects += np.unique(table["subject_id"].to_numpy()).tolist()
    assert len(subjects) == len(set(subjects)) == 59
    meds.CodeMetadataSchema.validate(pq.read_table(store.path / "metadata/codes.parquet"))
    meds.SubjectSplitSchema.validate(pq.read_table(store.path / "metadata/subject_splits.parquet"))
    meds.DatasetMetadataSchema(**json.loads((store.path / "metadata/dataset.json").read_text()))


def test_meds_reader_reads_it(make_store, tmp_path):
    meds_reader = pytest.importorskip("meds_reader")
    store = make_store(ROWS, shards=2)
    converter = Path(sys.executable).with_name("meds_reader_convert")
    subprocess.run(
        [converter, store.path, tmp_path / "reader", "--num_threads", "1"],
        check=True,
        capture_output=True,
    )
    with meds_reader.SubjectDatabase(str(tmp_path / "reader"), num_threads=1) as database:
        events = [(e.code, e.time, e.numeric_value) for e in database[7].events]
    assert events[0] == ("GENDER//F", None, None)
    assert events[2] == ("LAB//RESULT//50912//mg/dL", datetime(2150, 1, 9), np.float32(0.7))


def test_equal_data_equal_fingerprint(make_store):
    first, second = make_store(ROWS, name="a"), make_store(ROWS, name="b")
    other = make_store(ROWS[:-1], name="c")
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_a_folder_may_be_called_what_it_likes(make_store):
    store = make_store(ROWS, name="ward [3] *", shards=2)
    assert store.events().collect().height == len(ROWS)
    assert store.splits().height == 59 and store.codes().collect().height == 3
    assert store.stays().collect().height == 0


def test_map_shards_visits_every_shard_in_order(make_store):
    store = make_store(ROWS, shards=3)
    heights = store.map_shards(lambda shard: store.events([shard]).collect().height)
    assert heights == [entry["rows"] for entry in store.provenance["shards"].values()]
    assert sum(heights) == len(ROWS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: shutil.rmtree(p), "no such folder"),
        (lambda p: (p / "provenance.json").unlink(), "MEDS dataset without"),
        (lambda p: (p / "provenance.json").write_text("{"), "provenance.json is damaged"),
        (lambda p: (p / "provenance.json").write_text("[]"), "provenance.json is damaged"),
        (lambda p: (p / "data/train/0.parquet").unlink(), "data/train/0.parquet is missing"),
        (lambda p: (p / "stays.parquet").write_bytes(b"PAR1"), "stays.parquet has 4 bytes"),
    ],
)
def test_an_incomplete_or_foreign_folder_is_refused(make_store, damage, message):
    store = make_store(ROWS)
    damage(store.path)
    with pytest.raises(WardroundError, match=message):
        open_store(store.path)


def test_verify_finds_a_changed_byte(make_store):
    store = make_store(ROWS)
    store.verify()
    file = store.path / "data/train/0.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(WardroundError, match="has changed"):
        open_store(store.path).verify()


def test_a_failed_writer_leaves_the_old_store(make_store):
    store = make_store(ROWS)
    with pytest.raises(RuntimeError), StoreWriter(store.path, overwrite=True) as writer:
        writer.write_shard("train/0", store.events(["train/0"]).collect())
        raise RuntimeError
    assert open_store(store.path).fingerprint == store.fingerprint
    assert not list(store.path.parent.glob(".*"))


def test_a_foreign_folder_is_never_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with (
        pytest.raises(WardroundError, match="left alone"),
        StoreWriter(tmp_path / "thesis", overwrite=True),
    ):
        pass
    assert (tmp_path / "thesis" / "chapter1.tex").exists()


def test_two_writers_do_not_share_a_destination(tmp_path):
    with StoreWriter(tmp_path / "s"):
        (tmp_path / ".s.building" / "writer.pid").write_text(str(os.getppid()))
        with pytest.raises(WardroundError, match="already writing"), StoreWriter(tmp_path / "s"):
            pass


def test_a_dead_writers_claim_does_not_hold_when_its_id_is_used_again(tmp_path):
    (tmp_path / ".s.building").mkdir()
    claim = tmp_path / ".s.building" / "writer.pid"
    claim.write_text(str(os.getppid()))
    os.utime(claim, (0, 0))  # before that process began
    with StoreWriter(tmp_path / "s"):
        assert claim.read_text() == str(os.getpid())


def test_a_replacement_killed_between_its_renames_is_undone(make_store):
    store = make_store(ROWS)
    store.path.rename(store.path.with_name(".store.replaced"))
    assert open_store(store.path).fingerprint == store.fingerprint


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.reverse(), "out of"),
        (lambda t: t.drop("available_time"), "columns missing: available_time"),
        (lambda t: t.with_columns(code=pl.lit(None, pl.String)), "nulls in code"),
    ],
)
def test_a_shard_out_of_shape_is_refused(make_store, tmp_path, spoil, message):
    frame = make_store(ROWS).events(["train/0"]).collect()
    with StoreWriter(tmp_path / "new") as writer, pytest.raises(ValueError, match=message):
        writer.write_shard("train/0", spoil(frame))


def test_splits_depend_on_the_id_alone_and_keep_their_shares():
    ids = pl.Series(range(10_000_000, 10_050_000))
    whole = split_subjects(ids, (0.7, 0.1, 0.2))
    assert (split_subjects(ids[::7], (0.7, 0.1, 0.2)) == whole[::7]).all()
    shares = whole.value_counts(normalize=True)
    for name, share in zip(("train", "tuning", "held_out"), (0.7, 0.1, 0.2), strict=True):
        found = shares.filter(pl.col("split") == name)["proportion"].item()
        assert abs(found - share) < 0.01
    moved = (split_subjects(ids, seed=1) != split_subjects(ids, seed=2)).mean()
    assert abs(moved - (1 - 0.8**2 - 2 * 0.1**2)) < 0.01, "another seed is an independent split"


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_any_integer_is_a_subject(ids):
    assert set(split_subjects(pl.Series(ids, dtype=pl.Int64))) <= {"train", "tuning", "held_out"}


def test_fractions_must_add_up():
    with pytest.raises(WardroundError, match="add up to 1"):
        split_subjects(pl.Series([1]), (0.8, 0.1, 0.2))
