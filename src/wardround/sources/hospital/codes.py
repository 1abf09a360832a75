"""The hospital's code books: the catalogue's ICD codes and a long tail of rare ones."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl

from wardround.ontology import CodeKind, crosswalk
from wardround.ontology.tables import code_table
from wardround.sources.hospital.catalogue import load_catalogue

#: How many rare codes of each version the coders use.
TAIL = {9: 2_500, 10: 5_000}
RARE_PROCEDURES = {9: 500, 10: 1_500}
#: Rare conditions that stay with a patient.
RARE_CHRONIC = 1_500


@cache
def rare_diagnoses(version: int) -> np.ndarray:
    """Rare billable codes, the most frequent first."""
    table = code_table(version).filter(pl.col("billable")).sort("code")
    if version == 10:  # injuries and external causes would be most of it
        table = table.filter(pl.col("code").str.contains("^[A-R]"))
    rng = np.random.default_rng(version)
    picked = rng.choice(len(table), min(TAIL[version], len(table)), replace=False)
    return table["code"].gather(picked).to_numpy()


@cache
def rare_chronic() -> tuple[np.ndarray, np.ndarray]:
    """Rare diagnoses as ICD-9 codes and, at the same places, as ICD-10 codes."""
    ten = pl.DataFrame({"icd_code": rare_diagnoses(10)[:RARE_CHRONIC].tolist(), "icd_version": 10})
    pairs = crosswalk(ten, to=9).drop_nulls("target")
    listed = ten.join(pairs, on="icd_code", maintain_order="left")
    billable = code_table(9).filter("billable")
    listed = listed.join(billable, left_on="target", right_on="code", how="semi")
    return listed["target"].to_numpy(), listed["icd_code"].to_numpy()


@cache
def rare_procedures(version: int) -> np.ndarray:
    """Rare procedures, the most frequent first."""
    table = code_table(version, "procedure").filter(pl.col("billable")).sort("code")
    if version == 10:  # imaging, measurement and therapy would be most of it
        table = table.filter(pl.col("code").str.starts_with("0"))
    rng = np.random.default_rng(version)
    picked = rng.choice(len(table), min(RARE_PROCEDURES[version], len(table)), replace=False)
    return table["code"].gather(picked).to_numpy()


@cache
def diagnosis_titles() -> pl.DataFrame:
    """The d_icd_diagnoses table: icd_code, icd_version (int64), long_title."""
    return _book("diagnosis")


@cache
def procedure_titles() -> pl.DataFrame:
    """The d_icd_procedures table, in the same columns."""
    return _book("procedure")


def _book(kind: CodeKind) -> pl.DataFrame:
    catalogue = load_catalogue()
    entries: list[tuple[str, int, str]] = []
    for condition in [*catalogue.chronic, *catalogue.acute]:
        nine, ten = (
            (condition.icd9, condition.icd10)
            if kind == "diagnosis"
            else (condition.procedures9, condition.procedures10)
        )
        plain = condition.name.replace("_", " ").capitalize()
        entries += [(code, 9, plain) for code in nine] + [(code, 10, plain) for code in ten]
    for version in TAIL:
        rare = rare_diagnoses(version) if kind == "diagnosis" else rare_procedures(version)
        entries += [(code, version, "") for code in rare]
    if kind == "diagnosis":
        entries += [(code, 9, "") for code in rare_chronic()[0]]
    listed = pl.DataFrame(
        entries,
        schema={"icd_code": pl.String, "icd_version": pl.Int64, "plain": pl.String},
        orient="row",
    ).unique(["icd_code", "icd_version"], keep="first", maintain_order=True)
    known = pl.concat(
        code_table(version, kind).select(
            icd_code="code", icd_version=pl.lit(version, pl.Int64), title="title"
        )
        for version in TAIL
    )
    listed = listed.join(known, on=["icd_code", "icd_version"], how="left", maintain_order="left")
    return listed.select(
        "icd_code", "icd_version", long_title=pl.coalesce("title", "plain", "icd_code")
    ).sort("icd_version", "icd_code")
