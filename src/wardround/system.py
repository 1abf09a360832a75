"""What a system is: a card, a config, and three steps. Third parties implement the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wardround.errors import WardroundError
from wardround.evaluation import Reported, Results, RiskCurves, Span
from wardround.store import PatientStore
from wardround.workdir import Workdir

ENTRY_POINT_GROUP = "wardround.systems"


class TaskCard(BaseModel):
    """One prediction task of a system."""

    model_config = ConfigDict(extra="forbid")
    title: str
    description: str


class ReportedTable(BaseModel):
    """Numbers of one table of a paper: values[model][task][metric]."""

    model_config = ConfigDict(extra="forbid")
    source: str
    values: dict[str, dict[str, dict[str, float]]]


class Card(BaseModel):
    """What a system rebuilds, what its paper reports, and where ours departs from it.

    Attributes:
        departures: always in force.
        paper_compat: in force unless the run sets `paper_compat`.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    title: str
    paper: str
    summary: str
    needs: str
    hardware: str
    state: str
    tasks: dict[str, TaskCard]
    models: dict[str, str]
    reported_tables: list[ReportedTable]
    departures: list[str]
    paper_compat: list[str]

    @property
    def reported(self) -> list[Reported]:
        """Every reported number, one by one."""
        return [
            Reported(task=task, model=model, metric=metric, value=value, source=table.source)
            for table in self.reported_tables
            for model, tasks in table.values.items()
            for task, metrics in tasks.items()
            for metric, value in metrics.items()
        ]

    @classmethod
    def load(cls, path: Path) -> Card:
        """Read a card.yaml; a fault in it is named with its place."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()))
        except (yaml.YAMLError, ValidationError) as error:
            raise WardroundError(f"{path}: {first_fault(error)}") from error


class SystemConfig(BaseModel):
    """Settings that every system has. A subclass adds its own and says what `presets` change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tiny": {}, "paper": {}}

    preset: str = "tiny"
    seed: int = Field(0, ge=0)
    threads: int = Field(default=0, ge=0, description="worker threads; 0 takes every core")
    paper_compat: bool = Field(
        default=False, description="the published rules, mistakes included; see the card"
    )

    @property
    def files(self) -> list[Path]:
        """Files that settings name; what they hold is part of a run's identity."""
        return []

    def file_hashes(self) -> dict[str, str]:
        """SHA-256 of `files`, by path.

        Raises:
            WardroundError: one is missing.
        """
        hashes = {}
        for path in self.files:
            try:
                hashes[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise WardroundError(f"{path}: no such file; a setting names it") from error
        return hashes

    @classmethod
    def build(cls, preset: str, overrides: Iterable[str] = ()) -> Self:
        """Start from a preset and apply `key=value` settings (dotted keys, YAML values).

        Raises:
            WardroundError: unknown preset or key, or a value that does not fit.
        """
        if preset not in cls.presets:
            raise WardroundError(
                f"unknown preset {preset!r}; choose one of {', '.join(cls.presets)}"
            )
        settings: dict[str, Any] = {"preset": preset}
        _merge(settings, cls.presets[preset])
        for item in overrides:
            key, equals, value = item.partition("=")
            if not equals or not key:
                raise WardroundError(f"--set takes key=value, got {item!r}")
            try:
                parsed = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise WardroundError(
                    f"--set {item}: the value is not YAML: {first_fault(error)}"
                ) from error
            if key == "preset":
                raise WardroundError(f"--set {item}: a preset is chosen by --preset")
            nested: dict[str, Any] = {}
            place = nested
            *parents, last = key.split(".")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = parsed
            _merge(settings, nested)
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            known = ", ".join(cls.model_fields)
            raise WardroundError(f"--set {first_fault(error)} (settings: {known})") from error


@dataclass(frozen=True)
class Evaluation:
    """What a run ends in.

    Attributes:
        results: metrics, curves and everything that the report shows.
        predictions: MEDS predictions (`subject_id`, `prediction_time`, `boolean_value`,
            `predicted_boolean_value`, `predicted_boolean_probability`) with `task`, `model` and
            `split` beside them.
    """

    results: Results
    predictions: pl.DataFrame


@runtime_checkable
class System(Protocol):
    """A published system. `prepare` and `fit` hand on what they please; nobody else reads it."""

    card: Card
    Config: type[SystemConfig]

    def prepare(self, store: PatientStore, config: Any, workdir: Workdir) -> Any:
        """Build cohorts, labels and views."""
        ...

    def fit(self, prepared: Any, config: Any, workdir: Workdir) -> Any:
        """Train every model, baselines and the label-shuffled control included."""
        ...

    def evaluate(self, fitted: Any, prepared: Any, config: Any, workdir: Workdir) -> Evaluation:
        """Predict and measure."""
        ...


@runtime_checkable
class FollowsStays(Protocol):
    """A system whose finished runs tell the risks of a running stay."""

    def stay_risk(
        self,
        run: Path,
        store: PatientStore,
        stay_id: int,
        *,
        until: datetime | None = None,
        futures: int | None = None,
        points: int | None = None,
    ) -> RiskCurves:
        """Estimate the risks of a stay at every time at which something became known."""
        ...


@dataclass(frozen=True)
class Suggestion:
    """A code that a model gives to a note.

    Attributes:
        code, description, kind: as the store has them; the description may be missing.
        probability: as the model has it.
        suggested: above the threshold that was tuned.
        evidence: characters of the note that carried it, the heaviest first; none where the model
            cannot tell.
        model: its name.
    """

    code: str
    description: str | None
    kind: str
    probability: float
    suggested: bool
    evidence: list[Span]
    model: str


@runtime_checkable
class CodesNotes(Protocol):
    """A system whose finished runs give codes to a note."""

    def suggest_codes(
        self, run: Path, text: str, *, task: str | None = None, model: str | None = None
    ) -> list[Suggestion]:
        """Codes of a note, the most probable first."""
        ...


def available_systems() -> dict[str, EntryPoint]:
    """Installed systems by name, none of them imported yet."""
    return {point.name: point for point in sorted(entry_points(group=ENTRY_POINT_GROUP))}


def load_system(name: str) -> System:
    """Import a system by its name.

    Raises:
        WardroundError: no such system, or it needs an extra that is not installed.
    """
    points = available_systems()
    if name not in points:
        raise WardroundError(f"unknown system {name!r}; installed: {', '.join(points) or 'none'}")
    try:
        system = points[name].load()
    except ImportError as error:
        raise WardroundError(
            f"system {name} needs the package {error.name or error}, which is not installed"
        ) from error
    if not isinstance(system, System):
        raise WardroundError(f"entry point {points[name].value} is not a wardround system")
    return system


def first_fault(error: ValidationError | yaml.YAMLError) -> str:
    """The first fault of a declared file or setting, on one line with its place."""
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        more = f" (+{error.error_count() - 1} more)" if error.error_count() > 1 else ""
        return f"{place}: {fault['msg']}{more}"
    return " ".join(str(error).split())


def _merge(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
