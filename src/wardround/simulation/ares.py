"""ARES over time: the risks of a running stay at every new fact, and which facts moved them.

Renc et al. 2025 (giaf107) evaluate one stay at each token from its start to its outcome, and show
the change that each information unit caused. Otherwise than published: what is known at a point is
what was filed by then; points are the times at which something became known (single units on
demand); changes come with intervals and are estimated a second time, with futures of their own,
since the largest of many noisy changes are large by their noise; and each is held against an
ablation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wardround.errors import WardroundError
from wardround.evaluation import (
    Estimate,
    Mover,
    RiskCurve,
    RiskCurves,
    RiskPoint,
    StayEvent,
)
from wardround.models.decoder import Decoder
from wardround.progress import track
from wardround.simulation.engine import simulate
from wardround.simulation.futures import Clock, Futures, Prefix, Window
from wardround.simulation.risk import (
    Estimator,
    Reading,
    Sampling,
    count_answers,
    ratio,
    weigh_answers,
)
from wardround.simulation.tasks import (
    DAY,
    EDGE_TOKENS,
    EVENT,
    EXCLUDED,
    SECOND,
    TaskGroup,
    TimelineTask,
    group_tasks,
    token_mask,
)
from wardround.simulation.units import Units, information_units, kind_of, label_of

if TYPE_CHECKING:
    from wardround.views.timeline import Timelines

#: A stay that passed its task's horizon (ten days) is asked for one so many times as long (fifteen,
#: as published); there is none after that, and the curve ends.
LATE = 1.5
#: Futures of a point, as published for curves.
FUTURES = 100
#: Cuts that are simulated together; they share the computation of what they have in common.
CHUNK = 64
#: What the page's outcome lines show.
_OUTCOMES = {
    "ICU_ADMISSION": "ICU admission",
    "MEDS_DEATH": "Death",
    "HOSPITAL_DISCHARGE": "Discharge",
}
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class _Cut:
    """A prefix of the stay's timeline: what lies before `end`, known at `time` (µs).

    Attributes:
        without: positions that are left out of it (an ablation).
    """

    end: int
    time: int
    without: tuple[int, int] | None = None


def risk_curves(
    model: Decoder,
    timelines: Timelines,
    subject_id: int,
    stay: tuple[datetime, datetime | None],
    tasks: Sequence[TimelineTask],
    clock: Clock,
    *,
    estimator: Estimator = "survival",
    sampling: Sampling | None = None,
    until: datetime | None = None,
    resolution: Literal["time", "unit"] = "time",
    max_points: int | None = None,
    movers: int = 5,
    ablate_at: Literal["next", "last"] | None = "next",
    descriptions: Mapping[str, str] | None = None,
    stay_id: int | None = None,
    **how: Any,
) -> RiskCurves:
    """Estimate risks over a stay, and explain how they moved.

    The first point knows everything that was known at the stay's start, each later one what was
    known at its time. A task's points end before its answer is on record. The time that a task
    asks for counts from the stay's start, so that what is left of it shrinks: a stay of ten days
    is asked for 10 d minus the time since the start, and once those are over, for 15 d.

    All points are cuts of one timeline and share one computation, and the futures of each use the
    random numbers of the others: noise that two points have in common falls out of their
    difference.

    Args:
        model: a decoder of these timelines' tokens.
        timelines: that hold the subject.
        subject_id: whose stay it is.
        stay: its start and its end; no end while it is running.
        tasks: of kind `risk`, that start with such a stay.
        clock: durations of tokens.
        estimator: see `simulate`.
        sampling: how many futures each point has (and again each cut of an explanation), and how
            they are sampled; 100 futures unless told. `half_width` is not for curves.
        until: nothing that became known later is read or returned; the stay's end neither.
        resolution: a point a time at which something became known, or one a unit.
        max_points: no more points than these, evenly spread over the stay's, the first and the
            last among them. What moved a risk is still found unit by unit.
        movers: changes that are explained for each task; 0 for none.
        ablate_at: take a unit out at the next later time, or at the task's last point, or not.
            Its time interval stays, so that no time is lost.
        descriptions: of tokens or of the store's codes, for labels.
        stay_id: for the page.
        **how: fields of `sampling`, such as `futures=200`.

    Raises:
        WardroundError: no such subject, a task that is no risk, a stay that begins after `until`,
            sizes that do not fit.
    """
    fields = {**vars(sampling or Sampling(futures=FUTURES)), **how}
    sampling = Sampling(**{**fields, "max_futures": max(fields["futures"], FUTURES)})
    start, end = stay
    _check(tasks, sampling, start, until, max_points)
    if until is not None and end is not None and end > until:
        end = None
    course = _course(timelines, subject_id, start, end, until)
    readings = _Readings(model, course, tasks, clock, estimator, sampling)
    points = [cut for cut in course.cuts(resolution) if readings.is_open(cut)]
    events_until = points[-1].end if points else course.first
    moments = len(points)
    if max_points is not None and moments > max_points:
        spread = np.linspace(0, len(points) - 1, max_points).round().astype(int)
        points = [points[place] for place in np.unique(spread)]
    readings.add(points, first_future=0)
    names = descriptions or {}
    explained = _movers(readings, points, movers, ablate_at, names) if movers else []
    return RiskCurves(
        subject_id=subject_id,
        stay_id=stay_id,
        start=start,
        end=end,
        until=until,
        curves=[_curve(readings, number, points) for number in range(len(tasks))],
        movers=explained,
        events=course.events(events_until, names),
        outcomes=course.outcomes(),
        estimator=estimator,
        futures=sampling.futures,
        seed=sampling.seed,
        notes=[
            *_thinned(len(points), moments),
            *_notes(tasks, ablate_at if explained else None, bool(explained)),
        ],
    )


def _check(
    tasks: Sequence[TimelineTask],
    sampling: Sampling,
    start: datetime,
    until: datetime | None,
    max_points: int | None,
) -> None:
    if sampling.half_width is not None:
        raise WardroundError("risk curves take a fixed number of futures, no half_width")
    if max_points is not None and max_points < 1:
        raise WardroundError("risk curves: max_points must be 1 or more")
    for task in tasks:
        if task.kind != "risk":
            raise WardroundError(f"risk curves: task {task.name} is of kind {task.kind}, not risk")
    if len({task.name for task in tasks}) < len(tasks):
        raise WardroundError("risk curves: tasks share a name; rename one")
    if until is not None and until < start:
        raise WardroundError(f"risk curves: the stay begins at {start}, after {until}")


# The stay in the timeline ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Course:
    """Where a stay lies in its subject's timeline, as far as it may be read.

    Attributes:
        index: of the timeline.
        start, end: of the stay, µs; the end is null if it may not be known.
        opening: position of the first token that became known with the stay's start or later.
        first: position after what was known at its start.
        stop: position after the last token that may be read.
        units: from `opening` to `stop`.
    """

    timelines: Timelines
    index: int
    start: int
    end: int | None
    opening: int
    first: int
    stop: int
    units: Units

    def cuts(self, resolution: str) -> list[_Cut]:
        """What was known at the start, then at each later time (or unit), before the stay's end."""
        ends = self.units.end
        times = np.asarray(self.timelines.times)[ends - 1]
        wanted = ends > self.first
        if self.end is not None:
            wanted &= times < self.end
        if resolution == "time" and len(times):
            wanted &= np.append(np.diff(times) != 0, True)
        later = [_Cut(int(e), int(t)) for e, t in zip(ends[wanted], times[wanted], strict=True)]
        return [_Cut(self.first, self.start), *later]

    def tokens(self, low: int, high: int) -> list[str]:
        """Names of the tokens at these positions."""
        names = self.timelines.vocabulary.tokens
        return [names[token] for token in self.timelines.tokens[low:high]]

    def find(self, mask: np.ndarray, low: int, high: int) -> int | None:
        """The first position from `low` to `high` with a token of the mask."""
        found = np.flatnonzero(mask[np.asarray(self.timelines.tokens[low:high])])
        return int(found[0]) + low if len(found) else None

    def answer(self, task: TimelineTask) -> int | None:
        """Position of the token that settles a task, as far as the record may be read.

        At the second of the start, the start's own tokens settle nothing, nor does the end of the
        stay before.
        """
        vocabulary = self.timelines.vocabulary
        answers = token_mask(task, [*task.event, *task.competing], vocabulary)
        kind = task.start.stay
        if kind is not None and task.start.edge == "start":
            own, closing = (
                np.isin(vocabulary.tokens, [EDGE_TOKENS[kind, edge]]) for edge in ("start", "end")
            )
            group = np.asarray(self.timelines.tokens[self.opening : self.first])
            begins = np.flatnonzero(own[group]) + self.opening
            if len(begins):
                early = self.find(answers & ~own & ~closing, self.opening, int(begins[-1]))
                later = self.find(answers, int(begins[-1]) + 1, self.stop)
                return later if early is None else early
        return self.find(answers, self.opening, self.stop)

    def events(self, stop: int, descriptions: Mapping[str, str]) -> list[StayEvent]:
        """Units up to a position, as the page's strip shows them."""
        rows = []
        for first, end in zip(self.units.first, self.units.end, strict=True):
            if end <= stop:
                tokens = self.tokens(first, end)
                rows.append(
                    StayEvent(
                        time=_datetime(self.timelines.times[end - 1]),
                        kind=kind_of(tokens),
                        label=label_of(tokens, descriptions),
                    )
                )
        return rows

    def outcomes(self) -> list[StayEvent]:
        """ICU admission, death and discharge: the first of each after the start."""
        rows = []
        for token, label in _OUTCOMES.items():
            if token in self.timelines.vocabulary:
                mask = self.timelines.vocabulary.mask([token])
                at = self.find(mask, self.first, self.stop)
                if at is not None:
                    time = _datetime(self.timelines.times[at])
                    rows.append(StayEvent(time=time, kind="transfer", label=label))
        return sorted(rows, key=lambda row: row.time)


def _course(
    timelines: Timelines,
    subject_id: int,
    start: datetime,
    end: datetime | None,
    until: datetime | None,
) -> _Course:
    index = timelines.position(subject_id)
    begins, ends = _micros(start), None if end is None else _micros(end)
    opening, first = timelines.end_of(index, begins - 1), timelines.end_of(index, begins)
    last = min(_micros(time) for time in (end, until, datetime.max) if time is not None)
    stop = timelines.end_of(index, last)
    units = information_units(timelines, opening, stop)
    return _Course(timelines, index, begins, ends, opening, first, stop, units)


def remaining(task: TimelineTask, elapsed: float) -> float | None:
    """Seconds that a task still asks for, so long after the stay's start.

    Returns:
        None where its time is over. A task that asks who is still there goes on to `LATE`
        horizons (as published: 10 d minus the elapsed time, after day 10 for 15 d).
    """
    late = task.at_horizon == "event" and elapsed >= task.horizon
    cutoff = LATE * task.horizon if late else task.horizon
    return cutoff - elapsed if elapsed < cutoff else None


# Estimates -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Risk:
    """A risk, and how far each path is from it.

    Attributes:
        off: (R,) event minus risk times answered; the mean is 0, the spread that of the estimate.
    """

    share: Reading
    off: np.ndarray

    @property
    def estimate(self) -> Estimate:
        return Estimate(value=self.share.estimate, low=self.share.low, high=self.share.high)

    @property
    def bounds(self) -> tuple[float, float, float]:
        """The risk and its interval; NaN where no path answered."""
        e = self.share
        return tuple(np.nan if x is None else x for x in (e.estimate, e.low, e.high))  # type: ignore[return-value]


class _Readings:
    """Risks of tasks at cuts of one stay, simulated when they are added.

    Explanations look at cuts again, with futures of their own: `at` takes the number of the first.
    """

    def __init__(
        self,
        model: Decoder,
        course: _Course,
        tasks: Sequence[TimelineTask],
        clock: Clock,
        estimator: Estimator,
        sampling: Sampling,
    ) -> None:
        self.model, self.course, self.tasks = model, course, list(tasks)
        self.clock, self.estimator, self.sampling = clock, estimator, sampling
        self.answers = [course.answer(task) for task in tasks]
        self.numbers = {task.name: number for number, task in enumerate(tasks)}
        self.groups = _groups(tasks, course.timelines, estimator, sampling)
        self.found: dict[tuple[int, _Cut, int], _Risk] = {}

    def left(self, number: int, cut: _Cut) -> float | None:
        """Seconds that a task still asks for at a cut; None where it is settled or over."""
        answer = self.answers[number]
        if answer is not None and self.course.timelines.times[answer] <= cut.time:
            return None
        return remaining(self.tasks[number], (cut.time - self.course.start) / SECOND)

    def is_open(self, cut: _Cut) -> bool:
        """Whether any task is."""
        return any(self.left(number, cut) is not None for number in range(len(self.tasks)))

    def at(self, cut: _Cut, number: int, first_future: int) -> _Risk | None:
        """A task's risk at a cut; None where it is settled, or was not simulated."""
        return self.found.get((first_future, cut, number))

    def add(self, cuts: Iterable[_Cut], first_future: int) -> None:
        """Simulate the cuts that are new."""
        known = {cut for first, cut, _ in self.found if first == first_future}
        fresh = [cut for cut in dict.fromkeys(cuts) if cut not in known]
        for group in self.groups:
            members = [self.numbers[task.name] for task in group.tasks]
            left = {cut: [self.left(number, cut) for number in members] for cut in fresh}
            horizons = {
                cut: max(seconds for seconds in times if seconds is not None)
                for cut, times in left.items()
                if any(seconds is not None for seconds in times)
            }
            paths = self._simulate(group, horizons, first_future)
            for cut, futures in zip(horizons, paths, strict=True):
                for place, (number, seconds) in enumerate(zip(members, left[cut], strict=True)):
                    if seconds is not None:
                        reading = self._read(group, place, futures, seconds)
                        self.found[first_future, cut, number] = reading

    def _simulate(
        self, group: TaskGroup, horizons: Mapping[_Cut, float], first_future: int
    ) -> list[Futures]:
        s = self.sampling
        prefixes = [self._prefix(cut, horizon) for cut, horizon in horizons.items()]
        title = "Futures: " + ", ".join(task.name for task in group.tasks)
        found: list[Futures] = []
        for low in track(range(0, len(prefixes), CHUNK), title):
            found += simulate(
                self.model,
                prefixes[low : low + CHUNK],
                group.stops,
                self.clock,
                futures=s.futures,
                first_future=first_future,
                estimator=self.estimator,
                **s.engine,
            )
        return found

    def _prefix(self, cut: _Cut, horizon: float) -> Prefix:
        """What is known at a cut; one key for all, so that futures share their random numbers."""
        timelines, index = self.course.timelines, self.course.index
        low = int(timelines.offsets[index])
        tokens = np.asarray(timelines.tokens[low : cut.end])
        view = Window(self.sampling.window or self.model.sizes.context, timelines.context_size)
        seen = low + view.opening(len(tokens))
        begins = int(timelines.times[seen]) if seen < cut.end else cut.time
        if cut.without is not None:
            tokens = np.delete(tokens, np.arange(*cut.without) - low)
        key = int(timelines.subjects[index]) ^ self.course.start
        return Prefix(timelines.context(index, begins), tokens, horizon, key)

    def _read(self, group: TaskGroup, place: int, futures: Futures, seconds: float) -> _Risk:
        if self.estimator == "survival":
            events, kept = weigh_answers(group, place, futures)
        else:
            answers = count_answers(group, place, futures, seconds)
            events, kept = (answers == EVENT).astype(float), (answers != EXCLUDED).astype(float)
        share = ratio(events, kept, counted=self.estimator == "count")
        return _Risk(share, events - (share.estimate or 0.0) * kept)


def _groups(
    tasks: Sequence[TimelineTask],
    timelines: Timelines,
    estimator: Estimator,
    sampling: Sampling,
) -> list[TaskGroup]:
    """Tasks that share futures. The survival estimator reads them at one horizon, and who is
    still there has another one once the cut-off has moved."""
    parts = [list(tasks)]
    if estimator == "survival":
        parts = [[t for t in tasks if t.at_horizon == rule] for rule in ("event", "none")]
    return [
        group
        for part in parts
        for group in group_tasks(
            part, timelines.vocabulary, estimator=estimator, max_tokens=sampling.max_tokens
        )
    ]


def difference(after: _Risk, before: _Risk) -> Estimate:
    """A change of risk, with a 95 % interval from those of both risks.

    Square-and-add (Newcombe 1998; Zou and Donner 2008), which keeps the shape of intervals near 0
    and 1, with the correlation that paths of the same random numbers turn out to have.
    """
    (new, new_low, new_high), (old, old_low, old_high) = after.bounds, before.bounds
    spread = float(np.sqrt(np.square(after.off).sum() * np.square(before.off).sum()))
    shared = float(after.off @ before.off) / spread if spread > 0 else 0.0

    def reach(x: float, y: float) -> float:
        return float(np.sqrt(max(x**2 + y**2 - 2 * shared * x * y, 0.0)))

    change = new - old
    if np.isnan(change):
        return Estimate(value=None)
    low = change - reach(new - new_low, old_high - old)
    high = change + reach(new_high - new, old - old_low)
    return Estimate(value=change, low=low, high=high)


# Curves and explanations -----------------------------------------------------------------------


def _curve(readings: _Readings, number: int, points: Sequence[_Cut]) -> RiskCurve:
    task, course, answer = readings.tasks[number], readings.course, readings.answers[number]
    drawn = [
        RiskPoint(
            time=_datetime(cut.time),
            risk=reading.estimate,
            standard_error=reading.share.standard_error,
            futures=reading.share.futures,
        )
        for cut in points
        if (reading := readings.at(cut, number, 0)) is not None
    ]
    settled = None if answer is None else _datetime(course.timelines.times[answer])
    notes = []
    late = _datetime(course.start) + timedelta(seconds=task.horizon)
    if task.at_horizon == "event" and any(point.time >= late for point in drawn):
        notes.append(
            f"From {late:%Y-%m-%d %H:%M} on, {task.horizon / DAY:.0f} days after the start, the "
            f"cut-off is {LATE * task.horizon / DAY:.0f} days."
        )
    if answer is not None:
        label = label_of(course.tokens(answer, answer + 1))
        notes.append(f"Settled on {settled:%Y-%m-%d %H:%M}: {label}.")
    return RiskCurve(
        task=task.name,
        title=task.title,
        description=task.description,
        points=drawn,
        settled=settled,
        note=" ".join(notes),
    )


def _movers(
    readings: _Readings,
    points: Sequence[_Cut],
    count: int,
    ablate_at: str | None,
    descriptions: Mapping[str, str],
) -> list[Mover]:
    """Explain the largest steps of each curve unit by unit.

    The curve says where to look, a second look which units to take, and a third, with futures of
    its own, how much they changed: what was chosen by its size is not the measure of it.
    """
    course, again = readings.course, readings.sampling.futures
    stairs = [
        _largest_steps(readings, number, points, count) for number in range(len(readings.tasks))
    ]
    units = {
        step: _units_between(course, *step) for steps in stairs for step in dict.fromkeys(steps)
    }
    readings.add((cut for found in units.values() for _, *pair in found for cut in pair), again)
    chosen = []
    for number, steps in enumerate(stairs):
        changes = [
            (unit, before, after, difference(new, old).value or 0.0)
            for step in steps
            for unit, before, after in units[step]
            if (new := readings.at(after, number, again)) is not None
            and (old := readings.at(before, number, again)) is not None
        ]
        changes = sorted((c for c in changes if c[3]), key=lambda change: -abs(change[3]))
        chosen += [(number, unit, before, after) for unit, before, after, _ in changes[:count]]
    ablated = [
        _ablation(readings, number, unit, after, points, ablate_at)
        for number, unit, _, after in chosen
    ]
    third = 2 * again
    order = {task.name: number for number, task in enumerate(readings.tasks)}
    readings.add((cut for _, _, *pair in chosen for cut in pair), third)
    readings.add((cut for pair in ablated if pair for cut in pair), third)
    rows = []
    for (number, unit, before, after), pair in zip(chosen, ablated, strict=True):
        tokens = course.tokens(course.units.first[unit], course.units.end[unit])
        new, old = readings.at(after, number, third), readings.at(before, number, third)
        if new is None or old is None:
            continue
        change = difference(new, old)
        whole, lacking = (readings.at(cut, number, third) for cut in pair) if pair else (None, None)
        rows.append(
            Mover(
                task=readings.tasks[number].name,
                time=_datetime(after.time),
                kind=kind_of(tokens),
                label=label_of(tokens, descriptions),
                tokens=tokens,
                change=change,
                ablation=difference(whole, lacking) if whole and lacking else None,
                ablated_at=_datetime(pair[0].time) if pair else None,
            )
        )
    return sorted(rows, key=lambda row: (order[row.task], -abs(row.change.value or 0.0)))


def _largest_steps(
    readings: _Readings, number: int, points: Sequence[_Cut], count: int
) -> list[tuple[_Cut, _Cut]]:
    """Neighbouring points between which a task's curve moved most, the largest step first."""
    steps = []
    for before, after in pairwise(points):
        old, new = (readings.at(cut, number, 0) for cut in (before, after))
        change = difference(new, old).value if old and new else None
        if change is not None:
            steps.append((abs(change), (before, after)))
    return [step for _, step in sorted(steps, key=lambda pair: -pair[0])[:count]]


def _units_between(course: _Course, before: _Cut, after: _Cut) -> list[tuple[int, _Cut, _Cut]]:
    """Units that two points lie around: each with the cuts right before and right after it."""
    ends = course.units.end
    found, last = [], before
    for unit in np.flatnonzero((ends > before.end) & (ends <= after.end)).tolist():
        cut = _Cut(int(ends[unit]), int(course.timelines.times[ends[unit] - 1]))
        found.append((unit, last, cut))
        last = cut
    return found


def _ablation(
    readings: _Readings,
    number: int,
    unit: int,
    after: _Cut,
    points: Sequence[_Cut],
    ablate_at: str | None,
) -> tuple[_Cut, _Cut] | None:
    """The cut at which a unit is taken out, and the same without it.

    None where nothing would be left to learn: a unit that is taken out of the end of what is known
    leaves what was known before it.
    """
    if ablate_at is None:
        return None
    course = readings.course
    body, end = int(course.units.body[unit]), int(course.units.end[unit])
    if ablate_at == "next":
        later = [cut for cut in course.cuts("time") if cut.end >= end and cut.time > after.time]
        own = [cut for cut in course.cuts("time") if cut.end >= end and cut.time == after.time]
        options = [*own[-1:], *later[:1]]
    else:
        options = [cut for cut in points if cut.end >= end]
    options = [cut for cut in options if readings.left(number, cut) is not None]
    place = options[-1] if options else after
    if place.end == end and body == course.units.first[unit]:
        return None
    return place, _Cut(place.end, place.time, (body, end))


def _thinned(points: int, moments: int) -> list[str]:
    if points == moments:
        return []
    return [
        f"{points} of the {moments} moments at which something became known are drawn, evenly "
        "spread; between two of them risks may have been higher or lower."
    ]


def _notes(tasks: Sequence[TimelineTask], ablate_at: str | None, explained: bool) -> list[str]:
    notes = []
    stays = [task.title for task in tasks if task.at_horizon == "event"]
    if stays:
        notes.append(
            f"{'; '.join(stays)}: the time asked for counts from the start of the stay, so that "
            "it shrinks as the stay goes on. Once it is over, half as long again is asked for, and "
            "the curve ends there."
        )
    if explained:
        notes.append(
            "The largest steps of each curve were looked at again, item by item, and what was "
            "found largest a third time, with futures of its own. The changes shown are those of "
            "the third look: the largest of many noisy changes are large by their noise. "
            "Intervals use the correlation of paths that "
            "were sampled with the same random numbers."
        )
    if ablate_at:
        where = (
            "the next later time at which anything became known"
            if ablate_at == "next"
            else "the last point of the curve"
        )
        notes.append(
            f"Ablation: the tokens of an item are taken out of what the model reads at {where}; "
            "the time interval before them stays."
        )
    return notes


def _micros(time: datetime) -> int:
    return int(np.datetime64(time, "us").astype(np.int64))


def _datetime(micros: Any) -> datetime:
    return _EPOCH + timedelta(microseconds=int(micros))
