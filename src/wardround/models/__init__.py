"""Scores, estimators and networks: arrays or tensors in, predictions out; no files, no state."""

from wardround.models.autoscore import AutoScore
from wardround.models.decoder import Decoder, DecoderConfig
from wardround.models.neural import CodeBagNet, TriageMLP, VitalsLSTM
from wardround.models.preprocessing import MedianImputer, Standardiser
from wardround.models.scores import CLINICAL_SCORES, CalibratedScore, Item, Score, clinical_scores
from wardround.models.tabular import (
    BinaryEstimator,
    LightGBM,
    feature_importance,
    gradient_boosting,
    lightgbm_trees,
    logistic_regression,
    random_forest,
    xgboost,
)

__all__ = [
    "CLINICAL_SCORES",
    "AutoScore",
    "BinaryEstimator",
    "CalibratedScore",
    "CodeBagNet",
    "Decoder",
    "DecoderConfig",
    "Item",
    "LightGBM",
    "MedianImputer",
    "Score",
    "Standardiser",
    "TriageMLP",
    "VitalsLSTM",
    "clinical_scores",
    "feature_importance",
    "gradient_boosting",
    "lightgbm_trees",
    "logistic_regression",
    "random_forest",
    "xgboost",
]
