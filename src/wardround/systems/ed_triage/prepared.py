"""What the models of a task read: labels, the visit table, prior codes and hourly vitals."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from wardround.cohorts import FlowStep, assign_splits, load_task
from wardround.errors import WardroundError
from wardround.models import MedianImputer
from wardround.store import PatientStore
from wardround.systems.ed_triage.config import EdTriageConfig
from wardround.views.codes import CodeLists, EncodedLists, Vocabulary, prior_codes
from wardround.views.grid import ChannelMedians, HourlyGrid, hourly_vitals
from wardround.views.subgroups import subgroups
from wardround.views.table import FEATURES, diagnosis_lookback, triage_table
from wardround.workdir import Workdir

#: `split` is the one in force; `other_split` the other way, by visit or by subject.
KEYS = ("subject_id", "prediction_time", "stay_id", "boolean_value", "split", "other_split")
Split = Literal["subject", "visit"]
VITALS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "acuity")


@dataclass(frozen=True)
class PreparedTask:
    """One task's data in a stage folder; parts are read when a model asks for them."""

    name: str
    folder: Path

    @cached_property
    def frame(self) -> pl.DataFrame:
        """`KEYS`, the feature columns, and triage values that only scores read."""
        return pl.read_parquet(self.folder / "table.parquet")

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Columns of the models' table: 64 at triage, 67 at disposition."""
        return FEATURES[_features(self.name)]

    @property
    def flow(self) -> list[FlowStep]:
        return [FlowStep(**step) for step in json.loads((self.folder / "flow.json").read_text())]

    @property
    def groups(self) -> pl.DataFrame:
        """Subgroups of each row, as strings."""
        return pl.read_parquet(self.folder / "groups.parquet")

    @cached_property
    def y(self) -> np.ndarray:
        return self.frame["boolean_value"].to_numpy()

    def mask(self, split: str, by: str = "split") -> np.ndarray:
        """Rows of a split, (n,) bool."""
        return (self.frame[by] == split).to_numpy()

    @cached_property
    def raw(self) -> np.ndarray:
        """Features, (n, d) float32, NaN where missing."""
        return self.frame.select(self.features).cast(pl.Float32).to_numpy()

    def empty(self, by: str = "split") -> list[str]:
        """Columns that no training row has a value of. Models see 0 there, in every row."""
        train = self._columns.filter(pl.Series(self.mask("train", by)))
        return [name for name in train.columns if train[name].null_count() == len(train)]

    def imputed(self, by: str = "split") -> np.ndarray:
        """`raw` with the medians of the training rows in the gaps."""
        return self._filled(by).select(self.features).to_numpy()

    def score_inputs(self) -> tuple[np.ndarray, list[str]]:
        """Columns under the names that clinical scores use, gaps filled as for models."""
        table = self._filled("split")
        renamed = table.select(
            "age",
            *(pl.col(f"triage_{name}").alias(name) for name in VITALS),
            *(name for name in table.columns if name.startswith("cci_")),
        )
        return renamed.to_numpy(), renamed.columns

    @cached_property
    def _columns(self) -> pl.DataFrame:
        return self.frame.drop(KEYS).cast(pl.Float32)

    def _filled(self, by: str) -> pl.DataFrame:
        nothing = pl.lit(0, pl.Float32)
        table = self._columns.with_columns(nothing.alias(name) for name in self.empty(by))
        train = table.filter(pl.Series(self.mask("train", by)))
        return MedianImputer.fit(train).transform(table)

    def codes(self, min_count: int) -> tuple[EncodedLists, int]:
        """Prior ICD codes as ids, and the size of the vocabulary that train taught."""
        values = pl.read_parquet(self.folder / "codes.parquet")["code"]
        lists = CodeLists(values, np.load(self.folder / "offsets.npy"))
        vocabulary = Vocabulary.fit(lists, self.mask("train"), min_count)
        if not len(vocabulary):
            raise WardroundError("no training visit has an earlier ICD code")
        return vocabulary.encode(lists), len(vocabulary)

    def grid(self) -> HourlyGrid:
        """Hourly vital signs, channels without a value filled with medians of train."""
        grid = HourlyGrid(np.load(self.folder / "grid.npy"), np.load(self.folder / "lengths.npy"))
        return ChannelMedians.fit(grid, self.mask("train")).transform(grid)


def has_vitals(task: str) -> bool:
    """Whether the visit's charted vital signs are known: at disposition, not at triage."""
    return _features(task) == "disposition"


def split_in_force(config: EdTriageConfig) -> Split:
    """What is split into train, tuning and held out."""
    return "visit" if config.paper_compat else config.split_by


def prepare_task(
    name: str, store: PatientStore, config: EdTriageConfig, workdir: Workdir
) -> PreparedTask:
    """Build a task's stage, or find it."""
    stage = f"work/{name}"
    by = split_in_force(config)

    def build(folder: Path) -> None:
        _build(name, store, config, by, folder)

    folder = workdir.stage(
        stage,
        build,
        inputs={
            "store": store.fingerprint,
            "task": name,
            "paper_compat": config.paper_compat,
            "lookback_days": config.lookback_days,
            "split": [by, config.fractions, config.seed],
            "codes": config.code_bag.vocabulary if "code_bag" in config.models else None,
            "hours": config.lstm.max_hours if "lstm" in config.models else None,
        },
    )
    return PreparedTask(name, folder)


def _build(name: str, store: PatientStore, config: EdTriageConfig, by: Split, folder: Path) -> None:
    cohort = load_task(name).extract(store, paper_compat=config.paper_compat)
    if not len(cohort):
        raise WardroundError(f"{name}: no visit of {store.path} meets the cohort's rules")
    fractions, seed = config.fractions, config.seed
    other: Split = "subject" if by == "visit" else "visit"
    keys = assign_splits(cohort.frame, by=other, fractions=fractions, seed=seed)
    keys = keys.rename({"split": "other_split"})
    keys = assign_splits(keys, by=by, fractions=fractions, seed=seed)
    index = keys.select("subject_id", "prediction_time", "stay_id")
    feature_set = _features(name)

    def table(which: str) -> pl.DataFrame:
        return triage_table(
            store,
            index,
            "triage" if which == "triage" else "disposition",
            lookback_days=config.lookback_days,
            paper_compat=config.paper_compat,
        ).drop(index.columns)

    features = table(feature_set)
    if feature_set == "disposition":  # scores stay those of triage, as published
        more = table("triage")
        new = [column for column in more.columns if column not in features.columns]
        features = pl.concat([features, more.select(new)], how="horizontal")
    pl.concat([keys.select(KEYS), features], how="horizontal").write_parquet(
        folder / "table.parquet"
    )
    subgroups(store, index).select("sex", "age_band", "race", "arrival_transport").write_parquet(
        folder / "groups.parquet"
    )
    (folder / "flow.json").write_text(json.dumps([asdict(step) for step in cohort.flow], indent=1))
    if "code_bag" in config.models:
        starts = store.stays().filter(pl.col("kind") == "ed").select("stay_id", "start").collect()
        lists = prior_codes(
            store,
            index.join(starts, on="stay_id", how="left", maintain_order="left"),
            config.code_bag.vocabulary,
            lookback=diagnosis_lookback(config.lookback_days, config.paper_compat),
            before="start",
        )
        pl.DataFrame({"code": lists.values}).write_parquet(folder / "codes.parquet")
        np.save(folder / "offsets.npy", lists.offsets)
    if "lstm" in config.models and feature_set == "disposition":
        grid = hourly_vitals(store, index, method="linear", max_hours=config.lstm.max_hours)
        np.save(folder / "grid.npy", grid.values)
        np.save(folder / "lengths.npy", grid.lengths)


def _features(task: str) -> str:
    return str(load_task(task).features)
