"""A cohort: who is predicted, when, what happened; splitting it and writing it as MEDS labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import meds
import polars as pl
import pyarrow.parquet as pq

from wardround.errors import WardroundError
from wardround.store import DEFAULT_FRACTIONS, atomic_write, split_subjects

KEYS = ("subject_id", "prediction_time")
LABEL_FILE, STAY_FILE = "labels.parquet", "stays.parquet"


@dataclass(frozen=True)
class FlowStep:
    """How many rows and subjects are left after a rule."""

    step: str
    rows: int
    subjects: int


@dataclass(frozen=True)
class Cohort:
    """The rows of a task.

    Attributes:
        name: of the task.
        frame: `subject_id`, `prediction_time`, `boolean_value` and, where the task is about
            stays, their `stay_id`; sorted, and no two rows with the same first two.
        flow: the rules that led to it, in order.
    """

    name: str
    frame: pl.DataFrame
    flow: list[FlowStep] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frame)


class Flow:
    """Applies rules to a frame and counts what each leaves."""

    def __init__(self, frame: pl.DataFrame, step: str) -> None:
        self.frame = frame
        self.steps: list[FlowStep] = []
        self._count(step)

    def keep(self, rule: pl.Expr, step: str) -> None:
        """Keep the rows where `rule` is true."""
        self.frame = self.frame.filter(rule)
        self._count(step)

    def _count(self, step: str) -> None:
        subjects = self.frame["subject_id"].n_unique()
        self.steps.append(FlowStep(step, len(self.frame), subjects))


def assign_splits(
    frame: pl.DataFrame,
    *,
    by: Literal["subject", "visit"] = "subject",
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
) -> pl.DataFrame:
    """Add `split` (train, tuning, held_out) to rows.

    Args:
        frame: `subject_id`, and `stay_id` to split by visit.
        by: `subject` keeps all rows of a subject together. `visit` does not: a model then meets
            patients again that it was fitted on, which is why it is only for comparison.
        fractions, seed: as in `wardround.store.split_subjects`.
    """
    key = "subject_id" if by == "subject" else "stay_id"
    if key not in frame.columns:
        raise WardroundError(f"cannot split by {by}: the cohort has no column {key}")
    return frame.with_columns(split=split_subjects(frame[key], fractions, seed))


def write_labels(cohort: Cohort, folder: Path) -> None:
    """Write a MEDS label table, and beside it the stays it is about.

    MEDS allows no more columns in `labels.parquet`, so stay ids lie in `stays.parquet` under the
    same two keys.
    """
    labels = cohort.frame.select(*KEYS, "boolean_value").to_arrow()
    table = meds.LabelSchema.align(labels)
    meds.LabelSchema.validate(table)
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        pq.write_table(table, temporary / LABEL_FILE)
        cohort.frame.drop("boolean_value").write_parquet(temporary / STAY_FILE)
        flow = [{"step": s.step, "rows": s.rows, "subjects": s.subjects} for s in cohort.flow]
        schema = {"step": pl.String, "rows": pl.Int64, "subjects": pl.Int64}
        pl.DataFrame(flow, schema=schema).write_parquet(temporary / "flow.parquet")
        (temporary / "name.txt").write_text(cohort.name)


def read_labels(folder: Path) -> Cohort:
    """Read what `write_labels` wrote.

    Raises:
        WardroundError: a file is missing, or is no such table.
    """
    try:
        labels = pl.read_parquet(folder / LABEL_FILE).select(*KEYS, "boolean_value")
        stays = pl.read_parquet(folder / STAY_FILE)
        flow = pl.read_parquet(folder / "flow.parquet")
        name = (folder / "name.txt").read_text()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise WardroundError(f"{folder} holds no whole label table: {error}") from error
    frame = labels.join(stays, on=KEYS, how="left", validate="1:1", maintain_order="left")
    return Cohort(name, frame, [FlowStep(**row) for row in flow.iter_rows(named=True)])
