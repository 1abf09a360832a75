"""Crosswalk between ICD-9-CM and ICD-10-CM diagnoses by the General Equivalence Mappings."""

from __future__ import annotations

from functools import cache
from typing import Literal

import polars as pl

from wardround.errors import WardroundError
from wardround.ontology.codes import unique_codes
from wardround.ontology.tables import gem


def crosswalk(
    codes: pl.DataFrame, to: Literal[9, 10], *, targets: Literal["best", "all"] = "best"
) -> pl.DataFrame:
    """Map each distinct diagnosis code to the other version of ICD.

    The GEMs (CMS/NCHS, a release before FY2017) offer alternatives, exact or approximate, and
    clusters: several codes that only together mean the source. `targets="best"` picks one code for
    each source:

    1. a code that stands alone before a member of a cluster;
    2. an exact equivalent before an approximate one;
    3. a code whose own backward mapping leads to the source before one that leads elsewhere;
    4. the lower scenario, then choice list, then code (the first in the book).

    Args:
        codes: frame with icd_code (any spelling) and icd_version (9 or 10), mixed as they come.
        to: the version wanted. Codes that are of this version already map to themselves.
        targets: "best" or "all".

    Returns:
        icd_code (as it came), icd_version, target (normalised; null where the GEM has no map, or
        lacks the code: it holds billable codes only), approximate, combination (bool), scenario
        and choice_list (int64; 0 outside clusters). One row a code with "best", one a target with
        "all" (a code without any keeps one row with null).

    Raises:
        WardroundError: `to` is neither 9 nor 10, a column is missing, or a version is wrong.
    """
    if to not in (9, 10):
        raise WardroundError(f"cannot map ICD codes to version {to!r}; choose 9 or 10")
    unique = unique_codes(codes)
    same = unique.filter(pl.col("icd_version") == to).select(
        "icd_code",
        "icd_version",
        target="code",
        approximate=pl.lit(False),
        combination=pl.lit(False),
        scenario=pl.lit(0, dtype=pl.Int64),
        choice_list=pl.lit(0, dtype=pl.Int64),
    )
    table = _targets(to, best=targets == "best")
    other = (
        unique.filter(pl.col("icd_version") != to)
        .join(table, left_on="code", right_on="source", how="left")
        .select(same.columns)
    )
    return pl.concat([same, other]).sort(
        "icd_version", "icd_code", "scenario", "choice_list", "target"
    )


@cache
def _targets(to: int, *, best: bool) -> pl.DataFrame:
    """The mapping towards a version: every target, or the best of each source."""
    back = gem(to).select(target="source", source="target", returns=pl.lit(True)).unique()
    table = gem(19 - to).join(back, on=["source", "target"], how="left")
    if best:
        table = table.sort(
            "combination",
            "approximate",
            pl.col("returns").is_null(),
            "scenario",
            "choice_list",
            "target",
        ).unique("source", keep="first", maintain_order=True)
    return table
