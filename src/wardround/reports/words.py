"""Numbers as text: cells of tables, and the plain sentences above them."""

from __future__ import annotations

from collections.abc import Sequence

from wardround.evaluation import Estimate, ModelResult, SplitCount, TaskResult

METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier",
    "calibration_intercept": "Cal. intercept",
    "calibration_slope": "Cal. slope",
    "ece": "ECE",
    "mae": "Mean absolute error",
    "bias": "Bias",
    "top_1": "Top 1",
    "top_5": "Top 5",
    "f1_micro": "Micro F1",
    "f1_macro": "Macro F1",
    "f1_macro_mullenbach": "Macro F1 (as formerly computed)",
    "auc_micro": "Micro AUC",
    "auc_macro": "Macro AUC",
    "exact_match_ratio": "Exact match",
    "map": "MAP",
    "r_precision": "R-precision",
    "precision_at_5": "P@5",
    "precision_at_8": "P@8",
    "precision_at_15": "P@15",
    "recall_at_10": "R@10",
    "recall_at_15": "R@15",
}
#: Shuffled labels beyond this distance from one half mean that rows and outcomes are out of step.
CHANCE_BAND = 0.03
_NONE = "–"


def metric_label(metric: str) -> str:
    """The name that people use for a metric's key."""
    return METRICS.get(metric, metric.replace("_", " "))


def number(value: float | None, digits: int = 3) -> str:
    """Fixed decimals; a dash for what is undefined."""
    return _NONE if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share as a percentage: whole, or with a decimal below ten."""
    if value is None:
        return _NONE
    return f"{100 * value:.1f} %" if value < 0.0995 else f"{100 * value:.0f} %"


def interval(estimate: Estimate) -> str:
    """`low to high`, or nothing where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{number(estimate.low)} to {number(estimate.high)}"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def p_value(value: float | None) -> str:
    """A p value, never as zero."""
    if value is None:
        return _NONE
    return "< 0.002" if value < 0.002 else number(value)


def leader(task: TaskResult) -> ModelResult | None:
    """The model that ranked best on the tuning split: the one the others are compared with."""
    if not task.comparisons:
        return None
    label = task.comparisons[0].first
    return next((model for model in task.models if model.label == label), None)


def verdict(task: TaskResult) -> list[str]:
    """What a task came to, in a few sentences for a reader who skips the tables."""
    held_out = task.splits[-1] if task.splits else None
    if held_out is None or not held_out.rows:
        return ["No held-out rows: nothing was measured."]
    if held_out.positives is None:
        return _other(task, held_out)
    sentences = [
        f"{held_out.positives:,} of {held_out.rows:,} held-out {task.unit} "
        f"({percent(held_out.positives / held_out.rows)}, {held_out.subjects:,} patients) had the "
        "outcome."
    ]
    best = leader(task)
    if best is None:
        return [*sentences, "That does not allow models to be compared."]
    sentences += _ranking(best)
    sentences += _alerts(best, task.unit)
    sentences += _calibrated(best)
    sentences += _shuffled(task.controls)
    return sentences


def _other(task: TaskResult, held_out: SplitCount) -> list[str]:
    """Of an outcome that is no event: the headline, or else the first metric, of each model."""
    found = []
    for model in [*task.models, *task.controls]:
        name = task.headline if task.headline in model.metrics else next(iter(model.metrics), None)
        if name is not None:
            found.append((model.label, name, model.metrics[name]))
    measured = "; ".join(
        f"{label}: {metric_label(name)} {number(e.value)}"
        + (f" ({interval(e)})" if interval(e) else "")
        for label, name, e in found
    )
    rows = f"{held_out.rows:,} held-out {task.unit} of {held_out.subjects:,} patients."
    return [rows, f"{measured}."] if found else [rows]


def _ranking(best: ModelResult) -> list[str]:
    auroc = best.metrics.get("auroc")
    if auroc is None or auroc.value is None:
        return []
    within = f" (95 % interval {interval(auroc)})" if interval(auroc) else ""
    return [
        f"{best.label}, chosen on tuning data, ranks one with the outcome above one without it in "
        f"{percent(auroc.value)} of pairs{within}."
    ]


def _alerts(best: ModelResult, unit: str) -> list[str]:
    if not best.operating_points:
        return []
    point = best.operating_points[0]
    if point.ppv.value is None or point.sensitivity.value is None:
        return []
    return [
        f"At its threshold ({point.rule}) it flags {percent(point.alert_rate.value)} of {unit}, "
        f"finds {percent(point.sensitivity.value)} of the outcomes, and "
        f"{percent(point.ppv.value)} of its flags are right."
    ]


def _calibrated(best: ModelResult) -> list[str]:
    slope = best.metrics.get("calibration_slope")
    if slope is None or slope.value is None or slope.low is None or slope.high is None:
        return []
    if slope.low <= 0 and slope.high >= 1:
        return [
            f"The data are too few to judge its calibration (slope {number(slope.value, 2)}, "
            f"{interval(slope)})."
        ]
    if slope.low <= 1 <= slope.high:
        return [f"Its calibration slope, {number(slope.value, 2)}, is compatible with 1."]
    kind = "too extreme" if slope.value < 1 else "too timid"
    return [
        f"Its risks are {kind} (calibration slope {number(slope.value, 2)}, "
        f"{interval(slope)}): read them as a ranking."
    ]


def _shuffled(controls: Sequence[ModelResult]) -> list[str]:
    for control in controls:
        found = control.metrics.get("auroc")
        if control.name == "shuffled_labels" and found and found.value is not None:
            if abs(found.value - 0.5) <= CHANCE_BAND:
                judged = "chance, as it must be"
            elif found.low is not None and found.high is not None and found.low < 0.5 < found.high:
                judged = "within the spread of chance at this size"
            else:
                judged = "not chance: rows and outcomes are out of step, read no further"
            return [
                f"Trained on shuffled outcomes, models reach an AUROC of {number(found.value)}: "
                f"{judged}."
            ]
    return ["No shuffled control was run."]
