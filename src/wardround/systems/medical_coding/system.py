"""Medical coding: documents, networks, thresholds, and what they come to on held-out notes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from wardround.cohorts import chapters
from wardround.evaluation import (
    Banded,
    Estimate,
    FlowStep,
    LossCurve,
    ModelResult,
    MultilabelEvaluation,
    PairedComparison,
    Resamples,
    Results,
    SplitCount,
    TaskResult,
    compare_multilabel,
    evaluate_multilabel,
    frequency_bands,
    frequency_prior,
    multilabel_estimates,
    quantile_bands,
    resample_metrics,
    tune_threshold,
)
from wardround.evaluation.multilabel import code_group_table, document_group_table
from wardround.progress import track
from wardround.store import SPLITS, PatientStore
from wardround.system import Card, Evaluation, Suggestion
from wardround.systems.medical_coding.config import MedicalCodingConfig
from wardround.systems.medical_coding.evidence import excerpts, suggest
from wardround.systems.medical_coding.fitting import CONTROL, LOGITS, PRIOR, Fitted, fit, kind_of
from wardround.systems.medical_coding.prepared import Coding, Prepared, prepare
from wardround.workdir import Workdir

#: Columns of the report, in order.
METRICS = (
    "f1_micro",
    "f1_macro",
    "f1_macro_mullenbach",
    "map",
    "r_precision",
    "precision_at_5",
    "precision_at_8",
    "precision_at_15",
    "recall_at_10",
    "recall_at_15",
    "exact_match_ratio",
    "auc_micro",
    "auc_macro",
)
#: Of the published rule: probabilities that are tried as a threshold.
GRID = 100
#: Chapters with fewer codes in the held-out notes are not shown.
FEW_CODES = 3


class MedicalCoding:
    """Edin et al. 2023; see `card.yaml`."""

    card = Card.load(Path(__file__).with_name("card.yaml"))
    Config = MedicalCodingConfig

    def prepare(
        self, store: PatientStore, config: MedicalCodingConfig, workdir: Workdir
    ) -> Prepared:
        """Documents with their codes, a split by subject, and tokens."""
        return prepare(store, config, workdir)

    def fit(self, prepared: Prepared, config: MedicalCodingConfig, workdir: Workdir) -> Fitted:
        """Every network, and the control."""
        return fit(prepared, config, workdir)

    def evaluate(
        self, fitted: Fitted, prepared: Prepared, config: MedicalCodingConfig, workdir: Workdir
    ) -> Evaluation:
        """Thresholds on tuning notes, everything else on held-out ones."""
        tasks, predictions, training = [], [], []
        for coding in track(prepared.codings.values(), "Evaluation"):
            result, rows = _evaluate(self.card, coding, fitted, prepared, config, workdir)
            tasks.append(result)
            predictions.append(rows)
            training += _losses(coding, fitted)
        notes = [f"{name} was left out: {why}" for name, why in sorted(prepared.skipped.items())]
        shutil.rmtree(workdir.path / "checkpoints", ignore_errors=True)
        return Evaluation(
            Results(tasks=tasks, training=training, notes=notes), pl.concat(predictions)
        )

    def suggest_codes(
        self, run: Path, text: str, *, task: str | None = None, model: str | None = None
    ) -> list[Suggestion]:
        """Codes of a note with the words that carried them; see `evidence.suggest`."""
        return suggest(run, text, task=task, model=model)


def _evaluate(
    card: Card,
    coding: Coding,
    fitted: Fitted,
    prepared: Prepared,
    config: MedicalCodingConfig,
    workdir: Workdir,
) -> tuple[TaskResult, pl.DataFrame]:
    cohort = coding.cohort
    rows = {split: cohort.rows(split) for split in SPLITS}
    truth = {split: cohort.targets[rows[split]] for split in SPLITS}
    documents = cohort.documents[rows["held_out"]]
    resamples = Resamples(documents["subject_id"].to_numpy(), config.bootstrap, config.seed)
    found: dict[str, MultilabelEvaluation] = {}
    ranks: dict[str, float] = {}
    thresholds: dict[str, float] = {}
    predictions = [_no_predictions()]
    for model in [*config.models, *([CONTROL] if config.control else [])]:
        scores = _scores(model, coding, fitted, truth)
        tuned = tune_threshold(
            truth["tuning"],
            scores["tuning"],
            grid=GRID if config.paper_compat else None,
            logits=model != PRIOR,
        )
        thresholds[model], ranks[model] = tuned.value, tuned.f1_micro
        found[model] = evaluate_multilabel(
            truth["held_out"], scores["held_out"], tuned.value, paper_compat=config.paper_compat
        )
        if model != CONTROL:
            predictions.append(_predictions(model, coding, documents, scores, found[model]))
    _write_thresholds(coding, thresholds, ranks, workdir)
    draws = {model: resample_metrics(evaluation, resamples) for model, evaluation in found.items()}
    results = {
        model: _result(model, card, evaluation, draws[model]) for model, evaluation in found.items()
    }
    best = max(config.models, key=ranks.__getitem__)
    described = card.tasks.get(coding.name)
    return TaskResult(
        name=coding.name,
        title=described.title if described else f"Codes of {coding.name}",
        description=described.description if described else "Codes of an admission from its note.",
        unit="documents",
        flow=[FlowStep(step=s.step, rows=s.rows, subjects=s.subjects) for s in cohort.flow],
        splits=[_count(split, coding) for split in SPLITS],
        models=[results[model] for model in config.models],
        controls=[results[CONTROL]] if config.control else [],
        comparisons=_compared(best, card, found, draws, config),
        headline="f1_micro",
        banded=_banded(card, coding, found, config, truth),
        excerpts=[]
        if prepared.store.access == "credentialed"
        else excerpts(coding, fitted, found, prepared.store, config, ranks),
        notes=_notes(card, coding, fitted, config),
    ), pl.concat(predictions)


def _scores(
    model: str, coding: Coding, fitted: Fitted, truth: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Logits (documents, codes) of tuning and held-out documents; shares, of the prior."""
    if model == PRIOR:
        return {
            split: frequency_prior(truth["train"], truth[split].shape[0])
            for split in ("tuning", "held_out")
        }
    folder = fitted.folders[coding.name, model]
    return {
        split: np.load(folder / LOGITS.format(split=split), mmap_mode="r")
        for split in ("tuning", "held_out")
    }


def _result(
    model: str, card: Card, evaluation: MultilabelEvaluation, draws: dict[str, np.ndarray]
) -> ModelResult:
    estimates = multilabel_estimates(evaluation, draws)
    note = ""
    if model == CONTROL:
        note = "Learnt from codes that were dealt out anew among the training documents."
    return ModelResult(
        name="shuffled_labels" if model == CONTROL else model,
        label="Codes dealt out anew (control)" if model == CONTROL else card.models[model],
        metrics={name: estimates[name] for name in METRICS if name in estimates},
        note=note,
    )


def _count(split: str, coding: Coding) -> SplitCount:
    rows = coding.cohort.documents[coding.cohort.rows(split)]
    return SplitCount(
        split=split, subjects=rows["subject_id"].n_unique(), rows=len(rows), positives=None
    )


def _compared(
    best: str,
    card: Card,
    found: dict[str, MultilabelEvaluation],
    draws: dict[str, dict[str, np.ndarray]],
    config: MedicalCodingConfig,
) -> list[PairedComparison]:
    return [
        comparison
        for other in config.models
        if other != best
        for comparison in compare_multilabel(
            found[best],
            found[other],
            draws[best],
            draws[other],
            names=(card.models[best], card.models[other]),
        )
    ]


def _banded(
    card: Card,
    coding: Coding,
    found: dict[str, MultilabelEvaluation],
    config: MedicalCodingConfig,
    truth: dict[str, np.ndarray],
) -> list[Banded]:
    """The error analysis of the paper: rare codes, chapters, long notes, notes of many codes."""
    cohort = coding.cohort
    models: list[str] = [model for model in config.models if model != PRIOR]
    if not models:
        return []
    held_out = cohort.rows("held_out")
    words = coding.corpus(kind_of(models[0])).documents["num_words"].gather(held_out).to_numpy()
    codes = np.asarray(truth["held_out"].sum(axis=1)).ravel()
    seen = np.asarray(truth["train"].sum(axis=0)).ravel()
    kinds = cohort.labels["kind"]
    of_codes = [
        (
            "Codes by how often training notes have them",
            "f1_macro",
            frequency_bands(seen),
            "Mean F1 of the codes of a band; n counts codes that held-out notes have.",
        )
    ]
    version = {"icd9": 9, "icd10": 10}.get(coding.name.partition("-")[0])
    if version is not None and set(kinds) <= {"diagnosis", "procedure"}:
        chapter = pl.Series("group", chapters(cohort.codes, version, kinds.to_list()))
        common = chapter.gather(found[models[0]].codes).value_counts()
        shown = common.filter(pl.col("count") >= FEW_CODES)["group"].to_list()
        chapter = pl.select(pl.when(chapter.is_in(shown)).then(chapter)).to_series()
        of_codes.append(
            (
                "Codes by chapter",
                "f1_micro",
                chapter,
                f"Chapters of fewer than {FEW_CODES} held-out codes are left out.",
            )
        )
    if kinds.n_unique() > 1:
        of_codes.append(("Codes by kind", "f1_micro", kinds.alias("group"), ""))
    banded = [
        _band(title, metric, caption, code_group_table, "codes", groups, card, found, models)
        for title, metric, groups, caption in of_codes
    ]
    for title, values in (
        ("Documents by their words", words),
        ("Documents by their number of codes", codes),
    ):
        groups = quantile_bands(values)
        banded.append(
            _band(
                title,
                "f1_micro",
                "Quarters of the held-out documents.",
                document_group_table,
                "documents",
                groups,
                card,
                found,
                models,
            )
        )
    return banded


def _band(
    title: str,
    metric: str,
    caption: str,
    table: Callable[[MultilabelEvaluation, pl.Series], pl.DataFrame],
    counted: str,
    groups: pl.Series,
    card: Card,
    found: dict[str, MultilabelEvaluation],
    models: list[str],
) -> Banded:
    tables = {model: table(found[model], groups) for model in models}
    first = next(iter(tables.values()))
    return Banded(
        title=title,
        caption=caption,
        bands=[str(group) for group in first["group"]],
        counts=first[counted].to_list(),
        metric=metric,
        values={
            card.models[model]: [Estimate(value=value) for value in rows[metric]]
            for model, rows in tables.items()
        },
    )


def _predictions(
    model: str,
    coding: Coding,
    documents: pl.DataFrame,
    scores: dict[str, np.ndarray],
    evaluation: MultilabelEvaluation,
) -> pl.DataFrame:
    """One row a document and code that was billed or suggested; all others are silent noes."""
    shown = (evaluation.targets + evaluation.predictions).tocoo()
    row, column = evaluation.documents[shown.row], evaluation.codes[shown.col]
    score = scores["held_out"][row, column].astype(np.float64)
    chosen = documents[row]
    names = pl.Series(coding.cohort.codes).gather(column)
    return pl.DataFrame(
        {
            "subject_id": chosen["subject_id"],
            "prediction_time": chosen["available_time"],
            "boolean_value": pl.Series(
                np.asarray(evaluation.targets[shown.row, shown.col]).ravel().astype(bool)
            ),
            "predicted_boolean_value": pl.Series(score > evaluation.threshold),
            "predicted_boolean_probability": pl.Series(
                score if model == PRIOR else 1 / (1 + np.exp(-score))
            ),
            "task": coding.name + "/" + names,
            "model": pl.repeat(model, len(chosen), eager=True),
            "split": chosen["split"],
        }
    )


def _no_predictions() -> pl.DataFrame:
    return pl.DataFrame(
        schema={
            "subject_id": pl.Int64,
            "prediction_time": pl.Datetime("us"),
            "boolean_value": pl.Boolean,
            "predicted_boolean_value": pl.Boolean,
            "predicted_boolean_probability": pl.Float64,
            "task": pl.String,
            "model": pl.String,
            "split": pl.String,
        }
    )


def _write_thresholds(
    coding: Coding, thresholds: dict[str, float], ranks: dict[str, float], workdir: Workdir
) -> None:
    """What `suggest_codes` decides by."""

    def build(folder: Path) -> None:
        about = {"threshold": thresholds, "tuning_f1_micro": ranks}
        (folder / "thresholds.json").write_text(json.dumps(about, indent=1))

    models = [r.fingerprint for r in workdir.records if r.name.startswith(f"model/{coding.name}/")]
    workdir.stage(
        f"evaluation/{coding.name}", build, inputs={"models": models, "threshold": thresholds}
    )


def _losses(coding: Coding, fitted: Fitted) -> list[LossCurve]:
    """The encoder's alone: what the networks lose on codes is no loss a token."""
    folders = {folder.parent for (name, _), folder in fitted.folders.items() if name == coding.name}
    histories = [folder / "encoder" / "history.json" for folder in folders]
    history = next((file for file in histories if file.is_file()), None)
    if history is None:
        return []
    found = json.loads(history.read_text())
    kept = {key: found[key] for key in ("tokens", "loss", "tuning_loss", "best")}
    return [LossCurve(label=f"Encoder of {coding.name}", **kept)]


def _notes(card: Card, coding: Coding, fitted: Fitted, config: MedicalCodingConfig) -> list[str]:
    cohort = coding.cohort
    notes = [f"{len(cohort.labels):,} codes can be given."]
    covered = cohort.coverage.filter(pl.col("split") == "held_out")
    if len(covered) and covered["pairs"][0]:
        share = covered["kept"][0] / covered["pairs"][0]
        notes.append(
            f"They are {100 * share:.1f} % of what held-out admissions were billed with; the rest "
            "is too rare to be learnt, and counts in no number here."
        )
    for (name, model), folder in fitted.folders.items():
        if name == coding.name:
            history = json.loads((folder / "history.json").read_text())
            for restart in history["restarts"]:
                label = card.models.get(model, "The control")
                notes.append(
                    f"{label} diverged in epoch {restart['epoch'] + 1} ({restart['reason']}) and "
                    "went on from the last good one with a lower rate."
                )
    if config.paper_compat:
        notes.append("The published rules are in force (paper_compat).")
    return notes
