"""The leak audit: what would be read too early, what gives an outcome away, what a view does."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Group
from rich.table import Table

from wardround.cohorts.cohort import KEYS
from wardround.cohorts.registry import Task
from wardround.store import PatientStore

Build = Callable[[PatientStore, pl.DataFrame], pl.DataFrame]
#: Rows printed; the JSON has all of them.
SHOWN = 25
#: Rows this near before a prediction are asked whether their mere presence tells the outcome,
JUST_BEFORE = timedelta(hours=1)
#: which it does when it ranks predictions better than this, and is not there by accident.
TELLING_AUROC, TELLING_PREDICTIONS = 0.75, 20
ADMISSION_ID = "any row with hadm_id"


@dataclass(frozen=True)
class Leak:
    """Rows of a kind of code that had happened by the prediction and could not be read yet.

    Attributes:
        rows: (prediction, event) pairs.
        predictions: how many predictions have such a row.
        median_delay_hours: from the prediction to when a row became available, in the middle
            prediction of the middle row; None if none ever did.
    """

    code: str
    rows: int
    predictions: int
    median_delay_hours: float | None


@dataclass(frozen=True)
class Telling:
    """A kind of code whose presence just before the prediction all but tells the outcome.

    It may be honest (an order for the ward before an admission). It may be a row that the source
    writes because of the outcome and dates before it, which no rule of availability can see.

    Attributes:
        predictions: how many have such a row within `JUST_BEFORE`.
        with_it, without_it: share of them, and of the others, that have the outcome.
        auroc: of its presence alone.
    """

    code: str
    predictions: int
    with_it: float
    without_it: float
    auroc: float


@dataclass(frozen=True)
class Truncation:
    """Outcome of `truncation_test`: columns that changed when the future was deleted."""

    predictions: int
    differing: list[str]


@dataclass(frozen=True)
class AuditReport:
    """What `audit` found.

    Attributes:
        hidden_stays: predictions during a stay of the patient, whose end, outcome and link to an
            admission the store hides.
    """

    task: str
    predictions: int
    leaks: list[Leak]
    telling: list[Telling]
    hidden_stays: int
    truncation: Truncation | None

    def render(self) -> Group:
        """As printed."""
        table = Table(
            "Code",
            "Rows too early",
            "Predictions",
            "Median delay (h)",
            title=f"{self.task}: {self.predictions:,} predictions. Rows dated before the "
            "prediction that nobody could read yet",
            title_justify="left",
        )
        for leak in self.leaks[:SHOWN]:
            table.add_row(
                leak.code,
                f"{leak.rows:,}",
                f"{leak.predictions:,}",
                "never" if leak.median_delay_hours is None else f"{leak.median_delay_hours:.1f}",
            )
        lines: list[Any] = [table]
        if len(self.leaks) > SHOWN:
            lines.append(f"and {len(self.leaks) - SHOWN} more kinds of code")
        if not self.leaks:
            lines.append("No row was dated before it could be read.")
        lines += [
            f"Look into {row.code}: {row.predictions:,} predictions have it in the hour before, of "
            f"which {row.with_it:.0%} have the outcome ({row.without_it:.0%} of the others)."
            for row in self.telling
        ]
        lines.append(
            f"{self.hidden_stays:,} predictions fall within a stay; its end and outcome are hidden."
        )
        if self.truncation is not None:
            verdict = (
                "no feature changed"
                if not self.truncation.differing
                else "LEAK: these features changed: " + ", ".join(self.truncation.differing)
            )
            lines.append(
                f"Truncation test on {self.truncation.predictions:,} predictions "
                f"(everything later deleted): {verdict}."
            )
        return Group(*lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def audit(
    task: Task, store: PatientStore, *, build: Build | None = None, sample: int = 500, seed: int = 0
) -> AuditReport:
    """Show what the rule of availability keeps from a task.

    Args:
        task: any task.
        store: any store; read shard by shard.
        build: makes the features of (store, index); put to the truncation test.
        sample: predictions in that test.
        seed: draws them.
    """
    frame = task.extract(store).frame
    keys = frame.select("subject_id", "prediction_time").unique()
    parts = store.map_shards(lambda shard: _too_early(store, shard, keys), what="Audit")
    pairs = pl.concat(parts)
    leaks = (
        pairs.group_by("code")
        .agg(
            rows=pl.col("rows").sum(),
            predictions=pl.struct("subject_id", "prediction_time").n_unique(),
            delay=pl.col("delay").median(),
        )
        .sort("rows", "code", descending=[True, False])
    )
    going_on = (
        store.stays()
        .join(keys.lazy(), on="subject_id")
        .filter(
            pl.col("start") <= pl.col("prediction_time"),
            pl.col("end").is_null() | (pl.col("end") > pl.col("prediction_time")),
        )
        .select("subject_id", "prediction_time")
        .unique()
        .collect()
    )
    return AuditReport(
        task=task.name,
        predictions=len(frame),
        leaks=[
            Leak(code, rows, predictions, None if delay is None else round(delay, 2))
            for code, rows, predictions, delay in leaks.iter_rows()
        ],
        telling=_telling(store, frame.select(*KEYS, "boolean_value").unique(KEYS)),
        hidden_stays=len(going_on),
        truncation=None
        if build is None
        else truncation_test(build, store, frame.drop("boolean_value"), sample=sample, seed=seed),
    )


def _too_early(store: PatientStore, shard: str, keys: pl.DataFrame) -> pl.DataFrame:
    """Of one shard: per prediction and kind of code, rows that had happened and were not known."""
    t = pl.col("prediction_time")
    available = pl.col("available_time")
    late = store.events([shard]).filter(
        (available > pl.col("time")) | (available.is_null() & pl.col("time").is_not_null())
    )
    return (
        late.select(
            "subject_id",
            "time",
            "available_time",
            code=pl.col("code").str.split("//").list.head(2).list.join("//"),
        )
        .join(keys.lazy(), on="subject_id")
        .filter(pl.col("time") <= t, available.is_null() | (available > t))
        .group_by("subject_id", "prediction_time", "code")
        .agg(
            rows=pl.len(),
            delay=(available - t).dt.total_seconds().median() / 3600,
        )
        .collect()
    )


def _telling(store: PatientStore, labels: pl.DataFrame) -> list[Telling]:
    """Kinds of code that, seen just before the prediction, part the outcomes."""
    positives = int(labels["boolean_value"].sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return []

    def one(shard: str) -> pl.DataFrame:
        known = store.known_at(
            labels, lookback=JUST_BEFORE, columns=["code", "hadm_id"], shards=[shard]
        )
        kind = pl.col("code").str.split("//").list.head(2).list.join("//")
        admission = pl.when(pl.col("hadm_id").is_not_null()).then(pl.lit(ADMISSION_ID))
        return (
            known.filter(pl.col("time").is_not_null())
            .select(*KEYS, "boolean_value", code=pl.concat_list(kind, admission))
            .explode("code", empty_as_null=False, keep_nulls=False)
            .unique()
            .group_by("code")
            .agg(true=pl.col("boolean_value").sum(), all=pl.len())
            .collect()
        )

    found = pl.concat(store.map_shards(one, what="Audit"))
    found = found.group_by("code").agg(pl.col("true", "all").sum()).sort("code")
    rows = []
    for code, true, everyone in found.iter_rows():
        auroc = 0.5 + (true / positives - (everyone - true) / negatives) / 2
        if abs(auroc - 0.5) >= TELLING_AUROC - 0.5 and everyone >= TELLING_PREDICTIONS:
            rest = max(len(labels) - everyone, 1)
            rows.append(
                Telling(code, everyone, true / everyone, (positives - true) / rest, round(auroc, 3))
            )
    return sorted(rows, key=lambda row: -abs(row.auroc - 0.5))


def truncation_test(
    build: Build, store: PatientStore, index: pl.DataFrame, *, sample: int = 500, seed: int = 0
) -> Truncation:
    """Build features twice, the second time from records that end at the prediction.

    One prediction of each drawn subject is kept. From the second store everything is deleted that
    became available later, and of stays still going on what was decided later. A view that reads
    as it should gives the same features.

    Args:
        build: (store, index) to a frame with a row for each of the index, in its order.
        index: predictions with the columns that `build` needs.
        sample: how many subjects.
    """
    rng = np.random.default_rng(seed)
    shuffled = index[rng.permutation(len(index))]
    chosen = shuffled.unique("subject_id", keep="first", maintain_order=True).head(sample)
    with tempfile.TemporaryDirectory() as folder:
        whole = build(store, chosen)
        cut = build(_truncated(store, chosen, Path(folder)), chosen)
    differing = [
        name
        for name in whole.columns
        if name not in index.columns
        and not whole[name].equals(cut[name], null_equal=True)
        and not _same_numbers(whole[name], cut[name])
    ]
    return Truncation(len(chosen), differing)


def _same_numbers(first: pl.Series, second: pl.Series) -> bool:
    return first.dtype.is_float() and bool(first.eq_missing(second).all())


def _truncated(store: PatientStore, index: pl.DataFrame, folder: Path) -> PatientStore:
    """A store of the index's subjects whose records end at their prediction times."""
    cuts = index.select("subject_id", "prediction_time")
    t = pl.col("prediction_time")
    notes: dict[str, int] = {}

    def one(shard: str) -> None:
        rows = (
            store.events([shard])
            .join(cuts.lazy(), on="subject_id", maintain_order="left")
            .filter(
                pl.col("time").is_null() | ((pl.col("time") <= t) & (pl.col("available_time") <= t))
            )
            .drop("prediction_time")
            .collect()
        )
        target = folder / "data" / f"{shard}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        rows.write_parquet(target)
        known = store.notes_known_at(cuts, shards=[shard]).drop("prediction_time").collect()
        if len(known):
            target = folder / "notes" / f"{shard}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            known.write_parquet(target)
            notes[shard] = len(known)

    for shard in store.shards:
        one(shard)
    shutil.copytree(store.path / "metadata", folder / "metadata")
    columns = store.stays().collect_schema().names()
    store.stays_known_at(cuts).select(columns).collect().write_parquet(folder / "stays.parquet")
    return PatientStore(folder, {**store.provenance, "notes": notes})
