"""AutoScore by hand, on tables whose logistic regression is known, and on planted signals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from wardround.errors import WardroundError
from wardround.models import AutoScore

NAN = math.nan
Rows = tuple[np.ndarray, np.ndarray]
#: Value of a column -> what it multiplies the odds by.
Factors = dict[float, int]


def exact_table(*columns: Factors, repeat: int = 40) -> Rows:
    """Rows whose odds in each cell are exactly 1/16 times the factors: an additive model."""
    X, y = [], []
    for cell in product(*columns):
        odds = math.prod(column[value] for column, value in zip(columns, cell, strict=True))
        labels = [1] * odds + [0] * 16
        X += [cell] * len(labels)
        y += labels
    return np.repeat(np.array(X, float), repeat, axis=0), np.repeat(y, repeat)


def fit(train: Rows, valid: Rows | None = None, **options: object) -> AutoScore:
    names = [f"x{i}" for i in range(train[0].shape[1])]
    options = {"n_trees": 20, **options}
    return AutoScore.fit(*train, *(valid or train), names, **options)  # type: ignore[arg-type]


def points_of(model: AutoScore) -> dict[str, tuple[float, ...]]:
    return {item.name: item.points for item in model.score.items}


def cuts(column: Sequence[float] | np.ndarray, **options: object) -> tuple[float, ...]:
    """The edges of a variable, here the only one."""
    values = np.asarray(column, float)
    y = np.arange(len(values)) % 2
    return fit((values[:, None], y), n_variables=1, **options).score.items[0].edges


def planted(rows: int, seed: int, noise: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X, y and the true log-odds: columns 0 to 2 matter, the others do not."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 3 + noise))
    logit = -1 + 2.0 * X[:, 0] - 1.2 * X[:, 1] + 1.0 * (X[:, 2] > 1)
    return X, (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int), logit


def test_points_by_hand() -> None:
    """Odds times 1, 2, 4 and 4, 1: units of ln 2, four in all, so that one is worth 25 points."""
    train = exact_table({0: 1, 1: 2, 2: 4}, {0: 4, 1: 1})
    model = fit(train, n_variables=2)
    assert points_of(model) == {"x0": (0, 25, 50), "x1": (50, 0)}
    rows = [[0, 1], [0, 0], [1, 0], [2, 1], [2, 0]]
    points = model.predict(rows)
    assert points.tolist() == [0, 50, 75, 50, 100]
    assert points.dtype == np.int64
    # The odds of 0 points are 1/16, and double every 25.
    odds = 2.0 ** (points / 25 - 4)
    risk = model.predict_proba(rows)
    np.testing.assert_allclose(risk[:, 1], odds / (1 + odds), rtol=5e-3)
    np.testing.assert_allclose(risk.sum(axis=1), 1)


def test_coefficients_are_rounded_to_multiples_of_the_smallest() -> None:
    """ln 3 is 1.58 times ln 2 and counts as 2, so that they share the hundred as 2 to 1."""
    model = fit(exact_table({0: 1, 1: 3}, {0: 2, 1: 1}), n_variables=2)
    assert points_of(model) == {"x0": (0, 67), "x1": (33, 0)}


def test_the_highest_points_add_up_to_exactly_100() -> None:
    """Three equal variables: 33 + 33 + 34, where rounding each would end at 99."""
    model = fit(exact_table(*[{0: 1, 1: 2}] * 3), n_variables=3)
    tops = sorted(points[1] for points in points_of(model).values())
    assert tops == [33, 33, 34]
    assert model.predict([[0, 0, 0], [1, 1, 1]]).tolist() == [0, 100]


@pytest.mark.parametrize(
    ("factors", "known", "missing"),
    [
        ({0: 1, 1: 2, NAN: 4}, (0, 50), 100),
        ({0: 2, 1: 4, NAN: 1}, (50, 100), 0),
        ({0: 4, 1: 1, NAN: 2}, (100, 0), 50),
    ],
)
def test_missing_values_are_a_bin_of_their_own(
    factors: Factors, known: tuple[float, ...], missing: float
) -> None:
    model = fit(exact_table(factors), n_variables=1)
    (item,) = model.score.items
    assert (item.points, item.missing) == (known, missing)
    assert model.predict([[NAN], [0.0], [1.0]]).tolist() == [missing, *known]


def test_missing_values_that_training_did_not_show_score_0() -> None:
    model = fit(exact_table({0: 2, 1: 1}), n_variables=1)
    assert model.predict([[NAN], [0.0]]).tolist() == [0, 100]


def test_categories_that_training_did_not_show_join_the_one_below() -> None:
    model = fit(exact_table({0: 1, 1: 2, 2: 8, 5: 16}), n_variables=1)
    unknown = model.predict([[-1], [1.5], [3], [4], [9]])
    assert unknown.tolist() == model.predict([[0], [1], [2], [2], [5]]).tolist() == [
        0, 25, 75, 75, 100,
    ]  # fmt: skip


def test_cut_points_are_quantiles() -> None:
    """0, 1, …, 100: the 5, 20, 80 and 95 % quantiles are these numbers."""
    column = np.random.default_rng(0).permutation(101)
    assert cuts(column) == (5, 20, 80, 95)
    assert cuts(np.append(column, [NAN] * 30)) == (5, 20, 80, 95)
    # 6.1725, 24.69, 98.76 and 117.2775, to three digits
    assert cuts(column * 1.2345) == (6.17, 24.7, 98.8, 117)


def test_values_on_a_cut_belong_to_the_bin_above() -> None:
    column = np.arange(101.0)
    model = fit((column[:, None], (column >= 20).astype(int)), n_variables=1)
    below, on, above = model.predict([[19.9], [20], [20.1]])
    assert below == 0 and on == above > 50


def test_cut_points_that_coincide_are_merged() -> None:
    zeros_and_more = np.append(np.zeros(50), np.arange(1, 51))
    assert cuts(zeros_and_more) == (30.2, 45)  # 5 and 20 % are the minimum, 30.2 and 45.05
    rare = np.append(np.zeros(970), np.arange(3, 33))
    assert cuts(rare) == (3,)  # all four are the minimum: cut once above it


def test_rounding_never_leaves_a_bin_empty() -> None:
    """1,002 to 1,038 would become 1,000 to 1,040, with no row below the first or above the last."""
    column = np.linspace(1_001, 1_039, 381)
    edges = cuts(column)
    np.testing.assert_allclose(edges, np.quantile(column, [0.05, 0.2, 0.8, 0.95]))
    y = (np.arange(381) % 10 < np.arange(381) // 39).astype(int)
    top, beyond = fit((column[:, None], y), n_variables=1).predict([[1_038.9], [1_050.0]])
    assert top == beyond == 100
    # 10.06 would become 10.1, which no row reaches.
    tail = np.append(np.linspace(1, 9, 94), np.linspace(10.06, 10.08, 8))
    assert 10.05 < cuts(tail)[-1] <= 10.08


def test_few_distinct_values_are_categories() -> None:
    five, six = np.arange(601) % 5, np.arange(600) % 6
    assert cuts(five) == (1, 2, 3, 4)
    assert cuts(six) == (1, 4, 5)  # quantiles 0, 1, 4 and 5
    assert cuts(six, max_categories=6) == cuts(six, categorical=["x0"]) == (1, 2, 3, 4, 5)
    assert cuts(five, categorical=[]) == (3, 4)  # quantiles 0, 0, 3 and 4


def test_given_cut_points_replace_the_quantiles() -> None:
    column = np.arange(101.0)
    assert cuts(column, cut_points={"x0": [30, 70]}) == (30, 70)


def test_cut_points_and_points_come_from_train_only() -> None:
    X, y, _ = planted(1_500, 0)
    first, second, _ = planted(400, 1), planted(400, 2), None
    moved = (1_000 + 50 * second[0], 1 - second[1])
    fixed = [fit((X, y), valid, n_variables=4) for valid in (first[:2], moved)]
    assert fixed[0] == fixed[1]
    # Chosen by validation, only the length may differ: one table is the other's beginning.
    a, b = (fit((X, y), valid) for valid in (first[:2], moved))
    assert a.ranking == b.ranking
    order = [name for name, _ in a.ranking]
    for model in (a, b):
        kept = order[: len(model.score.items)]
        assert [item.name for item in model.score.items] == kept
        again = fit((X, y), first[:2], n_variables=len(kept))
        assert again.score == model.score and again.slope == model.slope


def test_the_parsimony_curve_is_auroc_on_validation() -> None:
    X, y, _ = planted(1_500, 0)
    X_valid, y_valid, _ = planted(700, 1)
    model = fit((X, y), (X_valid, y_valid), tolerance=0.01)
    for m, area in enumerate(model.parsimony, start=1):
        points = fit((X, y), (X_valid, y_valid), n_variables=m).predict(X_valid)
        assert roc_auc_score(y_valid, points) == pytest.approx(area, abs=1e-12)
    close = [m for m, area in enumerate(model.parsimony, 1) if area >= max(model.parsimony) - 0.01]
    assert len(model.score.items) == close[0]
    assert len(model.parsimony) == 9 and max(model.parsimony) > model.parsimony[0] + 0.05
    short = fit((X, y), (X_valid, y_valid), max_variables=2)
    assert short.parsimony == model.parsimony[:2]
    assert len(fit((X, y), (X_valid, y_valid), tolerance=0.5).score.items) == 1


def test_a_variable_that_misleads_on_validation_is_left_out() -> None:
    """Both variables matter in train; the second is turned round in validation."""
    X, y, _ = planted(3_000, 0, noise=0)
    X, X_valid = X[:, :2], planted(1_500, 1, noise=0)[0][:, :2]
    y_valid = planted(1_500, 1, noise=0)[1]
    turned = X_valid * [1, -1]
    assert len(fit((X, y), (X_valid, y_valid)).score.items) == 2
    model = fit((X, y), (turned, y_valid))
    assert [item.name for item in model.score.items] == ["x0"]


def test_a_planted_signal_is_recovered() -> None:
    X, y, _ = planted(4_000, 0)
    X_valid, y_valid, _ = planted(1_000, 1)
    X_test, y_test, logit = planted(4_000, 2)
    model = fit((X, y), (X_valid, y_valid))
    assert {item.name for item in model.score.items} >= {"x0", "x1"}
    assert model.ranking[0][0] == "x0" and model.ranking[1][0] == "x1"
    assert sum(share for _, share in model.ranking) == pytest.approx(1)
    # The best that any score on these bins can do: the true risk, averaged in each cell.
    cells = np.digitize(X_test[:, :3], [-1.645, -0.842, 0.842, 1.645]) @ [25, 5, 1]
    rows = np.maximum(np.bincount(cells, minlength=125), 1)
    risks = np.bincount(cells, 1 / (1 + np.exp(-logit)), 125) / rows
    best = roc_auc_score(y_test, risks[cells])
    assert best > 0.83
    assert roc_auc_score(y_test, model.predict(X_test)) > best - 0.015
    rises = points_of(model)
    assert np.all(np.diff(rises["x0"]) > 0) and np.all(np.diff(rises["x1"]) < 0)
    # The risks hold on rows that it did not see.
    risk = model.predict_proba(X_test)[:, 1]
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 1)):
        rows = (risk >= low) & (risk < high)
        assert rows.sum() > 200
        assert risk[rows].mean() == pytest.approx(y_test[rows].mean(), abs=0.06)


def test_shuffled_labels_teach_nothing() -> None:
    X, y, _ = planted(2_000, 0)
    X_test, y_test, _ = planted(4_000, 2)
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(4):
        shuffled = rng.permutation(y)
        model = fit((X, shuffled), (X, shuffled), n_variables=4)
        areas.append(roc_auc_score(y_test, model.predict(X_test)))
    assert np.mean(areas) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("seed", range(8))
def test_any_table_is_whole_from_0_to_100(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = np.column_stack(
        [
            rng.exponential(10, 400),
            rng.poisson(0.1, 400),
            rng.integers(0, 3, 400),
            rng.normal(size=(400, 3)).round(1),
        ]
    )
    y = (rng.random(400) < 1 / (1 + np.exp(2 - X[:, 0] / 10))).astype(int)
    X[rng.random(X.shape) < 0.1 * (seed % 3)] = NAN
    model = fit((X, y), n_variables=6)
    tops = 0.0
    for item in model.score.items:
        column = X[:, int(item.name[1:])]
        shown = [item.points[b] for b in np.unique(item.bin_index(column[~np.isnan(column)]))]
        shown += [item.missing] if np.isnan(column).any() else []
        assert min(shown) == 0
        assert all(points == round(points) and points >= 0 for points in shown)
        tops += max(shown)
    assert tops == 100
    wild = np.vstack([X, rng.normal(0, 1e6, (50, 6)), np.full((1, 6), NAN)])
    points = model.predict(wild)
    assert points.min() >= 0 and points.max() <= 100


def test_one_seed_gives_one_score_on_any_number_of_threads() -> None:
    X, y, _ = planted(600, 0)
    first, again, threaded, other = (
        fit((X, y), threads=threads, seed=seed)
        for threads, seed in ((1, 5), (1, 5), (2, 5), (1, 6))
    )
    assert first == again == threaded
    assert first.ranking != other.ranking


def test_a_variable_without_any_value_scores_nothing() -> None:
    X, y = exact_table({0: 1, 1: 2})
    X = np.column_stack([X, np.full(len(X), NAN)])
    for options in ({}, {"categorical": []}):
        model = fit((X, y), n_variables=2, **options)
        assert model.predict([[0, NAN], [1, NAN], [1, 7]]).tolist() == [0, 100, 100]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cut_points": {"pulse": [1]}}, "no such variable: pulse"),
        ({"categorical": ["pulse", "age"]}, "no such variable: age, pulse"),
        ({"n_variables": 0}, "at least 1 variable"),
        ({"max_variables": 0}, "at least 1 variable"),
        ({"cut_points": {"x0": [1e9]}, "n_variables": 1}, "x0 has one value only"),
    ],
)
def test_settings_that_cannot_be_met(options: dict[str, object], message: str) -> None:
    X, y, _ = planted(200, 0)
    with pytest.raises(WardroundError, match=message):
        fit((X, y), **options)


def test_rows_that_do_not_fit_are_refused() -> None:
    X, y, _ = planted(200, 0)
    with pytest.raises(WardroundError, match="train has 200 rows and 199 labels"):
        fit((X, y[1:]))
    with pytest.raises(WardroundError, match="validation has 9 rows and 10 labels"):
        fit((X, y), (X[:9], y[:10]))
    with pytest.raises(WardroundError, match="train labels must hold both"):
        fit((X, np.ones(200)))
    with pytest.raises(WardroundError, match="validation labels must hold both"):
        fit((X, y), (X, np.zeros(200)))
    with pytest.raises(WardroundError, match=r"expected 9 columns, got .* shape \(200, 8\)"):
        fit((X, y), (X[:, 1:], y))
    with pytest.raises(WardroundError, match="expected 9 columns"):
        fit((X, y)).predict(X[:, :2])
