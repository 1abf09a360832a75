"""Generating: seeds, chunks, sizes, and folders that are in the way."""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import cached_property
from pathlib import Path

import polars as pl
import pytest

from wardround.errors import WardroundError
from wardround.sources.hospital import chunk as chunk_module
from wardround.sources.hospital import generate as generate_module
from wardround.sources.hospital import generate_hospital
from wardround.sources.hospital.chunk import Chunk
from wardround.sources.hospital.files import TableFiles, columns


@pytest.fixture
def chunk_size(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks so small that several are cheap."""
    for module in (chunk_module, generate_module):
        monkeypatch.setattr(module, "CHUNK", 20)
    return 20


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def rows(folder: Path, name: str) -> list[str]:
    return gzip.decompress((folder / f"{name}.csv.gz").read_bytes()).decode().splitlines()


def test_same_seed_same_bytes(tmp_path: Path, chunk_size: int) -> None:
    for name in ("one", "two"):
        generate_hospital(tmp_path / name, patients=30, seed=4)
    one = digests(tmp_path / "one")
    assert one == digests(tmp_path / "two")
    assert len(one) == len(columns(notes=True)) + 5, "tables, four of the oracle, and the mark"


def test_another_seed_is_another_hospital(tmp_path: Path, chunk_size: int) -> None:
    for seed in (4, 5):
        generate_hospital(tmp_path / str(seed), patients=30, seed=seed)
    dictionaries = {n for n in columns() if "/d_" in n} | {"hosp/provider", "icu/caregiver"}
    for name in columns():
        same = rows(tmp_path / "4", name) == rows(tmp_path / "5", name)
        assert same == (name in dictionaries), name
    # What is drawn once a patient differs as well, not only the rows it stands in.
    spoken = [
        pl.read_csv(tmp_path / str(seed) / "hosp/admissions.csv.gz")
        .with_columns(index=(pl.col("subject_id") - 10_000_000) // 9)
        .group_by("index")
        .agg(pl.col("marital_status").drop_nulls().first())
        .drop_nulls()
        for seed in (4, 5)
    ]
    both = spoken[0].join(spoken[1], on="index")
    assert len(both) > 20 and (both["marital_status"] == both["marital_status_right"]).mean() < 0.6


def test_the_first_chunks_are_the_same_in_a_larger_hospital(
    tmp_path: Path, chunk_size: int
) -> None:
    generate_hospital(tmp_path / "small", patients=2 * chunk_size, seed=1)
    generate_hospital(tmp_path / "large", patients=4 * chunk_size, seed=1)
    for name in columns():
        small, large = rows(tmp_path / "small", name), rows(tmp_path / "large", name)
        assert large[: len(small)] == small, name
    for path in (tmp_path / "small" / "oracle").iterdir():
        small, large = (
            pl.read_parquet(tmp_path / size / "oracle" / path.name) for size in ("small", "large")
        )
        assert len(large) > len(small) and large.head(len(small)).equals(small)


def bells(chunk: Chunk, out: TableFiles) -> None:
    """Another modality: it looks at all that the simulator knows, and draws."""
    for name in dir(Chunk):
        if isinstance(getattr(Chunk, name), cached_property):
            getattr(chunk, name)
    chunk.rng("bells").random(1_000)
    out.write("hosp/provider", pl.DataFrame({"provider_id": ["bell"]}))


@pytest.mark.parametrize("place", range(5))
def test_a_writer_more_or_less_changes_no_other_file(
    place: int, tmp_path: Path, chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = generate_module.WRITERS
    generate_hospital(tmp_path / "all", patients=45, seed=4)
    whole = digests(tmp_path / "all")
    monkeypatch.setattr(generate_module, "WRITERS", (*writers[:place], bells, *writers[place:]))
    generate_hospital(tmp_path / "more", patients=45, seed=4)
    more = digests(tmp_path / "more")
    changed = {name for name in whole if more[name] != whole[name]}
    assert changed == {"hosp/provider.csv.gz", "SYNTHETIC.json"}
    monkeypatch.setattr(generate_module, "WRITERS", (*writers[:place], *writers[place + 1 :]))
    generate_hospital(tmp_path / "less", patients=45, seed=4)
    less = digests(tmp_path / "less")
    for name in columns():
        written = len(rows(tmp_path / "less", name)) > 1
        assert not written or less[f"{name}.csv.gz"] == whole[f"{name}.csv.gz"], name
    assert less["oracle/patients.parquet"] == whole["oracle/patients.parquet"]
    assert less["oracle/visits.parquet"] == whole["oracle/visits.parquet"]


@pytest.mark.parametrize("patients", [1, 2, 3, 21])
def test_chunks_of_a_few_patients(patients: int, tmp_path: Path, chunk_size: int) -> None:
    """Whoever is alone may have no visit, no admission, or no stay in the ICU."""
    for seed in range(6):
        summary = generate_hospital(tmp_path / str(seed), patients=patients, seed=seed)
        assert summary.patients == patients
        assert len(rows(tmp_path / str(seed), "hosp/patients")) == patients + 1
        states = pl.read_parquet(tmp_path / str(seed) / "oracle" / "patients.parquet")
        assert len(states) == patients


def test_the_mark_tells_what_it_is(files: Path) -> None:
    about = json.loads((files / "SYNTHETIC.json").read_text())
    assert about["patients"] == 3_000 and about["seed"] == 5
    assert about["mimic_iv_version"] == "3.1" and "No patient in it exists" in about["what"]


def test_the_summary_counts_stays(tmp_path: Path, chunk_size: int) -> None:
    made = generate_hospital(tmp_path / "h", patients=40, seed=2)
    for count, name in (
        *((made.ed_stays, "ed/edstays"), (made.hospital_stays, "hosp/admissions")),
        (made.icu_stays, "icu/icustays"),
    ):
        assert count == len(rows(tmp_path / "h", name)) - 1
    paths = [tmp_path / "h" / f"{name}.csv.gz" for name in columns(notes=True)]
    assert made.rows == sum(len(pl.read_csv(path, infer_schema=False)) for path in paths)
    assert str(made).startswith("40 patients, ")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patients": 0}, "patients must be 1 or more, got 0"),
        ({"patients": -5}, "patients must be 1 or more, got -5"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_numbers_below_the_least(wrong: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(WardroundError, match=message):
        generate_hospital(tmp_path / "h", **({"patients": 5} | wrong))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_hospital_is_replaced_only_when_told(tmp_path: Path, chunk_size: int) -> None:
    generate_hospital(tmp_path / "h", patients=5, seed=1)
    before = digests(tmp_path / "h")
    with pytest.raises(WardroundError, match=r"h exists; choose another folder, or pass --force"):
        generate_hospital(tmp_path / "h", patients=5, seed=2)
    assert digests(tmp_path / "h") == before
    generate_hospital(tmp_path / "h", patients=5, seed=2, overwrite=True)
    assert digests(tmp_path / "h") != before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_hospital_is_kept(kind: str, tmp_path: Path) -> None:
    kept = tmp_path / "h" / "thesis.tex" if kind == "folder" else tmp_path / "h"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("ten years")
    with pytest.raises(WardroundError, match="something else than a synthetic hospital"):
        generate_hospital(tmp_path / "h", patients=5, overwrite=True)
    assert kept.read_text() == "ten years"


def test_nothing_is_left_when_it_fails(
    tmp_path: Path, chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(generate_module, "WRITERS", (*generate_module.WRITERS, fail))
    with pytest.raises(RuntimeError, match="disk full"):
        generate_hospital(tmp_path / "h", patients=5)
    assert list(tmp_path.iterdir()) == []
