"""The pages: results in, one self-contained HTML file out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from wardround.errors import WardroundError
from wardround.evaluation import Estimate, Excerpt, ModelResult, Reported, Results, TaskResult
from wardround.reports import words
from wardround.reports.figures import (
    SHOWN,
    banded_chart,
    forest,
    loss_curves,
    model_curves,
    subgroup_forest,
)

#: Columns of the comparison table, as far as models have them, and those of the paper's numbers.
_COLUMNS = ("auroc", "auprc", "brier", "calibration_slope", "calibration_intercept", "ece")
_PAPER_COLUMNS = ("auroc", "auprc", "f1_micro", "f1_macro", "map", "precision_at_8")
#: Bars of an importance chart.
_FEATURES = 12
#: An open data set of fewer patients, such as MIMIC-IV's demo, is one to try things on.
SMALL = 1_000


@dataclass(frozen=True)
class _PaperNumber:
    value: float
    footnote: int


class _PaperNumbers:
    """A paper's numbers by model and metric for one task, with footnotes for their sources."""

    def __init__(self, reported: Sequence[Reported]) -> None:
        self.sources: list[str] = list(dict.fromkeys(r.source for r in reported))
        self._found = {
            (r.task, r.model, r.metric): _PaperNumber(r.value, self.sources.index(r.source) + 1)
            for r in reported
        }

    def find(self, task: str, model: str, metric: str) -> _PaperNumber | None:
        return self._found.get((task, model, metric))

    def columns(self, task: TaskResult) -> list[str]:
        return [
            metric
            for metric in _PAPER_COLUMNS
            if any(self.find(task.name, model.name, metric) for model in task.models)
        ]


def render_report(results: Results, path: Path) -> None:
    """Write the report of one run.

    Args:
        results: of the run.
        path: the HTML file; it needs no other file and no network.
    """
    paper = _PaperNumbers(results.reported)
    page = environment().get_template("run.html.j2")
    text = page.render(
        results=results,
        paper=paper,
        warnings=_warnings(results),
        tasks=[_task_context(task, paper) for task in results.tasks],
        losses=Markup(loss_curves(results.training, "losses")) if results.training else "",
        config=yaml.safe_dump(results.config, sort_keys=False, allow_unicode=True),
        environment=_environment_rows(results.environment),
        total=sum(stage.seconds for stage in results.stages if not stage.skipped),
        peak=max((stage.peak_mb for stage in results.stages), default=0.0),
    )
    path.write_text(text, encoding="utf-8")


def compare_report(runs: Sequence[Results], path: Path) -> None:
    """Write a page with runs side by side.

    Args:
        runs: two or more; those on other data are marked, for their numbers do not compare.
        path: the HTML file.

    Raises:
        WardroundError: fewer than two runs, or no task that all of them have.
    """
    if len(runs) < 2:
        raise WardroundError("a comparison takes two runs or more")
    shared = [
        task.name
        for task in runs[0].tasks
        if all(task.name in {other.name for other in run.tasks} for run in runs[1:])
    ]
    if not shared:
        has = "; ".join(
            f"{letter} has {', '.join(t.name for t in run.tasks) or 'none'}"
            for letter, run in zip(_letters(len(runs)), runs, strict=True)
        )
        raise WardroundError(f"these runs have no task in common: {has}")
    page = environment().get_template("comparison.html.j2")
    letters = _letters(len(runs))
    text = page.render(
        runs=list(zip(letters, runs, strict=True)),
        warnings=_differences(runs),
        settings=_changed_settings(runs),
        tasks=[_compared_task(name, letters, runs) for name in shared],
    )
    path.write_text(text, encoding="utf-8")


def environment() -> Environment:
    """Templates of this room, with filters that write numbers as text; all is escaped."""
    jinja = Environment(
        loader=PackageLoader("wardround.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    filters: dict[str, Callable[..., str]] = {
        "metric": words.metric_label,
        "number": words.number,
        "percent": words.percent,
        "interval": words.interval,
        "duration": words.duration,
        "p_value": words.p_value,
    }
    jinja.filters.update(filters)
    # A closing tag inside the library's text would end the script early.
    jinja.globals["plotly"] = lambda: Markup(get_plotlyjs().replace("</script", "<\\/script"))
    return jinja


def _warnings(results: Results) -> list[str]:
    warnings = list(results.notes)
    if results.data.get("access") == "synthetic":
        warnings.insert(
            0,
            "Synthetic patients: these numbers show that the software works. They say nothing "
            "about people, and nothing about how the paper's models compare on real records.",
        )
    subjects = results.data.get("subjects", SMALL)
    if results.data.get("access") == "open" and subjects < SMALL:
        warnings.insert(
            0,
            f"{subjects:,} patients of an open data set: these numbers show that the software "
            "works on real records. They are too few to stand beside the paper's.",
        )
    return warnings


def _task_context(task: TaskResult, paper: _PaperNumbers) -> dict[str, Any]:
    best = words.leader(task)
    headline = task.headline
    leading = _leading(task, best)
    metrics = _present(task.models, _COLUMNS)
    return {
        "result": task,
        "binary": all(split.positives is not None for split in task.splits),
        "verdict": words.verdict(task),
        "best": best,
        "metrics": metrics,
        "paper_columns": paper.columns(task),
        "curves": Markup(model_curves(task.models, leading, f"{task.name}-curves")),
        "forest": Markup(
            forest(
                [(m.label, m.metrics[headline]) for m in task.models if headline in m.metrics],
                f"{words.metric_label(headline)}, 95 % interval",
                f"{task.name}-forest",
                chance=0.5 if headline == "auroc" else None,
            )
        ),
        "banded": [
            (
                banded,
                Markup(
                    banded_chart(
                        banded, words.metric_label(banded.metric), f"{task.name}-banded-{number}"
                    )
                ),
            )
            for number, banded in enumerate(task.banded)
        ],
        "excerpts": [(excerpt, _segments(excerpt)) for excerpt in task.excerpts],
        "subgroups": _subgroups(task, best),
        "operating": [m for m in task.models if m.operating_points],
        "importance": [_bars(m) for m in task.models if m.importance],
    }


def _leading(task: TaskResult, best: ModelResult | None) -> list[str]:
    """The best model, and others of the order of the report that give it company."""
    names = [model.name for model in task.models if model.curves]
    company = names[:: max(1, len(names) // SHOWN)][:SHOWN]
    return [best.name, *company] if best else company


def _present(models: Sequence[ModelResult], wanted: Sequence[str]) -> list[str]:
    """Wanted metrics that any model has, then any others."""
    found = {metric: None for model in models for metric in model.metrics}
    return [m for m in wanted if m in found] + [m for m in found if m not in wanted]


def _subgroups(task: TaskResult, best: ModelResult | None) -> dict[str, Any] | None:
    """The leading model's subgroups, or those of the first model that has any."""
    having = [m for m in ([best] if best else []) + list(task.models) if m.subgroups]
    if not having:
        return None
    model = having[0]
    return {
        "model": model,
        "metrics": _present_in_groups(model),
        "forest": Markup(
            subgroup_forest(
                model.subgroups, "auroc", f"AUROC of {model.label}", f"{task.name}-subgroups"
            )
        ),
    }


def _present_in_groups(model: ModelResult) -> list[str]:
    return list(dict.fromkeys(metric for row in model.subgroups for metric in row.metrics))


def _segments(excerpt: Excerpt) -> list[tuple[str, float]]:
    """The text cut at its spans, each piece with its weight: 0 where no span lies."""
    pieces, at = [], 0
    for span in sorted(excerpt.spans, key=lambda span: span.start):
        pieces.append((excerpt.text[at : span.start], 0.0))
        pieces.append((excerpt.text[span.start : span.stop], span.weight))
        at = span.stop
    pieces.append((excerpt.text[at:], 0.0))
    return [(text, weight) for text, weight in pieces if text]


def _bars(model: ModelResult) -> dict[str, Any]:
    rows = model.importance[:_FEATURES]
    top = max((abs(row.value) for row in rows), default=0.0) or 1.0
    return {
        "model": model,
        "rows": [(row.feature, row.value, round(100 * abs(row.value) / top, 1)) for row in rows],
    }


def _environment_rows(environment: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in environment.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        rows.append((key.replace("_", " "), str(value)))
    return rows


def _letters(count: int) -> list[str]:
    """A, B, … Z, A1, B1, …"""
    return [chr(ord("A") + i % 26) + (str(i // 26) if i >= 26 else "") for i in range(count)]


def _differences(runs: Sequence[Results]) -> list[str]:
    warnings = []
    if len({run.data.get("fingerprint") for run in runs}) > 1:
        warnings.append(
            "The runs saw different data: a difference between their numbers is not a difference "
            "between models."
        )
    elif _held_out_differs(runs):
        warnings.append(
            "The runs held out different rows (another split, cohort or rule): compare with care."
        )
    if any(run.data.get("access") == "synthetic" for run in runs):
        warnings.append("Some of the patients are synthetic; those numbers say nothing of people.")
    return warnings


def _held_out_differs(runs: Sequence[Results]) -> bool:
    """Whether a task that runs share has other sizes of its splits in some."""
    sizes: dict[str, set[str]] = {}
    for run in runs:
        for task in run.tasks:
            splits = [(split.split, split.rows, split.positives) for split in task.splits]
            sizes.setdefault(task.name, set()).add(repr(splits))
    return any(len(found) > 1 for found in sizes.values())


def _changed_settings(runs: Sequence[Results]) -> list[tuple[str, list[str]]]:
    """Settings, data and versions in which the runs differ."""
    tables = [
        _flat(
            {
                "system": run.system,
                "config": run.config,
                "data": {k: v for k, v in run.data.items() if k != "path"},
                "wardround": run.environment.get("wardround"),
            }
        )
        for run in runs
    ]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [(key, [table.get(key, "") for table in tables]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    leaves: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= _flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return leaves


def _compared_task(name: str, letters: Sequence[str], runs: Sequence[Results]) -> dict[str, Any]:
    tasks = [next(task for task in run.tasks if task.name == name) for run in runs]
    labels = dict.fromkeys(
        (m.name, m.label) for task in tasks for m in [*task.models, *task.controls]
    )
    found = [{m.name: m for m in [*task.models, *task.controls]} for task in tasks]
    rows = [
        (label, [_metrics_of(models.get(model)) for models in found]) for model, label in labels
    ]
    headline = tasks[0].headline
    drawn = [
        (f"{label} · {letter}", cell[headline])
        for label, cells in rows
        for letter, cell in zip(letters, cells, strict=True)
        if headline in cell
    ]
    return {
        "name": name,
        "title": tasks[0].title,
        "splits": [task.splits[-1] if task.splits else None for task in tasks],
        "unit": tasks[0].unit,
        "rows": rows,
        "metrics": [m for m in _PAPER_COLUMNS if any(m in c for _, cells in rows for c in cells)],
        "forest": Markup(
            forest(
                drawn,
                f"{words.metric_label(headline)}, 95 % interval",
                f"{name}-forest",
                chance=0.5 if headline == "auroc" else None,
            )
        ),
    }


def _metrics_of(model: ModelResult | None) -> dict[str, Estimate]:
    return model.metrics if model else {}
