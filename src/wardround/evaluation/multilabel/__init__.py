"""Metrics of multi-label classification, of documents with few of very many codes."""

from wardround.evaluation.multilabel.intervals import (
    McNemar,
    compare_multilabel,
    mcnemar,
    multilabel_estimates,
    resample_metrics,
)
from wardround.evaluation.multilabel.suite import (
    MultilabelEvaluation,
    auc_micro,
    evaluate_multilabel,
)
from wardround.evaluation.multilabel.tables import (
    code_group_table,
    code_table,
    document_group_table,
    frequency_bands,
    frequency_prior,
    quantile_bands,
)
from wardround.evaluation.multilabel.threshold import Threshold, tune_threshold

__all__ = [
    "McNemar",
    "MultilabelEvaluation",
    "Threshold",
    "auc_micro",
    "code_group_table",
    "code_table",
    "compare_multilabel",
    "document_group_table",
    "evaluate_multilabel",
    "frequency_bands",
    "frequency_prior",
    "mcnemar",
    "multilabel_estimates",
    "quantile_bands",
    "resample_metrics",
    "tune_threshold",
]
