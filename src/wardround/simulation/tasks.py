"""Tasks on timelines: where a prediction starts, which tokens answer it, and for how long it asks.

A task is a YAML file. One rule (`outcome`) reads the answer from the true continuation of a
timeline and from a simulated one alike, so that a label and its risk mean the same thing. The
shipped files are those of ETHOS and ARES (Renc et al. 2024, npj Digital Medicine; Renc et al. 2025,
GigaScience giaf107); each says where it departs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wardround.cohorts import Cohort
from wardround.cohorts.cohort import Flow
from wardround.errors import WardroundError
from wardround.simulation.futures import Prefix, Stops, Window
from wardround.store import PatientStore
from wardround.views.timeline import NEVER, Timelines, Vocabulary

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
    """`12h` or `2y` in seconds."""
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


def starts(task: TimelineTask, store: PatientStore, timelines: Timelines) -> Cohort:
    """Predictions of a task and their labels, read from the true continuations.

    Left out, and counted in the flow: stays without the edge, or against the task's filters; ends
    of ICU stays after that of their hospital stay, which is filed minutes too early; subjects
    without a timeline, or in whose timeline the edge is missing; a second prediction of a subject
    at the same time; predictions after a death, while the stay that is asked for goes on already,
    or whose answer becomes known with the start itself; and those whose answer is never known.

    Args:
        task: any.
        store: read for its stays.
        timelines: of this store; subjects that are not among them are left out.

    Returns:
        `subject_id`, `prediction_time`, the label, `stay_id` where the start is a stay's,
        `token_index` (position in `timelines.tokens` where what is known ends) and `elapsed`
        (0: seconds since the task's start). The label is `boolean_value` (risk), `value` in days
        (time), or `label`, a token (class).

    Raises:
        WardroundError: the store has no such stays, or the vocabulary no such tokens.
    """
    find = _starts_of_stays if task.start.stay else _starts_at_tokens
    flow = find(task, store, timelines)
    label = _class_labels if task.kind == "class" else _labels
    flow.frame = flow.frame.with_columns(label(task, flow.frame, timelines))
    flow.keep(pl.col(_LABELS[task.kind]).is_not_null(), "outcome is known")
    keys = ["subject_id", "prediction_time", _LABELS[task.kind]]
    stay = ["stay_id"] if task.start.stay else []
    frame = flow.frame.select(*keys, *stay, "token_index", elapsed=pl.lit(0.0))
    return Cohort(task.name, frame.sort("subject_id", "prediction_time"), flow.steps)


_LABELS = {"risk": "boolean_value", "time": "value", "class": "label"}


def _starts_of_stays(task: TimelineTask, store: PatientStore, timelines: Timelines) -> Flow:
    rule = task.start
    kind, edge = str(rule.stay), str(rule.edge)
    stays = store.stays().filter(pl.col("kind") == kind).collect()
    if stays.is_empty():
        raise WardroundError(f"task {task.name} needs {kind} stays, and {store.path} has none")
    stays = stays.sort("subject_id", "start", "stay_id").with_columns(
        died=pl.col("died").fill_null(False)
        | (pl.col("death_time") <= pl.col("end")).fill_null(False)
    )
    flow = Flow(stays, f"{kind} stays")
    flow.keep(pl.col("subject_id").is_in(timelines.subjects), "of subjects with a timeline")
    flow.keep(pl.col(edge).is_not_null(), f"{edge} is known")
    if rule.admitted is not None:
        led = pl.col("hadm_id").is_not_null()
        flow.keep(led if rule.admitted else ~led, f"{'' if rule.admitted else 'not '}admitted")
    if rule.alive is not None:
        died = pl.col("died")
        flow.keep(~died if rule.alive else died, "left alive" if rule.alive else "died")
    if rule.first == "admission":
        alone = pl.col("hadm_id").is_null()
        again = pl.struct("subject_id", "hadm_id").is_first_distinct()
        flow.keep(alone | again, "first of its admission")
    elif rule.first == "subject":
        flow.keep(pl.col("subject_id").is_first_distinct(), "first of the subject")
    if (kind, edge) == ("icu", "end"):
        whole = store.stays().filter(pl.col("kind") == "hospital").collect()
        whole = whole.select(parent_id="stay_id", parent_end="end").unique("parent_id")
        flow.frame = flow.frame.join(whole, on="parent_id", how="left", maintain_order="left")
        over = (pl.col("parent_end") <= pl.col("end")).fill_null(False)
        flow.keep(~over, "the hospital stay goes on")
    flow.frame = flow.frame.select("subject_id", "stay_id", pl.col(edge).alias("prediction_time"))
    _one_at_a_time(flow)
    _with_edge(flow, EDGE_TOKENS[kind, edge], timelines)
    rows = place(flow.frame, timelines)
    if (kind, edge) == ("icu", "start") and "SOFA" in timelines.vocabulary:
        rows = _before_score(rows, timelines)
    flow.frame = flow.frame.with_columns(token_index=rows.cuts)
    if task.kind != "class":
        flow.keep(~pl.lit(pl.Series(_answered_before(task, flow.frame, store, timelines))), _OPEN)
        rows = place(flow.frame, timelines)
        edges = (edge, "end" if edge == "start" else "start")
        tokens = [EDGE_TOKENS[kind, each] for each in edges]
        own, opposite = ([name] if name in timelines.vocabulary else [] for name in tokens)
        _unresolved(flow, task, timelines, rows, own, opposite)
    return flow


_OPEN = "nobody dead, or in such a stay already"


def _with_edge(flow: Flow, token: str, timelines: Timelines) -> None:
    """Leave out stays whose edge the timeline lacks: no later token could be told from theirs."""
    if token not in timelines.vocabulary:
        return
    rows = place(flow.frame, timelines)
    group = timelines.ends(rows.subjects, rows.times - 1)
    found = _next(_positions(timelines.vocabulary.mask([token]), timelines), group, rows.cuts)
    flow.keep(pl.lit(pl.Series(found >= 0)), f"{token} is in the timeline")


def _before_score(rows: Placed, timelines: Timelines) -> Placed:
    """End what is known before a score of the stay that just begins (published, and a leak)."""
    group = timelines.ends(rows.subjects, rows.times - 1)
    score = _next(_positions(timelines.vocabulary.mask(["SOFA"]), timelines), group, rows.cuts)
    return replace(rows, cuts=np.where(score >= 0, score, rows.cuts))


def _answered_before(
    task: TimelineTask, frame: pl.DataFrame, store: PatientStore, timelines: Timelines
) -> np.ndarray:
    """Which predictions come after a death, or during a stay whose beginning is the event."""
    vocabulary, rows = timelines.vocabulary, place(frame, timelines)
    begun = timelines.offsets[rows.subjects]
    gone = np.zeros(len(frame), bool)
    if "MEDS_DEATH" in vocabulary:
        death = _positions(vocabulary.mask(["MEDS_DEATH"]), timelines)
        gone |= _next(death, begun, rows.cuts) >= 0
    event = token_mask(task, task.event, vocabulary)
    for (kind, edge), token in EDGE_TOKENS.items():
        if edge != "start" or token not in vocabulary or not event[vocabulary.id(token)]:
            continue
        others = store.stays().filter(pl.col("kind") == kind).collect()
        others = others.select("subject_id", "start", "end", other="stay_id")
        t = pl.col("prediction_time")
        ends = pl.col("end").fill_null(datetime.max)
        going_on = (pl.col("start") < t) & (t < ends)
        if kind == task.start.stay:
            going_on &= pl.col("other") != pl.col("stay_id")
        inside = frame.with_row_index("row").join(others, on="subject_id").filter(going_on)
        gone[inside["row"].unique().to_numpy()] = True
    return gone


def _starts_at_tokens(task: TimelineTask, store: PatientStore, timelines: Timelines) -> Flow:
    rule = task.start
    patterns = rule.at or rule.before
    found = _positions(token_mask(task, patterns, timelines.vocabulary), timelines)
    subject = np.searchsorted(timelines.offsets, found, side="right") - 1
    frame = pl.DataFrame(
        {
            "subject_id": timelines.subjects[subject],
            "prediction_time": pl.Series(timelines.times[found]).cast(pl.Datetime("us")),
            "token_index": found,
        }
    )
    flow = Flow(frame, f"tokens {', '.join(patterns)}")
    _one_at_a_time(flow)
    if rule.at:
        rows = place(flow.frame.drop("token_index"), timelines)
        flow.frame = flow.frame.with_columns(token_index=rows.cuts)
        if task.kind != "class":
            _unresolved(flow, task, timelines, rows, rule.at, [])
    return flow


def _one_at_a_time(flow: Flow) -> None:
    first = pl.struct("subject_id", "prediction_time").is_first_distinct()
    flow.keep(first, "one prediction of a subject at a time")


def _unresolved(
    flow: Flow,
    task: TimelineTask,
    timelines: Timelines,
    rows: Placed,
    own: Sequence[str],
    opposite: Sequence[str],
) -> None:
    """Leave out predictions that the tokens of their own time answer.

    The start's own tokens answer nothing. The stay's opposite edge does not either where it stands
    before them: then it is that of the stay before.
    """
    vocabulary = timelines.vocabulary
    own_mask = token_mask(task, own, vocabulary)
    closing_mask = token_mask(task, opposite, vocabulary)
    answers = token_mask(task, (*task.event, *task.competing), vocabulary) & ~own_mask
    group = timelines.ends(rows.subjects, rows.times - 1)
    own_last = _previous(_positions(own_mask, timelines), rows.cuts, group)
    other = _next(_positions(answers & ~closing_mask, timelines), group, rows.cuts)
    closing = _next(_positions(answers & closing_mask, timelines), own_last + 1, rows.cuts)
    resolved = (other >= 0) | (closing >= 0)
    flow.keep(~pl.lit(pl.Series(resolved)), "not answered at the start")


@dataclass(frozen=True)
class Placed:
    """Where predictions lie in the timelines.

    Attributes:
        subjects: (n,) numbers of the timelines.
        times: (n,) int64, microseconds.
        cuts: (n,) positions after the last known token.
        ends: (n,) positions after the subject's last event.
    """

    subjects: np.ndarray
    times: np.ndarray
    cuts: np.ndarray
    ends: np.ndarray


def place(frame: pl.DataFrame, timelines: Timelines) -> Placed:
    """Find predictions (`subject_id`, `prediction_time`, and `token_index` if known) in timelines.

    Raises:
        WardroundError: a subject has no timeline.
    """
    subjects = timelines.positions(frame["subject_id"].to_numpy())
    times = frame["prediction_time"].dt.timestamp("us").to_numpy()
    if "token_index" in frame.columns:
        cuts = frame["token_index"].to_numpy()
    else:
        cuts = timelines.ends(subjects, times)
    return Placed(subjects, times, cuts, timelines.ends(subjects, np.full_like(times, NEVER - 1)))


def _positions(mask: np.ndarray, timelines: Timelines, block: int = 1 << 24) -> np.ndarray:
    """Positions of all tokens in the mask, ascending, block after block for flat memory."""
    if not mask.any():
        return np.empty(0, np.int64)
    total = len(timelines.tokens)
    found = [
        np.flatnonzero(mask[timelines.tokens[low : low + block]]) + low
        for low in range(0, total, block)
    ]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _next(positions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The first of sorted `positions` within each [low, high), or -1."""
    found = np.append(positions, np.iinfo(np.int64).max)[np.searchsorted(positions, low)]
    return np.where(found < high, found, -1)


def _previous(positions: np.ndarray, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The last of sorted `positions` within each [low, high), or low - 1."""
    found = np.insert(positions, 0, -1)[np.searchsorted(positions, high)]
    return np.maximum(found, low - 1)


def _answers(
    task: TimelineTask, timelines: Timelines, rows: Placed
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the next event and competing token after each cut; -1 where none comes."""
    vocabulary = timelines.vocabulary
    event = _positions(token_mask(task, task.event, vocabulary), timelines)
    competing = _positions(token_mask(task, task.competing, vocabulary), timelines)
    return _next(event, rows.cuts, rows.ends), _next(competing, rows.cuts, rows.ends)


def _seconds_until(positions: np.ndarray, timelines: Timelines, rows: Placed) -> np.ndarray:
    seconds = np.full(len(positions), np.inf)
    there = positions >= 0
    at = timelines.times[positions[there]]
    seconds[there] = (at - rows.times[there]) / SECOND
    return seconds


def _labels(task: TimelineTask, frame: pl.DataFrame, timelines: Timelines) -> pl.Series:
    rows = place(frame, timelines)
    event, competing = _answers(task, timelines, rows)
    first_event = _seconds_until(event, timelines, rows)
    found = outcome(
        first_event,
        _seconds_until(competing, timelines, rows),
        _seconds_until(rows.ends - 1, timelines, rows),
        task.horizon,
        at_horizon=task.at_horizon,
        ends_unresolved=task.ends_unresolved,
        event_first=event < competing,
    )
    if task.kind == "time":
        days = np.where(found == EVENT, first_event / DAY, np.nan)
        return pl.Series("value", days, pl.Float64).fill_nan(None)
    labels = pl.Series("boolean_value", found == EVENT)
    return labels.zip_with(pl.Series(found != EXCLUDED), pl.Series([None], dtype=pl.Boolean))


def _class_labels(task: TimelineTask, frame: pl.DataFrame, timelines: Timelines) -> pl.Series:
    """The first token of the event's within the horizon, or the one after the injected token."""
    rows = place(frame, timelines)
    vocabulary = timelines.vocabulary
    classes = token_mask(task, task.event, vocabulary)
    asked = task.model_copy(update={"event": (task.inject,)}) if task.inject else task
    at, competing = _answers(asked, timelines, rows)
    seconds = _seconds_until(at, timelines, rows)
    known = (at >= 0) & (seconds <= task.horizon) & ((competing < 0) | (at < competing))
    answer = at + 1 if task.inject else at
    known &= answer < rows.ends
    token = np.zeros(len(frame), np.int64)
    token[known] = timelines.tokens[answer[known]]
    known &= classes[token]
    names = pl.Series("label", np.asarray(vocabulary.tokens, dtype=object)[token], pl.String)
    return names.zip_with(pl.Series(known), pl.Series([None], dtype=pl.String))


def along(task: TimelineTask, cohort: pl.DataFrame, timelines: Timelines) -> pl.DataFrame:
    """Follow predictions to their outcomes: a row at every time at which something became known.

    ARES evaluates each token of a stay; tokens that became known together make one row.

    Args:
        task: of kind `risk` or `time`.
        cohort: rows of `starts`.
        timelines: those of `starts`.

    Returns:
        The columns of `cohort`, with later `prediction_time`, `token_index` and `elapsed` seconds,
        and `start_time`. The label is the start's; `value` counts from each row's own time.
    """
    rows = place(cohort, timelines)
    event, competing = _answers(task, timelines, rows)
    stop = np.minimum(
        np.where(event < 0, rows.ends, event), np.where(competing < 0, rows.ends, competing)
    )
    stop = np.maximum(stop, rows.cuts)
    count = stop - rows.cuts
    row = np.repeat(np.arange(len(cohort)), count)
    position = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + rows.cuts[row]
    times = timelines.times[position]
    elapsed = (times - rows.times[row]) / SECOND
    # The last token of its time, and of a time before that of the answer.
    last = position + 1 == rows.ends[row]
    following = timelines.times[np.where(last, position, position + 1)]
    keep = (last | (following != times)) & (elapsed > 0) & (elapsed < task.horizon)
    first = cohort.with_columns(start_time="prediction_time").with_row_index("row")
    later = pl.DataFrame(
        {
            "row": pl.Series(row[keep], dtype=pl.UInt32),
            "prediction_time": pl.Series(times[keep]).cast(pl.Datetime("us")),
            "token_index": pl.Series(position[keep] + 1, dtype=pl.Int64),
            "elapsed": pl.Series(elapsed[keep], dtype=pl.Float64),
        }
    )
    carried = first.drop("prediction_time", "token_index", "elapsed")
    everything = pl.concat([first.select(later.columns), later], how="vertical_relaxed").join(
        carried, on="row", how="left"
    )
    if task.kind == "time":
        everything = everything.with_columns(pl.col("value") - pl.col("elapsed") / DAY)
    return everything.sort("row", "elapsed").select(*cohort.columns, "start_time")


def prefixes(
    horizon: float,
    cohort: pl.DataFrame,
    timelines: Timelines,
    *,
    window: int,
    inject: str | None = None,
) -> list[Prefix]:
    """What is known at each prediction, as the simulator takes it.

    The static context is that of the first token which the model sees, as in training.

    Args:
        horizon: seconds from a task's start; `elapsed` of them have passed at a prediction.
        cohort: `subject_id`, `prediction_time`, and if there `token_index` and `elapsed`.
        timelines: of these subjects.
        window: tokens that the model sees at once, static ones included (see `futures.Window`).
        inject: a token to put at the end.

    Returns:
        One prefix a row, in order. Each holds its subject's timeline from the beginning, so that
        the points of one stay can share a computation.
    """
    rows = place(cohort, timelines)
    first = timelines.offsets[rows.subjects]
    extra = [] if inject is None else [timelines.vocabulary.id(inject)]
    view = Window(window, timelines.context_size)
    openings = [view.opening(int(known) + len(extra)) for known in rows.cuts - first]
    seen = first + np.array(openings, np.int64)
    begins = rows.times.copy()
    told = seen < rows.cuts
    begins[told] = timelines.times[seen[told]]
    contexts = timelines.contexts(rows.subjects, begins)
    elapsed = cohort["elapsed"].to_numpy() if "elapsed" in cohort.columns else np.zeros(len(cohort))
    known = [timelines.tokens[low:high] for low, high in zip(first, rows.cuts, strict=True)]
    return [
        Prefix(
            context=np.asarray(contexts[n]),
            tokens=np.append(known[n], extra) if extra else np.asarray(known[n]),
            horizon=float(horizon - elapsed[n]),
        )
        for n in range(len(cohort))
    ]


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


def compile_task(task: TimelineTask, vocabulary: Vocabulary, **how: Any) -> TaskGroup:
    """One task alone as the simulator takes it; see `group_tasks`."""
    return group_tasks([task], vocabulary, **how)[0]
