"""Timelines, splits and the predictions of each task."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import polars as pl

from wardround import __version__
from wardround.cohorts import FlowStep
from wardround.errors import WardroundError
from wardround.progress import track
from wardround.simulation import Clock
from wardround.simulation.predictions import along, starts
from wardround.simulation.tasks import TimelineTask, load_timeline_task
from wardround.store import PatientStore
from wardround.systems.ethos_ares.config import RUNNING, EthosAresConfig
from wardround.training import Documents
from wardround.views.sofa import first_day_sofa
from wardround.views.timeline import Derived, Timelines, Tokeniser, load_preset
from wardround.views.timeline.control import deal_futures, gather
from wardround.workdir import Workdir

log = logging.getLogger("wardround")

#: What a task was asked, in its stage.
TASK = "task.json"
#: Ends the name of a task that is asked at a random point of each running stay.
LATER = "-running"
#: Other stages of a run; no task may have their names.
RESERVED = ("timelines", "ethos", "control", "tokeniser")
#: Stays that are followed at a time: a row for each of their moments is in memory.
STAYS_AT_ONCE = 20_000


@dataclass(frozen=True)
class PreparedTask:
    """A task's predictions; those of tuning and held-out subjects are bounded in number."""

    name: str
    task: TimelineTask
    folder: Path

    @cached_property
    def frame(self) -> pl.DataFrame:
        """Rows of `simulation.predictions.starts` or `along`, with `split`."""
        return pl.read_parquet(self.folder / "predictions.parquet")

    @property
    def flow(self) -> list[FlowStep]:
        return [FlowStep(**step) for step in json.loads((self.folder / "flow.json").read_text())]

    @property
    def title(self) -> str:
        later = self.name.endswith(LATER)
        return f"{self.task.title}, during the stay" if later else self.task.title

    @property
    def description(self) -> str:
        later = "Predicted at one random moment of each stay at which something became known, "
        text = self.task.description
        return f"{later}from what was known by then. {text}" if self.name.endswith(LATER) else text


@dataclass(frozen=True)
class Prepared:
    """What fitting and evaluation read; `skipped` holds the reasons of tasks left out."""

    store: PatientStore
    tokeniser_folder: Path
    timeline_folder: Path
    tasks: dict[str, PreparedTask]
    skipped: dict[str, str] = field(default_factory=dict)

    @cached_property
    def tokeniser(self) -> Tokeniser:
        return Tokeniser.load(self.tokeniser_folder)

    @cached_property
    def timelines(self) -> Timelines:
        return Timelines.open(self.timeline_folder)

    @cached_property
    def split_of(self) -> np.ndarray:
        """The split of each timeline, (n,) strings."""
        splits = self.store.splits().filter(pl.col("subject_id").is_in(self.timelines.subjects))
        return splits.sort("subject_id")["split"].to_numpy()

    def documents(self, split: str) -> Documents:
        """The timelines of a split, as training takes them."""
        timelines = self.timelines
        return Documents(
            timelines.tokens,
            timelines.offsets,
            partial(contexts_at, timelines),
            timelines.context_size,
            np.flatnonzero(self.split_of == split),
        )

    def dealt_documents(self, split: str, seed: int) -> Documents:
        """The same with what follows each event dealt out anew among its subjects.

        Cuts at the predictions alone, or at moments, would not do: a model would still learn within
        stays, or within a moment, what goes with what, and carry it over to the predictions.
        """
        timelines, index = self.timelines, np.flatnonzero(self.split_of == split)
        cuts = np.flatnonzero(np.diff(timelines.events)) + 1
        begins, ends = timelines.offsets[index], timelines.offsets[index + 1]
        starts, stops, offsets = deal_futures(begins, ends, cuts, seed)
        return Documents(
            gather(timelines.tokens, starts, stops),
            offsets,
            partial(contexts_at_start, timelines, index),
            timelines.context_size,
        )

    def clock(self, *, mean: bool) -> Clock:
        """How long interval tokens last, as train taught."""
        durations = self.tokeniser.durations
        return Clock(durations.mean, None if mean else durations.quantiles)


def contexts_at(timelines: Timelines, documents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Static context of timelines as known at their tokens: (n, c)."""
    return timelines.contexts(documents, timelines.times[tokens])


def contexts_at_start(
    timelines: Timelines, index: np.ndarray, documents: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """Static context of timelines, by their number in `index`, as known at their beginning."""
    which = index[documents]
    return timelines.contexts(which, timelines.times[timelines.offsets[which]])


def prepare(store: PatientStore, config: EthosAresConfig, workdir: Workdir) -> Prepared:
    """Build the stages that the models share, or find them."""
    inputs = {
        "store": store.fingerprint,
        "version": __version__,
        "tokens": config.tokens.model_dump(mode="json"),
        "files": config.file_hashes(),
        "published": config.paper_compat,
    }

    def fit(folder: Path) -> None:
        tokeniser_of(store, config).save(folder)

    tokeniser = workdir.stage("model/tokeniser", fit, inputs=inputs)

    def write(folder: Path) -> None:
        Tokeniser.load(tokeniser).write(store, folder / "timelines", derived=derived(config))

    timelines = workdir.stage("work/timelines", write, inputs=inputs) / "timelines"
    prepared = Prepared(store, tokeniser, timelines, {})
    tasks = [load_timeline_task(name) for name in config.tasks]
    taken = [task.name for task in tasks]
    if twice := sorted({name for name in taken if taken.count(name) > 1 or name in RESERVED}):
        raise WardroundError(f"tasks need names of their own: rename {', '.join(twice)}")
    for task in track(tasks, "Tasks"):
        names = [task.name] + ([task.name + LATER] if task.name in RUNNING else [])
        for one in names[: 1 + config.running]:
            try:
                prepared.tasks[one] = _prepare_task(one, task, prepared, config, workdir)
            except WardroundError as error:
                log.warning("%s is left out: %s", one, error)
                prepared.skipped[one] = str(error)
    if not prepared.tasks:
        raise WardroundError(f"no task can be asked of {store.path}: {prepared.skipped}")
    return prepared


def tokeniser_of(store: PatientStore, config: EthosAresConfig) -> Tokeniser:
    """Fit the tokeniser on the training subjects."""
    preset = load_preset(
        config.tokens.preset,
        paper_compat=config.paper_compat,
        drug_table=config.tokens.drug_table,
    )
    return Tokeniser.fit(store, preset, derived=derived(config))


def derived(config: EthosAresConfig) -> Derived:
    """What computes SOFA scores: known after the first day, or at its start as published."""
    return partial(first_day_sofa, leak=config.paper_compat)


def _prepare_task(
    name: str, task: TimelineTask, prepared: Prepared, config: EthosAresConfig, workdir: Workdir
) -> PreparedTask:
    def build(folder: Path) -> None:
        cohort = starts(task, prepared.store, prepared.timelines)
        frame, flow = cohort.frame, list(cohort.flow)
        if name.endswith(LATER):
            frame = moments(task, frame, prepared, config.seed)
            step = "something became known during the stay"
            flow.append(FlowStep(step, len(frame), frame["subject_id"].n_unique()))
        frame = frame.join(prepared.store.splits(), on="subject_id", maintain_order="left")
        if not {"tuning", "held_out"} <= set(frame["split"]):
            raise WardroundError("no tuning or no held-out subject has a known outcome")
        limit = config.simulation.max_predictions
        parts = [frame.filter(pl.col("split") == "train")]
        for split in ("tuning", "held_out"):
            rows = frame.filter(pl.col("split") == split)
            parts.append(some_subjects(rows, limit, prepared.timelines.subjects, config.seed))
        rows = pl.concat(parts).sort("subject_id", "prediction_time")
        if len(rows) < len(frame):
            step = "of training subjects, and of some tuning and held-out ones"
            flow.append(FlowStep(step, len(rows), rows["subject_id"].n_unique()))
        rows.write_parquet(folder / "predictions.parquet")
        (folder / "flow.json").write_text(json.dumps([asdict(step) for step in flow], indent=1))
        (folder / TASK).write_text(task.model_dump_json(indent=1))

    folder = workdir.stage(
        f"work/{name}",
        build,
        inputs={
            "timelines": workdir.fingerprint("work/timelines"),
            "task": task.model_dump(mode="json"),
            "limit": config.simulation.max_predictions,
            "seed": config.seed,
        },
    )
    return PreparedTask(name, task, folder)


def moments(task: TimelineTask, frame: pl.DataFrame, prepared: Prepared, seed: int) -> pl.DataFrame:
    """One random moment of each stay after its start; the same one for all tasks still open then.

    Args:
        task: one of `RUNNING`.
        frame: its predictions at the start.
        prepared: whose timelines to follow.
        seed: of the moments.
    """
    leader = load_timeline_task(RUNNING[0])
    base = starts(leader, prepared.store, prepared.timelines).frame
    rng = np.random.default_rng(seed)
    chosen = []
    for part in base.iter_slices(STAYS_AT_ONCE):
        later = along(leader, part, prepared.timelines).filter(pl.col("elapsed") > 0)
        draw = pl.Series("draw", rng.random(len(later)))
        later = later.with_columns(draw).sort("draw")
        one = later.unique(["subject_id", "start_time"], keep="first", maintain_order=True)
        chosen.append(one.select("subject_id", "prediction_time"))
    keys = pl.concat(chosen).unique(maintain_order=True)
    open_rows = [
        along(task, part, prepared.timelines).join(
            keys, on=["subject_id", "prediction_time"], how="semi"
        )
        for part in frame.iter_slices(STAYS_AT_ONCE)
    ]
    rows = pl.concat(open_rows).filter(pl.col("elapsed") > 0).drop("start_time")
    return rows.unique(["subject_id", "prediction_time"], keep="first", maintain_order=True)


def some_subjects(rows: pl.DataFrame, limit: int, subjects: np.ndarray, seed: int) -> pl.DataFrame:
    """Rows of whole subjects, about `limit` of them at most.

    Subjects are drawn in one random order for all tasks, so that tasks share rows, and futures.

    Args:
        rows: with `subject_id`.
        limit: the first subject is kept, however many rows it has.
        subjects: (n,) ids in any fixed order.
        seed: of the order.
    """
    if len(rows) <= limit:
        return rows
    order = pl.DataFrame({"subject_id": np.random.default_rng(seed).permutation(subjects)})
    counts = order.join(rows.group_by("subject_id").len(), on="subject_id", maintain_order="left")
    taken = counts.filter((pl.col("len").cum_sum() <= limit) | (pl.int_range(pl.len()) == 0))
    return rows.join(taken, on="subject_id", how="semi", maintain_order="left")
