"""One function a family of models: fit on train, choose on tuning, predict every row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wardround.errors import WardroundError
from wardround.models import (
    AutoScore,
    CalibratedScore,
    CodeBagNet,
    Standardiser,
    TriageMLP,
    VitalsLSTM,
    clinical_scores,
    feature_importance,
    gradient_boosting,
    lightgbm_trees,
    logistic_regression,
    random_forest,
    xgboost,
)
from wardround.systems.ed_triage.config import (
    NEURAL,
    SCORES,
    TABULAR,
    CodeBag,
    EdTriageConfig,
    Lstm,
    Mlp,
)
from wardround.systems.ed_triage.prepared import PreparedTask, has_vitals
from wardround.training import (
    BagInputs,
    DenseInputs,
    Inputs,
    SequenceInputs,
    fit_binary,
    predict_proba,
)


@dataclass(frozen=True)
class FittedModel:
    """A model, its risks for every row of the task, and its ranking of the features.

    Attributes:
        risk: (n,) float64, training rows included (nobody measures on those).
        importance: (feature, share), largest first; empty where the model has none.
    """

    model: Any
    risk: np.ndarray
    importance: list[tuple[str, float]]


def fits(model: str, task: str) -> bool:
    """Whether a model is defined for a task: the LSTM needs the visit's vital signs."""
    return model != "lstm" or has_vitals(task)


def settings_of(model: str, config: EdTriageConfig) -> dict[str, Any]:
    """What a model's outcome depends on besides the data."""
    own: dict[str, Any] = {"model": model, "seed": config.seed, "published": config.paper_compat}
    if model in NEURAL:
        own["network"] = getattr(config, model).model_dump(mode="json")
    if model == "random_forest":
        own["trees"] = config.forest_trees
    if model == "autoscore":
        own["trees"] = config.autoscore_forest_trees
    return own


def fit_model(
    model: str, task: PreparedTask, config: EdTriageConfig, checkpoint: Path
) -> FittedModel:
    """Fit a model of the card by its name.

    Raises:
        WardroundError: the training rows cannot teach it, for one because all have one outcome.
    """
    train = task.mask("train")
    if not 0 < task.y[train].sum() < train.sum():
        raise WardroundError("the training rows hold one outcome only")
    if model in SCORES:
        return _fit_score(model, task, config)
    if model == "autoscore":
        return _fit_autoscore(task, config)
    if model in TABULAR:
        return fit_tabular(model, task, config)
    return _fit_network(model, task, config, checkpoint)


def _fit_score(model: str, task: PreparedTask, config: EdTriageConfig) -> FittedModel:
    X, names = task.score_inputs()
    train = task.mask("train")
    score = clinical_scores(paper_compat=config.paper_compat)[model]
    fitted = CalibratedScore.fit(score, X[train], task.y[train], names)
    return FittedModel(fitted, fitted.predict_proba(X)[:, 1], [])


def _fit_autoscore(task: PreparedTask, config: EdTriageConfig) -> FittedModel:
    X, y = task.imputed(), task.y
    train, tuning = task.mask("train"), task.mask("tuning")
    fitted = AutoScore.fit(
        X[train],
        y[train],
        X[tuning],
        y[tuning],
        task.features,
        n_trees=config.autoscore_forest_trees,
        threads=config.threads,
        seed=config.seed,
    )
    shares = [(item.name, max(item.points) / 100) for item in fitted.score.items]
    return FittedModel(
        fitted, fitted.predict_proba(X)[:, 1], sorted(shares, key=lambda pair: -pair[1])
    )


def fit_tabular(
    model: str, task: PreparedTask, config: EdTriageConfig, *, by: str = "split"
) -> FittedModel:
    """Fit a model on the table. `by` names the column of splits."""
    seed, threads = config.seed, config.threads
    builders = {
        "logistic_regression": lambda: logistic_regression(
            paper_compat=config.paper_compat, seed=seed
        ),
        "random_forest": lambda: random_forest(
            n_trees=config.forest_trees, threads=threads, seed=seed
        ),
        "gradient_boosting": lambda: gradient_boosting(seed=seed),
        "lightgbm": lambda: lightgbm_trees(threads=threads, seed=seed),
        "xgboost": lambda: xgboost(threads=threads, seed=seed),
    }
    takes_gaps = model in ("lightgbm", "xgboost")
    X = task.raw if takes_gaps else task.imputed(by)
    train = task.mask("train", by)
    estimator = builders[model]()
    estimator.fit(X[train], task.y[train])
    risk = np.asarray(estimator.predict_proba(X)[:, 1], np.float64)
    return FittedModel(estimator, risk, feature_importance(estimator, task.features))


def _fit_network(
    model: str, task: PreparedTask, config: EdTriageConfig, checkpoint: Path
) -> FittedModel:
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    X, y = task.imputed().astype(np.float32), task.y
    train, tuning = task.mask("train"), task.mask("tuning")
    settings = getattr(config, model)
    network, inputs, select = _NETWORKS[model](task, settings, X, train, config.paper_compat)
    positives = float(y[train].mean())
    fit_binary(
        network,
        select(train),
        y[train],
        select(tuning),
        y[tuning],
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        decay=settings.decay,
        patience=settings.patience,
        positive_weight=_positive_weight(positives, published=config.paper_compat)
        if model == "code_bag"
        else None,
        seed=config.seed,
        checkpoint=checkpoint,
        what=f"{model} of {task.name}",
    )
    return FittedModel(network, predict_proba(network, inputs), [])


def _positive_weight(share: float, *, published: bool) -> float:
    """The benchmark weighs the classes of its bag of codes, and does so the wrong way round."""
    return share / (1 - share) if published else (1 - share) / share


def _mlp(task: PreparedTask, settings: Mlp, X: np.ndarray, train: np.ndarray, raw: bool) -> Any:
    network = TriageMLP(X.shape[1], settings.hidden, standardiser=_scale(X[train], raw))
    return network, DenseInputs(X), lambda rows: DenseInputs(X[rows])


def _code_bag(
    task: PreparedTask, settings: CodeBag, X: np.ndarray, train: np.ndarray, raw: bool
) -> Any:
    lists, size = task.codes(settings.min_count)
    network = CodeBagNet(
        size,
        X.shape[1],
        settings.embedding,
        settings.code_hidden,
        settings.hidden,
        standardiser=_scale(X[train], raw),
    )

    def select(rows: np.ndarray) -> Inputs:
        sizes = np.diff(lists.offsets)
        kept = np.repeat(rows, sizes)
        offsets = np.concatenate([[0], np.cumsum(sizes[rows])])
        return BagInputs(X[rows], lists.values[kept], offsets)

    return network, BagInputs(X, lists.values, lists.offsets), select


def _lstm(task: PreparedTask, settings: Lstm, X: np.ndarray, train: np.ndarray, raw: bool) -> Any:
    grid = task.grid()
    # The sequence brings the last vital signs; the columns leave them out, as published.
    kept = [i for i, name in enumerate(task.features) if not name.endswith("_last")]
    columns = np.ascontiguousarray(X[:, kept])
    hours = np.arange(grid.values.shape[1]) < grid.lengths[:, None]
    measured = np.where(hours[train, :, None], grid.values[train], np.nan)
    network = VitalsLSTM(
        len(kept),
        grid.values.shape[2],
        settings.hidden,
        settings.tabular_hidden,
        settings.head_hidden,
        standardiser=_scale(columns[train], raw),
        channel_standardiser=_scale(measured, raw),
    )

    def select(rows: np.ndarray) -> Inputs:
        return SequenceInputs(columns[rows], grid.values[rows], grid.lengths[rows])

    return network, select(np.ones(len(X), bool)), select


def _scale(rows: np.ndarray, raw: bool) -> Standardiser | None:
    return None if raw else Standardiser.fit(rows)


_NETWORKS: dict[str, Any] = {"mlp": _mlp, "code_bag": _code_bag, "lstm": _lstm}
