"""What was known of a patient before, for any task: one row a prediction."""

from __future__ import annotations

import polars as pl

from wardround.store import PatientStore
from wardround.views.records import Records, by_shard, code_in, require_columns
from wardround.views.table.comorbidities import comorbidity_flags
from wardround.views.table.demographics import BIRTH, GENDERS, age, gender
from wardround.views.table.diagnoses import DIAGNOSIS_PREFIX, prior_diagnosis_groups
from wardround.views.table.stays import stay_counts


def history_table(store: PatientStore, index: pl.DataFrame) -> pl.DataFrame:
    """Age, gender, numbers of earlier stays and comorbidities, whatever the task is about.

    Args:
        store: any patient store.
        index: `subject_id`, `prediction_time`, one row a prediction, and any more key columns.

    Returns:
        The columns of `index`, then `age`, `gender`, `n_<ed|hosp|icu>_<30|90|365>d` and the flags
        `cci_*` and `eci_*`, as `wardround.views.table.triage_table` has them, counted back from the
        prediction time.

    Raises:
        WardroundError: columns are missing.
    """
    require_columns(index, ("subject_id", "prediction_time"))

    def block(records: Records, rows: pl.DataFrame) -> pl.DataFrame:
        return pl.concat(
            [
                age(records, rows),
                gender(records, rows),
                stay_counts(records, rows),
                prior_diagnosis_groups(records, rows, comorbidity_flags(records)),
            ],
            how="horizontal",
        )

    wanted = code_in([BIRTH, *GENDERS]) | pl.col("code").str.starts_with(DIAGNOSIS_PREFIX)
    keys = index.select("subject_id", "prediction_time")
    return index.hstack(by_shard(store, keys, block, codes=wanted, what="History"))
