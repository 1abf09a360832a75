"""Scores, estimators and networks: arrays or tensors in, predictions out; no files, no state."""

from wardround.models.autoscore import AutoScore
from wardround.models.bag_of_words import BagOfWords, BagOfWordsConfig
from wardround.models.chunks import PLMCA, PLMICD, ChunkedConfig
from wardround.models.coding import (
    CAML,
    LAAT,
    BiGRU,
    BiGRUConfig,
    CAMLConfig,
    LAATConfig,
    MultiResCNN,
    MultiResCNNConfig,
    VanillaConv,
    VanillaConvConfig,
    WordModelConfig,
)
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
    "CAML",
    "CLINICAL_SCORES",
    "LAAT",
    "PLMCA",
    "PLMICD",
    "AutoScore",
    "BagOfWords",
    "BagOfWordsConfig",
    "BiGRU",
    "BiGRUConfig",
    "BinaryEstimator",
    "CAMLConfig",
    "CalibratedScore",
    "ChunkedConfig",
    "CodeBagNet",
    "Decoder",
    "DecoderConfig",
    "Item",
    "LAATConfig",
    "LightGBM",
    "MedianImputer",
    "MultiResCNN",
    "MultiResCNNConfig",
    "Score",
    "Standardiser",
    "TriageMLP",
    "VanillaConv",
    "VanillaConvConfig",
    "VitalsLSTM",
    "WordModelConfig",
    "clinical_scores",
    "feature_importance",
    "gradient_boosting",
    "lightgbm_trees",
    "logistic_regression",
    "random_forest",
    "xgboost",
]
