"""The Sequential Organ Failure Assessment (Vincent et al., Intensive Care Med 1996;22:707-710).

Item ids, time limits and plausible ranges are those of MIMIC-IV and of its community's code
(MIT-LCP/mimic-code, concepts of the first ICU day). Departures from that code: a value counts from
when it was filed, not from when it was drawn; an unassessable verbal response leaves the coma scale
missing instead of 15; urine is scored in windows of about a day only.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from datetime import timedelta
from functools import reduce
from itertools import pairwise

import polars as pl

from wardround.errors import WardroundError
from wardround.store import known_at
from wardround.views.records import Records

#: Worst values that `sofa` scores. Pressures in mmHg, infusions in mcg/kg/min, urine in ml a day.
COMPONENTS = (
    "pao2fio2_supported",
    "pao2fio2_unsupported",
    "platelets",
    "bilirubin",
    "map",
    "dopamine",
    "dobutamine",
    "epinephrine",
    "norepinephrine",
    "gcs",
    "creatinine",
    "urine_output",
)
ORGANS = ("respiration", "coagulation", "liver", "cardiovascular", "cns", "renal")

WINDOW = timedelta(hours=24)
#: Labs drawn and values charted shortly before the admission count as the first day's.
LEAD = timedelta(hours=6)
#: Shorter windows say nothing of a day's urine.
URINE_WINDOW = timedelta(hours=22)
FIO2_TOLERANCE = timedelta(hours=4)
SUPPORT_TOLERANCE = timedelta(hours=8)
GCS_TOLERANCE = timedelta(hours=6)

PAO2, FIO2_BLOOD, SPECIMEN, PLATELETS, BILIRUBIN, CREATININE = (
    *("50821", "50816", "52033"),
    *("51265", "50885", "50912"),
)
FIO2_CHART = "223835"
MEAN_PRESSURES = ("220052", "220181", "225312")
EYES, VERBAL, MOTOR = "220739", "223900", "223901"
OXYGEN_DEVICE, VENTILATOR_MODES = "226732", ("223849", "229314")
VENTILATION = ("225792", "225794")  # invasive, non-invasive
PRESSORS = {
    "221662": "dopamine",
    "221653": "dobutamine",
    "221289": "epinephrine",
    "221906": "norepinephrine",
}
IRRIGANT_IN = "227488"
URINE = (
    *("226557", "226558", "226559", "226560", "226561", "226563", "226564", "226565"),
    *("226567", "226584", "227489", IRRIGANT_IN),
)
WEIGHT = "SUBJECT_WEIGHT_AT_INFUSION//KG"
#: Devices that press; all others, the tracheostomy mask among them, let the patient breathe alone.
SUPPORTING_DEVICES = ("endotracheal tube", "bipap mask", "cpap mask")


def _items(prefix: str, items: Sequence[str]) -> str:
    return f"{prefix}//(?:{'|'.join(items)})"


_CHARTED = (
    *(FIO2_CHART, *MEAN_PRESSURES, EYES, VERBAL, MOTOR, OXYGEN_DEVICE),
    *VENTILATOR_MODES,
)
_WANTED = "|".join(
    [
        _items("LAB//RESULT", (PAO2, FIO2_BLOOD, SPECIMEN, PLATELETS, BILIRUBIN, CREATININE)),
        _items("LAB", _CHARTED),
        _items("INFUSION_START", list(PRESSORS)),
        _items("SUBJECT_FLUID_OUTPUT", URINE),
        _items("PROCEDURE//(?:START|END)", VENTILATION),
    ]
)
#: Filter for the event rows that a SOFA is computed from.
SOFA_EVENTS = pl.col("code").str.contains(f"^(?:(?:{_WANTED})(?://|$)|{WEIGHT}$)")


def sofa(components: pl.DataFrame) -> pl.DataFrame:
    """Score each organ from its worst values, and add the organs up (Vincent 1996, table 3).

    Args:
        components: `COMPONENTS` (any numbers; null where not measured) and any other columns. The
            lowest PaO2/FiO2 under respiratory support and without it, mmHg; lowest platelets, K/uL;
            highest bilirubin and creatinine, mg/dL; lowest mean arterial pressure, mmHg; highest
            infusion rates, mcg/kg/min; lowest Glasgow coma scale, 3 to 15; urine, ml in 24 hours.

    Returns:
        The other columns, then `ORGANS`, Int8 from 0 to 4 and null where nothing of the organ was
        measured, and `sofa`, Int8 from 0 to 24, in which a missing organ counts 0.

    Raises:
        WardroundError: a component has no column.
    """
    missing = [name for name in COMPONENTS if name not in components.columns]
    if missing:
        raise WardroundError(
            f"SOFA needs the columns {', '.join(missing)} (found: "
            f"{', '.join(components.columns)}); a component that is not measured is a null column"
        )
    catecholamine = pl.max_horizontal("epinephrine", "norepinephrine")
    organs = {
        "respiration": pl.max_horizontal(
            _points("pao2fio2_supported", below=((100, 4), (200, 3), (300, 2), (400, 1))),
            _points("pao2fio2_unsupported", below=((300, 2), (400, 1))),
        ),
        "coagulation": _points("platelets", below=((20, 4), (50, 3), (100, 2), (150, 1))),
        "liver": _points("bilirubin", at_least=((12, 4), (6, 3), (2, 2), (1.2, 1))),
        "cardiovascular": pl.max_horizontal(
            _points("map", below=((70, 1),)),
            _points("dopamine", above=((15, 4), (5, 3), (0, 2))),
            _points("dobutamine", above=((0, 2),)),
            _points(catecholamine, above=((0.1, 4), (0, 3))),
        ),
        "cns": _points("gcs", below=((6, 4), (10, 3), (13, 2), (15, 1))),
        "renal": pl.max_horizontal(
            _points("creatinine", at_least=((5, 4), (3.5, 3), (2, 2), (1.2, 1))),
            _points("urine_output", below=((200, 4), (500, 3))),
        ),
    }
    rest = [name for name in components.columns if name not in COMPONENTS]
    return components.select(*rest, **organs).with_columns(
        sofa=pl.sum_horizontal(pl.col(ORGANS).fill_null(0)).cast(pl.Int8)
    )


def _points(
    value: str | pl.Expr,
    *,
    below: Sequence[tuple[float, int]] = (),
    at_least: Sequence[tuple[float, int]] = (),
    above: Sequence[tuple[float, int]] = (),
) -> pl.Expr:
    """Points of the first bound that holds, else 0; null of a missing value."""
    column = pl.col(value) if isinstance(value, str) else value
    # Stored values are 32-bit: 0.1 comes back as 0.10000000149, which is not above 0.1.
    number = column.cast(pl.Float64).fill_nan(None).round(4)
    gained = []
    for bounds, holds in ((below, number.lt), (at_least, number.ge), (above, number.gt)):
        # Bounds nest: who is past the second one is past the third, whose points are in already.
        for (bound, points), (_, already) in pairwise((*bounds, (0, 0))):
            gained.append(holds(bound).cast(pl.Int8) * (points - already))
    return reduce(operator.add, gained).cast(pl.Int8)


def first_day_sofa(records: Records, *, leak: bool = False) -> pl.DataFrame:
    """SOFA of the first 24 hours of each ICU stay, as an event at their end.

    Args:
        records: a store, or the part that a shard holds; `SOFA_EVENTS` are the rows read.
        leak: date the score at the admission, as the official code of ETHOS does: everything
            computed from the first day is then seen before it has happened.

    Returns:
        `subject_id`, `stay_id`, `time`, `available_time`, `code` ("SOFA"), `numeric_value`
        (Float32, 0 to 24), by subject and time. Both times are 24 hours after the admission or the
        end of the stay, whichever comes first. A stay of which nothing was measured has no row.
    """
    components = first_day_components(records)
    at = pl.col("start" if leak else "end")
    return (
        sofa(components)
        .filter(pl.any_horizontal(pl.col(ORGANS).is_not_null()))
        .select(
            "subject_id",
            "stay_id",
            at.alias("time"),
            at.alias("available_time"),
            code=pl.lit("SOFA"),
            numeric_value=pl.col("sofa").cast(pl.Float32),
        )
        .sort("subject_id", "time", "stay_id")
    )


def first_day_components(records: Records) -> pl.DataFrame:
    """Worst values of the first 24 hours of each ICU stay, as known at their end.

    Labs and charted values count from 6 hours before the admission, urine from the admission.
    Blood gases that are marked as other than arterial are left out. FiO2 is that of the blood gas,
    else the last one charted in the 4 hours before it; without either there is no ratio. Support is
    the last thing charted of ventilator, mask or tube in the 8 hours before the gas. The parts of
    the coma scale are carried on for 6 hours. Urine is scored where the window has 22 hours.

    Args:
        records: a store, or the part that a shard holds.

    Returns:
        `subject_id`, `stay_id`, `start` and `end` of the window, and `COMPONENTS` (Float64, null
        where not known by the end), one row for each ICU stay.
    """
    windows = (
        records.stays()
        .filter(pl.col("kind") == "icu")
        .select(
            "subject_id",
            "start",
            window="stay_id",
            prediction_time=pl.min_horizontal("end", pl.col("start") + WINDOW),
        )
        .sort("subject_id", "start", "window")
        .collect()
    )
    events = records.events().filter(SOFA_EVENTS)
    events = events.select(
        "subject_id", "time", "available_time", "code", "numeric_value", "text_value"
    )
    known = (
        known_at(events, windows, lookback=WINDOW + LEAD)
        .filter(pl.col("time") >= pl.col("start") - LEAD)
        .select(
            "window",
            "start",
            "time",
            "code",
            item=pl.col("code").str.extract(r"//(\d+)"),
            # What a 32-bit number was written from: 0.4 instead of 0.4000000059.
            value=pl.col("numeric_value").cast(pl.Float64).round_sig_figs(6),
            text=pl.col("text_value").str.strip_chars().str.to_lowercase(),
            end="prediction_time",
        )
        .unique()
        .sort("window", "time")
        .collect()
    )
    parts = [
        _extremes(known),
        _oxygenation(known),
        _pressors(known),
        _coma(known),
        _urine(known),
    ]
    table = windows
    for part in parts:
        table = table.join(part, on="window", how="left", maintain_order="left")
    keys = {"subject_id": "subject_id", "stay_id": "window", "start": "start"}
    keys["end"] = "prediction_time"
    return table.select(
        *(pl.col(source).alias(name) for name, source in keys.items()),
        *(pl.col(name).cast(pl.Float64) for name in COMPONENTS),
    )


def _extremes(known: pl.DataFrame) -> pl.DataFrame:
    value, item = pl.col("value"), pl.col("item")
    return known.group_by("window").agg(
        platelets=value.filter((item == PLATELETS) & value.is_between(0, 10_000)).min(),
        bilirubin=value.filter((item == BILIRUBIN) & value.is_between(0, 150)).max(),
        creatinine=value.filter((item == CREATININE) & value.is_between(0, 150)).max(),
        map=value.filter(
            item.is_in(MEAN_PRESSURES) & value.is_between(0, 300, closed="none")
        ).min(),
    )


def _oxygenation(known: pl.DataFrame) -> pl.DataFrame:
    """Lowest PaO2/FiO2 with and without respiratory support."""
    item, text, value = pl.col("item"), pl.col("text"), pl.col("value")
    fraction = pl.when(value.is_between(0.2, 1)).then(value * 100).otherwise(value)
    fio2 = known.with_columns(value=fraction).filter(value.is_between(20, 100))
    at = ["window", "time"]
    of_gas = fio2.filter(item == FIO2_BLOOD).group_by(at).agg(of_gas=value.max())
    charted = fio2.filter(item == FIO2_CHART).group_by(at).agg(charted=value.max())
    specimens = known.filter(item == SPECIMEN, text.is_not_null())
    specimens = specimens.group_by(at).agg(arterial=text.str.starts_with("art").any())

    mode = item.is_in(VENTILATOR_MODES) & ~text.str.contains("standby").fill_null(False)
    supported = (
        pl.when(item.is_in(VENTILATOR_MODES))
        .then(mode)
        .when(item == OXYGEN_DEVICE)
        .then(text.is_in(SUPPORTING_DEVICES))
        .when(item.is_in(VENTILATION))
        .then(pl.col("code").str.starts_with("PROCEDURE//START"))
    )
    support = known.select(*at, supported=supported).drop_nulls("supported")
    support = support.group_by(at).agg(pl.col("supported").any())

    gases = (
        known.filter(item == PAO2, value > 0)
        .select(*at, "value")
        .join(specimens, on=at, how="left")
        .filter(pl.col("arterial").fill_null(True))
        .join(of_gas, on=at, how="left")
        .sort("time")
        .join_asof(
            charted.sort("time"),
            on="time",
            by="window",
            tolerance=FIO2_TOLERANCE,
            check_sortedness=False,
        )
        .join_asof(
            support.sort("time"),
            on="time",
            by="window",
            tolerance=SUPPORT_TOLERANCE,
            check_sortedness=False,
        )
        .with_columns(ratio=value / pl.coalesce("of_gas", "charted") * 100)
    )
    ratio, breathing_alone = pl.col("ratio"), ~pl.col("supported").fill_null(False)
    return gases.group_by("window").agg(
        pao2fio2_supported=ratio.filter(~breathing_alone).min(),
        pao2fio2_unsupported=ratio.filter(breathing_alone).min(),
    )


def _pressors(known: pl.DataFrame) -> pl.DataFrame:
    """Highest rates, mcg/kg/min; of a rate for the whole patient, by the weight charted with it."""
    at = ["window", "time"]
    weights = known.filter(pl.col("code") == WEIGHT, pl.col("value") > 0)
    weights = weights.group_by(at).agg(weight=pl.col("value").max())
    rate, unit = pl.col("value"), pl.col("text").str.replace_all("µg|ug", "mcg")
    rates = (
        known.filter(pl.col("item").is_in(list(PRESSORS)))
        .join(weights, on=at, how="left")
        .with_columns(
            rate=pl.when(unit == "mcg/kg/min")
            .then(rate)
            .when(unit == "mg/kg/min")
            .then(rate * 1000)
            .when(unit == "mcg/min")
            .then(rate / pl.col("weight"))
        )
    )
    return rates.group_by("window").agg(
        pl.col("rate").filter(pl.col("item") == item).max().alias(name)
        for item, name in PRESSORS.items()
    )


def _coma(known: pl.DataFrame) -> pl.DataFrame:
    """Lowest sum of the three parts; with a tube the verbal part cannot be assessed."""
    item, tubed = pl.col("item"), pl.col("text").str.contains("ett").fill_null(False)
    parts = {"eyes": EYES, "verbal": VERBAL, "motor": MOTOR}
    charted = (
        known.filter(item.is_in(list(parts.values())), pl.col("value") > 0)
        .with_columns(value=pl.when(~((item == VERBAL) & tubed)).then("value").otherwise(0))
        .group_by("window", "time")
        .agg(
            pl.col("value").filter(item == of_part).min().alias(name)
            for name, of_part in parts.items()
        )
        .sort("window", "time")
    )
    times = charted.with_columns(
        pl.when(pl.col(name).is_not_null()).then("time").alias(f"{name}_time") for name in parts
    ).with_columns(
        pl.col(*parts, *(f"{name}_time" for name in parts)).forward_fill().over("window")
    )
    recent = times.with_columns(
        pl.when(pl.col("time") - pl.col(f"{name}_time") <= GCS_TOLERANCE).then(name).alias(name)
        for name in parts
    ).filter(pl.col("verbal") > 0)
    total = pl.col("eyes") + pl.col("verbal") + pl.col("motor")
    return recent.group_by("window").agg(gcs=total.min())


def _urine(known: pl.DataFrame) -> pl.DataFrame:
    """Volume since the admission, less what was let in for irrigation."""
    item, value = pl.col("item"), pl.col("value")
    return (
        known.filter(
            item.is_in(URINE),
            pl.col("time") >= pl.col("start"),
            pl.col("end") - pl.col("start") >= URINE_WINDOW,
        )
        .with_columns(value=pl.when(item == IRRIGANT_IN).then(-value).otherwise(value))
        .group_by("window")
        .agg(urine_output=value.sum())
        .filter(pl.col("urine_output") >= 0)
    )
