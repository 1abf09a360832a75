"""Drug names as hospitals write them, to codes of the Anatomical Therapeutic Chemical system.

A name such as "MetRONIDAZOLE (FLagyl)", "Vancomyci 1000mg/200mL 200mL BAG" or
"Oxycodone-Acetaminophen (5mg-325mg)" is reduced to its words, and these are looked up: all of them
as one product, then as a combination in any order, then ingredient by ingredient.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from wardround.errors import WardroundError

Words = tuple[str, ...]
ATC_SCHEMA = {"name": pl.String, "atc_code": pl.String}

_CODE = re.compile(r"[A-Z]\d\d(?:[A-Z](?:[A-Z](?:\d\d)?)?)?")
#: The first that a name matches is its form.
_FORMS = {
    "eye": r"ophth|\beye|artificial tear",
    "ear": r"\botic|\bear\b",
    "nasal": r"nasal|\bnose\b",
    "vaginal": r"\bvag",
    "rectal": r"rectal|\bsupp|enema|hemorrhoid",
    "inhaled": r"\bneb|inhal|diskus|\bmdi\b|\bhfa\b",
    "patch": r"patch|\bptch|transdermal",
    "skin": r"cream|\boint|lotion|topical|shampoo|\bgel\b|jelly",
    "oral": r"\boral|liquid|troche|\bec\b|suspension",
}
#: Names of an arm of a trial say nothing of what was given.
_UNKNOWABLE = re.compile(r"placebo|study (?:drug|med)", re.IGNORECASE)
_BRACKETS = re.compile(r"\([^)]*(?:\)|$)|\[[^\]]*(?:\]|$)")
_UNITS = "mcg|mg|gm|g|ml|l|meq|mmol|units?|iu|mu|%|tabs?|caps?|hr?"
_STRENGTH = re.compile(rf"(?<![a-z])[\d.,]+\s*(?:{_UNITS})?(?![a-z])(?:\s*/\s*(?:{_UNITS})\b)?")
_MIXED = re.compile(r"70\s*/\s*30")  # of insulins: a name, not a strength
#: Words that may stand before the ingredient without being part of it.
_BEFORE = frozenset(
    ("buffered", "human", "inv", "iv", "liposomal", "nf", "po", "premix", "regular", "sterile")
)
_PACKAGES = frozenset(
    (
        *("amp", "bag", "bottle", "btl", "cap", "kit", "mbp", "ptch", "supp", "syr", "syringe"),
        *("tab", "udcup", "vial"),
    )
)
#: Letters that a name has to have for its end to be guessed.
_SHORTEST_STEM = 6


@dataclass(frozen=True)
class _Table:
    """Codes by the words of a name, then by form ("" where the name tells none)."""

    codes: dict[Words, dict[str, list[str]]]

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str]]) -> _Table:
        codes: dict[Words, dict[str, list[str]]] = {}
        for name, form, code in rows:
            found = codes.setdefault(_words(name), {}).setdefault(form, [])
            if code and code not in found:
                found.append(code)
        return cls(codes)

    @functools.cached_property
    def combinations(self) -> dict[frozenset[str], Words]:
        return {frozenset(words): words for words in self.codes if len(words) > 1}

    @functools.cached_property
    def labels(self) -> dict[str, Words]:
        return {" ".join(words): words for words in self.codes}

    @functools.cached_property
    def longest(self) -> int:
        return max(map(len, self.codes))

    def look_up(self, words: Words, form: str) -> list[str]:
        """Codes of a product by all its words or, failing that, of the ingredients found."""
        product = self._product(words)
        products = [product] if product else list(self._ingredients(words))
        found = [code for product in products for code in self._of_form(product, form)]
        return list(dict.fromkeys(found))

    def _product(self, words: Words) -> Words | None:
        if words in self.codes:
            return words
        return self.combinations.get(frozenset(words)) or self._completed(words)

    def _completed(self, words: Words) -> Words | None:
        """The one product whose name begins like this: labels are cut off at a width."""
        start = " ".join(words)
        if len(start) < _SHORTEST_STEM:
            return None
        begun = [label for label in self.labels if label.startswith(start)]
        stem = min(begun, key=len, default="")
        return self.labels[stem] if begun and all(b.startswith(stem) for b in begun) else None

    def _ingredients(self, words: Words) -> Iterable[Words]:
        """Longest known names from left to right. One of them has to come first.

        What follows a drug's name is its salt and form; what stands before it may turn it into
        something else ("rabies immune globulin").
        """
        at = 0
        while at < len(words) and words[at] in _BEFORE and words[at : at + 1] not in self.codes:
            at += 1
        first = at
        while at < len(words):
            for width in range(min(self.longest, len(words) - at), 0, -1):
                if words[at : at + width] in self.codes:
                    yield words[at : at + width]
                    at += width
                    break
            else:
                if at == first:
                    return
                at += 1

    def _of_form(self, product: Words, form: str) -> list[str]:
        by_form = self.codes[product]
        return by_form.get(form, by_form.get("", []))


def atc_codes(names: pl.Series, table: Path | None = None) -> pl.DataFrame:
    """Return the ATC codes of each distinct drug name.

    A product with a code of its own has that one (piperacillin with tazobactam: J01CR05); another
    combination has those of its ingredients. A name tells the route at best by its form, so that
    "Erythromycin 0.5% Ophth Oint" is the eye ointment and "Erythromycin" the systemic drug.

    Args:
        names: drug names in any spelling, repeated at will; nulls are ignored.
        table: a CSV file with the columns `name` and `atc_code` that comes before the built-in
            table; several rows for a name give it several codes, and a row without a code none.

    Returns:
        `name` (as it came), `atc_code`, sorted by name; several rows for a name with several codes,
        none for one that is unknown. Codes are of the fifth level, or of a higher one where ATC
        does not name the substance, or the user's table does not.

    Raises:
        WardroundError: `table` cannot be read, lacks a column, or has something else for a code.
    """
    own = {} if table is None else _user_table(table)
    own_rows = ((name, "", code) for name, codes in own.items() for code in codes or [""])
    lookup = _Table({**_built_in().codes, **_Table.of(own_rows).codes}) if own else _built_in()
    rows: list[tuple[str, str]] = []
    for name in names.cast(pl.String).drop_nulls().unique().sort().to_list():
        codes = own.get(_spelling(name))
        if codes is None:
            codes = _codes(name, lookup)
        rows += [(name, code) for code in codes]
    return pl.DataFrame(rows, schema=ATC_SCHEMA, orient="row")


def _codes(name: str, table: _Table) -> list[str]:
    """Codes by what stands outside of brackets or, failing that, inside."""
    if _UNKNOWABLE.search(name):
        return []
    outside, inside = _words(_BRACKETS.sub(" ", name)), _words(" ".join(_BRACKETS.findall(name)))
    form = _form(name)
    answers = (table.look_up(words, form) for words in (outside, inside) if words)
    return next(filter(None, answers), [])


def _spelling(name: str) -> str:
    return " ".join(name.casefold().split())


def _form(name: str) -> str:
    lower = name.lower()
    return next((form for form, pattern in _FORMS.items() if re.search(pattern, lower)), "")


def _words(name: str) -> Words:
    """Words of a name in lower case, without strengths, packages and punctuation."""
    plain = _STRENGTH.sub(" ", _MIXED.sub("biphasic", name.lower()))
    words = re.findall(r"[a-z][a-z0-9]*", plain)
    return tuple(word for word in words if word not in _PACKAGES)


@functools.cache
def _built_in() -> _Table:
    file = importlib.resources.files("wardround.ontology").joinpath("data", "atc.csv")
    text = file.read_bytes()
    frame = pl.read_csv(text, comment_prefix="#", infer_schema=False).fill_null("")
    return _Table.of(frame.select("name", "form", "atc_code").iter_rows())


def _user_table(path: Path) -> dict[str, list[str]]:
    """Codes by `_spelling`; no code for a name that is to have none."""
    advice = "expected a CSV file with the columns name and atc_code"
    try:
        frame = pl.read_csv(path, infer_schema=False).fill_null("")
    except (OSError, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WardroundError(
            f"{path}: cannot read the table of drugs ({reason}); {advice}"
        ) from error
    missing = [name for name in ATC_SCHEMA if name not in frame.columns]
    if missing:
        raise WardroundError(
            f"{path}: the table of drugs lacks the column {', '.join(missing)} (found: "
            f"{', '.join(frame.columns)}); {advice}"
        )
    codes: dict[str, list[str]] = {}
    for line, (name, code) in enumerate(frame.select(*ATC_SCHEMA).iter_rows(), start=2):
        code = code.strip().upper()
        if code and _CODE.fullmatch(code) is None:
            raise WardroundError(
                f"{path}, line {line}: {code!r} is no ATC code (such as C03CA01, or C03 for a "
                "group); correct the row or leave the code empty"
            )
        found = codes.setdefault(_spelling(name), [])
        if code and code not in found:
            found.append(code)
    return codes
