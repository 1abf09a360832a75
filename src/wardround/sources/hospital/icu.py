"""The tables of the intensive care units."""

from __future__ import annotations

import numpy as np
import polars as pl

from wardround.sources.hospital.chunk import (
    Chunk,
    Ragged,
    long_tail,
    present,
    spread,
    stack,
    stamp,
    text,
)
from wardround.sources.hospital.dictionaries import CHARTS, COMA, OTHER_ITEMS, RARE_CHARTS
from wardround.sources.hospital.encounters import HOUR
from wardround.sources.hospital.files import TableFiles
from wardround.sources.hospital.measure import draw_vitals
from wardround.sources.hospital.population import DAY

CAREGIVERS = 400
#: Order ids that a chunk may use up.
ORDERS = 200_000
#: Nobody is charted for longer, however long the stay.
MAX_HOURS = 24 * 14
#: Rare items a round of charting.
RARELY = 3.0
ITEM = {label: itemid for itemid, label, *_ in OTHER_ITEMS}


def write_icu(chunk: Chunk, out: TableFiles) -> None:
    """Append the chunk's rows to every file of the module."""
    stays = np.flatnonzero(chunk.in_icu)
    out.write("icu/icustays", _icustays(chunk, stays))
    out.write("icu/chartevents", _chartevents(chunk, stays))
    inputs = _inputevents(chunk, stays)
    out.write("icu/inputevents", inputs)
    out.write("icu/ingredientevents", _ingredientevents(inputs))
    out.write("icu/outputevents", _outputevents(chunk, stays))
    out.write("icu/procedureevents", _procedureevents(chunk, stays))
    out.write("icu/datetimeevents", _datetimeevents(chunk, stays))


def _keys(chunk: Chunk, rows: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """The ids that every row of the module starts with."""
    return {
        "subject_id": chunk.subject_id[rows],
        "hadm_id": chunk.hadm_id.gather(rows),
        "stay_id": chunk.icu_stay_id[rows],
        "caregiver_id": 1_000 + rng.integers(0, CAREGIVERS, len(rows)),
    }


def _first_order(chunk: Chunk) -> int:
    """Where the chunk's order ids begin; infusions have the first half, procedures the second."""
    return 1_000_000 + chunk.number * ORDERS


def _icustays(chunk: Chunk, stays: np.ndarray) -> pl.DataFrame:
    e = chunk.encounters
    keys = _keys(chunk, stays, chunk.rng("icu/icustays"))
    del keys["caregiver_id"]
    unit = text(chunk.icu_unit[stays])
    return pl.DataFrame(
        keys
        | {
            "first_careunit": unit,
            "last_careunit": unit,
            "intime": stamp(e.icu_in[stays]),
            "outtime": stamp(e.icu_out[stays]),
            "los": (e.icu_out - e.icu_in)[stays] / DAY,
        }
    )


def _chartevents(chunk: Chunk, stays: np.ndarray) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("icu/chartevents")
    hours = np.clip((e.icu_out - e.icu_in)[stays] / HOUR, 1, MAX_HOURS).astype(np.int64)
    owner, hour = spread(hours)
    row = stays[owner]
    at = e.icu_in[row] + (hour + rng.uniform(0, 0.2, len(row))) * HOUR
    # A monitor that was not switched off goes on for minutes.
    left_on = np.flatnonzero(e.died & chunk.in_icu & (rng.random(len(chunk)) < 0.3))
    row = np.concatenate([row, left_on])
    at = np.concatenate([at, e.death[left_on] + rng.uniform(60, 1200, len(left_on))])
    hour = np.concatenate([hour, np.ones(len(left_on), np.int64)])
    severity = chunk.severity(row, at)
    values = draw_vitals(rng, chunk.vital_shifts(row, severity), severity)
    pieces = []
    for chart in CHARTS:
        kept = rng.random(len(row)) < (0.25 if chart.vital == "temperature" else 0.97)
        number = values[chart.vital][kept]
        # A nurse verifies within the hour.
        stored = at[kept] + rng.uniform(1, 55, int(kept.sum())) * 60
        pieces.append(
            pl.DataFrame(
                _keys(chunk, row[kept], rng)
                | {
                    "charttime": stamp(at[kept]),
                    "storetime": stamp(stored),
                    "itemid": np.full(len(number), chart.itemid),
                    "value": _plain(number),
                    "valuenum": number,
                    "valueuom": [chart.unit] * len(number),
                    "warning": np.zeros(len(number), np.int64),
                }
            )
        )
    rounds = np.flatnonzero(hour % 4 == 0)
    pieces += _coma_scale(chunk, rng, row[rounds], at[rounds], severity[rounds])
    pieces.append(_rarely_charted(chunk, rng, row[rounds], at[rounds]))
    frame = stack(pieces).sort("subject_id", "stay_id", "charttime", "itemid")
    return pl.concat([frame, frame.gather_every(997)])  # the real table repeats some rows


def _coma_scale(
    chunk: Chunk, rng: np.random.Generator, row: np.ndarray, at: np.ndarray, severity: np.ndarray
) -> list[pl.DataFrame]:
    """Each part of the Glasgow coma scale, charted on rounds."""
    parts = []
    for itemid, _, bound, words in COMA:
        lost = 0.9 * np.maximum(severity - bound, 0) + rng.normal(0, 0.25, len(severity))
        points = np.clip(np.round(len(words) - lost), 1, len(words))
        parts.append(
            pl.DataFrame(
                _keys(chunk, row, rng)
                | {
                    "charttime": stamp(at),
                    "storetime": stamp(at + 600),
                    "itemid": np.full(len(row), itemid),
                    "value": text(np.array(words, dtype=object)[points.astype(int) - 1]),
                    "valuenum": points,
                    "valueuom": pl.Series("", [None] * len(row), dtype=pl.String),
                    "warning": np.zeros(len(row), np.int64),
                }
            )
        )
    return parts


def _rarely_charted(
    chunk: Chunk, rng: np.random.Generator, row: np.ndarray, at: np.ndarray
) -> pl.DataFrame:
    """The long tail of items; of an item's words, the first is the most frequent."""
    owner, _ = spread(np.minimum(rng.poisson(RARELY, len(row)), 12))
    items = len(RARE_CHARTS)
    once = np.unique(owner * items + long_tail(rng, items, len(owner)))
    owner, which = once // items, once % items
    low, high = (np.array([getattr(c, end) for c in RARE_CHARTS]) for end in ("low", "high"))
    number = rng.normal((low + high)[which] / 2, (high - low)[which] / 3)
    number = np.maximum(np.round(number), 0)
    words = Ragged([chart.words or ("",) for chart in RARE_CHARTS])
    place = np.minimum(rng.exponential(0.9, len(which)), words.sizes[which] - 1).astype(np.int64)
    spoken = np.array([bool(chart.words) for chart in RARE_CHARTS])[which]
    said = np.where(spoken, words.values[words.starts[which] + place], _plain(number).to_numpy())
    # The dictionary spells a missing unit out.
    units = [None if chart.unit == "None" else chart.unit for chart in RARE_CHARTS]
    return pl.DataFrame(
        _keys(chunk, row[owner], rng)
        | {
            "charttime": stamp(at[owner]),
            "storetime": stamp(at[owner] + 600),
            "itemid": np.array([chart.itemid for chart in RARE_CHARTS])[which],
            "value": text(said),
            "valuenum": present(number, ~spoken),
            "valueuom": text(np.array(units, dtype=object)[which]),
            "warning": np.zeros(len(which), np.int64),
        }
    )


def _inputevents(chunk: Chunk, stays: np.ndarray) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("icu/inputevents")
    fluid = np.where(rng.random(len(stays)) < 0.9, 1 + rng.poisson(2.0, len(stays)), 0)
    whole = np.clip((e.icu_out - e.icu_in)[stays] / HOUR, 0, MAX_HOURS).astype(np.int64) // 5 + 1
    drip, saline = "01-Drips", "02-Fluids (Crystalloids)"
    # Slots of 5 hours that one may run in, and the severity from which it does.
    kinds = [
        (whole, 1.4, "Norepinephrine", "mg", "mcg/kg/min", 0.15, drip, "Continuous Med"),
        (whole, 1.7, "Propofol", "mg", "mcg/kg/min", 30.0, drip, "Continuous Med"),
        (fluid, -np.inf, "NaCl 0.9%", "ml", "mL/hour", 100.0, saline, "Continuous IV"),
    ]
    pieces = []
    next_order = _first_order(chunk)
    for slots, bound, label, unit, rate_unit, typical, category, description in kinds:
        owner, place = spread(slots)
        row = stays[owner]
        start = e.icu_in[row] + (place + rng.random(len(row))) * 5 * HOUR
        ill = chunk.severity(row, start) + rng.normal(0, 0.6, len(stays))[owner]
        runs = (start < e.icu_out[row] - 600) & (ill > bound)
        row, start = row[runs], start[runs]
        end = np.minimum(start + rng.uniform(0.5, 5, len(row)) * HOUR, e.icu_out[row])
        rate = typical * np.exp(rng.normal(0, 0.4, len(row)))
        weight = np.round(rng.normal(82, 18, len(row)).clip(35, 190), 1)
        hours = (end - start) / HOUR
        amount = rate * hours if unit == "ml" else rate * weight * hours * 0.06
        order = next_order + np.arange(len(row))
        next_order += len(row)
        pieces.append(
            pl.DataFrame(
                _keys(chunk, row, rng)
                | {
                    "starttime": stamp(start),
                    "endtime": stamp(end),
                    "storetime": stamp(start + 300),
                    "itemid": np.full(len(row), ITEM[label]),
                    "amount": amount,
                    "amountuom": [unit] * len(row),
                    "rate": rate,
                    "rateuom": [rate_unit] * len(row),
                    "orderid": order,
                    "linkorderid": order,
                    "ordercategoryname": [category] * len(row),
                    "ordercomponenttypedescription": ["Main order parameter"] * len(row),
                    "ordercategorydescription": [description] * len(row),
                    "patientweight": weight,
                    "totalamount": np.full(len(row), 250.0 if unit == "mg" else 1000.0),
                    "totalamountuom": ["ml"] * len(row),
                    "isopenbag": np.zeros(len(row), np.int64),
                    "continueinnextdept": np.zeros(len(row), np.int64),
                    "statusdescription": ["FinishedRunning"] * len(row),
                    "originalamount": amount,
                    "originalrate": rate,
                }
            )
        )
    return stack(pieces).sort("subject_id", "stay_id", "starttime", "itemid")


def _ingredientevents(inputs: pl.DataFrame) -> pl.DataFrame:
    shared = ["subject_id", "hadm_id", "stay_id", "caregiver_id", "starttime", "endtime"]
    shared += ["storetime", "orderid", "linkorderid", "statusdescription"]
    return inputs.filter(pl.col("amountuom") == "ml").select(
        *shared,
        "amount",
        "amountuom",
        "rate",
        "rateuom",
        "originalrate",
        itemid=pl.lit(ITEM["Water"]),
        originalamount=pl.lit(0),
    )


def _outputevents(chunk: Chunk, stays: np.ndarray) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("icu/outputevents")
    hours = np.clip((e.icu_out - e.icu_in)[stays] / HOUR, 4, MAX_HOURS)
    owner, place = spread((hours / 4).astype(np.int64))
    row = stays[owner]
    at = e.icu_in[row] + (4 * place + rng.uniform(0, 3, len(row))) * HOUR
    at = np.minimum(at, e.icu_out[row])
    ill = chunk.severity(row, at)
    volume = np.round(np.exp(rng.normal(5.2, 0.6, len(row)) - 0.25 * ill) / 5) * 5
    catheter = np.where(e.severity[row] > 0.8, ITEM["Foley"], ITEM["Void"])
    return pl.DataFrame(
        _keys(chunk, row, rng)
        | {
            "charttime": stamp(at),
            "storetime": stamp(at + rng.uniform(-900, 3000, len(row))),
            "itemid": catheter,
            "value": volume,
            "valueuom": ["ml"] * len(row),
        }
    )


def _procedureevents(chunk: Chunk, stays: np.ndarray) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("icu/procedureevents")
    pieces = []
    next_order = _first_order(chunk) + ORDERS // 2
    for label, bound in (("Invasive Ventilation", 1.6), ("Arterial Line", 1.2)):
        row = stays[e.severity[stays] + rng.normal(0, 0.6, len(stays)) > bound]
        start = e.icu_in[row] + rng.uniform(0.1, 0.5, len(row)) * (e.icu_out - e.icu_in)[row]
        end = start + rng.uniform(0.1, 0.99, len(row)) * (e.icu_out[row] - start)
        minutes = np.round((end - start) / 60)
        order = next_order + np.arange(len(row))
        next_order += len(row)
        pieces.append(
            pl.DataFrame(
                _keys(chunk, row, rng)
                | {
                    "starttime": stamp(start),
                    "endtime": stamp(end),
                    "storetime": stamp(end),
                    "itemid": np.full(len(row), ITEM[label]),
                    "value": minutes,
                    "valueuom": ["min"] * len(row),
                    "orderid": order,
                    "linkorderid": order,
                    "ordercategoryname": ["Ventilation" if "V" in label else "Invasive Lines"]
                    * len(row),
                    "ordercategorydescription": ["ContinuousProcess"] * len(row),
                    "patientweight": np.round(rng.normal(82, 18, len(row)).clip(35, 190), 1),
                    "isopenbag": np.ones(len(row), np.int64),
                    "continueinnextdept": np.zeros(len(row), np.int64),
                    "statusdescription": ["FinishedRunning"] * len(row),
                    "originalamount": minutes,
                    "originalrate": np.ones(len(row)),
                }
            )
        )
    return stack(pieces)


def _datetimeevents(chunk: Chunk, stays: np.ndarray) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("icu/datetimeevents")
    row = stays[rng.random(len(stays)) < 0.4]
    at = e.icu_in[row] + rng.uniform(0, 1, len(row)) * (e.icu_out - e.icu_in)[row]
    return pl.DataFrame(
        _keys(chunk, row, rng)
        | {
            "charttime": stamp(at),
            "storetime": stamp(at + 120),
            "itemid": np.full(len(row), ITEM["Arterial line Tubing Change"]),
            "value": stamp(np.floor(at / DAY) * DAY),
            "valueuom": ["Date"] * len(row),
            "warning": np.zeros(len(row), np.int64),
        }
    )


def _plain(numbers: np.ndarray) -> pl.Series:
    """Numbers as charted: whole ones without a point."""
    series = pl.Series("", numbers).cast(pl.String)
    return series.str.strip_suffix(".0")
