"""Time and memory of the ED triage table on 450,000 synthetic visits.

Writes a store of random events (the numbers of rows a visit resemble MIMIC-IV's and
MIMIC-IV-ED's, the values mean nothing), builds the table in a process of its own, and sets
seconds and peak memory against the limits of 60 s and 6 GiB.

    python benchmarks/triage_table.py [--visits N] [--store DIR] [--feature-set disposition]
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from wardround.store import CODE_SCHEMA, STAY_SCHEMA, StoreWriter, open_store
from wardround.views.table import FEATURES, triage_table

LIMIT_SECONDS, LIMIT_GIB = 60.0, 6.0
VISITS_A_SHARD = 28_000
EPOCH = datetime(2110, 1, 1)
DAY = 24 * 60  # minutes
VITALS = {
    "TEMPERATURE": (98.2, 1.0),
    "HEARTRATE": (85.0, 18.0),
    "RESPRATE": (18.0, 3.0),
    "O2SAT": (98.0, 2.0),
    "SBP": (135.0, 22.0),
    "DBP": (78.0, 15.0),
}
COMPLAINTS = np.array(["Abd pain", "Chest pain", "Dyspnea, Cough", "s/p Fall", "N/V", "Fever"])
PAINS = np.array(["0", "3", "5", "7", "10", "8-9", "unable", "13"])
DIAGNOSES = np.array(
    [f"10//{letter}{n}" for letter in "CDEFGIJKLMN" for n in range(100, 1000, 9)]
    + [f"9//{n}" for n in range(1400, 8000, 17)]
)
DRUGS = np.array([f"drug {n}" for n in range(900)])
LABS = np.array([f"LAB//RESULT//{50800 + n}//mg/dL" for n in range(400)])


def rows_of(
    parent: dict[str, np.ndarray],
    count: np.ndarray | int,
    rng: np.random.Generator,
    code: str | np.ndarray,
    *,
    prefix: str = "",
    when: str = "within",
    number: tuple[float, float] | None = None,
    text: np.ndarray | None = None,
    stay: bool = True,
) -> pl.DataFrame:
    """Events of parents (stays): `count` a parent, codes and texts drawn at random."""
    n = len(parent["subject"])
    of = np.repeat(np.arange(n), count)
    start, end = parent["start"][of], parent["end"][of]
    minute = {
        "start": start,
        "end": end,
        "within": start + np.floor(rng.random(len(of)) * (end - start)).astype(np.int64),
    }[when]
    codes = pl.Series("code", np.array([code]) if isinstance(code, str) else code)
    drawn = codes.gather(rng.integers(0, len(codes), len(of)))
    texts = None if text is None else pl.Series(text).gather(rng.integers(0, len(text), len(of)))
    moment = pl.lit(EPOCH) + pl.duration(minutes=pl.col("minute"))
    return pl.DataFrame(
        {
            "subject_id": parent["subject"][of],
            "minute": minute,
            "code": (prefix + drawn) if prefix else drawn,
            "numeric_value": pl.Series(
                rng.normal(*number, len(of)) if number else [None] * len(of), dtype=pl.Float32
            ),
            "text_value": pl.Series(
                texts if text is not None else [None] * len(of), dtype=pl.String
            ),
            "hadm_id": pl.Series([None] * len(of), dtype=pl.Int64),
            "stay_id": pl.Series(parent["id"][of] if stay else [None] * len(of), dtype=pl.Int64),
        }
    ).select(
        "subject_id",
        moment.cast(pl.Datetime("us")).alias("time"),
        "code",
        "numeric_value",
        "text_value",
        moment.cast(pl.Datetime("us")).alias("available_time"),
        "hadm_id",
        "stay_id",
    )


def moments(
    parent: dict[str, np.ndarray], count: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random moments within stays, as parents of the rows that share one charting time."""
    of = np.repeat(np.arange(len(count)), count)
    stays = {key: column[of] for key, column in parent.items()}
    start = stays["start"] + rng.integers(0, stays["end"] - stays["start"])
    return stays | {"start": start, "end": start}


def static_rows(subjects: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """Gender and birth."""
    genders = pl.DataFrame(
        {"subject_id": subjects, "code": rng.choice(["GENDER//F", "GENDER//M"], len(subjects))}
    )
    births = pl.DataFrame(
        {"subject_id": subjects, "year": 2110 - rng.integers(18, 90, len(subjects))}
    ).select(
        "subject_id", time=pl.datetime("year", 1, 1, time_unit="us"), code=pl.lit("MEDS_BIRTH")
    )
    births = births.with_columns(available_time="time")
    return pl.concat([genders, births], how="diagonal")


def make_shard(
    rng: np.random.Generator, first_subject: int, first_id: int, n_visits: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events and stays of about n_visits / 2 subjects."""
    # Most come once or twice, a few a hundred times.
    a_subject = np.minimum(1 + np.floor(1.15 * rng.pareto(1.9, n_visits)), 200).astype(np.int64)
    n_subjects = int(np.searchsorted(np.cumsum(a_subject), n_visits)) + 1
    subjects = first_subject + np.arange(n_subjects)
    subject = np.repeat(subjects, a_subject[:n_subjects])[:n_visits]
    start = rng.integers(0, 3650 * DAY, n_visits)
    los = np.minimum(rng.lognormal(5.6, 0.6, n_visits), 3 * DAY).astype(np.int64) + 10
    visits = {"subject": subject, "id": first_id + np.arange(n_visits)}
    visits |= {"start": start, "end": start + los}

    def led_to(parent: dict[str, np.ndarray], share: float, days: float) -> dict[str, np.ndarray]:
        which = np.flatnonzero(rng.random(len(parent["subject"])) < share)
        begin = parent["end"][which]
        stays = {"subject": parent["subject"][which], "id": parent["id"][which], "start": begin}
        return stays | {
            "end": begin + rng.exponential(days * DAY, len(which)).astype(np.int64) + 60
        }

    hospital = led_to(visits, 0.47, 4.0)
    icu = led_to(hospital, 0.15, 2.0)
    n_hospital = len(hospital["subject"])
    triage = "ED//TRIAGE//"
    parts = [
        static_rows(np.unique(subject), rng),
        rows_of(visits, 1, rng, "ED//ARRIVAL//WALK IN", when="start"),
        rows_of(visits, 1, rng, "ED//DEPARTURE//HOME", when="end"),
        rows_of(visits, 1, rng, f"{triage}PAIN", when="start", text=PAINS),
        rows_of(visits, 1, rng, f"{triage}CHIEFCOMPLAINT", when="start", text=COMPLAINTS),
        rows_of(visits, 1, rng, f"{triage}ACUITY", when="start", number=(3, 0.7)),
        rows_of(visits, 2, rng, DIAGNOSES, prefix="ED//DIAGNOSIS//ICD//", when="end"),
        rows_of(visits, rng.poisson(3.5, n_visits), rng, DRUGS, prefix="ED//PYXIS//"),
        rows_of(visits, rng.poisson(6.0, n_visits), rng, DRUGS, prefix="ED//MEDRECON//"),
        rows_of(visits, rng.poisson(15, n_visits), rng, LABS, number=(50, 9), stay=False),
        rows_of(
            hospital,
            rng.poisson(11, n_hospital),
            rng,
            DIAGNOSES,
            prefix="DIAGNOSIS//ICD//",
            when="end",
            stay=False,
        ),
        rows_of(hospital, rng.poisson(90, n_hospital), rng, LABS, number=(50, 9), stay=False),
    ]
    readings = moments(visits, rng.poisson(3.5, n_visits), rng)
    for name, number in VITALS.items():
        parts.append(rows_of(visits, 1, rng, triage + name, when="start", number=number))
        vital = f"ED//VITALSIGN//{name}"
        parts.append(rows_of(readings, 1, rng, vital, when="start", number=number))
    events = pl.concat(parts, how="diagonal").sort("subject_id", "time", nulls_last=False)
    stays = [
        pl.DataFrame(
            {
                "subject_id": stay["subject"],
                "stay_id": stay["id"],
                "kind": [kind] * len(stay["subject"]),
                "start": stay["start"],
                "end": stay["end"],
            }
        )
        for kind, stay in (("ed", visits), ("hospital", hospital), ("icu", icu))
    ]
    schema = pl.DataFrame(STAY_SCHEMA.empty_table())
    minutes = [
        (pl.lit(EPOCH) + pl.duration(minutes=pl.col(c))).cast(pl.Datetime("us")).alias(c)
        for c in ("start", "end")
    ]
    return events, pl.concat([schema, pl.concat(stays).with_columns(minutes)], how="diagonal")


def make_store(path: Path, n_visits: int, seed: int) -> None:
    """Write a store of `n_visits` ED visits, shard by shard."""
    rng = np.random.default_rng(seed)
    stays, splits = [], []
    subject, done, shard = 1, 0, 0
    with StoreWriter(path) as writer:
        while done < n_visits:
            size = min(VISITS_A_SHARD, n_visits - done)
            events, of_shard = make_shard(rng, subject, 30_000_000 + done, size)
            writer.write_shard(f"train/{shard}", events)
            stays.append(of_shard)
            splits.append(events.select(pl.col("subject_id").unique()))
            subject = int(events["subject_id"].max()) + 1  # type: ignore[arg-type]
            done, shard = done + size, shard + 1
        writer.finish(
            codes=pl.DataFrame(CODE_SCHEMA.empty_table()),
            stays=pl.concat(stays),
            splits=pl.concat(splits).with_columns(split=pl.lit("train")),
            provenance={"source": "benchmark", "source_version": "1", "access": "synthetic"},
            dataset={"dataset_name": "triage-table benchmark", "dataset_version": "1"},
        )


def build(path: Path, feature_set: str) -> dict[str, float]:
    """Build the table and measure; called in a fresh process, whose memory is all the table's."""
    store = open_store(path)
    moment = {"triage": "start", "disposition": "end"}[feature_set]
    index = (
        store.stays()
        .filter(pl.col("kind") == "ed")
        .select("subject_id", pl.col(moment).alias("prediction_time"), "stay_id")
        .collect()
    )
    began = time.perf_counter()
    table = triage_table(store, index, feature_set)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    if table.height != index.height or table.width != 3 + len(FEATURES[feature_set]):
        raise RuntimeError(f"unexpected table of {table.shape}")
    return {
        "visits": len(table),
        "columns": table.width - 3,
        "seconds": seconds,
        "gib": peak_memory() / 2**30,
    }


def peak_memory() -> int:
    """Bytes that this process held at most (Linux). getrusage would count the parent's as well."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visits", type=int, default=450_000)
    parser.add_argument("--store", type=Path, help="keep the store here, or reuse it")
    parser.add_argument("--feature-set", choices=sorted(FEATURES), default="triage")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.store or Path(folder) / "store"
        if not path.exists():
            began = time.perf_counter()
            make_store(path, options.visits, options.seed)
            print(f"store written in {time.perf_counter() - began:.0f} s")
        files = list((path / "data").rglob("*.parquet"))
        n_events = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            m = pool.apply(build, (path, options.feature_set))
    print(
        f"{m['visits']:,.0f} visits x {m['columns']:.0f} columns of {n_events:,} events in "
        f"{len(files)} shards, {pl.thread_pool_size()} threads: {m['seconds']:.1f} s "
        f"({m['visits'] / m['seconds']:,.0f} rows/s), peak {m['gib']:.2f} GiB"
    )
    print(
        f"of the limits: {m['seconds'] / LIMIT_SECONDS:.2f} of {LIMIT_SECONDS:.0f} s, "
        f"{m['gib'] / LIMIT_GIB:.2f} of {LIMIT_GIB:.0f} GiB"
    )


if __name__ == "__main__":
    main()
