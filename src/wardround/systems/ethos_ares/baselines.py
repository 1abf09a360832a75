"""What ETHOS is compared with, on the same predictions: scores, and models on windowed counts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix, load_npz, save_npz

from wardround import __version__
from wardround.errors import WardroundError
from wardround.models import (
    CalibratedScore,
    clinical_scores,
    feature_importance,
    lightgbm_trees,
    logistic_regression,
    xgboost,
)
from wardround.systems.ethos_ares.config import SCORES, EthosAresConfig
from wardround.systems.ethos_ares.prepared import Prepared, PreparedTask, some_subjects
from wardround.training import save_model
from wardround.views.table.warning import warning_inputs
from wardround.views.table.windows import WindowedCounts
from wardround.workdir import Workdir

log = logging.getLogger("wardround")

TREE_IMPORTANCE = "share of the trees' gain"
IMPORTANCE_KIND = {
    "logistic_regression": "size of the coefficient of the scaled column, as a share",
    "lightgbm": TREE_IMPORTANCE,
    "xgboost": TREE_IMPORTANCE,
}
#: Kept of a ranking of columns.
RANKED = 20


def fit_baselines(
    task: PreparedTask,
    prepared: Prepared,
    config: EthosAresConfig,
    workdir: Workdir,
    folders: dict[tuple[str, str], Path],
    skipped: dict[tuple[str, str], str],
) -> None:
    """Fit every baseline of a task as a stage of its own.

    Args:
        task: of kind `risk`.
        prepared, config, workdir: of the run.
        folders: gets the folder of each model; it holds the risks of the tuning and held-out rows.
        skipped: gets the reason of each that the data cannot teach.
    """
    wide = [model for model in config.baselines if model not in SCORES]
    rows = _rows(task, config)
    features = _features(task, rows, prepared, config, workdir) if wide else None
    for model in config.baselines:

        def build(folder: Path, model: str = model) -> None:
            try:
                if model in SCORES:
                    _fit_score(model, rows, prepared, folder)
                else:
                    assert features is not None
                    _fit_wide(model, rows, features, config, folder)
            except WardroundError as error:
                log.warning("%s of %s is left out: %s", model, task.name, error)
                (folder / "skipped.json").write_text(json.dumps(str(error)))

        inputs = {
            "rows": workdir.fingerprint(f"work/{task.name}"),
            "features": None
            if model in SCORES
            else workdir.fingerprint(f"work/{task.name}-features"),
            "trees": config.windowed_counts.trees,
            "limit": config.max_training,
            "version": __version__,
            "model": model,
            "seed": config.seed,
        }
        folder = workdir.stage(f"model/{task.name}/{model}", build, inputs=inputs)
        reason = folder / "skipped.json"
        if reason.is_file():
            skipped[task.name, model] = json.loads(reason.read_text())
        else:
            folders[task.name, model] = folder


def _rows(task: PreparedTask, config: EthosAresConfig) -> pl.DataFrame:
    """Training rows, `max_training` at most, then the others in their order."""
    train = task.frame.filter(pl.col("split") == "train")
    subjects = train["subject_id"].unique(maintain_order=True).to_numpy()
    some = some_subjects(train, config.max_training, subjects, config.seed)
    return pl.concat([some, task.frame.filter(pl.col("split") != "train")])


def _features(
    task: PreparedTask,
    rows: pl.DataFrame,
    prepared: Prepared,
    config: EthosAresConfig,
    workdir: Workdir,
) -> Path:
    """The stage of windowed counts, whose columns the training rows chose."""
    counts = config.windowed_counts

    def build(folder: Path) -> None:
        keys = rows.select("subject_id", "prediction_time")
        train = keys.filter(rows["split"] == "train")
        try:
            fitted = WindowedCounts.fit(
                prepared.store,
                train,
                min_count=counts.min_count,
                windows=counts.windows,
                aggregations=counts.aggregations,
            )
        except WardroundError as error:
            (folder / "skipped.json").write_text(json.dumps(str(error)))
            return
        fitted.save(folder / "columns.json")
        save_npz(folder / "features.npz", fitted.transform(prepared.store, keys))

    return workdir.stage(
        f"work/{task.name}-features",
        build,
        inputs={
            "rows": workdir.fingerprint(f"work/{task.name}"),
            "counts": counts.model_dump(),
            "limit": config.max_training,
            "seed": config.seed,
            "version": __version__,
        },
    )


def _fit_wide(
    model: str, rows: pl.DataFrame, features: Path, config: EthosAresConfig, folder: Path
) -> None:
    if (features / "skipped.json").is_file():
        raise WardroundError(json.loads((features / "skipped.json").read_text()))
    X: csr_matrix = load_npz(features / "features.npz")
    names = WindowedCounts.load(features / "columns.json").columns
    y, train = _training_labels(rows)
    threads, seed, trees = config.threads, config.seed, config.windowed_counts.trees
    builders: dict[str, Callable[[], Any]] = {
        "logistic_regression": lambda: logistic_regression(sparse=True, seed=seed),
        "lightgbm": lambda: lightgbm_trees(n_trees=trees, threads=threads, seed=seed),
        "xgboost": lambda: xgboost(n_trees=trees, threads=threads, seed=seed),
    }
    estimator = builders[model]()
    estimator.fit(X[train], y[train])
    save_model(estimator, folder)
    ranking = feature_importance(estimator, names)[:RANKED]
    _write(folder, estimator.predict_proba(X[~train])[:, 1], ranking)


def _fit_score(model: str, rows: pl.DataFrame, prepared: Prepared, folder: Path) -> None:
    inputs = warning_inputs(prepared.store, rows.select("subject_id", "prediction_time"))
    columns = inputs.select(pl.selectors.numeric() | pl.selectors.boolean()).cast(pl.Float64)
    if columns["heartrate"].null_count() == len(columns):
        raise WardroundError("no prediction knows a vital sign")
    y, train = _training_labels(rows)
    X = columns.to_numpy()
    fitted = CalibratedScore.fit(clinical_scores()[model], X[train], y[train], columns.columns)
    save_model(fitted, folder)
    _write(folder, fitted.predict_proba(X[~train])[:, 1], [])


def _training_labels(rows: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    y = rows["boolean_value"].to_numpy()
    train = (rows["split"] == "train").to_numpy()
    if not 0 < y[train].sum() < train.sum():
        raise WardroundError("the training rows hold one outcome only")
    return y, train


def _write(folder: Path, risk: np.ndarray, ranking: list[tuple[str, float]]) -> None:
    np.save(folder / "risk.npy", np.asarray(risk, np.float64))
    (folder / "importance.json").write_text(json.dumps(ranking))
