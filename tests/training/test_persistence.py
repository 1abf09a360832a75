"""Models of every kind, saved and loaded; what is damaged or not trusted is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from wardround.errors import WardroundError
from wardround.models import (
    CLINICAL_SCORES,
    AutoScore,
    CalibratedScore,
    CodeBagNet,
    LightGBM,
    Standardiser,
    TriageMLP,
    VitalsLSTM,
    gradient_boosting,
    lightgbm_trees,
    logistic_regression,
    random_forest,
    xgboost,
)
from wardround.training import (
    BagInputs,
    DenseInputs,
    Inputs,
    SequenceInputs,
    load_model,
    predict_proba,
    save_model,
)

NAMES = ("sbp", "heartrate", "resprate", "temperature")


def table(rows: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal([120, 90, 18, 37], [25, 20, 5, 1], (rows, 4))
    return X, rng.random(rows) < 1 / (1 + np.exp(-(X[:, 1] - 95) / 15))


def calibrated(score: str) -> CalibratedScore:
    _, y = table()
    names = (*CLINICAL_SCORES[score].inputs, "hypercapnic")
    columns = np.random.default_rng(1).normal(80, 40, (300, len(names)))
    return CalibratedScore.fit(CLINICAL_SCORES[score], columns, y, names)


def autoscore() -> AutoScore:
    X, y = table()
    X[::9, 1] = np.nan
    return AutoScore.fit(X, y, X, y, NAMES, n_trees=10)


def network(build: Callable[..., nn.Module], *sizes: Any, **parts: Any) -> nn.Module:
    torch.manual_seed(0)
    columns = Standardiser.fit(table()[0])
    return build(*sizes, standardiser=columns, **parts).eval()


MODELS: dict[str, Callable[[], Any]] = {
    "logistic_regression": lambda: logistic_regression().fit(*table()),
    "logistic_regression_published": lambda: logistic_regression(paper_compat=True).fit(*table()),
    "random_forest": lambda: random_forest(n_trees=7).fit(*table()),
    "gradient_boosting": lambda: gradient_boosting(n_trees=7).fit(*table()),
    "xgboost": lambda: xgboost(n_trees=7).fit(*table()),
    "lightgbm": lambda: lightgbm_trees(n_trees=7).fit(*table()),
    "autoscore": autoscore,
    "mews": lambda: calibrated("mews"),
    "news2": lambda: calibrated("news2"),
    "cci": lambda: calibrated("cci"),
    "mlp": lambda: network(TriageMLP, 4, (5, 3)),
    "code_bag": lambda: network(CodeBagNet, 9, 4, 6, 5, (4,)),
    "lstm": lambda: network(
        VitalsLSTM, 4, 2, 3, 5, 4, channel_standardiser=Standardiser.fit([[80.0, 36], [99, 38]])
    ),
}


def predictions(model: Any) -> np.ndarray:
    """On rows that the model was not fitted to."""
    X, _ = table(200, seed=5)
    rng = np.random.default_rng(6)
    if isinstance(model, nn.Module):
        inputs: Inputs = DenseInputs(X)
        if isinstance(model, CodeBagNet):
            sizes = rng.integers(0, 5, 200)
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            inputs = BagInputs(X, rng.integers(1, 10, sizes.sum()), offsets)
        if isinstance(model, VitalsLSTM):
            hours = rng.normal(80, 20, (200, 6, 2)).astype(np.float32)
            inputs = SequenceInputs(X, hours, rng.integers(1, 7, 200))
        return predict_proba(model, inputs, device="cpu")
    if isinstance(model, CalibratedScore):
        X = rng.normal(80, 40, (200, len(model.feature_names)))
    if isinstance(model, AutoScore | CalibratedScore):
        X[::7] = np.nan
    return np.asarray(model.predict_proba(X))


@pytest.mark.parametrize("kind", MODELS)
def test_a_loaded_model_predicts_the_same(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    expected = predictions(model)
    assert expected.std() > 0
    save_model(model, tmp_path)
    found = load_model(tmp_path)
    assert type(found) is type(model)
    np.testing.assert_array_equal(predictions(found), expected)
    if isinstance(model, AutoScore | CalibratedScore):
        assert found == model
    # What was loaded can be saved and loaded again.
    (tmp_path / "again").mkdir()
    save_model(found, tmp_path / "again")
    np.testing.assert_array_equal(predictions(load_model(tmp_path / "again")), expected)


def holds_a_pickle(data: bytes) -> bool:
    """A pickle of protocol 2 or later begins with this byte and ends with a full stop."""
    return data[:1] == pickle.PROTO and data[-1:] == pickle.STOP


@pytest.mark.parametrize("kind", MODELS)
def test_nothing_is_pickled(kind: str, tmp_path: Path) -> None:
    save_model(MODELS[kind](), tmp_path)
    for path in tmp_path.iterdir():
        assert path.suffix in {".json", ".safetensors", ".skops", ".txt", ".ubj"}
        assert not holds_a_pickle(path.read_bytes())
        if path.suffix != ".skops":
            assert not zipfile.is_zipfile(path)  # torch's own format is a zip of pickles
            continue
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                assert Path(name).suffix in {".json", ".npy"}
                assert not holds_a_pickle(archive.read(name))
                if name.endswith(".npy"):
                    with archive.open(name) as file:
                        np.lib.format.read_magic(file)
                        *_, dtype = np.lib.format.read_array_header_1_0(file)
                        assert not dtype.hasobject


@pytest.mark.parametrize("kind", MODELS)
def test_damaged_files_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    """Missing, cut off anywhere, or with a byte turned round in the file of weights."""
    save_model(MODELS[kind](), tmp_path)
    rng = np.random.default_rng(0)

    def refused() -> None:
        with pytest.raises(WardroundError) as caught:
            load_model(tmp_path)
        message = str(caught.value)
        assert str(tmp_path) in message and "fit it again" in message and "\n" not in message

    for path in list(tmp_path.iterdir()):
        whole = path.read_bytes()
        path.unlink()
        refused()
        for length in {0, 1, len(whole) - 1, *rng.integers(0, len(whole), 8).tolist()}:
            path.write_bytes(whole[:length])
            refused()
        if path.name != "model.json":
            for place in rng.integers(0, len(whole), 8):
                damaged = bytearray(whole)
                damaged[place] ^= 0xFF
                path.write_bytes(damaged)
                refused()
        path.write_bytes(whole)
    load_model(tmp_path)


def replace_estimator(folder: Path, data: bytes) -> None:
    """As somebody would who can write into the folder, and keeps the hash right."""
    (folder / "estimator.skops").write_bytes(data)
    about = json.loads((folder / "model.json").read_text())
    about["sha256"] = {"estimator.skops": hashlib.sha256(data).hexdigest()}
    (folder / "model.json").write_text(json.dumps(about))


def touch(path: str) -> None:
    Path(path).touch()


class Touches:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return touch, (self.path,)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(logistic_regression().fit(*table()), tmp_path)
    return tmp_path


def test_a_function_in_an_estimator_file_is_refused(saved: Path) -> None:
    mark = saved / "mark"
    estimator = FunctionTransformer(touch, kw_args={"path": str(mark)})
    replace_estimator(saved, skops.io.dumps(estimator))
    with pytest.raises(WardroundError, match=r"(?i)untrusted.*touch"):
        load_model(saved)
    assert not mark.exists()


def test_a_type_that_was_changed_by_hand_is_refused(saved: Path) -> None:
    """The scaler is renamed to a class of the standard library."""
    source, target = saved / "estimator.skops", saved / "changed.skops"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "schema.json":
                schema = json.loads(data)
                steps = schema["content"]["content"]["steps"]["content"]
                scaler = steps[0]["content"][1]
                assert scaler["__class__"] == "StandardScaler"
                scaler |= {"__module__": "subprocess", "__class__": "Popen"}
                data = json.dumps(schema).encode()
            new.writestr(name, data)
    replace_estimator(saved, target.read_bytes())
    with pytest.raises(WardroundError, match=r"subprocess\.Popen"):
        load_model(saved)


def test_a_pickle_in_the_place_of_an_estimator_is_not_run(saved: Path) -> None:
    mark = saved / "mark"
    replace_estimator(saved, pickle.dumps(Touches(mark)))
    with pytest.raises(WardroundError, match="holds no whole model"):
        load_model(saved)
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{}",
        '{"kind": "os.system", "sha256": {}}',
        '{"kind": "TriageMLP", "config": {"n_features": -1}, "sha256": {}}',
        '{"kind": "TriageMLP", "config": {"n_features": 4}, "sha256": {}}',
    ],
)
def test_a_description_that_fits_nothing_is_refused(text: str, saved: Path) -> None:
    (saved / "model.json").write_text(text)
    with pytest.raises(WardroundError, match="fit it again"):
        load_model(saved)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    save_model(TriageMLP(4, (5, 3)), tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    about["config"]["hidden"] = [5, 4]
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(WardroundError, match="size mismatch"):
        load_model(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WardroundError, match=r"nowhere holds no whole model .*No such file"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("model", [object(), nn.Linear(2, 1), LightGBM(), {"a": 1}])
def test_what_cannot_be_saved_is_named(model: object, tmp_path: Path) -> None:
    with pytest.raises(WardroundError, match=f"cannot save a {type(model).__name__}"):
        save_model(model, tmp_path)
    assert not list(tmp_path.iterdir())
