"""Saving fitted models and loading them without executing anything from the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import lightgbm
import skops.io
from lightgbm.basic import LightGBMError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator
from torch import nn
from xgboost import XGBClassifier
from xgboost.core import XGBoostError

from wardround.errors import WardroundError
from wardround.models import (
    CAML,
    LAAT,
    PLMCA,
    PLMICD,
    AutoScore,
    BagOfWords,
    BagOfWordsConfig,
    BiGRU,
    BiGRUConfig,
    CalibratedScore,
    CAMLConfig,
    CodeBagNet,
    Decoder,
    DecoderConfig,
    Item,
    LAATConfig,
    LightGBM,
    MultiResCNN,
    MultiResCNNConfig,
    Score,
    TriageMLP,
    VanillaConv,
    VanillaConvConfig,
    VitalsLSTM,
)

ABOUT = "model.json"
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "TriageMLP": TriageMLP,
    "CodeBagNet": CodeBagNet,
    "VitalsLSTM": VitalsLSTM,
    "Decoder": lambda **sizes: Decoder(DecoderConfig(**sizes)),
    "BagOfWords": lambda **sizes: BagOfWords(BagOfWordsConfig(**sizes)),
    "VanillaConv": lambda **sizes: VanillaConv(VanillaConvConfig(**sizes)),
    "BiGRU": lambda **sizes: BiGRU(BiGRUConfig(**sizes)),
    "CAML": lambda **sizes: CAML(CAMLConfig(**sizes)),
    "MultiResCNN": lambda **sizes: MultiResCNN(MultiResCNNConfig(**sizes)),
    "LAAT": lambda **sizes: LAAT(LAATConfig(**sizes)),
    "PLMICD": PLMICD.from_config,
    "PLMCA": PLMCA.from_config,
}
#: What scikit-learn's trees hold beyond the types that skops trusts by itself.
TRUSTED = ["sklearn.tree._tree.Tree"]


def save_model(model: Any, folder: Path) -> None:
    """Write a fitted model into an existing folder.

    Networks become safetensors, scikit-learn estimators skops files, boosted trees their
    libraries' own formats, point scores JSON. `model.json` names the kind, and the hash of the
    file beside it.

    Raises:
        WardroundError: a kind of model that is not known here.
    """
    about: dict[str, Any]
    file: Path | None = None
    if isinstance(model, nn.Module) and type(model).__name__ in NETWORKS:
        about = {"kind": type(model).__name__, "config": model.config}
        tensors = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
        file = folder / "weights.safetensors"
        save_file(tensors, file)
    elif isinstance(model, LightGBM) and model.booster is not None:
        about = {"kind": "LightGBM", "parameters": model.parameters, "n_trees": model.n_trees}
        file = folder / "trees.txt"
        file.write_text(model.booster.model_to_string())
    elif isinstance(model, XGBClassifier):
        about = {"kind": "XGBoost"}
        file = folder / "trees.ubj"
        model.save_model(file)
    elif isinstance(model, AutoScore | CalibratedScore):
        about = {"kind": type(model).__name__, **asdict(model)}
    elif isinstance(model, BaseEstimator):
        about = {"kind": "scikit-learn", "class": type(model).__name__}
        file = folder / "estimator.skops"
        skops.io.dump(model, file)
    else:
        raise WardroundError(f"cannot save a {type(model).__name__}")
    about["sha256"] = {} if file is None else {file.name: _sha256(file)}
    (folder / ABOUT).write_text(json.dumps(about, indent=1))


def load_model(folder: Path) -> Any:
    """Read what `save_model` wrote.

    Raises:
        WardroundError: files missing, damaged, of an unknown kind, or holding types that are not
            on the list of trusted ones.
    """
    try:
        about = json.loads((folder / ABOUT).read_text())
        kind = about.pop("kind")
        # The libraries of boosted trees end the process over some damaged files.
        for name, expected in about.pop("sha256").items():
            if _sha256(folder / name) != expected:
                raise ValueError(f"{name} is damaged")
        if kind in NETWORKS:
            network = NETWORKS[kind](**about["config"])
            network.load_state_dict(load_file(folder / "weights.safetensors"))
            return network.eval()
        return _LOADERS[kind](folder, about)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        AttributeError,
        SafetensorError,
        LightGBMError,
        XGBoostError,
        BadZipFile,
        skops.io.exceptions.UntrustedTypesFoundException,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise WardroundError(f"{folder} holds no whole model ({reason}); fit it again") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_lightgbm(folder: Path, about: Mapping[str, Any]) -> LightGBM:
    booster = lightgbm.Booster(model_str=(folder / "trees.txt").read_text())
    return LightGBM(dict(about["parameters"]), about["n_trees"], booster)


def _load_xgboost(folder: Path, about: Mapping[str, Any]) -> XGBClassifier:
    model = XGBClassifier()
    model.load_model(folder / "trees.ubj")
    return model


def _load_estimator(folder: Path, about: Mapping[str, Any]) -> Any:
    return skops.io.load(folder / "estimator.skops", trusted=TRUSTED)


def _load_score(folder: Path, about: Mapping[str, Any]) -> CalibratedScore:
    return CalibratedScore(
        score=_score(about["score"]),
        feature_names=tuple(about["feature_names"]),
        intercept=about["intercept"],
        slope=about["slope"],
    )


def _load_autoscore(folder: Path, about: Mapping[str, Any]) -> AutoScore:
    return AutoScore(
        score=_score(about["score"]),
        feature_names=tuple(about["feature_names"]),
        ranking=tuple((name, value) for name, value in about["ranking"]),
        parsimony=tuple(about["parsimony"]),
        intercept=about["intercept"],
        slope=about["slope"],
    )


def _score(about: Mapping[str, Any]) -> Score:
    items = tuple(
        Item(**{**item, "edges": tuple(item["edges"]), "points": tuple(item["points"])})
        for item in about["items"]
    )
    return Score(about["name"], items, about["source"])


_LOADERS: dict[str, Callable[[Path, Mapping[str, Any]], Any]] = {
    "LightGBM": _load_lightgbm,
    "XGBoost": _load_xgboost,
    "scikit-learn": _load_estimator,
    "CalibratedScore": _load_score,
    "AutoScore": _load_autoscore,
}
