"""Clinical scores as data: items with bins and points, and one engine that adds them up.

Bins are half-open, so that every real number falls into one. A bin that is published for integers
("50-69") becomes [50, 70): a mean arterial pressure of 49.5 counts as "<= 49", 69.7 as "50-69" and
109.3 as "70-109". Temperature has decimals and its published inclusive bounds are kept as they
stand: "<= 35.0, 35.1-36.0" becomes (-inf, 35], (35, 36].

What not every source holds is optional and scores 0 where it is left out: supplemental oxygen and
consciousness (NEWS, NEWS2, MEWS), the Glasgow coma scale (REMS). The emergency department's tables
hold none of them. A missing value scores 0 as well.

Bins are those of the MIMIC-IV-ED benchmark (Xie et al., Sci Data 2022, 9:658) and of the papers
named at each score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression

from wardround.errors import WardroundError

#: Log-odds a point of a score that showed no risk in train.
FLAT = 1e-4

Columns = Mapping[str, ArrayLike]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Item:
    """One item of a score: points for each bin of one input.

    Attributes:
        name: how the item is named in a table.
        input: column that it reads, "map" (mean arterial pressure, from sbp and dbp), or
            "o2sat_on_oxygen" (o2sat where the flag oxygen is set).
        edges: ascending, finite; bin k lies between edge k - 1 and edge k.
        points: one more than there are edges.
        closed: the side on which a bin holds its edge: "left" is [a, b), "right" is (a, b].
        missing: points where the input is missing.
        only_if: flag column that has to be set; a row where it is not scores 0.
        unless: flag column that must not be set; a row where it is scores 0.
        gaps: bins were written for whole numbers, and what lies between two of them scores 0.
        decimals: the input is rounded to so many first. Degrees Celsius come from Fahrenheit by
            float arithmetic, and 100.4 F must not become 38.0000008 C.
    """

    name: str
    input: str
    edges: tuple[float, ...]
    points: tuple[float, ...]
    closed: Literal["left", "right"] = "left"
    missing: float = 0.0
    only_if: str | None = None
    unless: str | None = None
    gaps: bool = False
    decimals: int | None = None

    def __post_init__(self) -> None:
        if len(self.points) != len(self.edges) + 1:
            raise ValueError(
                f"item {self.name}: {len(self.edges)} edges make {len(self.edges) + 1} bins, "
                f"got {len(self.points)} points"
            )
        edges = np.asarray(self.edges, np.float64)
        if not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ValueError(f"item {self.name}: edges must be finite and ascend, got {self.edges}")

    def bin_index(self, values: ArrayLike) -> NDArray[np.intp]:
        """Return the bin of each value, 0 to len(edges). A missing value lands in the last one."""
        values = np.asarray(values, np.float64)
        if self.decimals is not None:
            values = values.round(self.decimals)
        side: Literal["left", "right"] = "right" if self.closed == "left" else "left"
        return np.searchsorted(np.asarray(self.edges, np.float64), values, side=side)

    def score(self, values: ArrayLike) -> Floats:
        """Return the points of each value, whatever the flags say."""
        values = np.asarray(values, np.float64)
        found = np.asarray(self.points, np.float64)[self.bin_index(values)]
        if self.gaps:
            below, above = self.bin_index(np.floor(values)), self.bin_index(np.ceil(values))
            found = np.where(below == above, found, 0.0)
        return np.where(np.isnan(values), self.missing, found)

    def bins(self) -> list[str]:
        """Name the bins in the order of `points`, as in "< 50", "50 - < 70", ">= 70"."""
        if not self.edges:
            return ["any"]
        edges = [f"{edge:g}" for edge in self.edges]
        below, above = ("<", ">=") if self.closed == "left" else ("<=", ">")
        between = [
            f"{a} - < {b}" if self.closed == "left" else f"> {a} - {b}" for a, b in pairwise(edges)
        ]
        return [f"{below} {edges[0]}", *between, f"{above} {edges[-1]}"]


@dataclass(frozen=True)
class Score:
    """A sum of items; higher means graver.

    Attributes:
        name: short name.
        items: what is added up.
        source: where the bins come from.
    """

    name: str
    items: tuple[Item, ...]
    source: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that have to be there, in order of first use."""
        needed = [n for item in self.items for n in _DERIVED_FROM.get(item.input, (item.input,))]
        needed += [flag for item in self.items for flag in (item.only_if, item.unless) if flag]
        return tuple(dict.fromkeys(n for n in needed if n not in OPTIONAL))

    def points(self, columns: Columns) -> Floats:
        """Add up the items.

        Args:
            columns: arrays of shape (n,) by name: `age` in years, `heartrate` and `resprate` per
                minute, `o2sat` in %, `sbp` and `dbp` in mmHg, `temperature` in degrees Celsius,
                `acuity` 1 to 5, comorbidity flags `cci_*` as 0/1; NaN where missing. These may be
                left out: `acvpu` (0 alert, 1 confused, 2 voice, 3 pain, 4 unresponsive), `gcs` 3
                to 15, and the flags `oxygen` and `hypercapnic`.

        Returns:
            float64, shape (n,).

        Raises:
            WardroundError: an input is missing.
        """
        absent = [name for name in self.inputs if name not in columns]
        if absent:
            raise WardroundError(
                f"score {self.name} needs the columns {', '.join(absent)}; "
                f"got {', '.join(columns) or 'none'}"
            )
        total: Floats = np.zeros(np.shape(columns[self.inputs[0]]))
        for item in self.items:
            gained = item.score(_input(columns, item.input))
            if item.only_if:
                gained = np.where(_flag(columns, item.only_if), gained, 0.0)
            if item.unless:
                gained = np.where(_flag(columns, item.unless), 0.0, gained)
            total += gained
        return total

    def table(self) -> list[dict[str, str | float]]:
        """The score as rows of `item`, `bin`, `points`, for a report."""
        return [
            {"item": item.name, "bin": label, "points": points}
            for item in self.items
            for label, points in zip(item.bins(), item.points, strict=True)
        ]


@dataclass(frozen=True)
class CalibratedScore:
    """A point score and the logistic curve that turns its points into a risk.

    The curve keeps the ranking of the points. Where more points did not mean more risk on the
    training rows, it is all but flat instead of turned round: a score that points the wrong way
    must be seen to.

    Attributes:
        score: the point table.
        feature_names: columns of the matrices that it reads, under the names of the score.
        intercept, slope: of the curve; slope is per point.
    """

    score: Score
    feature_names: tuple[str, ...]
    intercept: float
    slope: float

    @classmethod
    def fit(
        cls, score: Score, X: ArrayLike, y: ArrayLike, feature_names: Sequence[str]
    ) -> CalibratedScore:
        """Fit the curve to training rows.

        Args:
            score: any score.
            X: shape (n, d), NaN where missing.
            y: 0/1, shape (n,).
            feature_names: d names, those of the score's inputs among them.
        """
        names = tuple(feature_names)
        points = score.points(dict(zip(names, np.asarray(X, np.float64).T, strict=True)))
        labels = np.asarray(y).astype(int)
        curve = LogisticRegression(C=np.inf).fit(points[:, None], labels)
        intercept, slope = float(curve.intercept_[0]), float(curve.coef_[0, 0])
        if slope <= 0:
            slope = FLAT
            odds = labels.mean() / (1 - labels.mean())
            intercept = float(np.log(odds) - slope * points.mean())
        return cls(score, names, intercept, slope)

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return probabilities of both classes, shape (n, 2)."""
        columns = dict(zip(self.feature_names, np.asarray(X, np.float64).T, strict=True))
        positive = 1 / (1 + np.exp(-(self.intercept + self.slope * self.score.points(columns))))
        return np.column_stack([1 - positive, positive])


OPTIONAL = frozenset({"acvpu", "gcs", "hypercapnic", "oxygen"})
_DERIVED_FROM = {"map": ("sbp", "dbp"), "o2sat_on_oxygen": ("o2sat", "oxygen")}


def _input(columns: Columns, name: str) -> Floats:
    if name == "map":
        sbp, dbp = (np.asarray(columns[n], np.float64) for n in _DERIVED_FROM["map"])
        return (sbp + 2 * dbp) / 3
    if name == "o2sat_on_oxygen":
        return np.where(_flag(columns, "oxygen"), np.asarray(columns["o2sat"], np.float64), np.nan)
    if name in OPTIONAL:
        return np.asarray(columns.get(name, np.nan), np.float64)
    return np.asarray(columns[name], np.float64)


def _flag(columns: Columns, name: str) -> NDArray[np.bool_]:
    """A missing flag, or a missing value of it, reads as not set."""
    return np.asarray(columns.get(name, 0.0), np.float64) > 0


def _temperature(edges: tuple[float, ...], points: tuple[float, ...]) -> Item:
    return Item("temperature", "temperature", edges, points, closed="right", decimals=3)


def _set(flag: str, points: float, unless: str | None = None) -> Item:
    return Item(flag, flag, (0.5,), (0, points), unless=unless)


# The level is the predictor, turned round. A level that is missing counts as 3, the middle one.
_ESI = Score(
    "ESI",
    (Item("acuity", "acuity", (1.5, 2.5, 3.5, 4.5), (-1, -2, -3, -4, -5), missing=-3),),
    "Emergency Severity Index as recorded at triage",
)

_NEWS_WITHOUT_SPO2 = (
    Item("resprate", "resprate", (9, 12, 21, 25), (3, 1, 0, 2, 3)),
    _temperature((35, 36, 38, 39), (3, 1, 0, 1, 2)),
    Item("sbp", "sbp", (91, 101, 111, 220), (3, 2, 1, 0, 3)),
    Item("heartrate", "heartrate", (41, 51, 91, 111, 131), (3, 1, 0, 1, 2, 3)),
)
_SPO2_SCALE_1 = Item("o2sat", "o2sat", (92, 94, 96), (3, 2, 1, 0))

_OXYGEN = _set("oxygen", 2)

# Confusion scores since NEWS2.
_NEWS = Score(
    "NEWS",
    (
        *_NEWS_WITHOUT_SPO2,
        _SPO2_SCALE_1,
        _OXYGEN,
        Item("consciousness", "acvpu", (1.5,), (0, 3)),
    ),
    "Royal College of Physicians, NEWS, 2012",
)

# Scale 2 is for patients with hypercapnic respiratory failure. Its points above 92 % are for those
# on oxygen; where that is not recorded they are read as breathing air.
_NEWS2 = Score(
    "NEWS2",
    (
        *_NEWS_WITHOUT_SPO2,
        replace(_SPO2_SCALE_1, name="o2sat (scale 1)", unless="hypercapnic"),
        Item("o2sat (scale 2)", "o2sat", (84, 86, 88), (3, 2, 1, 0), only_if="hypercapnic"),
        Item(
            "o2sat (scale 2, on oxygen)",
            "o2sat_on_oxygen",
            (93, 95, 97),
            (0, 1, 2, 3),
            only_if="hypercapnic",
        ),
        _OXYGEN,
        Item("consciousness", "acvpu", (0.5,), (0, 3)),
    ),
    "Royal College of Physicians, NEWS2, 2017",
)

_MEWS = Score(
    "MEWS",
    (
        Item("sbp", "sbp", (71, 81, 101, 200), (3, 2, 1, 0, 2)),
        Item("heartrate", "heartrate", (41, 51, 101, 111, 130), (2, 1, 0, 1, 2, 3)),
        Item("resprate", "resprate", (9, 15, 21, 30), (2, 0, 1, 2, 3)),
        Item("temperature", "temperature", (35, 38.5), (2, 0, 2), decimals=3),
        Item("consciousness", "acvpu", (1.5, 2.5, 3.5), (0, 1, 2, 3)),
    ),
    "Subbe et al., QJM 2001;94:521-526",
)

_REMS = Score(
    "REMS",
    (
        Item("age", "age", (45, 55, 65, 75), (0, 2, 3, 5, 6)),
        Item("mean arterial pressure", "map", (50, 70, 110, 130, 160), (4, 2, 0, 2, 3, 4)),
        Item("heartrate", "heartrate", (40, 55, 70, 110, 140, 180), (4, 3, 2, 0, 2, 3, 4)),
        Item("resprate", "resprate", (6, 10, 12, 25, 35, 50), (4, 2, 1, 0, 1, 3, 4)),
        Item("o2sat", "o2sat", (75, 86, 90), (4, 3, 1, 0)),
        Item("coma scale", "gcs", (5, 8, 11, 14), (4, 3, 2, 1, 0)),
    ),
    "Olsson et al., J Intern Med 2004;255:579-587",
)

_CART = Score(
    "CART",
    (
        Item("age", "age", (55, 70), (0, 4, 9)),
        Item("resprate", "resprate", (21, 24, 26, 30), (0, 8, 12, 15, 22)),
        Item("heartrate", "heartrate", (110, 140), (0, 4, 13)),
        Item("dbp", "dbp", (35, 40, 50), (13, 6, 4, 0)),
    ),
    "Churpek et al., Crit Care Med 2012;40:2102-2108",
)

_CCI_AGE = Item("age", "age", (50, 60, 70, 80), (0, 1, 2, 3, 4))
_CCI_WEIGHTS = {
    "MI": 1,
    "CHF": 1,
    "PVD": 1,
    "Stroke": 1,
    "Dementia": 1,
    "Pulmonary": 1,
    "Rheumatic": 1,
    "PUD": 1,
    "Liver1": 1,
    "DM1": 1,
    "DM2": 2,
    "Paralysis": 2,
    "Renal": 2,
    "Cancer1": 2,
    "Liver2": 3,
    "Cancer2": 6,
    "HIV": 6,
}
_CCI_GRAVER = {"Liver1": "Liver2", "DM1": "DM2", "Cancer1": "Cancer2"}


_CCI = Score(
    "Charlson index",
    (
        _CCI_AGE,
        *(
            _set(f"cci_{name}", weight, f"cci_{_CCI_GRAVER[name]}" if name in _CCI_GRAVER else None)
            for name, weight in _CCI_WEIGHTS.items()
        ),
    ),
    "Charlson et al., J Clin Epidemiol 1994;47:1245-1251",
)


def _serp(
    days: int,
    age: tuple[float, ...],
    heartrate: tuple[float, ...],
    resprate: tuple[float, ...],
    sbp: tuple[float, ...],
    dbp: tuple[float, ...],
    *more: Item,
) -> Score:
    return Score(
        f"SERP-{days}d",
        (
            Item("age", "age", (30, 50, 80), age),
            Item("heartrate", "heartrate", (60, 70, 95, 110), heartrate),
            Item("resprate", "resprate", (16, 20), resprate),
            Item("sbp", "sbp", (100, 115, 150), sbp),
            Item("dbp", "dbp", (50, 95), dbp),
            *more,
        ),
        "Xie et al., JAMA Netw Open 2021;4:e2118467",
    )


CLINICAL_SCORES: Mapping[str, Score] = MappingProxyType(
    {
        "esi": _ESI,
        "news": _NEWS,
        "news2": _NEWS2,
        "mews": _MEWS,
        "rems": _REMS,
        "cart": _CART,
        "cci": _CCI,
        "serp_2d": _serp(
            2,
            (0, 9, 13, 17),
            (3, 0, 3, 6, 10),
            (11, 0, 7),
            (10, 4, 1, 0),
            (5, 0, 1),
            Item("o2sat", "o2sat", (90, 95), (7, 5, 0)),
        ),
        "serp_7d": _serp(
            7, (0, 10, 17, 21), (2, 0, 4, 8, 12), (10, 0, 6), (12, 6, 1, 0), (4, 0, 2)
        ),
        "serp_30d": _serp(
            30,
            (0, 8, 14, 19),
            (1, 0, 2, 6, 9),
            (8, 0, 6),
            (8, 5, 2, 0),
            (3, 0, 2),
            _set("cci_Cancer1", 6, unless="cci_Cancer2"),  # local tumour or metastatic, not both
            _set("cci_Cancer2", 12),
        ),
    }
)


def clinical_scores(*, paper_compat: bool = False) -> Mapping[str, Score]:
    """The scores by name.

    Args:
        paper_compat: as the benchmark computed them: fractions between bins score 0 (two thirds of
            the mean arterial pressures have one), NEWS2 is without any SpO2 item, no score knows
            of oxygen or consciousness, and the Charlson index and SERP-30d count the milder form
            of a disease on top of the graver one.
    """
    if not paper_compat:
        return CLINICAL_SCORES
    news2 = Score("NEWS2", _NEWS_WITHOUT_SPO2, "NEWS2 as published, without SpO2")
    return {name: _published(score) for name, score in {**CLINICAL_SCORES, "news2": news2}.items()}


def _published(score: Score) -> Score:
    """Temperatures have decimals, and bins to match, in the published code as well."""
    items = (
        replace(item, gaps=item.input != "temperature", unless=None)
        for item in score.items
        if item.input not in OPTIONAL
    )
    return replace(score, items=tuple(items))
