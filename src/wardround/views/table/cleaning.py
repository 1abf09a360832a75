"""Raw vital signs to plausible numbers in one unit (Xie et al. 2022, benchmark's cleaning)."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class PlausibleRange:
    """Two pairs of bounds: beyond the outer ones a value is an error, between the two a stretch.

    Attributes:
        outlier_low, outlier_high: values outside (both ends included in the range) are missing.
        valid_low, valid_high: what remains is clipped to these.
    """

    outlier_low: float
    valid_low: float
    valid_high: float
    outlier_high: float

    def apply(self, value: pl.Expr) -> pl.Expr:
        """Return `value` with the rule applied; NaN counts as missing."""
        plausible = value.is_between(self.outlier_low, self.outlier_high)
        return pl.when(plausible).then(value.clip(self.valid_low, self.valid_high))


#: Bounds of the ED vital signs; temperature in Celsius, pressures in mmHg, rates a minute.
ED_RANGES = {
    "temperature": PlausibleRange(14.2, 26, 45, 47),
    "heartrate": PlausibleRange(0, 0, 350, 390),
    "resprate": PlausibleRange(0, 0, 300, 330),
    "o2sat": PlausibleRange(0, 0, 100, 150),
    "sbp": PlausibleRange(0, 0, 375, 375),
    "dbp": PlausibleRange(0, 0, 375, 375),
    "pain": PlausibleRange(0, 0, 10, 10),
    "acuity": PlausibleRange(1, 1, 5, 5),
}


def fahrenheit_to_celsius(value: pl.Expr) -> pl.Expr:
    """Convert degrees Fahrenheit to degrees Celsius."""
    return (value.cast(pl.Float64) - 32) * (5 / 9)


def clean_vital(value: pl.Expr, vital: str) -> pl.Expr:
    """Clean one raw ED vital sign: unit first, then its plausible range.

    A temperature that was charted in Celsius already comes out of the conversion below 14.2 and
    is therefore missing, as in the benchmark; guessing its unit would be a rule of our own.

    Args:
        value: raw numbers; temperature in Fahrenheit.
        vital: a key of `ED_RANGES`.

    Returns:
        Float32; missing values are null.
    """
    number = fahrenheit_to_celsius(value) if vital == "temperature" else value.cast(pl.Float64)
    return ED_RANGES[vital].apply(number).cast(pl.Float32)


_NUMBER = r"(\d+(?:\.\d+)?)"


def parse_pain(text: pl.Expr) -> pl.Expr:
    """Read a free-text pain score.

    "8-9" is 8.5; a leading number counts ("7/10", "5 at rest"); all else ("unable", "ett") is
    missing. The range rule of `clean_vital` is not applied here.

    Returns:
        Float64; missing values are null.
    """
    ends = text.str.extract_groups(rf"^\s*{_NUMBER}\s*-\s*{_NUMBER}")
    low, high = (ends.struct.field(str(i)).cast(pl.Float64) for i in (1, 2))
    leading = text.str.extract(rf"^\s*{_NUMBER}").cast(pl.Float64)
    return pl.coalesce((low + high) / 2, leading)
