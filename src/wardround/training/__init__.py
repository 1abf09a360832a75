"""Fitting and pretraining networks, checkpoints, and saving and loading models of every kind."""

from wardround.training.fit import FitHistory, fit_binary, predict_proba
from wardround.training.huggingface import export_hugging_face, import_hugging_face
from wardround.training.inputs import BagInputs, DenseInputs, Inputs, SequenceInputs
from wardround.training.packing import Documents
from wardround.training.persistence import load_model, save_model
from wardround.training.pretraining import PretrainConfig, PretrainHistory, losses, pretrain

__all__ = [
    "BagInputs",
    "DenseInputs",
    "Documents",
    "FitHistory",
    "Inputs",
    "PretrainConfig",
    "PretrainHistory",
    "SequenceInputs",
    "export_hugging_face",
    "fit_binary",
    "import_hugging_face",
    "load_model",
    "losses",
    "predict_proba",
    "pretrain",
    "save_model",
]
