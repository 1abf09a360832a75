"""Tasks written in the ACES language, run by es-aces shard after shard."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from wardround.cohorts.cohort import Cohort, FlowStep
from wardround.errors import WardroundError
from wardround.store import PatientStore

FRAME = pl.Schema(
    {
        "subject_id": pl.Int64(),
        "prediction_time": pl.Datetime("us"),
        "boolean_value": pl.Boolean(),
    }
)


@dataclass(frozen=True)
class AcesTask:
    """A task file. Rows are a subject at a time; the engine knows no stays."""

    name: str
    title: str
    path: Path
    features: None = None

    def extract(self, store: PatientStore, *, paper_compat: bool = False) -> Cohort:
        """Run the task on every shard.

        Args:
            paper_compat: no published rule departs from a task file; ignored.

        Raises:
            WardroundError: the file is not a task, or has no boolean label or index time.
        """
        config = self._config()
        triggers = subjects = 0
        parts = [pl.DataFrame(schema=FRAME)]

        def one(shard: str) -> tuple[int, int, pl.DataFrame]:
            return self._shard(config, store.path / "data" / f"{shard}.parquet")

        for rows, who, part in store.map_shards(one, what=f"Task {self.name}"):
            triggers += rows
            subjects += who  # a subject lies in one shard
            parts.append(part)
        frame = pl.concat(parts).sort("subject_id", "prediction_time")
        flow = [
            FlowStep(f"rows that trigger ({config.trigger.predicate})", triggers, subjects),
            FlowStep("windows of the task hold", len(frame), frame["subject_id"].n_unique()),
        ]
        return Cohort(self.name, frame, flow)

    def _config(self) -> Any:
        from aces.config import TaskExtractorConfig

        try:
            config = TaskExtractorConfig.load(self.path)
        except Exception as error:  # es-aces raises what its parsers raise
            reason = " ".join(str(error).split())
            raise WardroundError(
                f"{self.path} is not an ACES task ({reason}); see the ACES task language"
            ) from error
        for attribute, meaning in (("label_window", "label"), ("index_timestamp_window", "time")):
            if getattr(config, attribute, None) is None:
                key = "label" if meaning == "label" else "index_timestamp"
                raise WardroundError(f"{self.path}: no window has `{key}`; add it to one")
        return config

    def _shard(self, config: Any, path: Path) -> tuple[int, int, pl.DataFrame]:
        """Rows and subjects that trigger, and the rows of the cohort."""
        from aces.predicates import get_predicates_df
        from aces.query import query
        from omegaconf import DictConfig

        # It warns of every shard without a positive.
        logging.getLogger("aces").setLevel(logging.ERROR)
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            named = Path(folder) / "named.parquet"
            _named_rows(config, path).sink_parquet(named)
            data = DictConfig({"path": str(named), "standard": "meds", "ts_format": None})
            predicates = get_predicates_df(config, data)
            # A query adds to the offsets of its config's windows, so that each needs its own.
            found = query(copy.deepcopy(config), predicates)
        starts = predicates.filter(pl.col(config.trigger.predicate) > 0)
        counts = len(starts), starts["subject_id"].n_unique()
        if found.is_empty():
            return *counts, pl.DataFrame(schema=FRAME)
        labels = found.select(
            pl.col("subject_id").cast(pl.Int64),
            pl.col("index_timestamp").cast(pl.Datetime("us")).alias("prediction_time"),
            (pl.col("label") > 0).alias("boolean_value"),
        ).unique(["subject_id", "prediction_time"], keep="first", maintain_order=True)
        return *counts, labels


def _named_rows(config: Any, path: Path) -> pl.LazyFrame:
    """The rows of a shard that a task can tell apart.

    Those of its predicates, and both ends of each record, where windows without a bound stop. The
    engine reads and groups all that it is given.
    """
    rows = pl.scan_parquet(path, glob=False)
    if "_ANY_EVENT" in config.plain_predicates or "_ANY_EVENT" in str(config.windows):
        return rows
    time = pl.col("time")
    named = [predicate.MEDS_eval_expr() for predicate in config.plain_predicates.values()]
    ends = [
        time == time.min().over("subject_id"),
        time == time.max().over("subject_id"),
    ]
    return rows.filter(pl.any_horizontal(*named, *ends))
