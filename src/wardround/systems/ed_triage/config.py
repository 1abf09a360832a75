"""Settings of the ED-triage benchmark, with the published sizes as the `paper` preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wardround.system import SystemConfig

Task = Literal["ed-hospitalisation", "ed-critical", "ed-return-72h", "ed-critical-disposition"]

ScoreName = Literal[
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
]
TabularName = Literal[
    "logistic_regression",
    "random_forest",
    "gradient_boosting",
    "lightgbm",
    "xgboost",
]
NetworkName = Literal["mlp", "code_bag", "lstm"]
Model = Literal[ScoreName, "autoscore", TabularName, NetworkName]

SCORES: tuple[ScoreName, ...] = get_args(ScoreName)
TABULAR: tuple[TabularName, ...] = get_args(TabularName)
NEURAL: tuple[NetworkName, ...] = get_args(NetworkName)


#: How far back diagnoses count: five years.
LOOKBACK_DAYS = 5 * 365
Share = Annotated[float, Field(gt=0, lt=1)]


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

    tasks: tuple[Task, ...] = Field(get_args(Task), min_length=1)
    models: tuple[Model, ...] = Field(get_args(Model), min_length=1)
    split_by: Literal["subject", "visit"] = "subject"
    fractions: tuple[Share, Share, Share] = Field(
        (0.7, 0.1, 0.2), description="of train, tuning and held out"
    )
    lookback_days: int = Field(LOOKBACK_DAYS, ge=1)
    bootstrap: int = Field(1000, ge=0, description="resamples of subjects for each interval")
    control_repeats: int = Field(
        20, ge=1, description="models on shuffled labels whose metrics are averaged"
    )
    split_control: bool = Field(
        True, description="also measure a random forest on the other way to split, by visit or not"
    )
    forest_trees: int = Field(100, ge=1)
    autoscore_forest_trees: int = Field(100, ge=1)
    mlp: Mlp = Mlp()
    code_bag: CodeBag = CodeBag()
    lstm: Lstm = Lstm()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(sum(self.fractions) - 1) > 1e-9:
            raise ValueError(f"fractions must add up to 1, got {self.fractions}")
        if self.paper_compat and self.lookback_days != LOOKBACK_DAYS:
            raise ValueError("paper_compat has its own lookback of 1,780 days; leave lookback_days")
        return self
