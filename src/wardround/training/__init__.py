"""Fitting and pretraining networks, checkpoints, and saving and loading models of every kind."""

from wardround.training.fit import FitHistory, fit_binary, predict_proba
from wardround.training.huggingface import export_hugging_face, import_hugging_face
from wardround.training.inputs import BagInputs, DenseInputs, Inputs, SequenceInputs
from wardround.training.masked import (
    MaskedConfig,
    SpecialTokens,
    pretrain_masked,
    save_encoder,
)
from wardround.training.multilabel import (
    MultilabelConfig,
    MultilabelHistory,
    TokenDocuments,
    fit_multilabel,
    predict_logits,
)
from wardround.training.packing import Documents
from wardround.training.persistence import load_model, save_model
from wardround.training.pretraining import PretrainConfig, PretrainHistory, losses, pretrain
from wardround.training.word_vectors import WordVectors, fit_word_vectors

__all__ = [
    "BagInputs",
    "DenseInputs",
    "Documents",
    "FitHistory",
    "Inputs",
    "MaskedConfig",
    "MultilabelConfig",
    "MultilabelHistory",
    "PretrainConfig",
    "PretrainHistory",
    "SequenceInputs",
    "SpecialTokens",
    "TokenDocuments",
    "WordVectors",
    "export_hugging_face",
    "fit_binary",
    "fit_multilabel",
    "fit_word_vectors",
    "import_hugging_face",
    "load_model",
    "losses",
    "predict_logits",
    "predict_proba",
    "pretrain",
    "pretrain_masked",
    "save_encoder",
    "save_model",
]
