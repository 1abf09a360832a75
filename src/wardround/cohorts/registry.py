"""Tasks by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal, Protocol

import yaml

from wardround.cohorts.aces import AcesTask
from wardround.cohorts.cohort import Cohort
from wardround.cohorts.emergency import EmergencyTask
from wardround.errors import WardroundError
from wardround.store import PatientStore


class Task(Protocol):
    """Something to predict. `features` names a view's feature set, where one belongs to it."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def features(self) -> Literal["triage", "disposition"] | None: ...

    def extract(self, store: PatientStore, *, paper_compat: bool = False) -> Cohort:
        """Build the cohort."""
        ...


EMERGENCY_TASKS = (
    EmergencyTask("ed-hospitalisation", "Hospitalisation", "hospitalised", "triage"),
    EmergencyTask("ed-critical", "Critical outcome", "critical", "triage"),
    EmergencyTask("ed-return-72h", "Return within 72 hours", "returned", "disposition"),
    EmergencyTask(
        "ed-critical-disposition",
        "Critical outcome, from the disposition set",
        "critical",
        "disposition",
    ),
)


def _shipped() -> dict[str, Path]:
    folder = Path(str(files("wardround.cohorts") / "tasks"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


#: Names that `load_task` knows.
TASKS = (*(task.name for task in EMERGENCY_TASKS), *_shipped())


def load_task(name: str | Path) -> Task:
    """A task by its name, or an ACES task file by its path.

    Raises:
        WardroundError: no such task or file, or not YAML.
    """
    for task in EMERGENCY_TASKS:
        if task.name == str(name):
            return task
    path = _shipped().get(str(name), Path(name))
    if path.suffix not in (".yaml", ".yml"):
        raise WardroundError(
            f"unknown task {str(name)!r}; choose one of {', '.join(TASKS)}, or give an ACES .yaml"
        )
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise WardroundError(f"{path}: no such task file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WardroundError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not {"predicates", "trigger", "windows"} <= set(content):
        raise WardroundError(
            f"{path} is not an ACES task: it needs `predicates`, `trigger` and `windows`"
        )
    title = (content.get("metadata") or {}).get("title", path.stem)
    return AcesTask(path.stem, str(title), path)
