"""Patients as rows of a table: building blocks, and the ED triage table made of them."""

from wardround.views.table.cleaning import (
    ED_RANGES,
    PlausibleRange,
    clean_vital,
    fahrenheit_to_celsius,
    parse_pain,
)
from wardround.views.table.counts import distinct_count
from wardround.views.table.demographics import age, gender
from wardround.views.table.diagnoses import prior_diagnosis_groups
from wardround.views.table.history import history_table
from wardround.views.table.stays import stay_counts
from wardround.views.table.text import text_flags
from wardround.views.table.triage import (
    CHIEF_COMPLAINTS,
    FEATURES,
    diagnosis_lookback,
    triage_table,
)
from wardround.views.table.values import Measure, last_values
from wardround.views.table.warning import warning_inputs
from wardround.views.table.windows import WindowedCounts

__all__ = [
    "CHIEF_COMPLAINTS",
    "ED_RANGES",
    "FEATURES",
    "Measure",
    "PlausibleRange",
    "WindowedCounts",
    "age",
    "clean_vital",
    "diagnosis_lookback",
    "distinct_count",
    "fahrenheit_to_celsius",
    "gender",
    "history_table",
    "last_values",
    "parse_pain",
    "prior_diagnosis_groups",
    "stay_counts",
    "text_flags",
    "triage_table",
    "warning_inputs",
]
