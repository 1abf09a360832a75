"""The results contract: everything that a report shows, as plain data.

`metrics.json` of a run is one `Results`. Undefined numbers (a metric of one class) are null.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Part):
    """A number, and the 95 % interval of its bootstrap where there is one."""

    value: float | None
    low: float | None = None
    high: float | None = None


class FlowStep(_Part):
    """How many rows and subjects are left after a rule of the cohort."""

    step: str
    rows: int
    subjects: int


class SplitCount(_Part):
    """Size of one split; `positives` is null where the outcome is not binary."""

    split: str
    subjects: int
    rows: int
    positives: int | None


class OperatingPoint(_Part):
    """What a threshold that was chosen on the tuning split does on the held-out one."""

    rule: str
    threshold: float
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    alert_rate: Estimate


class CalibrationBin(_Part):
    """Mean predicted and observed risk of one bin, with the Wilson interval of the latter."""

    predicted: float
    observed: float
    low: float
    high: float
    count: int


class Curves(_Part):
    """Points to draw, thinned: ROC as (1 - specificity, sensitivity), PR as (recall, precision)."""

    roc: list[tuple[float, float]]
    pr: list[tuple[float, float]]
    calibration: list[CalibrationBin]


class SubgroupRow(_Part):
    """Metrics of one group of patients."""

    attribute: str
    group: str
    rows: int
    positives: int
    metrics: dict[str, Estimate]


class Importance(_Part):
    """How much a feature matters to a model; larger is more."""

    feature: str
    value: float


class ModelResult(_Part):
    """One model on one task, measured on the held-out split.

    Attributes:
        name: key in the card, such as `gradient_boosting`.
        label: as people read it.
        metrics: `auroc`, `auprc`, `brier`, `calibration_intercept`, `calibration_slope`, `ece` of
            a binary outcome; `mae`, `bias` of a number; `top_1`, `top_5` of a class.
        importance_kind: what the importance values are, such as `permutation, loss of AUROC`.
        note: anything that a reader of the row must know.
    """

    name: str
    label: str
    metrics: dict[str, Estimate]
    curves: Curves | None = None
    operating_points: list[OperatingPoint] = []
    subgroups: list[SubgroupRow] = []
    importance: list[Importance] = []
    importance_kind: str = ""
    note: str = ""


class Banded(_Part):
    """One metric of several models over bands of the rows or the classes, such as code chapters.

    Attributes:
        title, caption: as people read them.
        bands: names, in order.
        counts: how many rows or classes each band holds.
        metric: key of the metric.
        values: by the label of a model, one a band.
    """

    title: str
    caption: str = ""
    bands: list[str]
    counts: list[int]
    metric: str
    values: dict[str, list[Estimate]]


class Span(_Part):
    """Characters `start` to `stop` of a text; `weight` from 0 to 1 says how much they mattered."""

    start: int
    stop: int
    weight: float


class Excerpt(_Part):
    """A piece of a note with what a model looked at; of synthetic or open notes only."""

    title: str
    caption: str = ""
    text: str
    spans: list[Span]


class PairedComparison(_Part):
    """`first` minus `second` in one metric on the same resamples of subjects."""

    metric: str
    first: str
    second: str
    difference: Estimate
    p_value: float | None


class TaskResult(_Part):
    """Everything about one task.

    Attributes:
        unit: what one row is, as people say it, in the plural.
        flow: the cohort, rule by rule.
        models: in the order of the report.
        controls: rows that must not look like models: labels shuffled, visits split at random.
        headline: the metric that the summary and the chart of models show.
        banded: where models do well and badly.
        excerpts: what a model looked at in a few notes.
    """

    name: str
    title: str
    description: str
    unit: str = "predictions"
    flow: list[FlowStep]
    splits: list[SplitCount]
    models: list[ModelResult]
    controls: list[ModelResult] = []
    comparisons: list[PairedComparison] = []
    headline: str = "auroc"
    banded: list[Banded] = []
    excerpts: list[Excerpt] = []
    notes: list[str] = []


class Reported(_Part):
    """A number of a paper and where it stands."""

    task: str
    model: str
    metric: str
    value: float
    source: str


class StageTiming(_Part):
    """What a stage of a run cost; `skipped` ones were found from an earlier start."""

    name: str
    seconds: float
    peak_mb: float
    skipped: bool


class LossCurve(_Part):
    """How a model learnt: mean loss over the training so far, look by look.

    Attributes:
        label: as people read it.
        tokens: trained on at each look.
        loss, tuning_loss: nats a token, since the look before and on tuning patients.
        best: which look saw the weights that were kept, from 0.
    """

    label: str
    tokens: list[int]
    loss: list[float]
    tuning_loss: list[float]
    best: int


class Results(_Part):
    """What a run found. The runner fills everything but `tasks`, `training`, `notes`.

    Attributes:
        departures: from the paper, in force; those that `paper_compat` undid are `undone`.
    """

    tasks: list[TaskResult]
    training: list[LossCurve] = []
    notes: list[str] = []
    system: str = ""
    title: str = ""
    paper: str = ""
    preset: str = ""
    reported: list[Reported] = []
    departures: list[str] = []
    undone: list[str] = []
    data: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    stages: list[StageTiming] = []

    def to_json(self) -> str:
        """As text; the same results give the same text."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not results of this version.
        """
        return cls.model_validate_json(text)
