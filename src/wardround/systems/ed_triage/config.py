"""Settings of the ED-triage benchmark, with the published sizes as the `paper` preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from wardround.system import SystemConfig

Task = Literal["ed-hospitalisation", "ed-critical", "ed-return-72h", "ed-critical-disposition"]

SCORES = (
    "esi",
    "news",
    "news2",
    "mews",
    "rems",
    "cart",
    "cci",
    "serp_2d",
    "serp_7d",
    "serp_30d",
)
TABULAR = (
    "logistic_regression",
    "random_forest",
    "gradient_boosting",
    "lightgbm",
    "xgboost",
)
NEURAL = ("mlp", "code_bag", "lstm")

Model = Literal[
    "esi",
    "news",
    "news2",
    "mews",
    "rems",
    "cart",
    "cci",
    "serp_2d",
    "serp_7d",
    "serp_30d",
    "autoscore",
    "logistic_regression",
    "random_forest",
    "gradient_boosting",
    "lightgbm",
    "xgboost",
    "mlp",
    "code_bag",
    "lstm",
]


class Network(BaseModel):
    """How a network is trained. Defaults: the authors' notebooks, batch 200 and Adam at 1e-3."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(200, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    decay: float = Field(0.0, ge=0, description="inverse-time decay a step, as in Keras")
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better tuning AUROC"
    )


class Mlp(Network):
    hidden: tuple[int, ...] = (128, 64)


class CodeBag(Network):
    epochs: int = Field(100, ge=1)
    decay: float = Field(0.01, ge=0)
    embedding: int = Field(1024, ge=1)
    code_hidden: int = Field(256, ge=1)
    hidden: tuple[int, ...] = (128, 50)
    vocabulary: Literal["icd10", "icd9", "3digit"] = "icd10"
    min_count: int = Field(1, ge=1)


class Lstm(Network):
    hidden: int = Field(32, ge=1)
    tabular_hidden: int = Field(96, ge=1)
    head_hidden: int = Field(64, ge=1)
    max_hours: int = Field(72, ge=1)


class EdTriageConfig(SystemConfig):
    """Settings of a run of `ed-triage`."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            "mlp": {"epochs": 12, "patience": 4},
            "code_bag": {"epochs": 6, "embedding": 64, "code_hidden": 64, "patience": 3},
            "lstm": {"epochs": 8, "patience": 3, "max_hours": 24},
            "autoscore_forest_trees": 50,
        },
        "paper": {},
    }

    tasks: tuple[Task, ...] = (
        "ed-hospitalisation",
        "ed-critical",
        "ed-return-72h",
        "ed-critical-disposition",
    )
    models: tuple[Model, ...] = (*SCORES, "autoscore", *TABULAR, *NEURAL)  # type: ignore[assignment]
    split_by: Literal["subject", "visit"] = "subject"
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    lookback_days: int = Field(1825, ge=1)
    paper_compat: bool = Field(
        False, description="the published rules, mistakes included; see the card"
    )
    bootstrap: int = Field(1000, ge=0, description="resamples of subjects for each interval")
    control_repeats: int = Field(
        20, ge=1, description="models on shuffled labels whose metrics are averaged"
    )
    visit_split_control: bool = True
    forest_trees: int = Field(100, ge=1)
    autoscore_forest_trees: int = Field(100, ge=1)
    mlp: Mlp = Mlp()
    code_bag: CodeBag = CodeBag()
    lstm: Lstm = Lstm()
