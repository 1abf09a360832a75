"""The laboratory: blood tests and cultures."""

from __future__ import annotations

import numpy as np
import polars as pl

from wardround.sources.hospital.chunk import Chunk, long_tail, present, spread, stack, stamp, text
from wardround.sources.hospital.dictionaries import (
    ANTIBIOTICS,
    BASIC_LABS,
    LABS,
    ORGANISMS,
    RARE_LABS,
    Lab,
)
from wardround.sources.hospital.encounters import HOUR
from wardround.sources.hospital.files import TableFiles
from wardround.sources.hospital.hosp import provider
from wardround.sources.hospital.measure import draw_lab
from wardround.sources.hospital.population import DAY

#: What is sampled, blood first; each in a specimen of its own.
FLUIDS = sorted({lab.fluid for lab in RARE_LABS}, key=lambda fluid: (fluid != "Blood", fluid))
#: Days on which blood is drawn, at most.
MAX_DAYS = 21


def write_laboratory(chunk: Chunk, out: TableFiles) -> None:
    """Append the chunk's rows to labevents and microbiologyevents."""
    out.write("hosp/labevents", labevents(chunk))
    out.write("hosp/microbiologyevents", microbiologyevents(chunk))


def labevents(chunk: Chunk) -> pl.DataFrame:
    """The labevents table of a chunk."""
    return chunk.once("hosp/labevents", _labevents)


def microbiologyevents(chunk: Chunk) -> pl.DataFrame:
    """The microbiologyevents table of a chunk."""
    return chunk.once("hosp/microbiologyevents", _microbiologyevents)


def _draws(chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """Every round of blood: encounter and time."""
    e, rng = chunk.encounters, chunk.rng("blood draws")
    # In the ED most patients are bled once, the sicker ones more surely.
    chance = 0.62 + 0.12 * np.clip(e.severity, -2, 2)
    first = np.flatnonzero(chunk.visit & (rng.random(len(chunk)) < chance))
    early = e.start[first] + np.minimum(
        rng.uniform(0.3, 1.5, len(first)) * HOUR, 0.6 * (e.leave - e.start)[first]
    )
    stays = np.flatnonzero(e.admitted)
    days = np.clip((e.discharge - e.admit)[stays] / DAY, 0, MAX_DAYS).astype(np.int64)
    owner, day = spread(days)
    row = stays[owner]
    morning = (
        np.floor(e.admit[row] / DAY) * DAY + (day + 1) * DAY + rng.normal(6, 0.7, len(row)) * HOUR
    )
    inside = (morning > e.admit[row]) & (morning < e.discharge[row])
    row, morning = row[inside], morning[inside]
    # A sample that was under way when the patient died is still measured.
    late = np.flatnonzero(e.died & (rng.random(len(chunk)) < 0.3))
    after = e.discharge[late] + rng.uniform(60, 1500, len(late))
    return np.concatenate([first, row, late]), np.concatenate([early, morning, after])


def _labevents(chunk: Chunk) -> pl.DataFrame:
    rng = chunk.rng("hosp/labevents")
    row, at = _draws(chunk)
    severity = chunk.severity(row, at)
    moved = chunk.shifts(row, severity, "labs", list(LABS))
    stored = at + rng.uniform(25, 150, len(row)) * 60
    specimen = 60_000_000 + chunk.number * 1_000_000 + len(FLUIDS) * np.arange(len(row))
    doctor = provider(rng, len(row))
    pieces = []
    for number, (name, lab) in enumerate(LABS.items()):
        if name in BASIC_LABS:
            taken = rng.random(len(row)) < 0.96
        else:
            wanted = np.where(moved[:, number] != 0, 0.7, 0.12)
            taken = rng.random(len(row)) < wanted
        draw = np.flatnonzero(taken)
        value = draw_lab(rng, name, moved[draw, number], severity[draw])
        pieces.append(_results(lab, draw, value))
    many = np.minimum(rng.poisson(1.0, len(row)), 8)
    draw, _ = spread(many)
    which = long_tail(rng, len(RARE_LABS), len(draw))
    for number, lab in enumerate(RARE_LABS):
        chosen = np.unique(draw[which == number])
        value = rng.normal(lab.mean, lab.sd, len(chosen))
        value = np.exp(value) if lab.skewed else value
        pieces.append(_results(lab, chosen, np.round(value, lab.decimals) + 0.0))  # no -0
    results = stack(pieces)
    draw = results["draw"].to_numpy()
    count = len(results)
    unread = rng.random(count) < 0.004  # hemolysed, cancelled: a comment instead of a number
    nameless = rng.random(count) < 0.01
    frame = results.with_columns(
        subject_id=chunk.subject_id[row[draw]],
        hadm_id=chunk.hadm_id.gather(row[draw]),
        specimen_id=specimen[draw] + results["fluid"].to_numpy(),
        order_provider_id=doctor.gather(draw),
        charttime=stamp(np.floor(at[draw] / 60) * 60),
        storetime=stamp(np.floor(stored[draw] / 60) * 60),
        priority=text(np.where(rng.random(len(row)) < 0.4, "STAT", "ROUTINE").astype(object)[draw]),
        valueuom=pl.when(pl.Series(nameless)).then(None).otherwise("valueuom"),
        value=pl.when(pl.Series(unread)).then(pl.lit("___")).otherwise("value"),
        valuenum=pl.when(pl.Series(unread)).then(None).otherwise("valuenum"),
        comments=pl.when(pl.Series(unread)).then(pl.lit("___")),
    ).drop("draw", "fluid")
    frame = frame.sort("subject_id", "charttime", "specimen_id", "itemid")
    # The real table holds some results twice under two ids.
    frame = pl.concat([frame, frame.gather_every(701)])
    return frame.with_columns(labevent_id=chunk.number * 10_000_000 + pl.int_range(pl.len()))


def _results(lab: Lab, draw: np.ndarray, value: np.ndarray) -> pl.DataFrame:
    number = pl.Series("", value, dtype=pl.Float64)
    written = number.cast(pl.Int64) if lab.decimals == 0 else number
    abnormal = (value < lab.low) | (value > lab.high)
    return pl.DataFrame(
        {
            "draw": draw,
            "fluid": np.full(len(draw), FLUIDS.index(lab.fluid)),
            "itemid": np.full(len(draw), lab.itemid),
            "value": written.cast(pl.String),
            "valuenum": number,
            "valueuom": pl.Series("", [lab.unit or None] * len(draw), dtype=pl.String),
            "ref_range_lower": np.full(len(draw), float(lab.low)),
            "ref_range_upper": np.full(len(draw), float(lab.high)),
            "flag": present(np.full(len(draw), "abnormal", dtype=object), abnormal),
        }
    )


def _microbiologyevents(chunk: Chunk) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("hosp/microbiologyevents")
    infected = np.array([a.infection for a in chunk.catalogue.acute])[e.acute]
    cultured = np.flatnonzero(e.admitted & (rng.random(len(chunk)) < np.where(infected, 0.8, 0.08)))
    count = len(cultured)
    grows = rng.random(count) < np.where(infected[cultured], 0.35, 0.05)
    organism = rng.choice(len(ORGANISMS), count, p=[0.45, 0.3, 0.15, 0.1])
    at = e.start[cultured] + rng.uniform(1, 6, count) * HOUR
    stored = at + rng.uniform(1, 5, count) * DAY
    urine = rng.random(count) < 0.4
    timed = rng.random(count) < 0.9  # some are known by their day alone
    midnight = np.floor(at / DAY) * DAY
    germs = np.array([name for _, name in ORGANISMS], dtype=object)
    germ_ids = np.array([itemid for itemid, _ in ORGANISMS])
    nothing = present(np.full(count, "NO GROWTH.", dtype=object), ~grows)
    base = pl.DataFrame(
        {
            "subject_id": chunk.subject_id[cultured],
            "hadm_id": chunk.hadm_id.gather(cultured),
            "micro_specimen_id": 5_000_000 + chunk.number * 100_000 + np.arange(count),
            "order_provider_id": provider(rng, count),
            "chartdate": stamp(midnight),
            "charttime": stamp(at, timed),
            "spec_itemid": np.where(urine, 70079, 70012),
            "spec_type_desc": np.where(urine, "URINE", "BLOOD CULTURE").tolist(),
            "test_seq": np.ones(count, np.int64),
            "storedate": stamp(np.floor(stored / DAY) * DAY),
            "storetime": stamp(stored),
            "test_itemid": np.where(urine, 90039, 90201),
            "test_name": np.where(urine, "URINE CULTURE", "Blood Culture, Routine").tolist(),
            "comments": nothing,
        }
    )
    germ = base.with_columns(
        org_itemid=pl.Series(germ_ids[organism]),
        org_name=text(germs[organism]),
        isolate_num=pl.lit(1),
    ).filter(pl.Series(grows))
    tested = []
    for itemid, name in ANTIBIOTICS:
        resists = rng.random(len(germ)) < 0.25
        dilution = np.where(resists, 32, 2)
        tested.append(
            germ.with_columns(
                ab_itemid=pl.lit(itemid),
                ab_name=pl.lit(name),
                dilution_text=pl.Series(np.where(resists, ">=32", "<=2").tolist()),
                dilution_comparison=pl.Series(np.where(resists, "=>", "<=").tolist()),
                dilution_value=pl.Series(dilution),
                interpretation=pl.Series(np.where(resists, "R", "S").tolist()),
            )
        )
    return (
        pl.concat([base.filter(pl.Series(~grows)), *tested], how="diagonal")
        .sort("subject_id", "micro_specimen_id", "ab_itemid")
        .with_columns(microevent_id=chunk.number * 1_000_000 + pl.int_range(pl.len()))
    )
