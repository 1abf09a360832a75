"""Reports: a run's results as a page that a clinician and a reviewer can both read."""

from wardround.reports.page import compare_report, render_report
from wardround.reports.risk import render_risk

__all__ = ["compare_report", "render_report", "render_risk"]
