"""The visit table of the ED triage benchmark (Xie et al. 2022, Scientific Data 9:658)."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Literal

import polars as pl

from wardround.errors import WardroundError
from wardround.store import PatientStore
from wardround.views.records import Records, by_shard, code_in, require_columns, visit_times
from wardround.views.table.cleaning import ED_RANGES, clean_vital, parse_pain
from wardround.views.table.comorbidities import CCI_FLAGS, ECI_FLAGS, comorbidity_flags
from wardround.views.table.counts import distinct_count
from wardround.views.table.demographics import BIRTH, GENDERS, age, gender
from wardround.views.table.diagnoses import DIAGNOSIS_PREFIX, prior_diagnosis_groups
from wardround.views.table.stays import stay_counts
from wardround.views.table.text import text_flags
from wardround.views.table.values import Measure, last_values

FeatureSet = Literal["triage", "disposition"]

VITALS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp")
#: The benchmark multiplies 356 (for 365) days by five.
PAPER_LOOKBACK_DAYS = 5 * 356
CHIEF_COMPLAINTS = {
    "chiefcom_chest_pain": "chest pain",
    "chiefcom_abdominal_pain": "abdominal pain|abd pain",
    "chiefcom_headache": "headache|lightheaded",
    "chiefcom_shortness_of_breath": "breath",
    "chiefcom_back_pain": "back pain",
    "chiefcom_cough": "cough",
    "chiefcom_nausea_vomiting": "nausea|vomit",
    "chiefcom_fever_chills": "fever|chill",
    "chiefcom_syncope": "syncope",
    "chiefcom_dizziness": "dizz",
}

_HISTORY = tuple(f"n_{kind}_{days}d" for kind in ("ed", "hosp", "icu") for days in (30, 90, 365))
_COMMON = (*CHIEF_COMPLAINTS, *CCI_FLAGS, *ECI_FLAGS)
#: Columns of the two feature sets, in order: 64 and 67.
FEATURES: dict[str, tuple[str, ...]] = {
    "triage": ("age", "gender", *_HISTORY, *(f"triage_{name}" for name in ED_RANGES), *_COMMON),
    "disposition": (
        "age",
        "gender",
        *_HISTORY,
        "triage_pain",
        "triage_acuity",
        *_COMMON,
        *(f"ed_{vital}_last" for vital in VITALS),
        "ed_los",
        "n_med",
        "n_medrecon",
    ),
}


def triage_table(
    store: PatientStore,
    index: pl.DataFrame,
    feature_set: FeatureSet = "triage",
    lookback_days: int = 1825,
    paper_compat: bool = False,
) -> pl.DataFrame:
    """One row an ED visit: history, vital signs, complaint and earlier diagnoses.

    History looks back from the start of the visit in both feature sets: counts of stays that
    started at most 30, 90 or 365 days earlier (strictly earlier: of two visits with one start
    neither counts) and had ended by then, and comorbidities coded at discharges strictly before it.
    Vital signs and medicines are those of this visit (`stay_id`) that were known at the prediction
    time, and `ed_los` runs up to it. Age is the year of the visit less the year of birth.

    Units: temperature in Celsius, pressures in mmHg, heart and breathing rate a minute, `ed_los`
    in minutes, counts as they are; `gender` is 0 for female and 1 for male; flags are 0 or 1.
    Vital signs are cleaned by `clean_vital`. What is missing is null and imputed by nobody;
    counts and flags are 0 where there is nothing to count or to match.

    Args:
        store: any patient store.
        index: `subject_id`, `prediction_time`, `stay_id` of ED stays, one row a prediction, and
            any more key columns.
        feature_set: "triage" (64 columns; the prediction time is the start of the visit) or
            "disposition" (67 columns; the prediction time is about the end of the visit).
        lookback_days: how far back comorbidities count.
        paper_compat: follow the published code where it differs: comorbidities are the groups of
            its code lists (`wardround.ontology.comorbidity_groups`, "mimic4ed") and look back
            1,780 days whatever `lookback_days` says, stays that still go on count as history,
            `ed_los` loses its whole days, and medicines without a gsn are not counted in
            `n_medrecon`.

    Returns:
        The columns of `index`, then `FEATURES[feature_set]`; the rows of `index` in their order.
        Vital signs and `ed_los` are Float32, all else integers.

    Raises:
        WardroundError: columns are missing, or a visit is not in the store.
    """
    if feature_set not in FEATURES:
        raise WardroundError(
            f"unknown feature set {feature_set!r}; choose one of {', '.join(FEATURES)}"
        )
    require_columns(index, ("subject_id", "prediction_time", "stay_id"))
    taken = sorted(set(index.columns) & set(FEATURES[feature_set]))
    if taken:
        raise WardroundError(f"index already has columns of the table: {', '.join(taken)}")
    lookback = diagnosis_lookback(lookback_days, paper_compat)
    block = partial(
        _features, feature_set=feature_set, lookback=lookback, paper_compat=paper_compat
    )
    prefixes = [DIAGNOSIS_PREFIX, "ED//TRIAGE//"]
    if feature_set == "disposition":
        prefixes += ["ED//VITALSIGN//", "ED//PYXIS//", "ED//MEDRECON//"]
    wanted = code_in([BIRTH, *GENDERS]) | pl.any_horizontal(
        pl.col("code").str.starts_with(prefix) for prefix in prefixes
    )
    keys = index.select("subject_id", "prediction_time", "stay_id")
    table = by_shard(store, keys, block, codes=wanted, what="Visit table")
    return pl.concat([index, table.select(FEATURES[feature_set])], how="horizontal")


def diagnosis_lookback(lookback_days: int, paper_compat: bool) -> timedelta:
    """How far back earlier diagnoses count; the published code has its own number."""
    return timedelta(days=PAPER_LOOKBACK_DAYS if paper_compat else lookback_days)


def _features(
    records: Records,
    index: pl.DataFrame,
    feature_set: FeatureSet,
    lookback: timedelta,
    paper_compat: bool,
) -> pl.DataFrame:
    visits = visit_times(records, index)
    groups = comorbidity_flags(records, "mimic4ed" if paper_compat else "quan2005")
    blocks = [
        age(records, visits, "start"),
        gender(records, visits),
        stay_counts(records, visits, anchor="start", going_on=paper_compat),
        _triage_values(records, visits),
        text_flags(records, visits, "ED//TRIAGE//CHIEFCOMPLAINT", CHIEF_COMPLAINTS, this_stay=True),
        prior_diagnosis_groups(records, visits, groups, lookback=lookback, before="start"),
    ]
    if feature_set == "disposition":
        blocks += [
            _last_vitals(records, visits),
            _length_of_stay(visits, wrap=paper_compat),
            _medicines(records, visits, "n_med", "ED//PYXIS//", names_count=True),
            _medicines(
                records, visits, "n_medrecon", "ED//MEDRECON//", names_count=not paper_compat
            ),
        ]
    return pl.concat(blocks, how="horizontal")


def _triage_values(records: Records, visits: pl.DataFrame) -> pl.DataFrame:
    measures = {f"triage_{name}": Measure(f"ED//TRIAGE//{name.upper()}") for name in ED_RANGES}
    pain = pl.coalesce(parse_pain(pl.col("text_value")), "numeric_value")
    measures["triage_pain"] = Measure("ED//TRIAGE//PAIN", pain)
    raw = last_values(records, visits, measures, this_stay=True)
    return raw.select(
        clean_vital(pl.col(f"triage_{name}"), name).alias(f"triage_{name}") for name in ED_RANGES
    )


def _last_vitals(records: Records, visits: pl.DataFrame) -> pl.DataFrame:
    measures = {f"ed_{name}_last": Measure(f"ED//VITALSIGN//{name.upper()}") for name in VITALS}
    raw = last_values(records, visits, measures, this_stay=True)
    return raw.select(
        clean_vital(pl.col(f"ed_{name}_last"), name).alias(f"ed_{name}_last") for name in VITALS
    )


def _length_of_stay(visits: pl.DataFrame, *, wrap: bool) -> pl.DataFrame:
    seconds = (pl.col("prediction_time") - pl.col("start")).dt.total_seconds()
    if wrap:
        seconds = seconds % (24 * 3600)
    return visits.select(ed_los=(seconds / 60).cast(pl.Float32))


def _medicines(
    records: Records, visits: pl.DataFrame, name: str, prefix: str, *, names_count: bool
) -> pl.DataFrame:
    """Distinct medicines by gsn (`text_value`), or by name where the gsn is missing."""
    gsn = pl.col("text_value").replace("", None)
    return distinct_count(
        records,
        visits,
        name,
        codes=pl.col("code").str.starts_with(prefix),
        identity=pl.coalesce(gsn, "code") if names_count else gsn,
        this_stay=True,
    )
