"""Charlson and Elixhauser groups of the diagnosis codes that a store holds."""

from __future__ import annotations

import polars as pl

from wardround.ontology import (
    ComorbiditySystem,
    ComorbidityVariant,
    comorbidity_groups,
    comorbidity_names,
    parse_icd_event_code,
)
from wardround.views.records import Records
from wardround.views.table.diagnoses import DIAGNOSIS_PREFIX

#: The 18 Elixhauser groups that do not repeat a Charlson group (Xie et al. 2022).
ELIXHAUSER_BESIDE_CHARLSON = (
    *("Arrhythmia", "Valvular", "PHTN", "HTN1", "HTN2", "NeuroOther", "Hypothyroid", "Lymphoma"),
    *("Coagulopathy", "Obesity", "WeightLoss", "FluidsLytes", "BloodLoss", "Anemia", "Alcohol"),
    *("Drugs", "Psychoses", "Depression"),
)
CCI_FLAGS = tuple(f"cci_{group}" for group in comorbidity_names("charlson"))
ECI_FLAGS = tuple(f"eci_{group}" for group in ELIXHAUSER_BESIDE_CHARLSON)
_SYSTEMS: dict[str, ComorbiditySystem] = {"cci_": "charlson", "eci_": "elixhauser"}


def comorbidity_flags(records: Records, variant: ComorbidityVariant = "quan2005") -> pl.DataFrame:
    """Which comorbidity groups each diagnosis code of these records belongs to.

    A fact about codes, not about patients, so no prediction time plays a part.

    Args:
        records: whose diagnoses to look up.
        variant: whose lists of codes; see `wardround.ontology.comorbidity_groups`.

    Returns:
        `code` (event codes, unique; codes of no group are absent) and one Boolean column for
        each of `CCI_FLAGS` and `ECI_FLAGS`: groups for `prior_diagnosis_groups`.
    """
    is_diagnosis = pl.col("code").str.starts_with(DIAGNOSIS_PREFIX)
    parsed = parse_icd_event_code(pl.col("code")).struct.unnest()
    codes = (
        records.events()
        .filter(is_diagnosis)
        .select(pl.col("code").unique())
        .with_columns(parsed)
        .collect()
    )
    flags = pl.concat(
        comorbidity_groups(codes, system, variant).with_columns(flag=prefix + pl.col("group"))
        for prefix, system in _SYSTEMS.items()
    )
    return (
        codes.join(flags, on=["icd_code", "icd_version"])
        .group_by("code")
        .agg((pl.col("flag") == name).any().alias(name) for name in (*CCI_FLAGS, *ECI_FLAGS))
    )
