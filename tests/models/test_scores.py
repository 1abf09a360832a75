"""Clinical scores against the published tables, written down here point by point."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from wardround.models import CLINICAL_SCORES

# Values at which each item scores 0 in every score that has no such bin for it is impossible to
# find; so an item is isolated by leaving every other input missing, which scores 0.
VITALS = ("age", "heartrate", "resprate", "o2sat", "sbp", "dbp", "temperature", "acuity")
CCI_WEIGHTS = {
    **dict.fromkeys(("MI", "CHF", "PVD", "Stroke", "Dementia", "Pulmonary", "Rheumatic", "PUD"), 1),
    **dict.fromkeys(("Liver1", "DM1"), 1),
    **dict.fromkeys(("DM2", "Paralysis", "Renal", "Cancer1"), 2),
    "Liver2": 3,
    "Cancer2": 6,
    "HIV": 6,
}

# score -> input -> published bins for whole numbers: (first, last, points); None is open.
WHOLE: dict[str, dict[str, list[tuple[int | None, int | None, int]]]] = {
    "news": {
        "resprate": [(None, 8, 3), (9, 11, 1), (12, 20, 0), (21, 24, 2), (25, None, 3)],
        "o2sat": [(None, 91, 3), (92, 93, 2), (94, 95, 1), (96, None, 0)],
        "sbp": [(None, 90, 3), (91, 100, 2), (101, 110, 1), (111, 219, 0), (220, None, 3)],
        "heartrate": [
            (None, 40, 3), (41, 50, 1), (51, 90, 0), (91, 110, 1), (111, 130, 2), (131, None, 3),
        ],
    },
    "mews": {
        "sbp": [(None, 70, 3), (71, 80, 2), (81, 100, 1), (101, 199, 0), (200, None, 2)],
        "heartrate": [
            (None, 40, 2), (41, 50, 1), (51, 100, 0), (101, 110, 1), (111, 129, 2), (130, None, 3),
        ],
        "resprate": [(None, 8, 2), (9, 14, 0), (15, 20, 1), (21, 29, 2), (30, None, 3)],
    },
    "rems": {
        "age": [(None, 44, 0), (45, 54, 2), (55, 64, 3), (65, 74, 5), (75, None, 6)],
        "map": [
            (None, 49, 4), (50, 69, 2), (70, 109, 0), (110, 129, 2), (130, 159, 3), (160, None, 4),
        ],
        "heartrate": [
            (None, 39, 4), (40, 54, 3), (55, 69, 2), (70, 109, 0), (110, 139, 2), (140, 179, 3),
            (180, None, 4),
        ],
        "resprate": [
            (None, 5, 4), (6, 9, 2), (10, 11, 1), (12, 24, 0), (25, 34, 1), (35, 49, 3),
            (50, None, 4),
        ],
        "o2sat": [(None, 74, 4), (75, 85, 3), (86, 89, 1), (90, None, 0)],
    },
    "cart": {
        "age": [(None, 54, 0), (55, 69, 4), (70, None, 9)],
        "resprate": [(None, 20, 0), (21, 23, 8), (24, 25, 12), (26, 29, 15), (30, None, 22)],
        "heartrate": [(None, 109, 0), (110, 139, 4), (140, None, 13)],
        "dbp": [(None, 34, 13), (35, 39, 6), (40, 49, 4), (50, None, 0)],
    },
    "cci": {"age": [(None, 49, 0), (50, 59, 1), (60, 69, 2), (70, 79, 3), (80, None, 4)]},
    "serp_2d": {
        "age": [(None, 29, 0), (30, 49, 9), (50, 79, 13), (80, None, 17)],
        "heartrate": [(None, 59, 3), (60, 69, 0), (70, 94, 3), (95, 109, 6), (110, None, 10)],
        "resprate": [(None, 15, 11), (16, 19, 0), (20, None, 7)],
        "sbp": [(None, 99, 10), (100, 114, 4), (115, 149, 1), (150, None, 0)],
        "dbp": [(None, 49, 5), (50, 94, 0), (95, None, 1)],
        "o2sat": [(None, 89, 7), (90, 94, 5), (95, None, 0)],
    },
    "serp_7d": {
        "age": [(None, 29, 0), (30, 49, 10), (50, 79, 17), (80, None, 21)],
        "heartrate": [(None, 59, 2), (60, 69, 0), (70, 94, 4), (95, 109, 8), (110, None, 12)],
        "resprate": [(None, 15, 10), (16, 19, 0), (20, None, 6)],
        "sbp": [(None, 99, 12), (100, 114, 6), (115, 149, 1), (150, None, 0)],
        "dbp": [(None, 49, 4), (50, 94, 0), (95, None, 2)],
    },
    "serp_30d": {
        "age": [(None, 29, 0), (30, 49, 8), (50, 79, 14), (80, None, 19)],
        "heartrate": [(None, 59, 1), (60, 69, 0), (70, 94, 2), (95, 109, 6), (110, None, 9)],
        "resprate": [(None, 15, 8), (16, 19, 0), (20, None, 6)],
        "sbp": [(None, 99, 8), (100, 114, 5), (115, 149, 2), (150, None, 0)],
        "dbp": [(None, 49, 3), (50, 94, 0), (95, None, 2)],
    },
}  # fmt: skip
WHOLE["news2"] = WHOLE["news"]


def only(**given: float) -> dict[str, np.ndarray]:
    """Columns of one row in which nothing but `given` is known."""
    columns = dict.fromkeys(VITALS, np.array([np.nan]))
    columns |= {f"cci_{name}": np.zeros(1) for name in CCI_WEIGHTS}
    return columns | {name: np.array([value], float) for name, value in given.items()}


def points(score: str, **given: float) -> float:
    return float(CLINICAL_SCORES[score].points(only(**given))[0])


def item_points(score: str, name: str, value: float) -> float:
    """Points of one input; "map" is reached through sbp = dbp, which no other REMS item reads."""
    return points(score, **({"sbp": value, "dbp": value} if name == "map" else {name: value}))


WHOLE_CASES = [(s, i) for s, items in WHOLE.items() for i in items]


@pytest.mark.parametrize(("score", "name"), WHOLE_CASES)
def test_whole_number_bins_at_every_edge(score: str, name: str) -> None:
    bins = WHOLE[score][name]
    checked = 0
    for first, last, expected in bins:
        for inside in {first, last, None if first is None else first + 0, last and last - 0}:
            if inside is not None:
                assert item_points(score, name, inside) == expected, (inside, expected)
                checked += 1
    for (_, last, low), (first, _, high) in pairwise(bins):
        assert last is not None and first == last + 1  # the table itself has no gap
        around = {-1.0: low, -0.1: low, 0.0: high, 0.1: high}
        if not any(f == to == first for f, to, _ in bins):
            around[1.0] = high if bins[bins.index((first, _, high))][1] != first else None
        for shift, expected in around.items():
            if expected is not None and not (shift == -1.0 and last - 1 < (bins[0][1] or 0) - 1):
                assert item_points(score, name, first + shift) == expected, first + shift
                checked += 1
        # between two whole numbers the lower bin goes on
        assert item_points(score, name, last + 0.5) == low
    assert checked >= 3 * (len(bins) - 1)
