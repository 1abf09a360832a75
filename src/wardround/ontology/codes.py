"""ICD codes as text: canonical form, dotted form, and their place in an event code.

Everything here is a polars expression without tables behind it, so it runs inside any lazy query.
"""

from __future__ import annotations

from typing import Literal

import polars as pl

from wardround.errors import WardroundError

CodeKind = Literal["diagnosis", "procedure"]

_EVENT_CODE = r"(?:^|//)(DIAGNOSIS|PROCEDURE)//ICD//(9|10)//(.+)$"


def normalise_icd(code: pl.Expr) -> pl.Expr:
    """Return codes without dots and spaces, in upper case; an empty one becomes null.

    Leading zeros are part of an ICD-9 code ("0389" is septicaemia, "389" hearing loss). A source
    that has lost them, by reading codes as numbers, cannot be mended here.

    Examples:
        >>> frame = pl.DataFrame({"code": [" i50.9 ", "038.9", ""]})
        >>> frame.select(normalise_icd(pl.col("code")))["code"].to_list()
        ['I509', '0389', None]
    """
    clean = code.cast(pl.String).str.replace_all(r"[.\s]", "").str.to_uppercase()
    return pl.when(clean != "").then(clean)


def dotted_icd(code: pl.Expr, version: pl.Expr, kind: CodeKind = "diagnosis") -> pl.Expr:
    """Return codes as printed in the books: "I50.9", "428.0", "V43.4", "E885.9", "37.22".

    The dot follows the category: three characters, four for ICD-9 E codes, two for ICD-9
    procedures. ICD-10-PCS codes have no dot.

    Args:
        code: ICD codes in any spelling.
        version: 9 or 10, per code.
        kind: which of the two code sets the codes belong to.
    """
    clean = normalise_icd(code)
    if kind == "procedure":
        width = pl.when(version == 9).then(2).otherwise(7)
    else:
        width = pl.when((version == 9) & clean.str.starts_with("E")).then(4).otherwise(3)
    return (
        pl.when(clean.str.len_chars() > width)
        .then(clean.str.slice(0, width) + "." + clean.str.slice(width))
        .otherwise(clean)
    )


def icd_event_code(code: pl.Expr, version: pl.Expr, prefix: str = "DIAGNOSIS") -> pl.Expr:
    """Return event codes such as "DIAGNOSIS//ICD//10//I509"; null where code or version is null.

    Args:
        code: ICD codes in any spelling; the event code carries the normalised one.
        version: 9 or 10, per code.
        prefix: what stands before "//ICD//", for example "PROCEDURE" or "ED//DIAGNOSIS".
    """
    return pl.concat_str(
        pl.lit(prefix), pl.lit("ICD"), version.cast(pl.String), normalise_icd(code), separator="//"
    )


def parse_icd_event_code(code: pl.Expr) -> pl.Expr:
    """Split event codes into a struct (kind, icd_version, icd_code); the inverse of the above.

    Any prefix is taken ("ED//DIAGNOSIS//ICD//9//4019" too). kind is "diagnosis" or "procedure",
    icd_version int64; all three fields are null where the event is no ICD code.

    Examples:
        >>> frame = pl.DataFrame({"code": ["DIAGNOSIS//ICD//10//I509", "MEDS_DEATH"]})
        >>> frame.select(parse_icd_event_code(pl.col("code")).struct.unnest()).to_dicts()[0]
        {'kind': 'diagnosis', 'icd_version': 10, 'icd_code': 'I509'}
    """
    part = [code.str.extract(_EVENT_CODE, group) for group in (1, 2, 3)]
    return pl.struct(
        part[0].str.to_lowercase().alias("kind"),
        part[1].cast(pl.Int64).alias("icd_version"),
        part[2].alias("icd_code"),
    )


def unique_codes(codes: pl.DataFrame) -> pl.DataFrame:
    """Return the distinct (icd_code, icd_version) with `code`, the normalised form, beside them.

    Rows with a null code or version, or a code of blanks, are left out. The spelling in icd_code
    stays as it came, so that results join back on it.

    Raises:
        WardroundError: a column is missing, or a version is neither 9 nor 10.
    """
    missing = [name for name in ("icd_code", "icd_version") if name not in codes.columns]
    if missing:
        raise WardroundError(
            f"the frame of ICD codes lacks the column {', '.join(missing)} (it has "
            f"{', '.join(codes.columns) or 'none'}); pass icd_code and icd_version"
        )
    if not codes.schema["icd_version"].is_integer():
        raise WardroundError(
            f"icd_version is {codes.schema['icd_version']}, expected whole numbers 9 or 10; "
            "cast the column"
        )
    unique = (
        codes.select("icd_code", "icd_version")
        .unique()
        .with_columns(code=normalise_icd(pl.col("icd_code")))
        .drop_nulls()
    )
    odd = unique.filter(~pl.col("icd_version").is_in([9, 10]))
    if odd.height:
        raise WardroundError(
            f"icd_version {odd['icd_version'][0]} (code {odd['icd_code'][0]!r}) is neither 9 nor "
            "10; leave such rows out or correct them"
        )
    return unique.sort("icd_version", "code", "icd_code")
