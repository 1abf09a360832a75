"""Who is predicted, when, and what happened; splits; and the leak audit."""

from wardround.cohorts.audit import AuditReport, Leak, Telling, Truncation, audit, truncation_test
from wardround.cohorts.cohort import Cohort, FlowStep, assign_splits, read_labels, write_labels
from wardround.cohorts.emergency import EmergencyTask
from wardround.cohorts.registry import EMERGENCY_TASKS, TASKS, Task, load_task

__all__ = [
    "EMERGENCY_TASKS",
    "TASKS",
    "AuditReport",
    "Cohort",
    "EmergencyTask",
    "FlowStep",
    "Leak",
    "Task",
    "Telling",
    "Truncation",
    "assign_splits",
    "audit",
    "load_task",
    "read_labels",
    "truncation_test",
    "write_labels",
]
