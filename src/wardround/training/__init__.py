"""Fitting networks, checkpoints, and saving and loading models of every kind."""

from wardround.training.fit import FitHistory, fit_binary, predict_proba
from wardround.training.inputs import BagInputs, DenseInputs, Inputs, SequenceInputs
from wardround.training.persistence import load_model, save_model

__all__ = [
    "BagInputs",
    "DenseInputs",
    "FitHistory",
    "Inputs",
    "SequenceInputs",
    "fit_binary",
    "load_model",
    "predict_proba",
    "save_model",
]
