"""Risks, times and classes with their uncertainty, from simulated futures.

Counting is the published estimate: the share of futures with the event among those that answer the
task. The survival estimate reads the same from the probabilities of the ending tokens along paths
that never end early, which spread less. Both are ratios of means over paths, and both have the
standard error of such a ratio.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from scipy.stats import norm, t

from wardround.errors import WardroundError
from wardround.models.decoder import Decoder
from wardround.progress import track
from wardround.simulation.engine import simulate
from wardround.simulation.futures import HORIZON, MAX_TOKENS, Clock, Futures, Prefix, Window
from wardround.simulation.predictions import prefixes
from wardround.simulation.tasks import (
    DAY,
    EVENT,
    EXCLUDED,
    TaskGroup,
    TimelineTask,
    group_tasks,
    outcome,
    token_mask,
)
from wardround.store import atomic_write
from wardround.training.devices import pick_device
from wardround.views.timeline import Timelines

Estimator = Literal["count", "survival"]
KEYS = ("subject_id", "prediction_time", "stay_id", "token_index", "elapsed")
LEVEL = 0.95
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Sampling:
    """How futures are sampled; see `wardround.simulation.simulate`.

    Attributes:
        futures: paths of each prediction, and of each further round.
        half_width: go on until every 95 % interval of a prediction's risks is at most this far
            from its middle; one round unless told. Stopping by what was seen leaves risks a little
            nearer to 0 and 1 than a fixed number does.
        max_futures: no further round after so many.
        max_tokens: a path is given up after so many.
    """

    futures: int = 32
    half_width: float | None = None
    max_futures: int = 1024
    max_tokens: int = 10_000
    seed: int = 0
    temperature: float = 1.0
    slots: int = 256
    window: int | None = None
    device: str = "auto"
    dtype: torch.dtype | None = None

    @property
    def engine(self) -> dict[str, Any]:
        """The settings that `simulate` takes as they are."""
        names = ("seed", "temperature", "slots", "window", "device", "dtype")
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        if self.futures < 1:
            raise WardroundError(f"futures must be 1 or more, got {self.futures}")
        if self.half_width is not None and self.max_futures < self.futures:
            raise WardroundError(
                f"max_futures ({self.max_futures}) is less than a round ({self.futures} futures)"
            )
        if self.half_width is not None and not 0 < self.half_width < 0.5:
            raise WardroundError(f"half_width must lie between 0 and 0.5, got {self.half_width}")


@dataclass(frozen=True)
class Reading:
    """A risk read from futures; None where none of them answers.

    Attributes:
        estimate: probability of the event among futures that answer.
        standard_error: of the estimate, from simulating finitely many.
        low, high: its 95 % interval, Wilson's, which is not empty where no path has the event.
        futures: paths simulated; 0 where the answer needed none.
        unresolved: share of futures that give no answer.
    """

    estimate: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    futures: int
    unresolved: float

    @property
    def half_width(self) -> float:
        """Of the interval; infinite where there is none."""
        return np.inf if self.low is None or self.high is None else (self.high - self.low) / 2


def ratio(events: np.ndarray, kept: np.ndarray, *, counted: bool) -> Reading:
    """Estimate a risk from paths.

    Args:
        events, kept: (R,) probability that a path has the event, and that it answers at all; 0 or
            1 when counting.
        counted: paths were counted: the standard error is sqrt(p (1 - p) / n) over the n that
            answer. Otherwise it comes from the spread of the paths.
    """
    paths = len(events)
    total = kept.sum()
    unresolved = float(np.clip(1 - total / paths, 0, 1))
    if total <= 0:
        return Reading(None, None, None, None, paths, unresolved)
    risk = float(np.clip(events.sum() / total, 0, 1))
    spread = np.square(events - risk * kept).sum() * (1 if counted else paths / max(paths - 1, 1))
    error = float(np.sqrt(spread) / total)
    z = norm.ppf((1 + LEVEL) / 2) if counted else t.ppf((1 + LEVEL) / 2, max(paths - 1, 1))
    # As many draws of a coin would have this standard error.
    draws = risk * (1 - risk) / error**2 if error > 0 else total
    centre = (risk + z**2 / (2 * draws)) / (1 + z**2 / draws)
    half = z * np.sqrt(risk * (1 - risk) / draws + z**2 / (4 * draws**2)) / (1 + z**2 / draws)
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return Reading(risk, error, low, high, paths, unresolved)


def count_answers(group: TaskGroup, number: int, futures: Futures, remaining: float) -> np.ndarray:
    """Answers of sampled paths to one task of a group.

    Args:
        group, number: the task.
        futures: sampled by counting, with the group's stops.
        remaining: seconds of the task's horizon that were left at the prediction.

    Returns:
        (R,) as `wardround.simulation.tasks.outcome`. A path given up before it answered is
        excluded, whatever the task makes of those that end without an answer.
    """
    task = group.tasks[number]
    event = futures.first[:, group.event[number]]
    competing = futures.first[:, group.competing[number]]
    found = outcome(
        event,
        competing,
        np.where(futures.reason == HORIZON, np.inf, futures.clock),
        remaining,
        at_horizon=task.at_horizon,
        ends_unresolved=task.ends_unresolved,
    )
    silent = np.minimum(event, competing) == np.inf
    given_up = silent & (futures.reason == MAX_TOKENS) & (futures.clock < remaining)
    return np.where(given_up, EXCLUDED, found)


def weigh_answers(group: TaskGroup, number: int, futures: Futures) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, along each path, that a task is answered by the event, and that it is at all.

    Args:
        group, number: the task, whose horizon is the group's.
        futures: of the survival estimator, with the group's stops.

    Returns:
        Two arrays (R,); the ratio of their means is the risk.
    """
    if futures.absorbed is None or futures.survived is None:
        raise ValueError("these futures were counted")
    task, either = group.tasks[number], group.either[number]
    events = futures.absorbed[:, group.event[number]].copy()
    # What is left of a path, unless a token that does not end it has answered the task.
    left = np.where(np.isinf(futures.first[:, either]), futures.survived, 0)
    there = np.where(futures.reason == HORIZON, left, 0)
    still_there = task.at_horizon == "event"
    if still_there:
        events += there
    if task.ends_unresolved == "negative":
        return events, 1 - np.where(futures.reason == MAX_TOKENS, left, 0)
    return events, futures.absorbed[:, either] + (there if still_there else 0)


def estimate_risks(
    model: Decoder,
    timelines: Timelines,
    cohort: pl.DataFrame,
    tasks: Sequence[TimelineTask],
    clock: Clock,
    *,
    estimator: Estimator = "count",
    sampling: Sampling | None = None,
    chunk: int = 256,
    cache: Path | None = None,
    **how: Any,
) -> dict[str, pl.DataFrame]:
    """Simulate every prediction's futures and read every task's answer from them.

    Tasks share futures where they can (`group_tasks`); those of kind `time` are always counted.
    Futures depend on the seed and on what is known of a patient, not on the rest of the cohort.

    Args:
        model: pretrained on timelines of this vocabulary.
        timelines: of the cohort's subjects.
        cohort: `subject_id`, `prediction_time`, and where known `token_index` and `elapsed`
            (seconds since the task's start, taken off its horizon): rows of `starts` or `along`.
        tasks: asked of every row.
        clock: durations of interval tokens.
        estimator: `count` or `survival`.
        sampling: how many futures, and how; the defaults unless told.
        chunk: predictions simulated together, and written to the cache at once.
        cache: a folder that keeps finished chunks: a killed run goes on from there. A chunk is
            found again by everything that it depends on, the weights included.
        **how: fields of `sampling`, such as `futures=100`.

    Returns:
        By task's name, a row for each of the cohort's, in its order: the cohort's keys, and `risk`
        with the other fields of `Reading`. For kind `time`, in days: `mean`, `standard_error`,
        `q05`, `q25`, `median`, `q75`, `q95`; then `futures` and `unresolved`.

    Raises:
        WardroundError: a task of kind `class` (see `read_classes`), one name twice, tokens that
            the vocabulary lacks, subjects without a timeline.
    """
    sampling = Sampling(**{**vars(sampling or Sampling()), **how})
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise WardroundError(f"tasks share a name: {', '.join(sorted(names))}; rename one")
    jobs: list[tuple[TaskGroup, Estimator]] = []
    for used in ("count", "survival"):
        own = [task for task in tasks if (estimator if task.kind == "risk" else "count") == used]
        groups = group_tasks(
            own, timelines.vocabulary, estimator=used, max_tokens=sampling.max_tokens
        )
        jobs += [(group, used) for group in groups]
    weights = _digest(_weights(model)) if cache is not None else ""
    keys = cohort.select([name for name in KEYS if name in cohort.columns])
    found: dict[str, list[pl.DataFrame]] = {name: [] for name in names}
    for group, used in jobs:
        titles = ", ".join(task.name for task in group.tasks)
        for low in track(range(0, len(cohort), chunk), f"Futures: {titles}"):
            known = prefixes(
                group.horizon,
                cohort[low : low + chunk],
                timelines,
                window=sampling.window or model.sizes.context,
            )
            work = _Work(model, group, clock, used, sampling, known)
            tables = work.run() if cache is None else work.cached(cache, weights)
            for name, table in tables.items():
                found[name].append(table)
    return {
        name: keys.hstack(pl.concat(parts)) if parts else keys.clear()
        for name, parts in found.items()
    }


@dataclass
class _Tally:
    """Paths of one prediction and task so far."""

    events: list[np.ndarray] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)

    def add(self, events: np.ndarray, kept: np.ndarray) -> None:
        self.events.append(np.asarray(events, float))
        self.kept.append(np.asarray(kept, float))


@dataclass(frozen=True)
class _Work:
    """Some predictions, and the tasks that are read from one set of their futures."""

    model: Decoder
    group: TaskGroup
    clock: Clock
    estimator: Estimator
    sampling: Sampling
    known: list[Prefix]

    def cached(self, folder: Path, weights: str) -> dict[str, pl.DataFrame]:
        """As `run`, or what an earlier one wrote."""
        file = folder / f"{self._key(weights)}.parquet"
        names = [task.name for task in self.group.tasks]
        kept = _kept(file)
        if kept is not None:
            return {name: kept.select(pl.col(name).struct.unnest()) for name in names}
        tables = self.run()
        with atomic_write(file) as temporary:
            pl.DataFrame([tables[name].to_struct(name) for name in names]).write_parquet(temporary)
        return tables

    def _key(self, weights: str) -> str:
        settings = {k: v for k, v in vars(self.sampling).items() if k not in ("slots", "device")}
        parts: list[Any] = [weights, self.estimator, sorted(settings.items())]
        parts += [task.model_dump() for task in self.group.tasks]
        parts += [self.group.stops.sets, self.group.stops.ends]
        parts += [self.clock.mean, self.clock.quantiles]
        for prefix in self.known:
            parts += [prefix.stream, prefix.horizon]
        return _digest(parts)

    def run(self) -> dict[str, pl.DataFrame]:
        """Simulate round after round; a table a task with a row a prediction."""
        tallies = [[_Tally() for _ in self.group.tasks] for _ in self.known]
        active = [n for n, prefix in enumerate(self.known) if prefix.horizon > 0]
        s, done = self.sampling, 0
        limit = s.futures if s.half_width is None else s.max_futures
        while active and done < limit:
            size = min(s.futures, limit - done)
            for n, futures in zip(active, self._simulate(active, size, done), strict=True):
                self._read(n, futures, tallies[n])
            done += size
            active = [n for n in active if self._too_wide(n, tallies[n])]
        tables = {}
        for number, task in enumerate(self.group.tasks):
            columns = [tally[number] for tally in tallies]
            rows = [self._summary(n, number, tally) for n, tally in enumerate(columns)]
            tables[task.name] = pl.DataFrame(rows, schema=_SCHEMAS[task.kind], orient="row")
        return tables

    def _simulate(self, which: Sequence[int], size: int, done: int) -> list[Futures]:
        return simulate(
            self.model,
            [self.known[n] for n in which],
            self.group.stops,
            self.clock,
            futures=size,
            first_future=done,
            estimator=self.estimator,
            **self.sampling.engine,
        )

    def _remaining(self, n: int, number: int) -> float:
        """Seconds left of a task's horizon; not above 0 where it had passed already."""
        passed = self.group.horizon - self.known[n].horizon
        return self.group.tasks[number].horizon - passed

    def _read(self, n: int, futures: Futures, tallies: Sequence[_Tally]) -> None:
        for number, (task, tally) in enumerate(zip(self.group.tasks, tallies, strict=True)):
            if self.estimator == "survival":
                tally.add(*weigh_answers(self.group, number, futures))
                continue
            answers = count_answers(self.group, number, futures, self._remaining(n, number))
            if task.kind == "time":
                days = futures.first[:, self.group.event[number]] / DAY
                tally.add(days, answers == EVENT)
            else:
                tally.add(answers == EVENT, answers != EXCLUDED)

    def _estimate(self, tally: _Tally) -> Reading:
        counted = self.estimator == "count"
        return ratio(np.concatenate(tally.events), np.concatenate(tally.kept), counted=counted)

    def _too_wide(self, n: int, tallies: Sequence[_Tally]) -> bool:
        target = self.sampling.half_width
        return target is not None and any(
            self._estimate(tally).half_width > target
            for number, tally in enumerate(tallies)
            if self.group.tasks[number].kind == "risk" and self._remaining(n, number) > 0
        )

    def _summary(self, n: int, number: int, tally: _Tally) -> tuple[Any, ...]:
        task = self.group.tasks[number]
        if task.kind == "time":
            return _time_summary(tally)
        if self._remaining(n, number) > 0:
            return tuple(vars(self._estimate(tally)).values())
        never = np.array([np.inf])
        answer = outcome(
            never,
            never,
            never,
            0.0,
            at_horizon=task.at_horizon,
            ends_unresolved=task.ends_unresolved,
        )[0]
        if answer == EXCLUDED:
            return None, None, None, None, 0, 1.0
        return float(answer), 0.0, float(answer), float(answer), 0, 0.0


_SCHEMAS = {
    "risk": {
        "risk": pl.Float64,
        "standard_error": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "futures": pl.Int64,
        "unresolved": pl.Float64,
    },
    "time": {
        "mean": pl.Float64,
        "standard_error": pl.Float64,
        "q05": pl.Float64,
        "q25": pl.Float64,
        "median": pl.Float64,
        "q75": pl.Float64,
        "q95": pl.Float64,
        "futures": pl.Int64,
        "unresolved": pl.Float64,
    },
}


def _time_summary(tally: _Tally) -> tuple[Any, ...]:
    if not tally.kept:
        return *[None] * (2 + len(QUANTILES)), 0, 1.0
    kept = np.concatenate(tally.kept) > 0
    days = np.concatenate(tally.events)[kept]
    unresolved = float(1 - kept.mean())
    if not len(days):
        return *[None] * (2 + len(QUANTILES)), len(kept), unresolved
    error = float(days.std(ddof=1) / np.sqrt(len(days))) if len(days) > 1 else None
    return float(days.mean()), error, *np.quantile(days, QUANTILES).tolist(), len(kept), unresolved


def read_classes(
    model: Decoder,
    timelines: Timelines,
    cohort: pl.DataFrame,
    task: TimelineTask,
    *,
    top: int = 5,
    batch: int = 16,
    window: int | None = None,
    device: str = "auto",
    dtype: torch.dtype | None = None,
) -> pl.DataFrame:
    """Read a class from the model's next token, without simulation.

    Args:
        model, timelines: as in `estimate_risks`.
        cohort: rows of `starts`.
        task: of kind `class`.
        top: how many classes to list.
        batch: windows computed together.
        window, device, dtype: as in `wardround.simulation.simulate`.

    Returns:
        The cohort's keys and `ranked` (the `top` likeliest tokens), `probabilities` (of those,
        given that the token is one of the classes), `mass` (probability that it is), `expected`
        (mean decile where the classes are quantiles, else null); `label_probability` where the
        cohort has a `label`.

    Raises:
        WardroundError: a task of another kind, or tokens that the vocabulary lacks.
    """
    if task.kind != "class":
        raise WardroundError(f"task {task.name} is of kind {task.kind}; simulate it instead")
    vocabulary = timelines.vocabulary
    size = window or model.sizes.context
    known = prefixes(task.horizon, cohort, timelines, window=size, inject=task.inject)
    classes = np.flatnonzero(token_mask(task, task.event, vocabulary))
    names = np.array([vocabulary.tokens[token] for token in classes], dtype=object)
    scores = _next_scores(model, known, size, batch, device, dtype)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    mass = scores[:, classes].sum(axis=1) / scores.sum(axis=1)
    share = scores[:, classes] / scores[:, classes].sum(axis=1, keepdims=True)
    order = np.argsort(-share, axis=1, kind="stable")[:, :top]
    levels = [re.fullmatch(r"Q(\d+)", name) for name in names]
    result = cohort.select([name for name in KEYS if name in cohort.columns]).with_columns(
        ranked=pl.Series(names[order].tolist(), dtype=pl.List(pl.String)),
        probabilities=pl.Series(
            np.take_along_axis(share, order, axis=1).tolist(), dtype=pl.List(pl.Float64)
        ),
        mass=pl.Series(mass, dtype=pl.Float64),
        expected=pl.Series(share @ [int(level[1]) for level in levels if level], dtype=pl.Float64)
        if all(levels)
        else pl.lit(None, pl.Float64),
    )
    if "label" not in cohort.columns:
        return result
    place = {name: number for number, name in enumerate(names)}
    column = np.array([place[label] for label in cohort["label"]], np.int64)
    return result.with_columns(
        label_probability=pl.Series(share[np.arange(len(share)), column], dtype=pl.Float64)
    )


def _kept(file: Path) -> pl.DataFrame | None:
    """What an earlier run wrote; None where it did not, or the file is damaged."""
    try:
        return pl.read_parquet(file, glob=False)
    except (OSError, pl.exceptions.PolarsError):
        return None


@torch.inference_mode()
def _next_scores(
    model: Decoder,
    known: Sequence[Prefix],
    window: int,
    batch: int,
    device: str,
    dtype: torch.dtype | None,
) -> np.ndarray:
    """Scores of each prefix's next token: (n, V) float64. Windows of like lengths go together."""
    device = pick_device(device)
    network = copy.deepcopy(model).to(device=device, dtype=dtype).eval()
    windows = []
    for prefix in known:
        opening = Window(window, len(prefix.context)).opening(len(prefix.tokens))
        kept = prefix.context, prefix.tokens[opening:]
        windows.append(np.concatenate(kept).astype(np.int64))
    order = np.argsort([len(one) for one in windows], kind="stable")
    scores = np.empty((len(windows), model.sizes.vocabulary))
    for low in track(range(0, len(order), batch), "Reading classes"):
        rows = order[low : low + batch]
        length = max(len(windows[row]) for row in rows)
        # Padding stands behind, where causal attention does not look.
        padded = np.stack([np.pad(windows[row], (0, length - len(windows[row]))) for row in rows])
        last = torch.tensor([len(windows[row]) - 1 for row in rows], device=device)
        hidden = network.hidden(torch.from_numpy(padded).to(device))
        final = hidden[torch.arange(len(rows), device=device), last]
        scores[rows] = network.score(final).double().cpu().numpy()
    return scores


def _weights(model: Decoder) -> Iterable[Any]:
    yield model.config
    for name, tensor in sorted(model.state_dict().items()):
        yield name
        yield tensor.detach().float().cpu().numpy()


def _digest(parts: Iterable[Any]) -> str:
    """A hash of arrays (their bytes) and of anything else by how it is written."""
    content = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = (
            np.ascontiguousarray(part).tobytes()
            if isinstance(part, np.ndarray)
            else repr(part).encode()
        )
        content.update(len(data).to_bytes(8, "little"))
        content.update(data)
    return content.hexdigest()
