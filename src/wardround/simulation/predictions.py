"""Predictions of a timeline task: where they start, what is known then, what came of it.

Labels are read from the true continuations of timelines, by the rule that reads simulated ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl

from wardround.cohorts import Cohort
from wardround.cohorts.cohort import Flow
from wardround.errors import WardroundError
from wardround.simulation.futures import Prefix, Window
from wardround.simulation.tasks import (
    DAY,
    EDGE_TOKENS,
    EVENT,
    EXCLUDED,
    SECOND,
    TimelineTask,
    outcome,
    token_mask,
)
from wardround.store import PatientStore
from wardround.views.timeline import NEVER, Timelines


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
