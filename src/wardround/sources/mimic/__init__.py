"""MIMIC-IV's files (hosp, icu, ed, note) to a patient store, by declared event maps."""

from wardround.sources.mimic.ingest import ingest_mimic
from wardround.sources.mimic.report import IngestReport, TableReport, format_report

__all__ = ["IngestReport", "TableReport", "format_report", "ingest_mimic"]
