"""Clinical scores against the published tables, written down here point by point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from wardround.errors import WardroundError
from wardround.models import CLINICAL_SCORES, CalibratedScore, Item, Score, clinical_scores

# An item is isolated by leaving every other input missing, which scores 0.
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


def points(score: str | Score, **given: float) -> float:
    table = CLINICAL_SCORES[score] if isinstance(score, str) else score
    return float(table.points(only(**given))[0])


def item_points(score: str, name: str, value: float) -> float:
    """Points of one input; "map" is reached through sbp = dbp, which no other REMS item reads."""
    return points(score, **({"sbp": value, "dbp": value} if name == "map" else {name: value}))


def published(score: str, name: str, value: float) -> int:
    """From the table above; between two whole numbers the lower one's bin goes on."""
    whole = math.floor(value)
    (found,) = (
        gained
        for first, last, gained in WHOLE[score][name]
        if (first is None or first <= whole) and (last is None or whole <= last)
    )
    return found


@pytest.mark.parametrize(("score", "name"), [(s, i) for s, items in WHOLE.items() for i in items])
def test_whole_number_bins_at_every_edge(score: str, name: str) -> None:
    bins = WHOLE[score][name]
    for (_, last, low), (first, _, high) in pairwise(bins):
        assert last is not None and first == last + 1 and low != high  # the table has no gap
        for edge in (last, first):
            for value in (edge - 1, edge - 0.1, edge, edge + 0.1, edge + 0.5, edge + 1):
                assert item_points(score, name, value) == published(score, name, value), value


def test_the_tables_above_leave_no_item_out() -> None:
    for name, score in CLINICAL_SCORES.items():
        items = {item.input for item in score.items if not item.input.startswith("cci_")}
        elsewhere = {"temperature", "acuity", "acvpu", "gcs", "oxygen", "o2sat_on_oxygen"}
        assert items - elsewhere == set(WHOLE.get(name, {})), name


NEWS_TEMPERATURE = {
    20: 3, 34.9: 3, 35: 3, 35.1: 1, 35.9: 1, 36: 1, 36.1: 0, 37.9: 0, 38: 0, 38.1: 1, 38.9: 1,
    39: 1, 39.1: 2, 44: 2,
}  # fmt: skip
MEWS_TEMPERATURE = {20: 2, 34.9: 2, 35: 0, 35.1: 0, 38.4: 0, 38.5: 2, 38.6: 2, 44: 2}


@pytest.mark.parametrize(
    ("score", "table"),
    [("news", NEWS_TEMPERATURE), ("news2", NEWS_TEMPERATURE), ("mews", MEWS_TEMPERATURE)],
)
def test_temperature_at_every_edge(score: str, table: Mapping[float, int]) -> None:
    for value, expected in table.items():
        assert points(score, temperature=value) == expected, value


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fahrenheit_does_not_cross_an_edge(dtype: type) -> None:
    """95, 96.8, 100.4, 101.3 and 102.2 F are 35, 36, 38, 38.5 and 39 C, whatever floats say."""
    celsius = (np.array([95, 96.8, 100.4, 101.3, 102.2], dtype) - dtype(32)) * dtype(5 / 9)
    assert celsius[2] > 38
    columns = {**dict.fromkeys(VITALS, np.full(5, np.nan)), "temperature": celsius}
    assert CLINICAL_SCORES["news"].points(columns).tolist() == [3, 1, 0, 1, 1]
    assert CLINICAL_SCORES["mews"].points(columns).tolist() == [0, 0, 0, 2, 2]


@pytest.mark.parametrize(
    ("value", "expected"), [(49, 4), (49.5, 4), (50, 2), (69.7, 2), (70, 0), (109.3, 0), (110, 2)]
)
def test_mean_arterial_pressure_between_two_bins(value: float, expected: int) -> None:
    """The benchmark's code gives 0 at 49, 49.5 and 69.7."""
    assert item_points("rems", "map", value) == expected


def test_mean_arterial_pressure_is_a_third_systolic() -> None:
    assert points("rems", sbp=90, dbp=58.5) == 2  # 69
    assert points("rems", sbp=90, dbp=60) == 0  # 70, on the edge
    assert points("rems", sbp=60, dbp=90) == 0  # 80; the other way round it would be 70
    assert points("rems", sbp=240, dbp=90) == 3  # 140
    assert points("rems", sbp=90) == points("rems", dbp=30) == 0  # half of it is missing


@pytest.mark.parametrize(
    ("value", "expected"), [(49.5, 0), (69.7, 0), (109.3, 0), (110.0, 4), (139.9, 4), (140.0, 13)]
)
def test_heart_rate_of_cart_between_two_bins(value: float, expected: int) -> None:
    assert points("cart", heartrate=value) == expected


def test_esi_is_the_level_turned_round() -> None:
    assert [points("esi", acuity=level) for level in (1, 2, 3, 4, 5)] == [-1, -2, -3, -4, -5]
    assert points("esi") == -3


@pytest.mark.parametrize(
    ("o2sat", "scale_1", "scale_2"),
    [
        (80, 3, 3), (83, 3, 3), (83.9, 3, 3), (84, 3, 2), (85, 3, 2), (85.9, 3, 2), (86, 3, 1),
        (87, 3, 1), (87.9, 3, 1), (88, 3, 0), (91, 3, 0), (91.9, 3, 0), (92, 2, 0), (93, 2, 0),
        (93.9, 2, 0), (94, 1, 0), (95, 1, 0), (95.9, 1, 0), (96, 0, 0), (100, 0, 0),
    ],
)  # fmt: skip
def test_news2_has_two_scales_of_saturation(o2sat: float, scale_1: int, scale_2: int) -> None:
    assert points("news2", o2sat=o2sat) == points("news2", o2sat=o2sat, hypercapnic=0) == scale_1
    assert points("news2", o2sat=o2sat, hypercapnic=np.nan) == scale_1
    assert points("news2", o2sat=o2sat, hypercapnic=1) == scale_2
    assert points("news", o2sat=o2sat, hypercapnic=1) == scale_1
    assert points(clinical_scores(paper_compat=True)["news2"], o2sat=o2sat, hypercapnic=1) == 0


@pytest.mark.parametrize(
    ("o2sat", "expected"),
    [(83, 3), (84, 2), (86, 1), (88, 0), (92, 0), (92.9, 0), (93, 1), (94, 1), (95, 2), (96, 2),
     (97, 3), (100, 3)],
)  # fmt: skip
def test_scale_2_of_news2_counts_too_much_oxygen(o2sat: float, expected: int) -> None:
    """Royal College of Physicians, NEWS2, chart 1; oxygen itself gains 2 more."""
    gained = points("news2", o2sat=o2sat, hypercapnic=1, oxygen=1)
    assert gained == expected + 2
    assert points("news2", o2sat=np.nan, hypercapnic=1, oxygen=1) == 2


@pytest.mark.parametrize(
    ("score", "expected"),
    [("news", (0, 0, 3, 3, 3)), ("news2", (0, 3, 3, 3, 3)), ("mews", (0, 0, 1, 2, 3))],
)
def test_consciousness(score: str, expected: tuple[int, ...]) -> None:
    """Alert, confused, voice, pain, unresponsive."""
    assert tuple(points(score, acvpu=level) for level in range(5)) == expected
    assert points(score, acvpu=np.nan) == points(score) == 0


def test_oxygen_gains_two_points_in_news_and_news2_only() -> None:
    gained = {name: points(name, oxygen=1) - points(name, oxygen=0) for name in CLINICAL_SCORES}
    assert {name for name, more in gained.items() if more} == {"news", "news2"}
    assert gained["news"] == gained["news2"] == 2


def test_coma_scale_of_rems() -> None:
    gained = {15: 0, 14: 0, 13: 1, 11: 1, 10: 2, 8: 2, 7: 3, 5: 3, 4: 4, 3: 4}
    assert {gcs: points("rems", gcs=gcs) for gcs in gained} == gained


def test_a_sick_inpatient_by_hand() -> None:
    """NEWS2: 2 + 2 + 2 (oxygen) + 1 + 2 + 3 + 1."""
    vitals = {"resprate": 22, "o2sat": 93, "sbp": 105, "heartrate": 115, "temperature": 38.5}
    assert points("news2", **vitals, oxygen=1, acvpu=1) == 13
    # What the tables of the emergency department hold of it.
    assert points("news2", **vitals) == 8
    assert points(clinical_scores(paper_compat=True)["news2"], **vitals, oxygen=1, acvpu=4) == 6


@pytest.mark.parametrize(("name", "weight"), CCI_WEIGHTS.items())
def test_charlson_weights(name: str, weight: int) -> None:
    assert points("cci", **{f"cci_{name}": 1}) == weight
    assert points("cci", age=83, **{f"cci_{name}": 1}) == weight + 4
    assert points(clinical_scores(paper_compat=True)["cci"], **{f"cci_{name}": 1}) == weight


@pytest.mark.parametrize(
    ("milder", "graver", "weights"),
    [("Liver1", "Liver2", (1, 3)), ("DM1", "DM2", (1, 2)), ("Cancer1", "Cancer2", (2, 6))],
)
def test_the_graver_form_of_a_disease_replaces_the_milder(
    milder: str, graver: str, weights: tuple[int, int]
) -> None:
    both = {f"cci_{milder}": 1, f"cci_{graver}": 1}
    assert points("cci", **both) == weights[1]
    assert points(clinical_scores(paper_compat=True)["cci"], **both) == sum(weights)


def test_cancer_in_serp_30d() -> None:
    assert points("serp_30d", cci_Cancer1=1) == 6
    assert points("serp_30d", cci_Cancer2=1) == 12
    assert points("serp_30d", cci_Cancer1=1, cci_Cancer2=1) == 12, "local or metastatic"
    published = clinical_scores(paper_compat=True)["serp_30d"]
    assert points(published, cci_Cancer1=1, cci_Cancer2=1) == 18
    assert points("serp_2d", cci_Cancer1=1) == points("serp_7d", cci_Cancer2=1) == 0


def test_a_patient_by_hand() -> None:
    patient = {
        "age": 67, "heartrate": 115, "resprate": 26, "o2sat": 93, "sbp": 95, "dbp": 45,
        "temperature": 38.5, "acuity": 2, "cci_CHF": 1, "cci_DM1": 1, "cci_DM2": 1, "cci_Renal": 1,
    }  # fmt: skip
    expected = {
        "esi": -2,
        "news": 3 + 1 + 2 + 2 + 2,
        "news2": 3 + 1 + 2 + 2 + 2,
        "mews": 1 + 2 + 2 + 2,
        "rems": 5 + 2 + 2 + 1 + 0,  # mean arterial pressure 61.7
        "cart": 4 + 15 + 4 + 4,
        "cci": 2 + 1 + 2 + 2,
        "serp_2d": 13 + 10 + 7 + 10 + 5 + 5,
        "serp_7d": 17 + 12 + 6 + 12 + 4,
        "serp_30d": 14 + 9 + 6 + 8 + 3,
    }
    assert {name: points(name, **patient) for name in CLINICAL_SCORES} == expected
    compat = clinical_scores(paper_compat=True)
    assert {name: points(score, **patient) for name, score in compat.items()} == {
        **expected,
        "news2": 3 + 1 + 2 + 2,
        "cci": 2 + 1 + 1 + 2 + 2,
    }


@pytest.mark.parametrize(
    ("sbp", "dbp", "ours", "published"),
    [  # the mean arterial pressure is (sbp + 2 dbp) / 3
        (48, 50, 4, 0),  # 49.33, between "<= 49" and "50-69"
        (49, 49, 4, 4),  # 49
        (50, 50, 2, 2),
        (69, 70, 2, 0),  # 69.67
        (61, 62, 2, 2),  # 61.67: both whole numbers beside it are in one bin
        (108, 110, 0, 0),  # 109.33 would be 0 points anyway
        (128, 130, 2, 0),  # 129.33
        (159, 160, 3, 0),  # 159.67
    ],
)
def test_fractions_between_bins_score_nothing_in_the_published_code(
    sbp: float, dbp: float, ours: int, published: int
) -> None:
    compat = clinical_scores(paper_compat=True)
    assert points("rems", sbp=sbp, dbp=dbp) == ours
    assert points(compat["rems"], sbp=sbp, dbp=dbp) == published
    assert points(compat["news"], temperature=38.95) == points("news", temperature=38.95) == 1


def test_rows_are_scored_one_by_one() -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(60, 40, 50) for name in VITALS}
    columns |= {f"cci_{name}": rng.integers(0, 2, 50).astype(float) for name in CCI_WEIGHTS}
    for values in columns.values():
        values[rng.random(50) < 0.2] = np.nan
    for score in CLINICAL_SCORES.values():
        alone = [
            score.points({name: values[[row]] for name, values in columns.items()})[0]
            for row in range(50)
        ]
        assert score.points(columns).tolist() == alone
        assert np.isfinite(alone).all()


def test_a_missing_column_is_named() -> None:
    with pytest.raises(WardroundError, match="MEWS needs the columns heartrate, temperature; got"):
        CLINICAL_SCORES["mews"].points({"sbp": [1.0], "resprate": [1.0]})
    with pytest.raises(WardroundError, match="REMS needs the columns dbp;"):
        columns = only()
        del columns["dbp"]
        CLINICAL_SCORES["rems"].points(columns)


def test_the_printed_table_says_which_side_holds_the_edge() -> None:
    left = Item("pulse", "pulse", (50, 70), (2, 1, 0))
    right = Item("pulse", "pulse", (50, 70), (2, 1, 0), closed="right")
    assert left.bins() == ["< 50", "50 - < 70", ">= 70"]
    assert left.score([49.9, 50, 69.9, 70]).tolist() == [2, 1, 1, 0]
    assert right.bins() == ["<= 50", "> 50 - 70", "> 70"]
    assert right.score([50, 50.1, 70, 70.1]).tolist() == [2, 1, 1, 0]


@pytest.mark.parametrize(
    ("edges", "gained", "message"),
    [
        ((1, 2), (0, 1), "2 edges make 3 bins, got 2 points"),
        ((2, 1), (0, 1, 2), "must be finite and ascend"),
        ((1, 1), (0, 1, 2), "must be finite and ascend"),
        ((1, math.inf), (0, 1, 2), "must be finite and ascend"),
    ],
)
def test_tables_that_are_none(edges: tuple, gained: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Item("x", "x", edges, gained)


def test_the_risk_of_a_score_is_the_likeliest_logistic_curve() -> None:
    rng = np.random.default_rng(4)
    X = np.column_stack(
        [rng.normal(110, 30, 3_000), rng.normal(90, 25, 3_000), rng.normal(20, 6, 3_000)]
    )
    names = ["sbp", "heartrate", "resprate"]
    score = Score("sum", CLINICAL_SCORES["mews"].items[:3], "test")
    gained = score.points(dict(zip(names, X.T, strict=True)))
    y = rng.random(3_000) < expit(-2.5 + 0.6 * gained)

    def loss(curve: np.ndarray) -> float:
        logit = curve[0] + curve[1] * gained
        return float(np.mean(np.logaddexp(0, logit) - y * logit))

    best = minimize(loss, [0.0, 0.0], tol=1e-10).x
    model = CalibratedScore.fit(score, X, y, names)
    assert (model.intercept, model.slope) == pytest.approx(tuple(best), rel=5e-3)
    assert model.slope == pytest.approx(0.6, abs=0.1)
    risk = model.predict_proba(X)
    np.testing.assert_allclose(risk[:, 1], expit(best[0] + best[1] * gained), atol=2e-3)
    np.testing.assert_allclose(risk.sum(axis=1), 1)
    assert risk[:, 1].mean() == pytest.approx(y.mean(), abs=1e-3)


def test_a_score_that_points_the_wrong_way_is_not_turned_round() -> None:
    """Its ranking stays its own, so that AUROC tells; its risks are about the prevalence."""
    rng = np.random.default_rng(5)
    acuity = rng.integers(1, 6, 2_000).astype(float)
    y = rng.random(2_000) < expit(-2 + 0.5 * acuity)  # the mildest fall ill
    X = acuity[:, None]
    model = CalibratedScore.fit(CLINICAL_SCORES["esi"], X, y, ["acuity"])
    risk = model.predict_proba(X)[:, 1]
    assert (np.diff(risk[np.argsort(-acuity)]) >= 0).all() and risk.std() > 0
    assert risk == pytest.approx(np.full(2_000, y.mean()), abs=1e-3)
    assert risk.mean() == pytest.approx(y.mean(), abs=1e-6)
