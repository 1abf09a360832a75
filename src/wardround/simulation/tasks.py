"""Tasks on timelines: where a prediction starts, which tokens answer it, and for how long it asks.

A task is a YAML file. One rule (`outcome`) reads the answer from the true continuation of a
timeline and from a simulated one alike, so that a label and its risk mean the same thing. The
shipped files are those of ETHOS and ARES (Renc et al. 2024, npj Digital Medicine; Renc et al. 2025,
GigaScience giaf107); each says where it departs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wardround.errors import WardroundError
from wardround.simulation.futures import Stops
from wardround.views.timeline import Vocabulary

#: Stands at the end of every record.
TIMELINE_END = "TIMELINE_END"
SECOND = 1_000_000  # of the timelines' microseconds
DAY = 86_400.0
EVENT, NEGATIVE, EXCLUDED = 1, 0, -1

#: Tokens of the two edges of a stay, where the vocabulary has them.
EDGE_TOKENS = {
    ("hospital", "start"): "HOSPITAL_ADMISSION",
    ("hospital", "end"): "HOSPITAL_DISCHARGE",
    ("icu", "start"): "ICU_ADMISSION",
    ("icu", "end"): "ICU_DISCHARGE",
    ("ed", "start"): "ED_ARRIVAL",
    ("ed", "end"): "ED_DEPARTURE",
}
_UNITS = {"m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY, "y": 365.25 * DAY}


def _seconds(value: Any) -> Any:
    """`12h` or `2y` in seconds; a number is that already."""
    if isinstance(value, float):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhdwy])", str(value).strip())
    if not found:
        raise ValueError(f"write a number and one of m, h, d, w, y, such as 30d; got {value!r}")
    return float(found[1]) * _UNITS[found[2]]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Patterns = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Start(_Strict):
    """Where predictions start: at the edge of stays, or at tokens.

    Attributes:
        stay, edge: the start or the end of every stay of a kind.
        admitted: ED visits that led to an admission, or that did not.
        alive: stays that the patient left alive, or died in.
        first: the first of these stays in each hospital admission, or of each subject.
        at: each time at which one of these tokens becomes known, all that is known then included.
        before: each of these tokens; what is known ends directly before it.
    """

    stay: Literal["hospital", "icu", "ed"] | None = None
    edge: Literal["start", "end"] | None = None
    admitted: bool | None = None
    alive: bool | None = None
    first: Literal["admission", "subject"] | None = None
    at: Patterns = ()
    before: Patterns = ()

    @model_validator(mode="after")
    def _one_way(self) -> Start:
        if (self.stay is not None) + bool(self.at) + bool(self.before) != 1:
            raise ValueError("give one of `stay`, `at` and `before`")
        if (self.stay is None) != (self.edge is None):
            raise ValueError("`stay` and `edge` (start or end) go together")
        if self.stay is None and not (self.admitted is self.alive is self.first is None):
            raise ValueError("`admitted`, `alive` and `first` are about stays")
        if self.admitted is not None and self.stay != "ed":
            raise ValueError("`admitted` is about ED visits (stay: ed)")
        return self


class TimelineTask(_Strict):
    """A question to a timeline's future.

    Token patterns are a token's name or its beginning and a star (`DRG//*`); a pattern that begins
    with `!` takes out what others matched, one that ends with `?` may match nothing.

    Attributes:
        kind: `risk`: does an event come. `time`: when. `class`: which of the event's tokens is
            the next one, a readout of the model without simulation.
        start: when predictions are made.
        event: tokens that answer yes; the classes of a `class` task.
        competing: tokens that answer no, when they come first.
        horizon: seconds until the question is closed; both ends count.
        at_horizon: `event`: being still there, neither event nor competing token seen, is the
            event (a prolonged stay).
        ends_unresolved: what becomes of records and paths that reach the horizon or the end of
            the timeline with neither; ETHOS discards them for tasks on stays.
        inject: `class`: this token is put before the answer (SOFA).
    """

    name: str
    title: str
    description: str = ""
    source: str = ""
    kind: Literal["risk", "time", "class"] = "risk"
    start: Start
    event: Patterns = ()
    competing: Patterns = ()
    horizon: Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
    at_horizon: Literal["event", "none"] = "none"
    ends_unresolved: Literal["exclude", "negative"] = "exclude"
    inject: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TimelineTask:
        if not self.event and (self.kind != "risk" or self.at_horizon == "none"):
            raise ValueError("`event` names no token, and `at_horizon` is not `event`")
        if self.kind != "risk" and (self.at_horizon, self.ends_unresolved) != ("none", "exclude"):
            raise ValueError("`at_horizon` and `ends_unresolved` are for kind `risk`")
        if self.kind != "class" and self.inject is not None:
            raise ValueError("`inject` is for kind `class`")
        return self


def timeline_tasks() -> dict[str, Path]:
    """Files of the shipped tasks by name."""
    folder = Path(str(files("wardround.simulation") / "tasks"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_timeline_task(name: str | Path) -> TimelineTask:
    """A shipped task by its name, or one of the user's by the path of its YAML file.

    Raises:
        WardroundError: no such task or file, or a fault in it, with file, line and key.
    """
    shipped = timeline_tasks()
    path = shipped.get(str(name), Path(name))
    if path.suffix not in (".yaml", ".yml"):
        raise WardroundError(
            f"unknown timeline task {str(name)!r}; choose one of {', '.join(shipped)}, "
            "or give a .yaml file"
        )
    try:
        text = path.read_text()
        content = yaml.safe_load(text)
    except OSError as error:
        raise WardroundError(f"{path}: no such task file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WardroundError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise WardroundError(f"{path} is not a timeline task: it needs `start` and `event`")
    try:
        return TimelineTask.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        line = _line_of(yaml.compose(text), fault["loc"])
        raise WardroundError(f"{path}, line {line}: {place or 'task'}: {message}") from error


def _line_of(node: yaml.Node | None, place: Iterable[Any]) -> int:
    """The line of the deepest key on the way to `place`."""
    line = 1
    for key in place:
        if not isinstance(node, yaml.MappingNode):
            break
        found = [(k, v) for k, v in node.value if k.value == key]
        if not found:
            break
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return line


def outcome(
    first_event: np.ndarray,
    first_competing: np.ndarray,
    end: np.ndarray,
    horizon: np.ndarray | float,
    *,
    at_horizon: str = "none",
    ends_unresolved: str = "exclude",
    event_first: np.ndarray | None = None,
) -> np.ndarray:
    """The answer to a task, read from a record or from a simulated path.

    Args:
        first_event, first_competing: seconds from the prediction until such a token, infinite
            where none comes; broadcast together with the rest.
        end: seconds until the timeline ends; infinite for a path that was followed to the horizon.
        horizon: seconds for which the task asks.
        at_horizon, ends_unresolved: see `TimelineTask`.
        event_first: of two that come at the same second, does the event come before; true unless
            told, since a path ends at a competing token and has no event after it.

    Returns:
        `EVENT`, `NEGATIVE` or `EXCLUDED` as int8. An event at the horizon itself counts. So does
        being there at it: who is discharged after ten days to the second had a stay of ten days.
    """
    before = first_event < first_competing
    tied = first_event == first_competing
    before |= tied & np.isfinite(first_event) & (True if event_first is None else event_first)
    happened = before & (first_event <= horizon)
    still_there = at_horizon == "event"
    late = first_competing >= horizon if still_there else first_competing > horizon
    denied = ~before & ~late
    reached = np.minimum(np.minimum(first_event, first_competing), end) >= horizon
    rest = NEGATIVE if ends_unresolved == "negative" else EXCLUDED
    return np.select(
        [happened, denied, reached & still_there], [EVENT, NEGATIVE, EVENT], rest
    ).astype(np.int8)


def token_mask(task: TimelineTask, patterns: Sequence[str], vocabulary: Vocabulary) -> np.ndarray:
    """Which tokens a task's patterns match: bool (V,).

    Raises:
        WardroundError: a pattern matches nothing.
    """
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    optional = [pattern[:-1] for pattern in patterns if pattern.endswith("?")]
    wanted = [pattern for pattern in patterns if pattern[0] != "!" and pattern[-1] != "?"]
    mask = np.isin(
        np.arange(len(vocabulary)), [vocabulary.id(t) for t in optional if t in vocabulary]
    )
    try:
        if wanted:
            mask |= vocabulary.mask(wanted)
        for pattern in unwanted:
            if pattern.endswith("*") or pattern in vocabulary:
                mask &= ~vocabulary.mask([pattern])
    except WardroundError as error:
        raise WardroundError(f"task {task.name}: {error}") from error
    return mask


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that are read from the same futures.

    Attributes:
        tasks: read together; of kind `risk` or `time`.
        stops: what the simulator watches and ends at.
        event, competing, either: number of each task's sets in `stops.sets`.
    """

    tasks: tuple[TimelineTask, ...]
    stops: Stops
    event: tuple[int, ...]
    competing: tuple[int, ...]
    either: tuple[int, ...]

    @property
    def horizon(self) -> float:
        """Seconds for which futures are followed: the longest of the tasks'."""
        return max(task.horizon for task in self.tasks)


def group_tasks(
    tasks: Sequence[TimelineTask],
    vocabulary: Vocabulary,
    *,
    estimator: Literal["count", "survival"] = "count",
    max_tokens: int = 10_000,
) -> list[TaskGroup]:
    """Put tasks together that one set of futures answers at no further cost.

    A task joins one whose paths go on at least as long: its horizon is not longer, the tokens that
    end the other's paths answer it, too, and its competing tokens are among them (a path must not
    go on beyond a competing token, or the order of two that come at once would be lost). The
    survival estimator adds up over a whole path, so that there horizons must be equal.

    Args:
        tasks: of kind `risk` or `time`, asked of the same predictions.
        vocabulary: of the timelines.
        estimator: how risks will be read.
        max_tokens: paths are given up after this many.

    Returns:
        Groups, the longest first; each task is in one.

    Raises:
        WardroundError: a `class` task, or tokens that the vocabulary lacks.
    """
    for task in tasks:
        if task.kind == "class":
            raise WardroundError(f"task {task.name} is of kind class, which is not simulated")
    asked = [_Asked.of(task, vocabulary) for task in tasks]
    groups: list[list[_Asked]] = []
    for one in sorted(asked, key=lambda one: (-one.task.horizon, int(one.either.sum()))):
        home = next((group for group in groups if one.joins(group[0], estimator)), None)
        if home is None:
            groups.append([one])
        else:
            home.append(one)
    end = np.array([token == TIMELINE_END for token in vocabulary.tokens])
    return [_grouped(group, end, max_tokens) for group in groups]


@dataclass(frozen=True)
class _Asked:
    """A task and its sets of tokens, bool (V,)."""

    task: TimelineTask
    event: np.ndarray
    competing: np.ndarray
    either: np.ndarray

    @classmethod
    def of(cls, task: TimelineTask, vocabulary: Vocabulary) -> _Asked:
        event = token_mask(task, task.event, vocabulary)
        competing = token_mask(task, task.competing, vocabulary)
        return cls(task, event, competing, event | competing)

    def joins(self, leader: _Asked, estimator: str) -> bool:
        if estimator == "survival" and self.task.horizon != leader.task.horizon:
            return False
        answered = not (leader.either & ~self.either).any()
        denied = not (self.competing & ~leader.either).any()
        return self.task.horizon <= leader.task.horizon and answered and denied


def _grouped(group: Sequence[_Asked], end: np.ndarray, max_tokens: int) -> TaskGroup:
    """Watch each set once, and end at what answers the group's first task."""
    numbers: dict[bytes, int] = {}
    sets: list[np.ndarray] = []

    def number(mask: np.ndarray) -> int:
        if mask.tobytes() not in numbers:
            numbers[mask.tobytes()] = len(sets)
            sets.append(mask)
        return numbers[mask.tobytes()]

    event = tuple(number(one.event) for one in group)
    competing = tuple(number(one.competing) for one in group)
    either = tuple(number(one.either) for one in group)
    stops = Stops(np.stack(sets), group[0].either | end, max_tokens)
    return TaskGroup(tuple(one.task for one in group), stops, event, competing, either)
