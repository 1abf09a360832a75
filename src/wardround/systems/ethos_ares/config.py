"""Settings of ETHOS-ARES, with the published sizes as the `paper` preset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from wardround.system import SystemConfig
from wardround.views.table.windows import AGGREGATIONS
from wardround.views.timeline import load_preset

ScoreName = Literal["news", "news2", "mews"]
Baseline = Literal[ScoreName, "logistic_regression", "lightgbm", "xgboost"]
SCORES: tuple[ScoreName, ...] = get_args(ScoreName)

#: Tasks that ARES follows through a stay.
RUNNING = ("hospital-mortality", "icu-admission", "prolonged-stay", "composite")
TASKS = (
    "hospital-mortality",
    "icu-admission",
    "prolonged-stay",
    "composite",
    "readmission-30d",
    "ed-hospitalisation",
    "ed-critical-12h",
    "ed-return-72h",
    "icu-mortality",
    "icu-readmission",
    "length-of-stay",
    "icu-length-of-stay",
    "drg",
    "sofa-first-day",
)


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tokens(Part):
    """How records become tokens."""

    preset: str = Field("ethos", description="a preset of views/timeline, or a file of one")
    drug_table: Path | None = Field(None, description="CSV of drug names and their ATC codes")


class Network(Part):
    """Sizes of the decoder; see `wardround.models.DecoderConfig`."""

    context: int = Field(2048, ge=16)
    layers: int = Field(6, ge=1)
    heads: int = Field(12, ge=1)
    width: int = Field(768, ge=8)
    hidden: int = Field(3072, ge=8)
    positions: Literal["learned", "rotary"] = "learned"
    dropout: float = Field(0.3, ge=0, lt=1)


class Training(Part):
    """The recipe; see `wardround.training.PretrainConfig`. Defaults as published."""

    iterations: int = Field(200_000, ge=1)
    batch: int = Field(32, ge=1)
    accumulation: int = Field(16, ge=1)
    learning_rate: float = Field(6e-4, gt=0)
    final_learning_rate: float = Field(1e-5, ge=0)
    warmup: int = Field(5_000, ge=0)
    decay: int = Field(100_000, ge=1)
    weight_decay: float = Field(0.1, ge=0)
    evaluate_every: int = Field(1_000, ge=1)
    evaluation_sequences: int | None = Field(2_000, ge=1, description="of tuning patients")
    patience: int | None = Field(None, ge=1)
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="auto is bfloat16 where the device has it in hardware"
    )
    compile: bool = False
    devices: int = Field(1, ge=1)


class Simulation(Part):
    """How futures are played out and read."""

    futures: int = Field(100, ge=2, description="of each prediction, and of each further round")
    estimator: Literal["count", "survival"] = "survival"
    half_width: float | None = Field(
        None, gt=0, lt=0.5, description="go on until 95 % intervals are no wider than twice this"
    )
    max_futures: int = Field(400, ge=2)
    max_tokens: int = Field(10_000, ge=1, description="a future is given up after so many")
    dtype: Literal["float32", "bfloat16"] = "float32"
    slots: int = Field(256, ge=1, description="futures that are computed together")
    interval: Literal["empirical", "mean"] = Field(
        "empirical", description="how long a simulated interval lasts: drawn, or its mean"
    )
    max_predictions: int = Field(
        20_000, ge=1, description="of a task and split; subjects are drawn at random beyond it"
    )


class Counts(Part):
    """The columns of the tabular baselines; see `wardround.views.table.windows`."""

    windows: tuple[str, ...] = ("1d", "7d", "30d", "365d", "full")
    aggregations: tuple[str, ...] = AGGREGATIONS
    min_count: int = Field(100, ge=1, description="training events that a code needs")
    trees: int = Field(300, ge=1, description="of LightGBM and XGBoost")


class EthosAresConfig(SystemConfig):
    """Settings of a run of `ethos-ares`."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            "network": {
                "context": 512,
                "layers": 3,
                "heads": 4,
                "width": 96,
                "hidden": 384,
                "positions": "rotary",
                "dropout": 0.0,
            },
            "training": {
                "iterations": 800,
                "decay": 800,
                "warmup": 40,
                "batch": 8,
                "accumulation": 1,
                "learning_rate": 3e-3,
                "final_learning_rate": 1e-4,
                "evaluate_every": 200,
                "evaluation_sequences": 50,
            },
            "simulation": {
                "futures": 8,
                "max_predictions": 100,
                "max_tokens": 1_000,
                "slots": 512,
            },
            "windowed_counts": {
                "windows": ("1d", "full"),
                "aggregations": ("static/present", "code/count", "value/min", "value/max"),
                "min_count": 300,
                "trees": 100,
            },
        },
        "small": {
            "network": {
                "context": 512,
                "layers": 4,
                "heads": 4,
                "width": 128,
                "hidden": 512,
                "positions": "rotary",
                "dropout": 0.0,
            },
            "training": {
                "iterations": 1_500,
                "decay": 1_500,
                "warmup": 100,
                "batch": 8,
                "accumulation": 1,
                "learning_rate": 2e-3,
                "final_learning_rate": 5e-5,
                "evaluate_every": 250,
                "evaluation_sequences": 100,
            },
            "simulation": {
                "futures": 8,
                "max_predictions": 300,
                "max_tokens": 2_000,
                "slots": 512,
            },
            "windowed_counts": {"windows": ("1d", "30d", "full"), "min_count": 300},
        },
        "paper": {},
    }

    tasks: tuple[str, ...] = Field(TASKS, min_length=1, description="names, or task files")
    baselines: tuple[Baseline, ...] = get_args(Baseline)
    windowed_counts: Counts = Counts()
    max_training: int = Field(
        100_000, ge=1, description="rows of a task that baselines learn from; the decoder sees all"
    )
    tokens: Tokens = Tokens()
    network: Network = Network()
    training: Training = Training()
    simulation: Simulation = Simulation()
    running: bool = Field(
        True, description="also predict at a random moment of each stay, as ARES does"
    )
    control: bool = Field(
        True, description="also train on timelines whose futures were dealt out anew"
    )
    bootstrap: int = Field(1000, ge=0, description="resamples of subjects for each interval")
    device: str = "auto"

    @property
    def files(self) -> list[Path]:
        """Preset, drug table and task files of the user's own."""
        named = [Path(name) for name in (self.tokens.preset, *self.tasks)]
        own = [path for path in named if path.suffix in (".yaml", ".yml")]
        if Path(self.tokens.preset) in own and own[0].is_file():
            own += load_preset(self.tokens.preset).tables
        return own + ([self.tokens.drug_table] if self.tokens.drug_table else [])

    @property
    def estimator(self) -> Literal["count", "survival"]:
        """`paper_compat` counts, as published."""
        return "count" if self.paper_compat else self.simulation.estimator

    @property
    def mean_intervals(self) -> bool:
        """Whether intervals last their mean, as published."""
        return self.paper_compat or self.simulation.interval == "mean"
