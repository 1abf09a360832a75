"""Static descriptors by which metrics are broken down. Not features."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import polars as pl

from wardround.store import PatientStore, known_at
from wardround.views.records import (
    ROW,
    Records,
    by_shard,
    code_in,
    number_rows,
    one_row_each,
)
from wardround.views.table.demographics import BIRTH, GENDERS, age, gender

UNKNOWN = "unknown"
#: Lower ends of the age bands, years.
AGE_BANDS = (18, 45, 65, 80)
#: First words of MIMIC's detailed race entries, and the group that each stands for.
RACES = {
    "WHITE": "white",
    "PORTUGUESE": "white",
    "BLACK": "black",
    "HISPANIC": "hispanic",
    "SOUTH AMERICAN": "hispanic",
    "ASIAN": "asian",
    "AMERICAN INDIAN": "other",
    "NATIVE HAWAIIAN": "other",
    "MULTIPLE": "other",
    "OTHER": "other",
}


def subgroups(
    store: PatientStore, index: pl.DataFrame, age_bands: Sequence[int] = AGE_BANDS
) -> pl.DataFrame:
    """Describe each prediction for subgroup tables.

    Args:
        store: any patient store.
        index: `subject_id`, `prediction_time`, and `stay_id` where it is about ED stays.
        age_bands: ascending lower ends of the age bands, years.

    Returns:
        `sex` (female, male), `age_band` ("<18", "18-44", …, "80+"), `race` (the last one recorded
        by the prediction time, in broad groups) and `arrival_transport` (as in the source, lower
        case; only with `stay_id`): strings, "unknown" where nothing was known.
    """
    code = pl.col("code")
    wanted = (
        code_in([*GENDERS, BIRTH])
        | code.str.starts_with("RACE//")
        | code.str.starts_with("ED//ARRIVAL//")
    )

    of_visits = "stay_id" in index.columns

    def block(records: Records, rows: pl.DataFrame) -> pl.DataFrame:
        blocks = [
            gender(records, rows),
            age(records, rows),
            _last_suffix(records, rows, "RACE//", "race"),
        ]
        if of_visits:
            name = "arrival_transport"
            blocks.append(_last_suffix(records, rows, "ED//ARRIVAL//", name, this_stay=True))
        return pl.concat(blocks, how="horizontal")

    race = pl.coalesce(
        pl.when(pl.col("race").str.starts_with(word)).then(pl.lit(group))
        for word, group in RACES.items()
    )
    transport = pl.col("arrival_transport").str.to_lowercase()
    arrival = {"arrival_transport": transport} if of_visits else {}
    labels = ["<" + str(age_bands[0])]
    labels += [f"{low}-{high - 1}" for low, high in itertools.pairwise(age_bands)]
    labels += [f"{age_bands[-1]}+"]
    known = by_shard(store, index, block, codes=wanted, what="Subgroups")
    return known.select(
        sex=pl.when(pl.col("gender") == 0)
        .then(pl.lit("female"))
        .when(pl.col("gender") == 1)
        .then(pl.lit("male")),
        age_band=pl.col("age")
        .cut(list(age_bands), labels=labels, left_closed=True)
        .cast(pl.String),
        race=race,
        **arrival,
    ).fill_null(UNKNOWN)


def _last_suffix(
    records: Records,
    predictions: pl.DataFrame,
    prefix: str,
    name: str,
    *,
    this_stay: bool = False,
) -> pl.DataFrame:
    """What follows `prefix` in the last known code that begins with it."""
    rows = number_rows(predictions, {"visit_id": "stay_id"} if this_stay else None)
    events = (
        records.events()
        .filter(pl.col("code").str.starts_with(prefix))
        .select("subject_id", "time", "available_time", "stay_id", "code")
    )
    known = known_at(events, rows, stays=records.stays())
    if this_stay:
        known = known.filter(pl.col("stay_id") == pl.col("visit_id"))
    last = (
        known.sort("time", "available_time", "code")
        .group_by(ROW)
        .agg(pl.col("code").last().str.strip_prefix(prefix).alias(name))
    )
    return one_row_each(rows, last, {name: pl.String})
