"""ETHOS-ARES: tokens, a decoder, its simulated futures, baselines on the same predictions."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import torch

from wardround import __version__
from wardround.evaluation import (
    FlowStep,
    Importance,
    LossCurve,
    ModelResult,
    PairedComparison,
    Resamples,
    Results,
    TaskResult,
    auroc,
    choose_thresholds,
    comparisons_with_best,
    evaluate_binary,
    evaluate_classes,
    evaluate_number,
    predictions_of,
    split_counts,
)
from wardround.progress import track
from wardround.simulation.risk import estimate_risks, read_classes
from wardround.simulation.tasks import TimelineTask
from wardround.store import SPLITS, PatientStore
from wardround.system import Card, Evaluation
from wardround.systems.ethos_ares.baselines import IMPORTANCE_KIND, fit_baselines
from wardround.systems.ethos_ares.config import EthosAresConfig
from wardround.systems.ethos_ares.decoder import (
    CONTROL,
    ETHOS,
    load_decoder,
    pretrained,
    sampling_of,
)
from wardround.systems.ethos_ares.prepared import LATER, Prepared, PreparedTask, prepare
from wardround.systems.ethos_ares.stay import stay_risk
from wardround.views.subgroups import subgroups
from wardround.workdir import Workdir

log = logging.getLogger("wardround")

KEYS = ["subject_id", "prediction_time"]
#: Fewer held-out outcomes than this make a metric that nobody should read.
FEW_EVENTS = 100


@dataclass
class Fitted:
    """Where the decoders and each task's baselines lie; `skipped` holds the reasons."""

    decoders: dict[str, Path] = field(default_factory=dict)
    baselines: dict[tuple[str, str], Path] = field(default_factory=dict)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)


class EthosAres:
    """Renc et al. 2024 and 2025; see `card.yaml`."""

    card = Card.load(Path(__file__).with_name("card.yaml"))
    Config = EthosAresConfig
    stay_risk = staticmethod(stay_risk)

    def prepare(self, store: PatientStore, config: EthosAresConfig, workdir: Workdir) -> Prepared:
        """Tokeniser, timelines, and every task's predictions."""
        return prepare(store, config, workdir)

    def fit(self, prepared: Prepared, config: EthosAresConfig, workdir: Workdir) -> Fitted:
        """The decoder, the one that learns from dealt-out futures, and every task's baselines."""
        if config.threads:
            torch.set_num_threads(config.threads)
        fitted = Fitted()
        iterations = {ETHOS: config.training.iterations}
        if config.control:
            iterations[CONTROL] = max(1, config.training.iterations // 2)
        for name, steps in iterations.items():
            fitted.decoders[name] = pretrained(name, steps, prepared, config, workdir)
        binary = [task for task in prepared.tasks.values() if task.task.kind == "risk"]
        for task in track(binary, "Baselines"):
            fit_baselines(task, prepared, config, workdir, fitted.baselines, fitted.skipped)
        return fitted

    def evaluate(
        self, fitted: Fitted, prepared: Prepared, config: EthosAresConfig, workdir: Workdir
    ) -> Evaluation:
        """Simulate, read, and measure on held-out subjects; thresholds from tuning."""
        risks = _simulated(fitted, prepared, config, workdir)
        tasks, predictions = [], []
        for task in track(prepared.tasks.values(), "Evaluation", total=len(prepared.tasks)):
            result, rows = _evaluate(self.card, task, risks, fitted, prepared, config)
            tasks.append(result)
            predictions.append(rows)
        notes = [
            f"{name} was left out: {reason}." for name, reason in sorted(prepared.skipped.items())
        ]
        training = [_loss_curve(name, folder) for name, folder in fitted.decoders.items()]
        shutil.rmtree(workdir.path / "checkpoints", ignore_errors=True)
        return Evaluation(
            Results(tasks=tasks, training=training, notes=notes), pl.concat(predictions)
        )


def _loss_curve(name: str, folder: Path) -> LossCurve:
    history = json.loads((folder / "history.json").read_text())
    label = {ETHOS: "ETHOS", CONTROL: "Futures dealt out anew"}[name]
    return LossCurve(
        label=label, **{key: history[key] for key in ("tokens", "loss", "tuning_loss", "best")}
    )


def _simulated(
    fitted: Fitted, prepared: Prepared, config: EthosAresConfig, workdir: Workdir
) -> dict[tuple[str, str], pl.DataFrame]:
    """What each decoder says of each task's rows (`rows_read`), in their order."""
    found = {}
    for name, folder in fitted.decoders.items():
        for group in _asked_together(prepared, name):
            stage = _simulation(name, folder, group, prepared, config, workdir)
            for task in group:
                read = pl.read_parquet(stage / f"{task.name}.parquet")
                rows = rows_read(task, name).select(KEYS)
                found[name, task.name] = rows.join(read, on=KEYS, how="left", maintain_order="left")
    return found


def _asked_together(prepared: Prepared, decoder: str) -> list[list[PreparedTask]]:
    """Tasks that start alike, and so can be read from the same futures."""
    groups: dict[str, list[PreparedTask]] = {}
    for task in prepared.tasks.values():
        if decoder == CONTROL and task.task.kind != "risk":
            continue
        alone = task.name if task.task.kind == "class" else ""
        later = task.name.endswith(LATER)
        groups.setdefault(f"{task.task.start} {later} {alone}", []).append(task)
    return list(groups.values())


def _simulation(
    name: str,
    decoder: Path,
    group: list[PreparedTask],
    prepared: Prepared,
    config: EthosAresConfig,
    workdir: Workdir,
) -> Path:
    """The stage that holds one decoder's readings of tasks, a file each."""

    def build(folder: Path) -> None:
        model = load_decoder(decoder)
        asked = [rows_read(task, name) for task in group]
        rows = pl.concat(frame.select(*KEYS, "token_index", "elapsed") for frame in asked)
        rows = rows.unique(KEYS, keep="first").sort(KEYS)
        first = group[0].task
        if first.kind == "class":
            found = {
                first.name: read_classes(
                    model, prepared.timelines, rows, first, device=config.device
                )
            }
        else:
            found = estimate_risks(
                model,
                prepared.timelines,
                rows,
                [task.task for task in group],
                prepared.clock(mean=config.mean_intervals),
                estimator=config.estimator,
                sampling=sampling_of(config),
                cache=workdir.path / "checkpoints" / "futures",
            )
        for task in group:
            found[task.task.name].write_parquet(folder / f"{task.name}.parquet")

    inputs = {
        "decoder": workdir.fingerprint(f"model/{name}"),
        "rows": [workdir.fingerprint(f"work/{task.name}") for task in group],
        "simulation": config.simulation.model_dump(),
        "published": config.paper_compat,
        "version": __version__,
        "seed": config.seed,
    }
    return workdir.stage(f"work/{name}/{group[0].name}", build, inputs=inputs)


def rows_read(task: PreparedTask, decoder: str) -> pl.DataFrame:
    """The rows that a decoder reads: those of tuning and held-out subjects, of the control's the
    held-out ones alone.
    """
    wanted = ["held_out"] if decoder == CONTROL else ["tuning", "held_out"]
    return task.frame.filter(pl.col("split").is_in(wanted))


def _evaluate(
    card: Card,
    task: PreparedTask,
    read: dict[tuple[str, str], pl.DataFrame],
    fitted: Fitted,
    prepared: Prepared,
    config: EthosAresConfig,
) -> tuple[TaskResult, pl.DataFrame]:
    rows = rows_read(task, ETHOS)
    ethos = read[ETHOS, task.name]
    common = {
        "name": task.name,
        "title": task.title,
        "description": task.description,
        "flow": [FlowStep(step=s.step, rows=s.rows, subjects=s.subjects) for s in task.flow],
        "splits": split_counts(task.frame, SPLITS),
    }
    nothing = predictions_of(_NO_ROWS, np.empty(0), 0.5, task=task.name, model="")
    if task.task.kind != "risk":
        model, notes = _other_result(card, task.task, rows, ethos, config)
        return TaskResult(**common, models=[model], notes=notes), nothing
    models, controls, comparisons, notes, predictions = _binary_result(
        card, task, rows, read, fitted, prepared, config
    )
    return TaskResult(
        **common, models=models, controls=controls, comparisons=comparisons, notes=notes
    ), pl.concat([nothing, *predictions])


_NO_ROWS = pl.DataFrame(
    schema={
        "subject_id": pl.Int64,
        "prediction_time": pl.Datetime("us"),
        "boolean_value": pl.Boolean,
        "split": pl.String,
    }
)


def _binary_result(
    card: Card,
    task: PreparedTask,
    rows: pl.DataFrame,
    read: dict[tuple[str, str], pl.DataFrame],
    fitted: Fitted,
    prepared: Prepared,
    config: EthosAresConfig,
) -> tuple[
    list[ModelResult],
    list[ModelResult],
    list[PairedComparison],
    list[str],
    list[pl.DataFrame],
]:
    y = rows["boolean_value"].to_numpy()
    tuning, test = ((rows["split"] == split).to_numpy() for split in ("tuning", "held_out"))
    train = task.frame.filter(pl.col("split") == "train")["boolean_value"]
    usual = float(train.mean() or 0.0)  # type: ignore[arg-type]
    resamples = Resamples(rows["subject_id"].to_numpy()[test], config.bootstrap, config.seed)
    groups = subgroups(prepared.store, rows.select("subject_id", "prediction_time"))
    risks = {ETHOS: read[ETHOS, task.name]["risk"].fill_null(usual).to_numpy()}
    importance: dict[str, list[tuple[str, float]]] = {}
    for (name, model), folder in fitted.baselines.items():
        if name == task.name:
            risks[model] = np.load(folder / "risk.npy")
            importance[model] = json.loads((folder / "importance.json").read_text())
    models, ranks, predictions = [], {}, []
    for model, risk in risks.items():
        thresholds = choose_thresholds(y[tuning], risk[tuning])
        ranked = importance.get(model, [])
        models.append(
            evaluate_binary(
                model,
                card.models[model],
                y[test],
                risk[test],
                resamples,
                thresholds=thresholds,
                subgroups=groups.filter(pl.Series(test)) if model == ETHOS else None,
                importance=[Importance(feature=f, value=v) for f, v in ranked],
                importance_kind=IMPORTANCE_KIND.get(model, "") if ranked else "",
            )
        )
        ranks[model] = auroc(y[tuning], risk[tuning])
        threshold = next(iter(thresholds.values()), 0.5)
        predictions.append(predictions_of(rows, risk, threshold, task=task.name, model=model))
    held_out = {model: risk[test] for model, risk in risks.items()}
    return (
        models,
        _control(task, read, resamples, usual),
        comparisons_with_best(y[test], held_out, ranks, card.models, resamples),
        _notes(card, task, read[ETHOS, task.name].filter(pl.Series(test)), fitted, y[test]),
        predictions,
    )


def _control(
    task: PreparedTask,
    read: dict[tuple[str, str], pl.DataFrame],
    resamples: Resamples,
    usual: float,
) -> list[ModelResult]:
    found = read.get((CONTROL, task.name))
    if found is None:
        return []
    y = rows_read(task, CONTROL)["boolean_value"].to_numpy()
    risk = found["risk"].fill_null(usual).to_numpy()
    return [
        evaluate_binary(
            "shuffled_labels",
            "Futures dealt out anew (control)",
            y,
            risk,
            resamples,
            curves=False,
            note="A decoder that learnt, for half as long, from training timelines in which what "
            "follows each event was dealt out anew among patients.",
        )
    ]


def _other_result(
    card: Card,
    task: TimelineTask,
    rows: pl.DataFrame,
    read: pl.DataFrame,
    config: EthosAresConfig,
) -> tuple[ModelResult, list[str]]:
    """Of a time: the median of the futures. Of a class: the ranking; of a decile: its mean."""
    test = (rows["split"] == "held_out").to_numpy()
    rows, read = rows.filter(pl.Series(test)), read.filter(pl.Series(test))
    resamples = Resamples(rows["subject_id"].to_numpy(), config.bootstrap, config.seed)
    label = card.models[ETHOS]
    if task.kind == "time":
        answered = read["median"].is_not_null()
        notes = ["In days; the prediction is the median of the futures."]
        if not answered.all():
            notes.append(f"{(~answered).sum()} rows without a resolved future are left out.")
        kept = resamples.restricted_to(answered.to_numpy())
        truth = rows.filter(answered)["value"].to_numpy()
        median = read.filter(answered)["median"].to_numpy()
        return evaluate_number(ETHOS, label, truth, median, kept), notes
    if read["expected"].null_count() < len(read):
        truth = rows["label"].str.strip_prefix("Q").cast(pl.Float64).to_numpy()
        return evaluate_number(ETHOS, label, truth, read["expected"].to_numpy(), resamples), [
            "In deciles of the score."
        ]
    names = {
        name: number for number, name in enumerate(read["ranked"].explode().unique().to_list())
    }
    ranked = np.array([[names[name] for name in row] for row in read["ranked"].to_list()])
    truth = np.array([names.get(label, -1) for label in rows["label"].to_list()])
    ranked = ranked.reshape(len(truth), -1)
    return evaluate_classes(ETHOS, label, truth, ranked, resamples), []


def _notes(
    card: Card, task: PreparedTask, read: pl.DataFrame, fitted: Fitted, y: np.ndarray
) -> list[str]:
    notes = [
        f"{card.models[model]} was left out: {reason}."
        for (name, model), reason in fitted.skipped.items()
        if name == task.name
    ]
    lost, unresolved = read["risk"].null_count(), read["unresolved"].mean()
    if lost:
        notes.append(f"{lost} rows have no resolved future; they got the share of train.")
    if unresolved and float(unresolved) >= 0.01:  # type: ignore[arg-type]
        notes.append(f"{100 * float(unresolved):.0f} % of the futures gave no answer.")  # type: ignore[arg-type]
    if 0 < y.sum() < FEW_EVENTS:
        notes.append(f"Only {int(y.sum())} held-out outcomes: mind the intervals.")
    return notes
