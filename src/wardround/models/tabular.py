"""Builders of tabular estimators: published sizes as defaults, scikit-learn's `fit` and
`predict_proba` as the interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import lightgbm
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from xgboost import XGBClassifier

from wardround.errors import WardroundError


class BinaryEstimator(Protocol):
    """What every builder gives."""

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to X, shape (n, d), and y, 0/1 of shape (n,)."""
        ...

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Return probabilities of both classes, shape (n, 2)."""
        ...


def logistic_regression(
    *, paper_compat: bool = False, sparse: bool = False, max_iter: int = 1000, seed: int = 0
) -> BinaryEstimator:
    """Ridge-penalised logistic regression (C = 1) on standardised columns. Takes no missing values.

    Args:
        sparse: columns divided by their largest absolute value instead, which keeps zeros.
        paper_compat: columns as they come and 100 iterations, which do not converge (the
            benchmark's notebooks).
        max_iter: of L-BFGS.
        seed: kept by the estimator; L-BFGS draws nothing.
    """
    if paper_compat:
        return LogisticRegression(random_state=seed)
    model = LogisticRegression(max_iter=max_iter, random_state=seed)
    scale = MaxAbsScaler() if sparse else StandardScaler()
    return Pipeline([("scale", scale), ("regression", model)])


def random_forest(
    *, n_trees: int = 100, min_samples_leaf: int = 1, threads: int = 1, seed: int = 0
) -> BinaryEstimator:
    """Random forest, 100 fully grown trees as published.

    A full tree on n noisy rows has about n / 3 leaves, so memory and model file grow with the
    data; `min_samples_leaf=20` is 20 times smaller and rarely ranks worse.
    """
    return RandomForestClassifier(
        n_estimators=n_trees,
        min_samples_leaf=min_samples_leaf,
        n_jobs=threads or -1,
        random_state=seed,
    )


def gradient_boosting(
    *, n_trees: int = 100, max_depth: int = 3, learning_rate: float = 0.1, seed: int = 0
) -> BinaryEstimator:
    """Gradient-boosted trees with exact splits, scikit-learn's defaults as published.

    One thread; no missing values.
    """
    return GradientBoostingClassifier(
        n_estimators=n_trees, max_depth=max_depth, learning_rate=learning_rate, random_state=seed
    )


def xgboost(
    *,
    n_trees: int = 300,
    max_depth: int = 6,
    learning_rate: float = 0.05,
    threads: int = 1,
    seed: int = 0,
) -> BinaryEstimator:
    """XGBoost with histogram splits; missing values go where they fit best."""
    return XGBClassifier(
        n_estimators=n_trees,
        max_depth=max_depth,
        learning_rate=learning_rate,
        tree_method="hist",
        importance_type="total_gain",
        n_jobs=threads or None,
        random_state=seed,
    )


@dataclass
class LightGBM:
    """LightGBM's booster behind `fit` and `predict_proba`.

    The package's own scikit-learn class cannot be rebuilt from a saved booster; this one can.

    Attributes:
        parameters: LightGBM's, see its documentation.
        n_trees: boosting rounds.
        booster: None until fitted.
    """

    parameters: dict[str, str | int | float | bool] = field(default_factory=dict)
    n_trees: int = 300
    booster: lightgbm.Booster | None = None

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to X, shape (n, d), NaN where missing or sparse, and y, 0/1 of shape (n,)."""
        data = lightgbm.Dataset(_matrix(X), label=np.asarray(y), params={"verbosity": -1})
        self.booster = lightgbm.train(dict(self.parameters), data, num_boost_round=self.n_trees)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Return probabilities of both classes, shape (n, 2)."""
        if self.booster is None:
            raise WardroundError("LightGBM: call fit before predict_proba")
        threads = int(self.parameters.get("num_threads", 0))
        positive = np.asarray(self.booster.predict(_matrix(X), num_threads=threads))
        return np.column_stack([1 - positive, positive])


def _matrix(X: Any) -> Any:
    return X if issparse(X) else np.asarray(X)


def lightgbm_trees(
    *,
    n_trees: int = 300,
    num_leaves: int = 31,
    learning_rate: float = 0.05,
    threads: int = 1,
    seed: int = 0,
) -> BinaryEstimator:
    """LightGBM; missing values go where they fit best. One seed gives one model."""
    return LightGBM(
        {
            "objective": "binary",
            "num_leaves": num_leaves,
            "learning_rate": learning_rate,
            "num_threads": threads,
            "seed": seed,
            "deterministic": True,
            "force_col_wise": True,
            "verbosity": -1,
        },
        n_trees,
    )


def feature_importance(
    estimator: BinaryEstimator, feature_names: Sequence[str]
) -> list[tuple[str, float]]:
    """Rank the columns of a fitted estimator, shares of 1 and largest first.

    Trees: impurity or gain that splits on the column brought. Logistic regression: the size of the
    coefficient times the column's standard deviation (as they come without scaling).

    Raises:
        WardroundError: the estimator has none, or the names do not fit its columns.
    """
    linear = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    if isinstance(estimator, LightGBM) and estimator.booster is not None:
        raw = estimator.booster.feature_importance("gain")
    elif hasattr(linear, "coef_"):
        raw = np.abs(linear.coef_[0])
    elif hasattr(estimator, "feature_importances_"):
        raw = estimator.feature_importances_
    else:
        raise WardroundError(f"{type(estimator).__name__} ranks no columns, or is not fitted")
    if len(raw) != len(feature_names):
        raise WardroundError(f"{len(raw)} columns were fitted, got {len(feature_names)} names")
    shares = np.asarray(raw, np.float64) / max(float(np.sum(raw)), 1e-300)
    order = np.argsort(-shares, kind="stable")
    return [(feature_names[i], float(shares[i])) for i in order]
