"""Charlson and Elixhauser comorbidities from mixed ICD-9-CM and ICD-10-CM codes.

The groups are those of Quan et al. 2005 (Med Care 43(11):1130-1139), declared as code prefixes in
data/charlson.yaml and data/elixhauser.yaml. A code may belong to several groups. Names that end in
1 and 2 stand for the milder and the graver form: DM1 uncomplicated and DM2 complicated diabetes,
HTN1 and HTN2 likewise, Liver1 mild and Liver2 moderate or severe, Cancer1 any malignancy and
Cancer2 metastatic.
"""

from __future__ import annotations

import functools
import re
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from wardround.errors import WardroundError
from wardround.ontology.codes import unique_codes
from wardround.ontology.tables import package_yaml

ComorbiditySystem = Literal["charlson", "elixhauser"]
ComorbidityVariant = Literal["quan2005", "mimic4ed"]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str
    icd9: str
    icd10: str


class _Prefixes(BaseModel):
    """Prefixes of the two versions, as text (see expand_prefixes)."""

    model_config = ConfigDict(extra="forbid")
    icd9: str = ""
    icd10: str = ""


class _Departure(BaseModel):
    """How a variant of a group differs from the published one."""

    model_config = ConfigDict(extra="forbid")
    drop: _Prefixes = _Prefixes()
    add: _Prefixes = _Prefixes()


class _Mimic4ed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    departures: dict[str, _Departure]
    swapped: dict[str, str] = {}


class _System(BaseModel):
    """Layout of data/charlson.yaml and data/elixhauser.yaml."""

    model_config = ConfigDict(extra="forbid")
    system: ComorbiditySystem
    absent: _Prefixes
    groups: dict[str, _Group]
    mimic4ed: _Mimic4ed


def comorbidity_names(system: ComorbiditySystem) -> tuple[str, ...]:
    """Return the group names in the order of the paper's table: 17 Charlson, 31 Elixhauser."""
    return tuple(_system(system).groups)


def comorbidity_groups(
    codes: pl.DataFrame,
    system: ComorbiditySystem,
    variant: ComorbidityVariant = "quan2005",
) -> pl.DataFrame:
    """Return the comorbidity groups of each distinct code.

    Args:
        codes: frame with icd_code (any spelling) and icd_version (9 or 10); other columns ignored.
            Many rows are welcome: the work is on distinct codes only.
        system: "charlson" or "elixhauser".
        variant: "quan2005" follows the paper. "mimic4ed" follows the code published with the ED
            triage benchmark (Xie et al. 2022), slips included, to reproduce its numbers: some
            prefixes are missing or wrong, and Elixhauser's HTN1, DM1 mean the complicated form
            and HTN2, DM2 the uncomplicated one.

    Returns:
        icd_code (as it came, so that the result joins back), icd_version, group: one row for each
        group of a code; codes of no group are absent. The published lists are taken at their word:
        nothing is taken out of a group because a graver one applies; the Charlson index of
        `wardround.models` does that.

    Raises:
        WardroundError: an unknown system or variant, a missing column, a version that is neither
            9 nor 10.
    """
    prefixes = _prefixes(system, variant)
    unique = unique_codes(codes)
    integer = unique.schema["icd_version"]
    hits = [
        unique.with_columns(prefix=pl.col("code").str.slice(0, width)).join(
            of_width.with_columns(pl.col("icd_version").cast(integer)),
            on=["icd_version", "prefix"],
        )
        for (width,), of_width in prefixes.group_by(pl.col("prefix").str.len_chars().alias("width"))
    ]
    return (
        pl.concat(hits)
        .select("icd_code", "icd_version", "group")
        .unique()
        .sort("icd_version", "icd_code", "group")
    )


def expand_prefixes(declared: str) -> list[str]:
    """Return undotted prefixes from text such as "428 425.4-425.9 I21-I22"."""
    prefixes = []
    for token in declared.replace(".", "").split():
        match = re.fullmatch(r"([A-Z]*)(\d+)(?:-([A-Z]*)(\d+))?", token)
        if match is None or (match[4] and (match[3] != match[1] or len(match[4]) != len(match[2]))):
            raise WardroundError(f"{token!r} is neither a code prefix nor a range of prefixes")
        letter, first, last = match[1], match[2], match[4] or match[2]
        prefixes += [
            f"{letter}{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)
        ]
    return prefixes


@functools.cache
def _system(name: ComorbiditySystem) -> _System:
    if name not in ("charlson", "elixhauser"):
        raise WardroundError(
            f"no comorbidity system is called {name!r}; choose charlson or elixhauser"
        )
    try:
        return _System.model_validate(package_yaml(name))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise WardroundError(f"ontology/data/{name}.yaml, {place}: {first['msg']}") from error


@functools.cache
def _prefixes(system: ComorbiditySystem, variant: ComorbidityVariant = "quan2005") -> pl.DataFrame:
    """Return (icd_version, prefix, group), every declared range spelled out."""
    if variant not in ("quan2005", "mimic4ed"):
        raise WardroundError(
            f"no variant of {system} is called {variant!r}; choose quan2005 or mimic4ed"
        )
    declared = _system(system)
    rows = []
    for name, group in declared.groups.items():
        departure = _Departure()
        if variant == "mimic4ed":
            departure = declared.mimic4ed.departures.get(name, departure)
            name = declared.mimic4ed.swapped.get(name, name)
        for version, text, drop, add in (
            (9, group.icd9, departure.drop.icd9, departure.add.icd9),
            (10, group.icd10, departure.drop.icd10, departure.add.icd10),
        ):
            dropped = set(expand_prefixes(drop))
            kept = [prefix for prefix in expand_prefixes(text) if prefix not in dropped]
            rows += [(version, prefix, name) for prefix in [*kept, *expand_prefixes(add)]]
    return pl.DataFrame(rows, schema=["icd_version", "prefix", "group"], orient="row")
