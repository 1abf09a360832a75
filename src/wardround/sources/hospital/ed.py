"""The tables of the emergency department."""

from __future__ import annotations

import numpy as np
import polars as pl

from wardround.sources.hospital.catalogue import VITALS
from wardround.sources.hospital.chunk import (
    Chunk,
    Ragged,
    long_tail,
    present,
    spread,
    stamp,
    text,
)
from wardround.sources.hospital.codes import diagnosis_titles
from wardround.sources.hospital.encounters import HOUR
from wardround.sources.hospital.files import TableFiles
from wardround.sources.hospital.measure import DECIMALS, draw_vitals

#: Share of triage values that nobody wrote down.
MISSING = {
    "temperature": 0.055,
    "heartrate": 0.04,
    "resprate": 0.048,
    "o2sat": 0.048,
    "sbp": 0.043,
    "dbp": 0.045,
    "pain": 0.03,
    "acuity": 0.017,
}
#: Severity, as the triage nurse sees it, from which a level is 4, 3, 2, 1.
ACUITY_BOUNDS = (-2.1, -0.75, 0.75, 2.5)
NURSE_NOISE = 0.5
PAIN_WORDS = np.array(["8-9", "unable", "UTA", "critical", "sleeping", "10+"], dtype=object)
LEAVERS = (
    ("HOME", 0.93),
    ("TRANSFER", 0.025),
    ("LEFT WITHOUT BEING SEEN", 0.015),
    ("LEFT AGAINST MEDICAL ADVICE", 0.012),
    ("ELOPED", 0.01),
    ("OTHER", 0.008),
)


def write_ed(chunk: Chunk, out: TableFiles) -> None:
    """Append the chunk's rows to every file of the module."""
    out.write("ed/edstays", _edstays(chunk))
    out.write("ed/triage", triage(chunk))
    out.write("ed/vitalsign", _vitalsign(chunk))
    out.write("ed/pyxis", _pyxis(chunk))
    out.write("ed/medrecon", _medrecon(chunk))
    out.write("ed/diagnosis", _diagnosis(chunk))


def triage(chunk: Chunk) -> pl.DataFrame:
    """The triage table of a chunk."""
    return chunk.once("ed/triage", _triage)


def earlier_stays(chunk: Chunk) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The ED stays before those that share their admission: row, stay_id, start, end."""
    row = np.flatnonzero(chunk.shared)
    end = chunk.encounters.start[row] - 2 * HOUR
    return row, chunk.ed_stay_id[row] + 5, end - 4 * HOUR, end


def _edstays(chunk: Chunk) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("ed/edstays")
    names, shares = zip(*LEAVERS, strict=True)
    home = rng.choice(np.array(names, dtype=object), len(chunk), p=shares)
    disposition = np.where(e.admitted, "ADMITTED", np.where(e.died_in_ed, "EXPIRED", home))
    by_ambulance = rng.random(len(chunk)) < 0.3 + 0.12 * np.clip(e.severity, -1, 3)
    transport = np.where(by_ambulance, "AMBULANCE", "WALK IN").astype(object)
    transport[rng.random(len(chunk)) < 0.03] = "UNKNOWN"
    row, stay, start, end = earlier_stays(chunk)
    rows = np.concatenate([np.flatnonzero(chunk.visit), row])
    own = int(chunk.visit.sum())
    return pl.DataFrame(
        {
            "subject_id": chunk.subject_id[rows],
            "hadm_id": chunk.hadm_id.gather(rows),
            "stay_id": np.concatenate([chunk.ed_stay_id[rows[:own]], stay]),
            "intime": stamp(np.concatenate([e.start[rows[:own]], start])),
            "outtime": stamp(np.concatenate([e.leave[rows[:own]], end])),
            "gender": np.where(chunk.patients.female[e.patient[rows]], "F", "M").tolist(),
            "race": text(chunk.patients.race[e.patient[rows]]),
            "arrival_transport": text(transport[rows]),
            "disposition": [*disposition[rows[:own]].tolist(), *["TRANSFER"] * len(row)],
        }
    ).sort("subject_id", "intime")


def _triage(chunk: Chunk) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("ed/triage")
    row, stay, _, _ = earlier_stays(chunk)
    rows = np.concatenate([np.flatnonzero(chunk.visit), row])
    stays = np.concatenate([chunk.ed_stay_id[chunk.visit], stay])
    count = len(rows)
    severity = e.severity[rows]
    values = draw_vitals(rng, chunk.vital_shifts(rows, severity), severity)
    # A thermometer in Celsius, a monitor's error code: as in the real files.
    celsius = rng.random(count) < 0.01
    values["temperature"] = np.where(
        celsius, np.round((values["temperature"] - 32) / 1.8, 1), values["temperature"]
    )
    values["heartrate"] = np.where(rng.random(count) < 0.0008, 9999, values["heartrate"])
    values["o2sat"] = np.where(rng.random(count) < 0.0015, 0, values["o2sat"])
    values["dbp"] = np.where(rng.random(count) < 0.001, values["dbp"] * 10, values["dbp"])
    seen = severity + NURSE_NOISE * rng.normal(size=count)
    acuity = 5 - np.searchsorted(ACUITY_BOUNDS, seen)
    # Some always say 8, some always 0.
    nurse = chunk.rng("ed/triage pain")
    habit = nurse.normal(size=len(chunk.patients))[e.patient[rows]]
    felt = 4.2 + 3.4 * (0.9 * habit + 0.44 * nurse.normal(size=count))
    pain = np.clip(np.round(felt), 0, 10).astype(int).astype(str)
    unread = nurse.random(count) < 0.03
    pain = np.where(unread, nurse.choice(PAIN_WORDS, count), pain.astype(object))
    gaps = {name: rng.random(count) >= share for name, share in MISSING.items()}
    phrases = _complaints(chunk, rows, rng)
    return pl.DataFrame(
        {"subject_id": chunk.subject_id[rows], "stay_id": stays}
        | {name: present(values[name], gaps[name]) for name in VITALS}
        | {
            "pain": present(pain, gaps["pain"]),
            "acuity": present(acuity.astype(float), gaps["acuity"]),
            "chiefcomplaint": phrases,
        }
    ).sort("subject_id", "stay_id")


def _complaints(chunk: Chunk, rows: np.ndarray, rng: np.random.Generator) -> pl.Series:
    lists = Ragged([c.phrases for c in chunk.catalogue.acute])
    spoken = lists.pick(chunk.encounters.acute[rows], rng)
    blank = rng.random(len(rows)) < 0.003
    return text(np.where(blank, "___", spoken))


def _vitalsign(chunk: Chunk) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("ed/vitalsign")
    visits = np.flatnonzero(chunk.visit)
    hours = (e.leave - e.start)[visits] / HOUR
    rounds = np.minimum(1 + rng.poisson(hours / 2.2), 14)
    owner, place = spread(rounds)
    row = visits[owner]
    part = (place + rng.random(len(place))) / rounds[owner]
    at = np.minimum(e.start[row] + 300 + part * (e.leave - e.start)[row], e.leave[row])
    # Treatment brings the signs half-way back by the end of the visit.
    severity = e.severity[row]
    moved = chunk.vital_shifts(row, severity)
    values = draw_vitals(rng, moved, severity, recovery=1.0)
    settled = draw_vitals(rng, moved, severity, recovery=0.5)
    mixed = {
        name: np.round((1 - part) * values[name] + part * settled[name], DECIMALS[name])
        for name in VITALS
    }
    count = len(row)
    rhythm = np.full(count, "Sinus Rhythm", dtype=object)
    pain = np.clip(np.round(rng.normal(2.5, 3, count)), 0, 10).astype(int).astype(str)
    return pl.DataFrame(
        {
            "subject_id": chunk.subject_id[row],
            "stay_id": chunk.ed_stay_id[row],
            "charttime": stamp(at),
        }
        | {
            name: present(mixed[name], rng.random(count) > (0.4 if name == "temperature" else 0.06))
            for name in VITALS
        }
        | {
            "rhythm": present(rhythm, rng.random(count) < 0.04),
            "pain": present(pain.astype(object), rng.random(count) > 0.2),
        }
    )


def _pyxis(chunk: Chunk) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("ed/pyxis")
    owner, drug = chunk.acute_values("drugs")
    given = (rng.random(len(owner)) < 0.7) & chunk.visit[owner]
    extra, _ = spread(np.where(chunk.visit, rng.poisson(0.4 + 0.4 * np.clip(e.severity, 0, 3)), 0))
    tail = chunk.rare_drugs[long_tail(rng, len(chunk.rare_drugs), len(extra))]
    row = np.concatenate([owner[given], extra])
    names = np.concatenate([drug[given], tail])
    at = e.start[row] + rng.uniform(0.1, 0.95, len(row)) * (e.leave - e.start)[row]
    frame = (
        pl.DataFrame(
            {
                "subject_id": chunk.subject_id[row],
                "stay_id": chunk.ed_stay_id[row],
                "charttime": stamp(at),
                "gsn": chunk.products(row, names)["gsn"],
                "name": text(names),
            }
        )
        .sort("subject_id", "stay_id", "charttime", "name", "gsn")
        .with_columns(
            med_rn=pl.int_range(1, pl.len() + 1).over("stay_id"), gsn_rn=pl.lit(1, pl.Int64)
        )
    )
    # Some drawers are filed under two numbers.
    twice = frame.filter(pl.col("gsn").str.ends_with("7")).with_columns(
        gsn=pl.lit("0") + (80_000 + pl.col("gsn").cast(pl.Int64) % 20_000).cast(pl.String),
        gsn_rn=pl.lit(2, pl.Int64),
    )
    return pl.concat([frame, twice]).sort("subject_id", "stay_id", "med_rn", "gsn_rn")


def _medrecon(chunk: Chunk) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("ed/medrecon")
    owner, drug = chunk.conditions("drugs", acute=False)
    listed = (rng.random(len(owner)) < 0.8) & chunk.visit[owner]
    extra, _ = spread(np.where(chunk.visit, rng.poisson(1.2, len(chunk)), 0))
    tail = chunk.rare_drugs[long_tail(rng, len(chunk.rare_drugs), len(extra))]
    row = np.concatenate([owner[listed], extra])
    at = e.start[row] + rng.uniform(0.02, 0.25, len(row)) * (e.leave - e.start)[row]
    names = np.concatenate([drug[listed], tail])
    return (
        pl.DataFrame(
            {
                "subject_id": chunk.subject_id[row],
                "stay_id": chunk.ed_stay_id[row],
                "charttime": stamp(at),
                "name": text(names),
            }
        )
        .hstack(chunk.products(row, names).select("gsn", "ndc"))
        .unique(["stay_id", "name"], keep="first", maintain_order=True)
        .with_columns(
            gsn=pl.when(pl.col("gsn").str.ends_with("3")).then(None).otherwise("gsn"),
            etc_rn=pl.lit(1),
            etccode=pl.lit("0000")
            + (pl.col("gsn").cast(pl.Int64) % 5_000).cast(pl.String).str.zfill(4),
            etcdescription=pl.concat_str("name", pl.lit(" preparations")),
        )
        .sort("subject_id", "stay_id", "name")
    )


def _diagnosis(chunk: Chunk) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("ed/diagnosis")
    main = np.flatnonzero(chunk.visit)
    row, condition = np.nonzero(e.chronic & chunk.visit[:, None])
    coded = rng.random(len(row)) < 0.25  # an ED codes why a patient came, and little else
    row, condition = row[coded], condition[coded]
    catalogue = chunk.catalogue
    rows = np.concatenate([main, row])
    codes = np.concatenate(
        [
            chunk.codes(main, catalogue.acute, e.acute[main], rng),
            chunk.codes(row, catalogue.chronic, condition, rng),
        ]
    )
    return (
        pl.DataFrame(
            {
                "subject_id": chunk.subject_id[rows],
                "stay_id": chunk.ed_stay_id[rows],
                "icd_code": text(codes),
                "icd_version": chunk.icd_version[rows],
            }
        )
        .unique(["stay_id", "icd_code"], maintain_order=True)
        .sort("subject_id", "stay_id", maintain_order=True)
        .with_columns(seq_num=pl.int_range(1, pl.len() + 1).over("stay_id"))
        .join(
            diagnosis_titles().rename({"long_title": "icd_title"}),
            on=["icd_version", "icd_code"],
            how="left",
            maintain_order="left",
        )
    )
