"""Who is predicted, when, and what happened; splits; and the leak audit."""

from wardround.cohorts.audit import AuditReport, Leak, Telling, Truncation, audit, truncation_test
from wardround.cohorts.coding import (
    CodeSelector,
    CodingCohort,
    CodingOptions,
    chapters,
    coding_documents,
    read_coding,
    write_coding,
)
from wardround.cohorts.cohort import Cohort, FlowStep, assign_splits, read_labels, write_labels
from wardround.cohorts.emergency import EmergencyTask
from wardround.cohorts.registry import EMERGENCY_TASKS, TASKS, Task, load_task
from wardround.cohorts.stratify import (
    CODING_FRACTIONS,
    read_splits,
    stratified_split,
    write_splits,
)

__all__ = [
    "CODING_FRACTIONS",
    "EMERGENCY_TASKS",
    "TASKS",
    "AuditReport",
    "CodeSelector",
    "CodingCohort",
    "CodingOptions",
    "Cohort",
    "EmergencyTask",
    "FlowStep",
    "Leak",
    "Task",
    "Telling",
    "Truncation",
    "assign_splits",
    "audit",
    "chapters",
    "coding_documents",
    "load_task",
    "read_coding",
    "read_labels",
    "read_splits",
    "stratified_split",
    "truncation_test",
    "write_coding",
    "write_labels",
    "write_splits",
]
