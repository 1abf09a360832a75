"""Ontologies as stages: fields of codes in, a field out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from wardround import ontology
from wardround.ontology import code_ancestors, crosswalk
from wardround.ontology.atc import atc_codes


@dataclass(frozen=True)
class Mapping:
    """A mapping that a preset can name.

    Attributes:
        needs: fields that it reads.
        gives: the field that it writes, a string or a list of strings.
        table: distinct values of `needs`, and the user's own file -> `needs` with `target`; several
            rows where one code becomes several, none or null where the ontology lacks it.
    """

    needs: tuple[str, ...]
    gives: str
    table: Callable[[pl.DataFrame, Path | None], pl.DataFrame]


def apply_map(fields: pl.DataFrame, mapping: Mapping, path: Path | None) -> pl.DataFrame:
    """Set `mapping.gives`: null where the ontology lacks a code; several rows for several codes."""
    distinct = fields.select(mapping.needs).unique().drop_nulls()
    targets = mapping.table(distinct, path).drop_nulls("target")
    joined = fields.join(targets, on=mapping.needs, how="left", maintain_order="left")
    return joined.with_columns(pl.col("target").alias(mapping.gives)).drop("target")


def _icd(fields: pl.DataFrame) -> pl.DataFrame:
    return fields.select(
        "version", "code", icd_code="code", icd_version=pl.col("version").cast(int)
    )


def _diagnoses(fields: pl.DataFrame, _: Path | None) -> pl.DataFrame:
    codes = _icd(fields)
    targets = crosswalk(codes, 10).select("icd_code", "icd_version", "target")
    return codes.join(targets, on=["icd_code", "icd_version"]).select("version", "code", "target")


def _procedures(fields: pl.DataFrame, _: Path | None) -> pl.DataFrame:
    """ICD-10-PCS as it is. No table leads there from ICD-9 procedures, which are not mapped."""
    target = pl.when(pl.col("version") == "10").then(ontology.normalise_icd(pl.col("code")))
    return fields.select("version", "code", target=target)


def _ancestors(kind: ontology.CodeKind) -> Callable[[pl.DataFrame, Path | None], pl.DataFrame]:
    def table(fields: pl.DataFrame, _: Path | None) -> pl.DataFrame:
        codes = _icd(fields)
        found = code_ancestors(codes, kind).rename({"ancestors": "target"})
        return codes.join(found, on=["icd_code", "icd_version"]).select("version", "code", "target")

    return table


def _drugs(fields: pl.DataFrame, path: Path | None) -> pl.DataFrame:
    return atc_codes(fields["drug"], path).select(drug="name", target="atc_code")


def _drug_groups(fields: pl.DataFrame, _: Path | None) -> pl.DataFrame:
    """ATC's groups above a code, the nearest first: C03CA01 has C03CA, C03C, C03, C."""
    code = pl.col("atc")
    groups = [
        pl.when(code.str.len_chars() > width).then(code.str.slice(0, width))
        for width in (5, 4, 3, 1)
    ]
    return fields.select("atc", target=pl.concat_list(groups).list.drop_nulls())


MAPS = {
    "icd10cm": Mapping(("version", "code"), "code", _diagnoses),
    "icd10pcs": Mapping(("version", "code"), "code", _procedures),
    "icd_ancestors": Mapping(("version", "code"), "ancestors", _ancestors("diagnosis")),
    "procedure_ancestors": Mapping(("version", "code"), "ancestors", _ancestors("procedure")),
    "atc": Mapping(("drug",), "atc", _drugs),
    "atc_ancestors": Mapping(("atc",), "ancestors", _drug_groups),
}
