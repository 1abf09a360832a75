"""The hospital's formulary: every product that can be ordered, and the numbers it goes by."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import polars as pl

#: How a form is counted out.
UNITS = {
    "Tab": "TAB", "Cap": "CAP", "Vial": "VIAL", "Syringe": "SYR", "Bag": "BAG", "Premix": "BAG",
    "Oral": "mL", "Liquid": "mL", "Patch": "PTCH", "Suppository": "SUPP", "Ampule": "AMP",
}  # fmt: skip


@dataclass(frozen=True)
class Formulary:
    """Drugs, and the products that each comes as.

    Attributes:
        drugs: names, the most frequent first.
        first, count: where each drug's products stand in `products`, and how many they are.
        products: drug, route, form, strength, dose, dose_unit, form_unit, code, gsn, ndc.
    """

    drugs: np.ndarray
    first: np.ndarray
    count: np.ndarray
    products: pl.DataFrame

    def index(self, names: np.ndarray) -> np.ndarray:
        """The number of each drug in `drugs`."""
        place = {name: number for number, name in enumerate(self.drugs.tolist())}
        return np.array([place[name] for name in names.tolist()], np.int64)

    def tail(self, common: Sequence[str]) -> np.ndarray:
        """Drugs that are not `common`, the most frequent first."""
        return self.drugs[~np.isin(self.drugs.astype(str), list(common))]


@cache
def formulary() -> Formulary:
    """The formulary that comes with the package (`formulary.csv`).

    A GSN stands for a drug in a form and strength, an NDC for one maker's package of it. They are
    made up, but shaped like the real numbers, and no two products share one.
    """
    text = (files("wardround.sources.hospital") / "formulary.csv").read_text()
    lines = list(csv.DictReader(text.splitlines()))
    drugs = list(dict.fromkeys(line["drug"] for line in lines))
    rows = [
        (line["drug"], line["route"], line["form"], strength)
        for drug in drugs
        for line in lines
        if line["drug"] == drug
        for strength in line["strengths"].split()
    ]
    keys = ["|".join(row) for row in rows]
    gsn = _numbers(keys, 1_000, 79_000)
    maker = [101 + zlib.crc32(f"maker of {key}".encode()) % 70_000 for key in keys]
    article = _numbers([f"article {key}" for key in keys], 100, 9_900)
    products = pl.DataFrame(
        rows, schema=["drug", "route", "form", "strength"], orient="row"
    ).with_columns(
        dose=pl.col("strength").str.extract(r"^([\d.]+)"),
        dose_unit=pl.col("strength").str.extract(r"^[\d./]+(%|[A-Za-z]+)"),
        form_unit=pl.col("form")
        .str.split(" ")
        .list.first()
        .replace_strict(UNITS, default="UNIT", return_dtype=pl.String),
        code=pl.col("drug").str.replace_all(r"[^A-Za-z]", "").str.slice(0, 4).str.to_uppercase()
        + (pl.int_range(1, pl.len() + 1).over("drug")).cast(pl.String),
        gsn=pl.Series([f"{number:06d}" for number in gsn]),
        ndc=pl.Series([f"{m:05d}{a:04d}01" for m, a in zip(maker, article, strict=True)]),
    )
    count = np.array([sum(row[0] == drug for row in rows) for drug in drugs])
    return Formulary(np.array(drugs, dtype=object), np.cumsum(count) - count, count, products)


def _numbers(keys: list[str], least: int, span: int) -> list[int]:
    """A number of `span` for each key, all of them different, each by its key alone if it can."""
    taken: set[int] = set()
    numbers = []
    for key in keys:
        number = zlib.crc32(key.encode()) % span
        while number in taken:
            number = (number + 1) % span
        taken.add(number)
        numbers.append(least + number)
    return numbers
