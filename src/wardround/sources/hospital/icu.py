"""The tables of the intensive care units."""

from __future__ import annotations

import numpy as np
import polars as pl

from wardround.sources.hospital.chunk import Chunk, spread, stack, stamp, text
from wardround.sources.hospital.dictionaries import CHARTS, OTHER_ITEMS
from wardround.sources.hospital.encounters import HOUR
from wardround.sources.hospital.files import TableFiles
from wardround.sources.hospital.measure import draw_vitals
from wardround.sources.hospital.population import DAY

CAREGIVERS = 400
#: Nobody is charted for longer, however long the stay.
MAX_HOURS = 24 * 14
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


def _keys(chunk: Chunk, rows: np.ndarray) -> dict[str, object]:
    """The ids that every row of the module starts with."""
    return {
        "subject_id": chunk.subject_id[rows],
        "hadm_id": chunk.hadm_id.gather(rows),
        "stay_id": chunk.icu_stay_id[rows],
        "caregiver_id": 1_000 + chunk.rng.integers(0, CAREGIVERS, len(rows)),
    }


def _icustays(chunk: Chunk, stays: np.ndarray) -> pl.DataFrame:
    e = chunk.encounters
    keys = _keys(chunk, stays)
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
    e, rng = chunk.encounters, chunk.rng
    hours = np.clip((e.icu_out - e.icu_in)[stays] / HOUR, 1, MAX_HOURS).astype(np.int64)
    owner, hour = spread(hours)
    row = stays[owner]
    # Survivors get better day by day, the dying do not.
    course = np.where(e.died[row], 1 + 0.01 * hour, np.exp(-hour / 40))
    values = draw_vitals(rng, chunk.vital_shift[row], e.severity[row] * course, recovery=1.0)
    at = e.icu_in[row] + (hour + rng.uniform(0, 0.2, len(row))) * HOUR
    pieces = []
    for chart in CHARTS:
        kept = rng.random(len(row)) < (0.25 if chart.vital == "temperature" else 0.97)
        number = values[chart.vital][kept]
        # A nurse verifies within the hour.
        stored = at[kept] + rng.uniform(1, 55, int(kept.sum())) * 60
        pieces.append(
            pl.DataFrame(
                _keys(chunk, row[kept])
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
    coma = np.flatnonzero(hour % 4 == 0)
    motor = np.clip(np.round(6 - 0.9 * np.maximum(e.severity[row[coma]] - 1, 0)), 1, 6)
    words = np.array(
        ["No response", "Abnormal extension", "Abnormal Flexion", "Flex-withdraws",
         "Localizes Pain", "Obeys Commands"], dtype=object,
    )  # fmt: skip
    pieces.append(
        pl.DataFrame(
            _keys(chunk, row[coma])
            | {
                "charttime": stamp(at[coma]),
                "storetime": stamp(at[coma] + 600),
                "itemid": np.full(len(coma), ITEM["GCS - Motor Response"]),
                "value": text(words[motor.astype(int) - 1]),
                "valuenum": motor,
                "valueuom": pl.Series("", [None] * len(coma), dtype=pl.String),
                "warning": np.zeros(len(coma), np.int64),
            }
        )
    )
    frame = stack(pieces).sort("subject_id", "stay_id", "charttime", "itemid")
    return pl.concat([frame, frame.gather_every(997)])  # the real table repeats some rows


def _inputevents(chunk: Chunk, stays: np.ndarray) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng
    pressed = stays[e.severity[stays] + rng.normal(0, 0.6, len(stays)) > 1.4]
    sedated = stays[e.severity[stays] + rng.normal(0, 0.6, len(stays)) > 1.7]
    fluid = stays[rng.random(len(stays)) < 0.9]
    kinds = [
        (pressed, "Norepinephrine", "mg", "mcg/kg/min", 0.15, "01-Drips", "Continuous Med"),
        (sedated, "Propofol", "mg", "mcg/kg/min", 30.0, "01-Drips", "Continuous Med"),
        (fluid, "NaCl 0.9%", "ml", "mL/hour", 100.0, "02-Fluids (Crystalloids)", "Continuous IV"),
    ]
    pieces = []
    for which, label, unit, rate_unit, typical, category, description in kinds:
        owner, place = spread(1 + rng.poisson(2.0, len(which)))
        row = which[owner]
        start = e.icu_in[row] + (place + rng.random(len(row))) * 5 * HOUR
        inside = start < e.icu_out[row] - 600
        row, start = row[inside], start[inside]
        end = np.minimum(start + rng.uniform(0.5, 5, len(row)) * HOUR, e.icu_out[row])
        rate = typical * np.exp(rng.normal(0, 0.4, len(row)))
        weight = np.round(rng.normal(82, 18, len(row)).clip(35, 190), 1)
        hours = (end - start) / HOUR
        amount = rate * hours if unit == "ml" else rate * weight * hours * 0.06
        order = 1_000_000 + rng.integers(0, 9_000_000, len(row))
        pieces.append(
            pl.DataFrame(
                _keys(chunk, row)
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
    e, rng = chunk.encounters, chunk.rng
    hours = np.clip((e.icu_out - e.icu_in)[stays] / HOUR, 4, MAX_HOURS)
    owner, place = spread((hours / 4).astype(np.int64))
    row = stays[owner]
    at = e.icu_in[row] + (4 * place + rng.uniform(0, 3, len(row))) * HOUR
    at = np.minimum(at, e.icu_out[row])
    volume = np.round(np.exp(rng.normal(5.2, 0.6, len(row)) - 0.25 * e.severity[row]) / 5) * 5
    catheter = np.where(e.severity[row] > 0.8, ITEM["Foley"], ITEM["Void"])
    return pl.DataFrame(
        _keys(chunk, row)
        | {
            "charttime": stamp(at),
            "storetime": stamp(at + rng.uniform(-900, 3000, len(row))),
            "itemid": catheter,
            "value": volume,
            "valueuom": ["ml"] * len(row),
        }
    )


def _procedureevents(chunk: Chunk, stays: np.ndarray) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng
    pieces = []
    for label, bound in (("Invasive Ventilation", 1.6), ("Arterial Line", 1.2)):
        row = stays[e.severity[stays] + rng.normal(0, 0.6, len(stays)) > bound]
        start = e.icu_in[row] + rng.uniform(0.1, 0.5, len(row)) * (e.icu_out - e.icu_in)[row]
        end = start + rng.uniform(0.1, 0.99, len(row)) * (e.icu_out[row] - start)
        minutes = np.round((end - start) / 60)
        order = 1_000_000 + rng.integers(0, 9_000_000, len(row))
        pieces.append(
            pl.DataFrame(
                _keys(chunk, row)
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
    e, rng = chunk.encounters, chunk.rng
    row = stays[rng.random(len(stays)) < 0.4]
    at = e.icu_in[row] + rng.uniform(0, 1, len(row)) * (e.icu_out - e.icu_in)[row]
    return pl.DataFrame(
        _keys(chunk, row)
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
