"""What a code means and where it stands: title, validity, chapter, ancestors."""

from __future__ import annotations

import functools
import re

import polars as pl

from wardround.errors import WardroundError
from wardround.ontology.codes import CodeKind, dotted_icd, unique_codes
from wardround.ontology.tables import (
    code_table,
    icd10_category_blocks,
    icd10_chapters,
    package_yaml,
)

# A well-formed code, its category in group 1. A code may be well-formed and unknown.
_SHAPE = {
    (9, "diagnosis"): re.compile(r"(\d{3}|V\d{2})\d{0,2}|(E\d{3})\d?"),
    (10, "diagnosis"): re.compile(r"([A-Z](?:\d[0-9A-Z]|A\d))[0-9A-Z]{0,4}"),
    (9, "procedure"): re.compile(r"(\d{2})\d{0,2}"),
    (10, "procedure"): re.compile(r"([0-9A-HJ-NP-Z])[0-9A-HJ-NP-Z]{2,6}"),
}


def describe_codes(
    codes: pl.DataFrame,
    dictionary: pl.DataFrame | None = None,
    kind: CodeKind = "diagnosis",
) -> pl.DataFrame:
    """Return what is known of each distinct code.

    Args:
        codes: frame with icd_code (any spelling) and icd_version (9 or 10); other columns ignored.
        dictionary: the source's own d_icd_diagnoses or d_icd_procedures (icd_code, icd_version,
            long_title). Its titles win, and its codes count as known.
        kind: "diagnosis" (ICD-9-CM volumes 1-2, ICD-10-CM) or "procedure" (volume 3, ICD-10-PCS).

    Returns:
        One row per distinct (icd_code, icd_version) with icd_code as it came, and code
        (normalised), dotted, known (bool), billable (bool: valid for billing in a release held by
        the libraries; null if they lack the code), title (null if unknown; also for ICD-9
        categories, which the libraries do not title), chapter (its range, or the section for
        ICD-10-PCS; null where no chapter holds the code) and chapter_title. A well-formed code
        that was withdrawn still gets its chapter.

    Raises:
        WardroundError: a column is missing or a version is neither 9 nor 10.
    """
    unique = unique_codes(codes)
    integer = unique.schema["icd_version"]
    table = pl.concat(
        code_table(version, kind).with_columns(icd_version=pl.lit(version, dtype=integer))
        for version in unique["icd_version"].unique().to_list() or [9]
    )
    chapters = pl.DataFrame(
        [
            (version, code, chapter, _chapters(version, kind).get(chapter))
            for version, code in unique.select("icd_version", "code").unique().iter_rows()
            if (chapter := _chapter_of(code, version, kind)) is not None
        ],
        schema={
            "icd_version": integer,
            "code": pl.String,
            "chapter": pl.String,
            "chapter_title": pl.String,
        },
        orient="row",
    )
    own = _titles(dictionary).with_columns(pl.col("icd_version").cast(integer))
    key = ["icd_version", "code"]
    return (
        unique.join(table, on=key, how="left")
        .join(own, on=key, how="left")
        .join(chapters, on=key, how="left")
        .select(
            "icd_code",
            "icd_version",
            "code",
            dotted=dotted_icd(pl.col("code"), pl.col("icd_version"), kind),
            known=pl.col("billable").is_not_null() | pl.col("own").is_not_null(),
            billable="billable",
            title=pl.coalesce("own_title", "title"),
            chapter="chapter",
            chapter_title="chapter_title",
        )
        .sort("icd_version", "code", "icd_code")
    )


def code_ancestors(codes: pl.DataFrame, kind: CodeKind = "diagnosis") -> pl.DataFrame:
    """Return the ancestors of each distinct code, nearest first: the parent, …, the chapter.

    Codes stand undotted, blocks and chapters as ranges: I50.21 has ["I502", "I50", "I30-I5A",
    "I00-I99"], ICD-9's 428.21 ["4282", "428", "420-429", "390-459"]. Blocks nest where the
    classification nests them; one that holds a single category is left out. ICD-10-PCS goes by
    table, body system and section ("027", "02", "0"). Of an unknown code, the ancestors that exist
    are given; a malformed one has none.

    Args:
        codes: frame with icd_code (any spelling) and icd_version (9 or 10).
        kind: "diagnosis" or "procedure".

    Returns:
        icd_code (as it came), icd_version, ancestors (list of strings, maybe empty).

    Raises:
        WardroundError: a column is missing or a version is neither 9 nor 10.
    """
    unique = unique_codes(codes)
    chains = [
        _ancestors(code, version, kind)
        for code, version in unique.select("code", "icd_version").iter_rows()
    ]
    return unique.select("icd_code", "icd_version").with_columns(
        pl.Series("ancestors", chains, dtype=pl.List(pl.String))
    )


def _ancestors(code: str, version: int, kind: CodeKind) -> list[str]:
    category = _category(code, version, kind)
    if category is None:
        return []
    if (version, kind) == (10, "procedure"):
        return [code[:width] for width in (3, 2, 1) if width < len(code)]
    nodes = _nodes(version, kind)
    prefixes = [code[:width] for width in range(len(code) - 1, len(category) - 1, -1)]
    return [*(prefix for prefix in prefixes if prefix in nodes), *_ranges(category, version, kind)]


def _category(code: str, version: int, kind: CodeKind) -> str | None:
    match = _SHAPE[version, kind].fullmatch(code)
    return next(filter(None, match.groups())) if match else None


def _chapter_of(code: str, version: int, kind: CodeKind) -> str | None:
    category = _category(code, version, kind)
    if category is None:
        return None
    if (version, kind) == (10, "procedure"):
        return category if category in _chapters(version, kind) else None
    return next(reversed(_ranges(category, version, kind)), None)


@functools.cache
def _nodes(version: int, kind: CodeKind) -> frozenset[str]:
    return frozenset(code_table(version, kind)["code"].to_list())


@functools.cache
def _chapters(version: int, kind: CodeKind) -> dict[str, str]:
    if (version, kind) == (10, "diagnosis"):
        return icd10_chapters()
    name = {
        (9, "diagnosis"): "icd9_chapters",
        (9, "procedure"): "icd9_procedure_chapters",
        (10, "procedure"): "icd10_procedure_sections",
    }[version, kind]
    chapters: dict[str, str] = package_yaml("icd_structure")[name]
    return chapters


@functools.cache
def _ranges(category: str, version: int, kind: CodeKind) -> tuple[str, ...]:
    """Return the blocks that hold a category, innermost first, and its chapter."""
    chapters = [span for span in _chapters(version, kind) if _holds(span, category)]
    blocks: tuple[str, ...] = ()
    if (version, kind) == (10, "diagnosis"):
        blocks = icd10_category_blocks().get(category, ())
    elif (version, kind) == (9, "diagnosis"):
        declared = package_yaml("icd_structure")["icd9_blocks"].split()
        # Of two blocks that hold a category, the inner one starts later or ends earlier.
        inner_first = sorted(declared, reverse=True, key=lambda span: span.split("-")[0])
        inner_first.sort(key=lambda span: span.split("-")[1])
        blocks = tuple(span for span in inner_first if _holds(span, category))
    return (*blocks, *chapters)


def _holds(span: str, category: str) -> bool:
    """Tell whether a range such as "420-429" holds a category; both compare as text."""
    first, last = span.split("-")
    return first <= category <= last


def _titles(dictionary: pl.DataFrame | None) -> pl.DataFrame:
    """Return (icd_version, code, own_title, own=True) of the source's own dictionary."""
    if dictionary is None:
        return pl.DataFrame(
            schema={
                "icd_version": pl.Int64,
                "code": pl.String,
                "own_title": pl.String,
                "own": pl.Boolean,
            }
        )
    if "long_title" not in dictionary.columns:
        raise WardroundError(
            f"the ICD dictionary lacks the column long_title (it has "
            f"{', '.join(dictionary.columns)}); pass d_icd_diagnoses or d_icd_procedures"
        )
    return (
        unique_codes(dictionary)
        .join(dictionary, on=["icd_code", "icd_version"])
        .select(
            "icd_version",
            "code",
            own_title=pl.col("long_title").str.strip_chars(),
            own=pl.lit(True),
        )
        .unique(["icd_version", "code"], keep="first", maintain_order=True)
    )
