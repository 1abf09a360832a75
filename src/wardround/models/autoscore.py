"""AutoScore: an integer point score learned from data.

Xie et al., AutoScore: a machine learning-based automatic clinical score generator, JMIR Med Inform
2020;8:e21798. Five steps: rank variables by a random forest's importance; choose how many to keep
on a parsimony curve; cut continuous ones at quantiles; turn the coefficients of a logistic
regression on the bins into points from 0 to 100; let a clinician move the cut points.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from wardround.errors import WardroundError
from wardround.models.scores import Floats, Item, Score

QUANTILES = (0.05, 0.20, 0.80, 0.95)  # with the ends, 0 and 1: the paper's five bins
TOTAL = 100
_INVERSE_PENALTY = 100.0  # a weak ridge keeps the coefficient of a bin without positives finite


@dataclass(frozen=True)
class AutoScore:
    """A fitted AutoScore.

    Attributes:
        score: the point table; items read columns by `feature_names`. Points are whole, the lowest
            bin of each item has 0, and the highest bins of all items add up to 100.
        feature_names: columns of the matrices that it reads, in their order.
        ranking: (name, importance) of every variable, most important first.
        parsimony: validation AUROC of the score with the first 1, 2, … variables of the ranking.
        intercept: of the logistic map from points to probability.
        slope: of the same, a point.
    """

    score: Score
    feature_names: tuple[str, ...]
    ranking: tuple[tuple[str, float], ...]
    parsimony: tuple[float, ...]
    intercept: float
    slope: float

    @classmethod
    def fit(
        cls,
        X_train: ArrayLike,
        y_train: ArrayLike,
        X_valid: ArrayLike,
        y_valid: ArrayLike,
        feature_names: Sequence[str],
        *,
        n_variables: int | None = None,
        max_variables: int = 20,
        tolerance: float = 0.005,
        cut_points: Mapping[str, Sequence[float]] = MappingProxyType({}),
        categorical: Collection[str] | None = None,
        max_categories: int = 5,
        n_trees: int = 100,
        threads: int = 1,
        seed: int = 0,
    ) -> AutoScore:
        """Learn a point score.

        The number of variables is the smallest whose AUROC on the validation set is within
        `tolerance` of the best on the curve; the validation set is used for nothing else. Ranking,
        cut points, points and the map to a probability come from the training set.

        A column with at most `max_categories` distinct values keeps them as categories (a value
        that training did not show joins the category below it). Others are cut at the 5, 20, 80
        and 95 % quantiles, rounded to three significant digits where that keeps them apart and
        every bin within the training values; cuts that coincide are merged. A column whose
        quantiles all fall on its minimum is cut once, above the minimum. Missing values are a bin
        of their own if training has any, and score 0 if not.

        Args:
            X_train: shape (n, d), NaN where missing.
            y_train: 0/1, shape (n,).
            X_valid: shape (n_valid, d).
            y_valid: shape (n_valid,).
            feature_names: d names.
            n_variables: take so many instead of choosing.
            max_variables: how far the parsimony curve goes.
            tolerance: AUROC that one gives up for a shorter table.
            cut_points: by name, ascending: replaces the quantiles of a column.
            categorical: names of the columns to keep as categories, instead of counting values.
            max_categories: see above.
            n_trees: of the forest that ranks.
            threads: of the forest.
            seed: of the forest.

        Raises:
            WardroundError: shapes that do not fit, an unknown name, no variable, or one class only.
        """
        names = tuple(feature_names)
        train, valid = _columns(X_train, names), _columns(X_valid, names)
        labels, valid_labels = np.asarray(y_train).astype(int), np.asarray(y_valid).astype(int)
        for part, y, columns in (("train", labels, train), ("validation", valid_labels, valid)):
            rows = len(columns[names[0]])
            if len(y) != rows:
                raise WardroundError(f"AutoScore: {part} has {rows} rows and {len(y)} labels")
            if len(np.unique(y)) != 2:
                raise WardroundError(f"AutoScore: {part} labels must hold both 0 and 1")
        unknown = sorted((set(cut_points) | set(categorical or ())) - set(names))
        if unknown:
            raise WardroundError(f"AutoScore: no such variable: {', '.join(unknown)}")
        if (max_variables if n_variables is None else n_variables) < 1:
            raise WardroundError("AutoScore: a score has at least 1 variable; got 0 or less")

        ranking = _rank(X_train, labels, names, n_trees, threads, seed)
        binned = {
            name: _cut(
                name,
                train[name],
                cut_points.get(name),
                name in categorical if categorical is not None else None,
                max_categories,
            )
            for name, _ in ranking[: max(max_variables, n_variables or 0)]
        }
        order = list(binned)
        curve: list[float] = []
        if n_variables is None:
            for m in range(1, len(order) + 1):
                points = _weigh([binned[name] for name in order[:m]], train, labels).points(valid)
                curve.append(float(roc_auc_score(valid_labels, points)))
            n_variables = 1 + int(np.argmax(np.asarray(curve) >= max(curve) - tolerance))
        score = _weigh([binned[name] for name in order[:n_variables]], train, labels)
        map_to_risk = LogisticRegression(C=np.inf).fit(score.points(train)[:, None] / TOTAL, labels)
        return cls(
            score=score,
            feature_names=names,
            ranking=ranking,
            parsimony=tuple(curve),
            intercept=float(map_to_risk.intercept_[0]),
            slope=float(map_to_risk.coef_[0, 0]) / TOTAL,
        )

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the points, 0 to 100, of rows of X, shape (n, len(feature_names))."""
        columns = _columns(X, self.feature_names)
        return self.score.points(columns).astype(np.int64)

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return probabilities of both classes, shape (n, 2)."""
        positive = 1 / (1 + np.exp(-(self.intercept + self.slope * self.predict(X))))
        return np.column_stack([1 - positive, positive])


def _columns(X: ArrayLike, names: Sequence[str]) -> dict[str, Floats]:
    matrix = np.asarray(X)
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        raise WardroundError(
            f"AutoScore: expected {len(names)} columns, got an array of shape {matrix.shape}"
        )
    return {name: matrix[:, i].astype(np.float64) for i, name in enumerate(names)}


def _rank(
    X: ArrayLike, y: NDArray[np.int_], names: Sequence[str], n_trees: int, threads: int, seed: int
) -> tuple[tuple[str, float], ...]:
    forest = RandomForestClassifier(n_estimators=n_trees, n_jobs=threads or -1, random_state=seed)
    importance = forest.fit(np.asarray(X, np.float32), y).feature_importances_
    order = np.argsort(-importance, kind="stable")
    return tuple((names[i], float(importance[i])) for i in order)


def _cut(
    name: str,
    values: Floats,
    cut_points: Sequence[float] | None,
    categorical: bool | None,
    max_categories: int,
) -> Item:
    """An item whose points are yet to come."""
    known = np.unique(values[~np.isnan(values)])
    if cut_points is not None:
        edges = np.asarray(cut_points, np.float64)
    elif categorical or len(known) < 2 or (categorical is None and len(known) <= max_categories):
        edges = known[1:]
    else:
        edges = np.unique(np.nanquantile(values, QUANTILES))
        edges = edges[edges > known[0]]
        if not len(edges):
            edges = known[1:2]
        short = np.array([float(f"{edge:.3g}") for edge in edges])
        apart = len(np.unique(short)) == len(edges)
        if apart and known[0] < short[0] and short[-1] <= known[-1]:
            edges = short
    return Item(name, name, tuple(edges.tolist()), (0.0,) * (len(edges) + 1))


def _weigh(items: Sequence[Item], columns: Mapping[str, Floats], y: NDArray[np.int_]) -> Score:
    """Turn the coefficients of a logistic regression on the bins into points."""
    categories = [
        np.where(
            np.isnan(columns[item.input]), len(item.points), item.bin_index(columns[item.input])
        )
        for item in items
    ]
    present = [np.unique(category) for category in categories]
    design = np.concatenate(
        [
            (category[:, None] == bins[1:]).astype(np.float32)
            for category, bins in zip(categories, present, strict=True)
        ],
        axis=1,
    )
    if not design.shape[1]:
        raise WardroundError(
            f"AutoScore: {items[0].name} has one value only, and leads the ranking"
        )
    # Newton's method: few columns, many rows.
    fitted = LogisticRegression(C=_INVERSE_PENALTY, solver="newton-cholesky").fit(design, y)
    splits = np.cumsum([len(bins) - 1 for bins in present])[:-1]
    shifted = [
        np.concatenate([[0.0], part]) - min(0.0, part.min(initial=0.0))
        for part in np.split(fitted.coef_[0].astype(np.float64), splits)
    ]
    every = np.concatenate(shifted)
    unit = every[every > 0].min(initial=np.inf)
    whole = _scale_to_total([np.round(part / unit) for part in shifted])
    weighed = []
    for item, bins, points in zip(items, present, whole, strict=True):
        table = np.zeros(len(item.points) + 1)  # a bin that training left empty scores 0
        table[bins] = points
        weighed.append(
            Item(
                item.name,
                item.input,
                item.edges,
                tuple(table[:-1].tolist()),
                missing=float(table[-1]),
            )
        )
    return Score("AutoScore", tuple(weighed), "Xie et al., JMIR Med Inform 2020;8:e21798")


def _scale_to_total(parts: list[Floats]) -> list[Floats]:
    """Scale whole points so that the highest of all parts add up to exactly 100.

    Rounding each part on its own would end anywhere between 95 and 105. The highest points are
    shared out by largest remainder instead, and the points below them follow in proportion.
    """
    highest = np.array([part.max() for part in parts])
    if not highest.any():
        return parts
    shares = highest * TOTAL / highest.sum()
    tops = np.floor(shares)
    short = int(TOTAL - tops.sum())
    tops[np.argsort(tops - shares, kind="stable")[:short]] += 1
    return [
        np.round(part * top / high) if high else part
        for part, top, high in zip(parts, tops, highest, strict=True)
    ]
