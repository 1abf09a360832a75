"""Results by hand, and HTML taken apart."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from wardround.evaluation import (
    CalibrationBin,
    Curves,
    Estimate,
    FlowStep,
    Importance,
    ModelResult,
    OperatingPoint,
    PairedComparison,
    Reported,
    Results,
    SplitCount,
    StageTiming,
    SubgroupRow,
    TaskResult,
)

VOID = {"meta", "br", "img", "input", "hr", "link"}


class Html(HTMLParser):
    """A page's tags, attributes and visible text; tags that do not match raise."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> in {self._open}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts.append(data)
        elif "style" not in self._open:
            self.texts.append(data)
            if {"td", "th"} & set(self._open):
                self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def row(self, start: str) -> list[str]:
        """The cells of the first row whose first cell starts so."""
        return next(row for row in self.rows if row and row[0].startswith(start))

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]


def plot(div: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Traces and layout of a plotly div."""
    call = re.search(r"Plotly\.newPlot\(\s*\"[^\"]+\",\s*", div)
    assert call is not None
    decoder = json.JSONDecoder()
    traces, end = decoder.raw_decode(div, call.end())
    layout, _ = decoder.raw_decode(div, div.index("{", end))
    return traces, layout


def between(value: float | None, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=low, high=high)


def make_model(name: str, label: str, auroc: Estimate, **others: Any) -> ModelResult:
    return ModelResult(name=name, label=label, metrics={"auroc": auroc}, **others)


@pytest.fixture
def make_task() -> Callable[..., TaskResult]:
    """A task with everything in it; keywords replace parts."""
    curves = Curves(
        roc=[(0, 0), (0.12345678, 0.5), (1, 1)],
        pr=[(0, 1), (1, 0.25)],
        calibration=[CalibrationBin(predicted=0.2, observed=0.25, low=0.1, high=0.4, count=20)],
    )
    boosting = ModelResult(
        name="boosting",
        label="Gradient boosting",
        metrics={
            "auroc": between(0.8123, 0.7012, 0.9034),
            "auprc": between(0.55, 0.44, 0.66),
            "calibration_slope": between(0.61, 0.4, 0.82),
        },
        curves=curves,
        operating_points=[
            OperatingPoint(
                rule="Youden's index",
                threshold=0.3125,
                sensitivity=between(0.75, 0.7, 0.8),
                specificity=between(0.66, 0.6, 0.7),
                ppv=between(0.404, 0.35, 0.45),
                npv=between(0.9, 0.85, 0.95),
                alert_rate=between(0.333, 0.3, 0.36),
            )
        ],
        subgroups=[
            SubgroupRow(
                attribute="arrival_transport",
                group="<script>alert(1)</script>",
                rows=1234,
                positives=321,
                metrics={"auroc": between(0.71, 0.6, 0.82)},
            ),
            SubgroupRow(
                attribute="sex", group="F", rows=9, positives=0, metrics={"auroc": between(None)}
            ),
        ],
        importance=[Importance(feature="age", value=0.5), Importance(feature="sbp", value=0.25)],
        importance_kind="share of the gain",
    )
    news = make_model("news", "NEWS", between(0.7, 0.65, 0.75), curves=curves, note="A score.")
    shuffled = make_model(
        "shuffled_labels", "Labels shuffled (control)", between(0.503, 0.47, 0.53)
    )
    parts: dict[str, Any] = {
        "name": "admission",
        "title": "Admission",
        "description": "The visit ends in one.",
        "unit": "visits",
        "flow": [
            FlowStep(step="Every visit", rows=5000, subjects=3000),
            FlowStep(step="Adults", rows=4321, subjects=2900),
        ],
        "splits": [
            SplitCount(split="train", subjects=2000, rows=3000, positives=700),
            SplitCount(split="held_out", subjects=900, rows=1300, positives=325),
        ],
        "models": [boosting, news],
        "controls": [shuffled],
        "comparisons": [
            PairedComparison(
                metric="auroc",
                first="Gradient boosting",
                second="NEWS",
                difference=between(0.1123, 0.05, 0.17),
                p_value=0.001,
            )
        ],
        "notes": ["Of the task, a note."],
    }
    return lambda **changes: TaskResult(**(parts | changes))


@pytest.fixture
def make_results(make_task: Callable[..., TaskResult]) -> Callable[..., Results]:
    parts: dict[str, Any] = {
        "tasks": [make_task()],
        "notes": ["Of the run, a note."],
        "system": "ed-triage",
        "title": "Triage & more",
        "paper": "Xie et al. 2022",
        "preset": "tiny",
        "reported": [
            Reported(
                task="admission", model="boosting", metric="auroc", value=0.819, source="Table 3"
            ),
            Reported(task="admission", model="news", metric="auprc", value=0.5, source="Notebook"),
            Reported(task="elsewhere", model="news", metric="auroc", value=0.111, source="Table 3"),
        ],
        "departures": ["Subjects, not visits, are split."],
        "data": {
            "path": "/data/store",
            "source": "mimic-iv",
            "source_version": "3.1",
            "access": "credentialed",
            "fingerprint": "abc",
            "subjects": 3000,
            "events": 1_234_567,
        },
        "config": {"seed": 0, "models": ["boosting", "news"], "mlp": {"epochs": 12}},
        "environment": {"wardround": "0.1.0", "cores": 2, "packages": {"numpy": "2.0.1"}},
        "stages": [
            StageTiming(name="work/admission", seconds=7200, peak_mb=1000, skipped=True),
            StageTiming(name="model/boosting", seconds=3.21, peak_mb=2345.6, skipped=False),
        ],
    }
    return lambda **changes: Results(**(parts | changes))
