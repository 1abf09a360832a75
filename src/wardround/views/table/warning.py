"""What early-warning scores read of an inpatient: the last vital signs, and how old they are.

MIMIC-IV charts vital signs in the emergency department and on intensive care only, so that of a day
on the ward nothing is known. The scores themselves are `wardround.models.clinical_scores`.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import polars as pl

from wardround.errors import WardroundError
from wardround.store import PatientStore, known_at
from wardround.views.records import (
    ROW,
    Records,
    by_shard,
    code_in,
    number_rows,
    one_row_each,
    require_columns,
)
from wardround.views.table.cleaning import clean_vital
from wardround.views.table.demographics import BIRTH, age
from wardround.views.table.windows import chunks

VITALS = ("heartrate", "resprate", "o2sat", "temperature", "sbp", "dbp")
#: Columns that have an age in hours, in order.
INPUTS = (*VITALS, "gcs", "acvpu", "oxygen")
LOOKBACK = timedelta(hours=24)

#: MIMIC-IV's chart items, and the code of the same in the emergency department.
_ITEMS = {
    "220045": "heartrate",
    **dict.fromkeys(("220210", "224690"), "resprate"),
    "220277": "o2sat",
    **dict.fromkeys(("223761", "223762"), "temperature"),
    **dict.fromkeys(("220179", "220050", "225309"), "sbp"),
    **dict.fromkeys(("220180", "220051", "225310"), "dbp"),
}
_EMERGENCY = {
    f"ED//{table}//{vital.upper()}": vital for table in ("TRIAGE", "VITALSIGN") for vital in VITALS
}
_CELSIUS = "223762"
_EYES, _VERBAL, _MOTOR = _GCS = ("220739", "223900", "223901")
_RASS, _CONSCIOUSNESS = "228096", "226104"
_DEVICE, _FRACTION, _FLOWS = "226732", "223835", ("223834", "227287")
_CHARTED = (*_ITEMS, *_GCS, _RASS, _CONSCIOUSNESS, _DEVICE, _FRACTION, *_FLOWS)
_CHARTS = pl.col("code").str.contains(rf"^LAB//(?:{'|'.join(_CHARTED)})(?://|$)")

ALERT, CONFUSED, VOICE, PAIN, UNRESPONSIVE = range(5)
_WORDS = {
    "alert": ALERT,
    "arouse to voice": VOICE,
    "lethargic": VOICE,
    "arouse to pain": PAIN,
    "unresponsive": UNRESPONSIVE,
}


def warning_inputs(
    store: PatientStore, index: pl.DataFrame, *, lookback: timedelta = LOOKBACK
) -> pl.DataFrame:
    """The last known value of each input of NEWS, NEWS2, MEWS, REMS and CART.

    Last is by charting time, then by filing time; of several values with the same two times the
    greatest counts. Values are cleaned by `clean_vital`.

    Consciousness is the last of what was charted of it: a level in words; the Richmond scale (0 and
    +1 alert, higher confused, -1 to -3 voice, -4 pain, -5 unresponsive); or the Glasgow coma scale
    by the medians of McNarry and Goldhill (Anaesthesia 2004;59:34-37), halfway between two: 15
    alert, 14 confused, 11 to 13 voice, 7 to 10 pain, 3 to 6 unresponsive. With a tube the coma
    scale is missing.

    Args:
        store: any patient store.
        index: `subject_id`, `prediction_time`, one row a prediction, and any more key columns.
        lookback: how old a value may be; it lies in (t - lookback, t].

    Returns:
        The columns of `index`, then `age` (Int32, years), and as Float32 `heartrate`, `resprate`
        (a minute), `o2sat` (%), `temperature` (Celsius), `sbp`, `dbp` (mmHg), `gcs` (3 to 15),
        `acvpu` (0 alert, 1 confused, 2 voice, 3 pain, 4 unresponsive), `oxygen` (1 on supplemental
        oxygen, 0 on air), and `<name>_hours`, the hours since each of them was charted. Null where
        nothing was known.

    Raises:
        WardroundError: columns are missing, or the lookback is not positive.
    """
    require_columns(index, ("subject_id", "prediction_time"))
    if lookback <= timedelta(0):
        raise WardroundError(f"the lookback has to be longer than nothing, got {lookback}")
    keys = index.select("subject_id", "prediction_time")
    wanted = code_in([BIRTH, *_EMERGENCY]) | _CHARTS
    block = partial(_last, lookback=lookback)
    return index.hstack(by_shard(store, keys, block, codes=wanted, what="Warning signs"))


def _last(records: Records, predictions: pl.DataFrame, lookback: timedelta) -> pl.DataFrame:
    events = _measurements(records)
    rows = number_rows(predictions)
    columns = dict.fromkeys((*INPUTS, *(f"{name}_hours" for name in INPUTS)), pl.Float32)
    hours = (pl.col("prediction_time") - pl.col("time")).dt.total_seconds() / 3600
    order = ["time", "available_time", "value"]
    parts = [
        known_at(events.lazy(), chunk, lookback)
        .group_by(ROW, "name")
        .agg(pl.struct(*order, hours=hours).sort_by(order).last().alias("last"))
        .select(
            ROW,
            "name",
            value=pl.col("last").struct.field("value"),
            hours=pl.col("last").struct.field("hours"),
        )
        .collect()
        for chunk in chunks(rows, events)
    ]
    empty = {ROW: pl.UInt32, "name": pl.String, "value": pl.Float32, "hours": pl.Float64}
    found = pl.concat([pl.DataFrame(schema=empty), *parts])
    name = pl.col("name")
    wide = found.group_by(ROW).agg(
        *(pl.col("value").filter(name == one).first().alias(one) for one in INPUTS),
        *(pl.col("hours").filter(name == one).first().alias(f"{one}_hours") for one in INPUTS),
    )
    return age(records, predictions).hstack(one_row_each(rows, wide.lazy(), columns))


def _measurements(records: Records) -> pl.DataFrame:
    """Everything charted, as `subject_id`, `time`, `available_time`, `name`, `value` (Float32)."""
    item = pl.col("code").str.extract(r"^LAB//(\d+)(?://|$)")
    charted = (
        records.events()
        .filter(code_in(list(_EMERGENCY)) | _CHARTS)
        .select(
            "subject_id",
            "time",
            "available_time",
            item=item.fill_null(pl.col("code")),
            number=pl.col("numeric_value").fill_nan(None),
            text=pl.col("text_value").str.strip_chars().str.to_lowercase(),
        )
        .drop_nulls("available_time")
        .collect()
    )
    times = ["subject_id", "time", "available_time"]
    parts = [_vitals(charted), _coma(charted), _alertness(charted), _oxygen(charted)]
    parts.append(
        parts[1].with_columns(name=pl.lit("acvpu"), value=_from_coma_scale(pl.col("value")))
    )
    rows = pl.concat(
        part.select(*times, "name", pl.col("value").cast(pl.Float32)) for part in parts
    )
    return rows.drop_nulls("value")


def _vitals(charted: pl.DataFrame) -> pl.DataFrame:
    number = pl.col("number").cast(pl.Float64)
    fahrenheit = pl.when(pl.col("item") == _CELSIUS).then(number * 9 / 5 + 32).otherwise(number)
    name = pl.col("item").replace_strict(_ITEMS | _EMERGENCY, default=None)
    return charted.with_columns(name=name).with_columns(
        value=pl.coalesce(
            pl.when(pl.col("name") == vital).then(clean_vital(fahrenheit, vital))
            for vital in VITALS
        )
    )


def _coma(charted: pl.DataFrame) -> pl.DataFrame:
    """Sums of three parts charted at one time, known when the last of them is."""
    item, number = pl.col("item"), pl.col("number")
    tubed = (item == _VERBAL) & pl.col("text").str.contains("ett").fill_null(False)
    at = ["subject_id", "time"]
    parts = [number.filter(item == part).min() for part in _GCS]
    return (
        charted.filter(item.is_in(_GCS), number.is_between(1, 6))
        .group_by(at)
        .agg(
            pl.col("available_time").max(),
            value=parts[0] + parts[1] + parts[2],
            tubed=tubed.any(),
        )
        .filter(~pl.col("tubed"))
        .with_columns(name=pl.lit("gcs"))
    )


def _from_coma_scale(gcs: pl.Expr) -> pl.Expr:
    """15 is alert, 14 confused, and so on down."""
    return pl.sum_horizontal((gcs < bound).cast(pl.Int8) for bound in (15, 14, 11, 7))


def _alertness(charted: pl.DataFrame) -> pl.DataFrame:
    item, text = pl.col("item"), pl.col("text")
    stated = text.str.extract(r"^([+-]?\d)").str.strip_prefix("+").cast(pl.Float32)
    rass = pl.coalesce("number", stated)
    level = (
        pl.when(rass.is_between(2, 4))
        .then(CONFUSED)
        .when(rass.is_between(0, 1))
        .then(ALERT)
        .when(rass.is_between(-3, -1))
        .then(VOICE)
        .when(rass == -4)
        .then(PAIN)
        .when(rass == -5)
        .then(UNRESPONSIVE)
    )
    said = text.replace_strict(_WORDS, default=None, return_dtype=pl.Int32)
    return charted.filter(item.is_in([_RASS, _CONSCIOUSNESS])).with_columns(
        name=pl.lit("acvpu"), value=pl.when(item == _RASS).then(level).otherwise(said)
    )


def _oxygen(charted: pl.DataFrame) -> pl.DataFrame:
    item, text, number = pl.col("item"), pl.col("text"), pl.col("number")
    percent = pl.when(number <= 1).then(number * 100).otherwise(number)
    given = (
        pl.when(item == _DEVICE)
        .then(~text.is_in(["none", "room air"]))
        .when(item == _FRACTION)
        .then(pl.when(percent.is_between(20, 100)).then(percent > 21.5))
        .otherwise(number > 0)
    )
    return charted.filter(item.is_in([_DEVICE, _FRACTION, *_FLOWS])).with_columns(
        name=pl.lit("oxygen"), value=given.cast(pl.Float32)
    )
