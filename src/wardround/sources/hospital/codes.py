"""The hospital's code books: the catalogue's ICD codes and a long tail of rare ones."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl

from wardround.ontology.tables import code_table
from wardround.sources.hospital.catalogue import load_catalogue

#: How many rare codes of each version the coders use.
TAIL = {9: 2_500, 10: 5_000}


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
def diagnosis_titles() -> pl.DataFrame:
    """The d_icd_diagnoses table: icd_code, icd_version (int64), long_title."""
    return _book("diagnosis")


@cache
def procedure_titles() -> pl.DataFrame:
    """The d_icd_procedures table, in the same columns."""
    return _book("procedure")


def _book(kind: str) -> pl.DataFrame:
    catalogue = load_catalogue()
    entries: list[tuple[str, int, str | None]] = []
    for condition in [*catalogue.chronic, *catalogue.acute]:
        nine, ten = (
            (condition.icd9, condition.icd10)
            if kind == "diagnosis"
            else (condition.procedures9, condition.procedures10)
        )
        plain = condition.name.replace("_", " ").capitalize()
        plain = plain if kind == "diagnosis" else f"Procedure for {plain.lower()}"
        entries += [(code, 9, plain) for code in nine] + [(code, 10, plain) for code in ten]
    if kind == "diagnosis":
        for version in TAIL:
            entries += [(code, version, None) for code in rare_diagnoses(version)]
    listed = pl.DataFrame(
        entries,
        schema={"icd_code": pl.String, "icd_version": pl.Int64, "plain": pl.String},
        orient="row",
    ).unique(["icd_code", "icd_version"], keep="first", maintain_order=True)
    if kind == "diagnosis":
        known = pl.concat(
            code_table(version).select(
                icd_code="code", icd_version=pl.lit(version, pl.Int64), title="title"
            )
            for version in TAIL
        )
        listed = listed.join(
            known, on=["icd_code", "icd_version"], how="left", maintain_order="left"
        )
    else:
        listed = listed.with_columns(title=pl.lit(None, pl.String))
    return listed.select(
        "icd_code", "icd_version", long_title=pl.coalesce("title", "plain", "icd_code")
    ).sort("icd_version", "icd_code")
