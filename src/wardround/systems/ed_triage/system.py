"""The ED-triage benchmark: cohorts, views, models, controls, and what they come to."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from wardround import __version__
from wardround.errors import WardroundError
from wardround.evaluation import (
    FlowStep,
    Importance,
    ModelResult,
    Resamples,
    Results,
    TaskResult,
    auprc,
    auroc,
    choose_thresholds,
    comparisons_with_best,
    evaluate_binary,
    predictions_of,
    shuffle_labels,
    split_counts,
    spread,
)
from wardround.models import lightgbm_trees
from wardround.progress import track
from wardround.store import SPLITS, PatientStore
from wardround.system import Card, Evaluation
from wardround.systems.ed_triage.config import SCORES, EdTriageConfig
from wardround.systems.ed_triage.fitting import fit_model, fit_tabular, fits, settings_of
from wardround.systems.ed_triage.prepared import PreparedTask, prepare_task, split_in_force
from wardround.training import save_model
from wardround.workdir import Workdir

log = logging.getLogger("wardround")

IMPORTANCE_KIND = {
    "autoscore": "share of the points that the variable can give",
    "logistic_regression": "size of the standardised coefficient, as a share",
}
#: With `paper_compat` the columns are raw, and their coefficients go by their units.
RAW_COEFFICIENTS = "size of the coefficient of the raw column, as a share; units differ"
TREE_IMPORTANCE = "share of the trees' gain"
#: Measured on the other split, too: of the tabular models the one that remembers patients best.
SPLIT_CONTROL_MODEL = "random_forest"
#: Fewer held-out outcomes than this make a metric that nobody should read.
FEW_EVENTS = 100


#: Fits a model of a task into a folder, with a place for its checkpoints.
Builder = Callable[[str, PreparedTask, EdTriageConfig, Path, Path], None]


@dataclass
class Fitted:
    """Where each task's models and controls lie; `skipped` holds the reasons of those left out."""

    folders: dict[tuple[str, str], Path] = field(default_factory=dict)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)


class EdTriage:
    """Xie et al. 2022; see `card.yaml`."""

    card = Card.load(Path(__file__).with_name("card.yaml"))
    Config = EdTriageConfig

    def prepare(
        self, store: PatientStore, config: EdTriageConfig, workdir: Workdir
    ) -> dict[str, PreparedTask]:
        """Cohort, labels, splits and views of every task."""
        return {name: prepare_task(name, store, config, workdir) for name in config.tasks}

    def fit(
        self, prepared: dict[str, PreparedTask], config: EdTriageConfig, workdir: Workdir
    ) -> Fitted:
        """Every model of every task, and the controls; each is a stage of its own."""
        fitted = Fitted()
        controls: dict[str, Builder] = {"control_shuffled": _fit_on_shuffled}
        if config.split_control:
            controls["control_split"] = _fit_on_other_split
        builders: dict[str, Builder] = dict.fromkeys(config.models, _fit_and_predict) | controls
        work = [
            (task, model, build)
            for name, task in prepared.items()
            for model, build in builders.items()
            if fits(model, name)
        ]
        for task, model, build in track(work, "Models"):
            _stage(fitted, task, model, config, workdir, build)
        with suppress(OSError):  # none was begun, or one is left to look at
            (workdir.path / "checkpoints").rmdir()
        return fitted

    def evaluate(
        self,
        fitted: Fitted,
        prepared: dict[str, PreparedTask],
        config: EdTriageConfig,
        workdir: Workdir,
    ) -> Evaluation:
        """Metrics on held-out subjects, thresholds from tuning."""
        tasks, predictions = [], []
        for task in track(prepared.values(), "Evaluation", total=len(prepared)):
            folder = _evaluation(self.card, fitted, task, config, workdir)
            tasks.append(TaskResult.model_validate_json((folder / "result.json").read_text()))
            predictions.append(pl.read_parquet(folder / "predictions.parquet"))
        return Evaluation(Results(tasks=tasks), pl.concat(predictions))


def _stage(
    fitted: Fitted,
    task: PreparedTask,
    model: str,
    config: EdTriageConfig,
    workdir: Workdir,
    build: Builder,
) -> None:
    """Run `build` as a stage; a model that the data cannot teach leaves its reason instead."""
    stage = f"model/{task.name}/{model}"

    def run(folder: Path) -> None:
        checkpoint = workdir.path / "checkpoints" / f"{task.name}-{model}.safetensors"
        try:
            build(model, task, config, folder, checkpoint)
        except WardroundError as error:
            log.warning("%s of %s is left out: %s", model, task.name, error)
            (folder / "skipped.json").write_text(json.dumps(str(error)))

    inputs = {
        "task": workdir.fingerprint(f"work/{task.name}"),
        "version": __version__,
        "repeats": config.control_repeats if model == "control_shuffled" else None,
        "forest": config.forest_trees if model == "control_split" else None,
        **settings_of(model, config),
    }
    folder = workdir.stage(stage, run, inputs=inputs)
    reason = folder / "skipped.json"
    if reason.is_file():
        fitted.skipped[task.name, model] = json.loads(reason.read_text())
    else:
        fitted.folders[task.name, model] = folder


def _fit_and_predict(
    model: str, task: PreparedTask, config: EdTriageConfig, folder: Path, checkpoint: Path
) -> None:
    found = fit_model(model, task, config, checkpoint)
    save_model(found.model, folder)
    np.save(folder / "risk.npy", found.risk)
    (folder / "importance.json").write_text(json.dumps(found.importance))


def _fit_on_shuffled(
    model: str, task: PreparedTask, config: EdTriageConfig, folder: Path, checkpoint: Path
) -> None:
    """Models on labels that were dealt out anew among the training rows."""
    train, test = task.mask("train"), task.mask("held_out")
    y_test = task.y[test]
    if not 0 < y_test.sum() < len(y_test) or not 0 < task.y[train].sum() < train.sum():
        raise WardroundError("train or held-out rows hold one outcome only")
    found = []
    for repeat in range(config.control_repeats):
        rng = np.random.default_rng((config.seed, repeat))
        estimator = lightgbm_trees(n_trees=100, threads=config.threads, seed=repeat)
        estimator.fit(task.raw[train], shuffle_labels(task.y[train], rng))
        risk = np.asarray(estimator.predict_proba(task.raw[test])[:, 1])
        found.append((auroc(y_test, risk), auprc(y_test, risk)))
    np.save(folder / "metrics.npy", np.array(found))


def _fit_on_other_split(
    model: str, task: PreparedTask, config: EdTriageConfig, folder: Path, checkpoint: Path
) -> None:
    """What it makes of a model whether the same patients stand on both sides."""
    train = task.mask("train", "other_split")
    if not 0 < task.y[train].sum() < train.sum():
        raise WardroundError("the training rows hold one outcome only")
    found = fit_tabular(SPLIT_CONTROL_MODEL, task, config, by="other_split")
    np.save(folder / "risk.npy", found.risk)


def _evaluation(
    card: Card, fitted: Fitted, task: PreparedTask, config: EdTriageConfig, workdir: Workdir
) -> Path:
    """The stage that holds a task's results."""

    def build(folder: Path) -> None:
        result, predictions = _evaluate_task(card, fitted, task, config)
        (folder / "result.json").write_text(result.model_dump_json())
        predictions.write_parquet(folder / "predictions.parquet")

    models = [record for record in workdir.records if record.name.startswith(f"model/{task.name}/")]
    inputs = {
        "models": [(record.name, record.fingerprint) for record in models],
        "bootstrap": config.bootstrap,
        "seed": config.seed,
    }
    return workdir.stage(f"evaluation/{task.name}", build, inputs=inputs)


def _evaluate_task(
    card: Card, fitted: Fitted, task: PreparedTask, config: EdTriageConfig
) -> tuple[TaskResult, pl.DataFrame]:
    tuning, test = task.mask("tuning"), task.mask("held_out")
    subjects = task.frame["subject_id"].to_numpy()
    resamples = Resamples(subjects[test], config.bootstrap, config.seed)
    groups = task.groups.filter(pl.Series(test))
    y = task.y
    models: list[ModelResult] = []
    risks: dict[str, np.ndarray] = {}
    frames: list[pl.DataFrame] = []
    ranks: dict[str, float] = {}
    for model in config.models:
        folder = fitted.folders.get((task.name, model))
        if folder is None:
            continue
        risk = np.load(folder / "risk.npy")
        thresholds = choose_thresholds(y[tuning], risk[tuning])
        ranked = json.loads((folder / "importance.json").read_text())
        models.append(
            evaluate_binary(
                model,
                card.models[model],
                y[test],
                risk[test],
                resamples,
                thresholds=thresholds,
                subgroups=None if model in SCORES else groups,
                importance=[Importance(feature=f, value=v) for f, v in ranked],
                importance_kind=_importance_kind(model, config) if ranked else "",
            )
        )
        risks[model] = risk[test]
        ranks[model] = auroc(y[tuning], risk[tuning])
        threshold = next(iter(thresholds.values()), 0.5)
        frames.append(predictions_of(task.frame, risk, threshold, task=task.name, model=model))
    nothing = predictions_of(task.frame.clear(), np.empty(0), 0.5, task=task.name, model="")
    predictions = pl.concat([nothing, *frames])
    described = card.tasks[task.name]
    return TaskResult(
        name=task.name,
        title=described.title,
        description=described.description,
        unit="visits",
        flow=[FlowStep(step=s.step, rows=s.rows, subjects=s.subjects) for s in task.flow],
        splits=split_counts(task.frame, SPLITS),
        models=models,
        controls=_controls(fitted, task, config),
        comparisons=comparisons_with_best(y[test], risks, ranks, card.models, resamples),
        notes=_notes(card, fitted, task, config, int(y[test].sum())),
    ), predictions.filter(pl.col("split") != "train")


def _importance_kind(model: str, config: EdTriageConfig) -> str:
    if config.paper_compat and model == "logistic_regression":
        return RAW_COEFFICIENTS
    return IMPORTANCE_KIND.get(model, TREE_IMPORTANCE)


def _controls(fitted: Fitted, task: PreparedTask, config: EdTriageConfig) -> list[ModelResult]:
    controls = []
    folder = fitted.folders.get((task.name, "control_shuffled"))
    if folder is not None:
        found = np.load(folder / "metrics.npy")
        controls.append(
            ModelResult(
                name="shuffled_labels",
                label="Labels shuffled (control)",
                metrics={
                    "auroc": spread(found[:, 0]),
                    "auprc": spread(found[:, 1]),
                },
                note=f"Mean of {len(found)} LightGBM models, each on training labels dealt out "
                "anew; the interval holds the middle 95 % of them.",
            )
        )
    folder = fitted.folders.get((task.name, "control_split"))
    if folder is not None:
        test = task.mask("held_out", "other_split")
        subjects = task.frame["subject_id"].to_numpy()[test]
        by_visit = split_in_force(config) == "subject"
        beside = " Compare with the random forest above."
        controls.append(
            evaluate_binary(
                "visit_split" if by_visit else "subject_split",
                f"Random forest, {'visits' if by_visit else 'patients'} split at random (control)",
                task.y[test],
                np.load(folder / "risk.npy")[test],
                Resamples(subjects, config.bootstrap, config.seed),
                curves=False,
                note=f"Other visits of the same patients are {'' if by_visit else 'not '}in train."
                + (beside if SPLIT_CONTROL_MODEL in config.models else ""),
            )
        )
    return controls


def _notes(
    card: Card, fitted: Fitted, task: PreparedTask, config: EdTriageConfig, events: int
) -> list[str]:
    notes = [
        f"{card.models[model]} was left out: {reason}."
        for (name, model), reason in fitted.skipped.items()
        if name == task.name and model in card.models
    ]
    if task.empty():
        notes.append(f"No training visit has a value of {', '.join(task.empty())}: not used.")
    if events < FEW_EVENTS:
        notes.append(f"{events} held-out outcomes are too few to tell models apart.")
    if config.paper_compat:
        notes.append("The published rules are in force (paper_compat).")
    return notes
