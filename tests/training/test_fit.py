"""The fitting loop: what it minimises, which weights it keeps, and going on after a kill."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from wardround.errors import WardroundError
from wardround.models import CodeBagNet, Standardiser, TriageMLP, VitalsLSTM
from wardround.training import (
    BagInputs,
    DenseInputs,
    FitHistory,
    Inputs,
    SequenceInputs,
    fit_binary,
    predict_proba,
)

State = dict[str, Tensor]
SETTINGS: dict[str, Any] = {"epochs": 6, "batch_size": 32, "learning_rate": 1e-2, "device": "cpu"}


def planted(rows: int, seed: int) -> tuple[DenseInputs, np.ndarray, np.ndarray]:
    """Columns, outcomes and the true risk: an interaction that no single column shows."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 5)).astype(np.float32)
    risk = expit(-0.5 + 2.5 * X[:, 0] * X[:, 1] + X[:, 2])
    return DenseInputs(X), (rng.random(rows) < risk).astype(np.float32), risk


TRAIN, Y_TRAIN, _ = planted(300, 0)
TUNING, Y_TUNING, _ = planted(200, 1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads of a tiny network wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mlp(seed: int = 0) -> TriageMLP:
    torch.manual_seed(seed)
    return TriageMLP(5, (8, 4))


def fit(model: nn.Module, train: Inputs = TRAIN, **options: Any) -> FitHistory:
    return fit_binary(model, train, Y_TRAIN, TUNING, Y_TUNING, **{**SETTINGS, **options})


def state(model: nn.Module) -> State:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


class KilledError(Exception):
    pass


@dataclass
class Interrupted:
    """Rows that end the fit when their batch number `after` is asked for."""

    inputs: Inputs
    after: int
    how: Callable[[], None]
    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        if len(self.asked) == self.after:
            self.how()
        self.asked.append(len(rows))
        return self.inputs.batch(rows)


def stop() -> None:
    raise KilledError


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_planted_interaction_is_learnt() -> None:
    train, y, train_risk = planted(4_000, 2)
    test, y_test, risk = planted(4_000, 3)
    torch.manual_seed(0)
    model = TriageMLP(5, (32, 16))
    history = fit_binary(model, train, y, TUNING, Y_TUNING, **{**SETTINGS, "epochs": 8})
    assert len(history.loss) == len(history.tuning_auroc) == 8 and history.best_epoch == 7
    floor = -np.mean(np.log(np.where(y == 1, train_risk, 1 - train_risk)))
    assert history.loss[0] > floor + 0.08
    assert history.loss[-1] == pytest.approx(floor, abs=0.03)
    found = predict_proba(model, test, device="cpu")
    best = roc_auc_score(y_test, risk)
    assert best > 0.85 and roc_auc_score(y_test, found) > best - 0.03
    assert found.mean() == pytest.approx(y_test.mean(), abs=0.05)
    assert history.tuning_auroc[-1] == roc_auc_score(
        Y_TUNING, predict_proba(model, TUNING, device="cpu")
    )


def test_shuffled_outcomes_teach_nothing() -> None:
    test, y_test, _ = planted(3_000, 3)
    rng = np.random.default_rng(0)
    areas = []
    for seed in range(5):
        model = mlp(seed)
        fit_binary(model, TRAIN, rng.permutation(Y_TRAIN), TUNING, Y_TUNING, **SETTINGS)
        areas.append(roc_auc_score(y_test, predict_proba(model, test, device="cpu")))
    assert np.mean(areas) == pytest.approx(0.5, abs=0.08)


class Linear(nn.Module):
    """The smallest network that `fit_binary` takes."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.logit = nn.Linear(columns, 1)
        nn.init.zeros_(self.logit.weight)
        nn.init.zeros_(self.logit.bias)

    def forward(self, tabular: Tensor) -> Tensor:
        return self.logit(tabular).squeeze(-1)


@pytest.mark.parametrize(("decay", "weight"), [(0.0, None), (0.05, None), (0.01, 3.0)])
def test_steps_by_the_equations_of_adam(decay: float, weight: float | None) -> None:
    """Kingma and Ba's update in numpy, Keras' decay, the last batch of an epoch smaller."""
    X, y = TRAIN.tabular.astype(float), Y_TRAIN.astype(float)
    design = np.column_stack([X, np.ones(len(X))])
    w, first, second, step, losses = np.zeros(6), np.zeros(6), np.zeros(6), 0, []
    for epoch in range(3):
        order = np.random.default_rng((7, epoch)).permutation(300)
        total = 0.0
        for start in range(0, 300, 128):
            rows = order[start : start + 128]
            z, cost = design[rows] @ w, np.where(y[rows] == 1, weight or 1, 1)
            total += float(np.sum(cost * (np.logaddexp(0, z) - y[rows] * z)))
            gradient = design[rows].T @ (cost * (expit(z) - y[rows])) / len(rows)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            rate = 0.03 / (1 + decay * step)
            step += 1
            w -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        losses.append(total / 300)
    w[-1] -= math.log(weight or 1)
    model = Linear(5)
    history = fit(
        model,
        epochs=3,
        batch_size=128,
        learning_rate=0.03,
        decay=decay,
        positive_weight=weight,
        seed=7,
    )
    found = torch.cat([model.logit.weight[0], model.logit.bias]).detach()
    np.testing.assert_allclose(found, w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-5)


def test_the_weight_of_positives_makes_the_rare_class_count_more() -> None:
    """At logit 0 the loss is ln 2 (w p + 1 - p); with w = (1 - p) / p both classes count alike."""
    p = float(Y_TRAIN.mean())
    assert 0.3 < p < 0.45
    losses = {}
    for weight in (None, (1 - p) / p, p / (1 - p)):
        model = Linear(5)
        losses[weight] = fit(model, learning_rate=1e-12, epochs=1, positive_weight=weight).loss[0]
    rarer, commoner = losses[(1 - p) / p], losses[p / (1 - p)]
    assert losses[None] == pytest.approx(math.log(2))
    assert rarer == pytest.approx(2 * (1 - p) * math.log(2), rel=1e-5)
    assert rarer > losses[None] > commoner


@pytest.mark.parametrize("weight", [0.2, 1.0, 9.0])
def test_weighted_outputs_stay_risks(weight: float) -> None:
    """A constant learns the share of positives, whatever they weigh."""
    constant = DenseInputs(np.zeros((300, 5), np.float32))
    model = Linear(5)
    fit(model, constant, epochs=150, batch_size=300, learning_rate=0.1, positive_weight=weight)
    found = predict_proba(model, constant, device="cpu")
    np.testing.assert_allclose(found, Y_TRAIN.mean(), atol=2e-3)


def test_tuning_rows_are_never_trained_on() -> None:
    models = [mlp(), mlp()]
    fit(models[0])
    fit_binary(models[1], TRAIN, Y_TRAIN, planted(50, 8)[0], 1 - planted(50, 8)[1], **SETTINGS)
    assert same(state(models[0]), state(models[1]))


def test_patience_stops_and_keeps_the_best_weights() -> None:
    """They are those of a fit that ends there."""
    model, options = mlp(), {"learning_rate": 0.05, "epochs": 60}
    history = fit(model, **options, patience=4)
    best = history.best_epoch
    assert history.tuning_auroc[best] == max(history.tuning_auroc)
    assert len(history.loss) == best + 1 + 4 < 60
    assert history.tuning_auroc[-1] < history.tuning_auroc[best]
    short = mlp()
    fit(short, **{**options, "epochs": best + 1})
    assert same(state(model), state(short))
    assert not model.training


def test_without_patience_the_last_weights_stay() -> None:
    model, options = mlp(), {"learning_rate": 0.05, "epochs": 25}
    history = fit(model, **options)
    assert len(history.loss) == 25 and history.best_epoch == 24
    assert history.tuning_auroc[-1] < max(history.tuning_auroc)
    found = predict_proba(model, TUNING, device="cpu")
    assert roc_auc_score(Y_TUNING, found) == history.tuning_auroc[-1]


def test_tuning_rows_of_one_class_leave_the_choice_to_the_loss() -> None:
    model = mlp()
    history = fit_binary(
        model, TRAIN, Y_TRAIN, TUNING, np.zeros(200), **{**SETTINGS, "epochs": 5}, patience=2
    )
    assert np.isnan(history.tuning_auroc).all()
    assert history.best_epoch == int(np.argmin(history.loss))


def test_one_seed_gives_one_network() -> None:
    first, again, order, start = mlp(), mlp(), mlp(), mlp(seed=1)
    histories = [fit(first), fit(again), fit(order, seed=1), fit(start)]
    assert same(state(first), state(again)) and histories[0] == histories[1]
    assert not same(state(first), state(order)) and not same(state(first), state(start))


def test_what_ran_before_does_not_change_a_fit() -> None:
    """Dropout draws from torch's generator, which the loop seeds itself."""

    class Dropping(Linear):
        def forward(self, tabular: Tensor) -> Tensor:
            return super().forward(nn.functional.dropout(tabular, 0.5, self.training))

    states = []
    for noise in (1, 5):
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002 - global state, on purpose
        model = Dropping(5)
        fit(model)
        states.append(state(model))
    assert same(*states)
    plain = Linear(5)
    fit(plain)
    assert not same(states[0], state(plain))


def networks() -> dict[str, tuple[nn.Module, Inputs, Inputs]]:
    """Fresh networks of each kind and their rows, over the same columns."""
    rng = np.random.default_rng(4)

    def bags(rows: DenseInputs) -> BagInputs:
        sizes = rng.integers(0, 4, len(rows))
        ids = rng.integers(1, 10, sizes.sum())
        return BagInputs(rows.tabular, ids, np.concatenate([[0], np.cumsum(sizes)]))

    def hours(rows: DenseInputs) -> SequenceInputs:
        values = rng.normal(size=(len(rows), 5, 2)).astype(np.float32)
        return SequenceInputs(rows.tabular, values, rng.integers(1, 6, len(rows)))

    torch.manual_seed(0)
    scale = Standardiser.fit(TRAIN.tabular)
    return {
        "mlp": (TriageMLP(5, (8, 4), standardiser=scale), TRAIN, TUNING),
        "code_bag": (
            CodeBagNet(9, 5, 6, 5, (4,), standardiser=scale), bags(TRAIN), bags(TUNING),
        ),
        "lstm": (VitalsLSTM(5, 2, 3, 4, 4, standardiser=scale), hours(TRAIN), hours(TUNING)),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["mlp", "code_bag", "lstm"])
@pytest.mark.parametrize("batches", [4, 10, 33, 59])  # of 10 an epoch, 6 epochs
def test_a_fit_goes_on_where_it_was_interrupted(kind: str, batches: int, tmp_path: Path) -> None:
    options = {**SETTINGS, "decay": 0.01, "positive_weight": 1.7, "patience": 4}
    path = tmp_path / "deeper" / "fit.safetensors"
    whole, train, tuning = networks()[kind]
    history = fit_binary(whole, train, Y_TRAIN, tuning, Y_TUNING, **options)
    assert len(history.loss) == 6, "the case needs a fit that does not stop early"

    cut, train, tuning = networks()[kind]
    with pytest.raises(KilledError):
        fit_binary(
            cut, Interrupted(train, batches, stop), Y_TRAIN, tuning, Y_TUNING, **options,
            checkpoint=path,
        )  # fmt: skip
    assert path.is_file() == (batches >= 10)

    # Other weights, as a new process might draw them; those of the checkpoint replace them.
    resumed, train, tuning = networks()[kind]
    if path.is_file():
        with torch.no_grad():
            for value in resumed.parameters():
                value.normal_()
    rest = Interrupted(train, 10**9, stop)
    again = fit_binary(resumed, rest, Y_TRAIN, tuning, Y_TUNING, **options, checkpoint=path)
    assert again == history
    assert same(state(resumed), state(whole))
    assert len(rest.asked) == 60 - batches // 10 * 10, "finished epochs are not repeated"
    assert not list(path.parent.iterdir())


def test_an_interruption_after_the_best_epoch_keeps_its_weights(tmp_path: Path) -> None:
    options: dict[str, Any] = {"learning_rate": 0.05, "epochs": 60, "patience": 4}
    whole = mlp()
    history = fit(whole, **options)
    stopped = len(history.loss)
    for epochs in (history.best_epoch + 2, stopped - 1):
        path = tmp_path / f"{epochs}.safetensors"
        with pytest.raises(KilledError):
            fit(mlp(), Interrupted(TRAIN, 10 * epochs + 3, stop), **options, checkpoint=path)
        resumed = mlp()
        assert fit(resumed, **options, checkpoint=path) == history
        assert same(state(resumed), state(whole))


PROCESS = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {folder!r})
from {module} import Interrupted, TRAIN, fit, kill, mlp
fit(mlp(), Interrupted(TRAIN, 37, kill), checkpoint=Path(sys.argv[1]))
"""


def test_a_killed_process_is_resumed_by_another(tmp_path: Path) -> None:
    path = tmp_path / "fit.safetensors"
    here = Path(__file__)
    code = PROCESS.format(folder=str(here.parent), module=here.stem)
    ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert path.is_file()
    whole, resumed, rest = mlp(), mlp(), Interrupted(TRAIN, 10**9, stop)
    history = fit(whole)
    assert fit(resumed, rest, checkpoint=path) == history
    assert same(state(resumed), state(whole))
    assert len(rest.asked) == 60 - 30
    assert not path.exists()


def checkpoint_of(path: Path, **options: Any) -> Path:
    """What a fit leaves that is interrupted in its fourth epoch."""
    with pytest.raises(KilledError):
        fit(mlp(), Interrupted(TRAIN, 31, stop), checkpoint=path, **options)
    return path


def batches_needed(path: Path, **options: Any) -> int:
    """How many batches a fit asks for that finds this checkpoint; its result is always right."""
    resumed, whole, rows = mlp(), mlp(), Interrupted(TRAIN, 10**9, stop)
    fit(resumed, rows, checkpoint=path, **options)
    fit(whole, **options)
    assert same(state(resumed), state(whole))
    return len(rows.asked)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:100],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"PK" + data[2:],
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "7 bytes", "100 bytes", "half", "all but one", "another type", "zeros"],
)
def test_a_damaged_checkpoint_is_left_aside_with_a_warning(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpoint_of(tmp_path / "fit.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "wardround"):
        assert batches_needed(path) == 60
    assert f"{path} cannot be read" in caplog.text


@pytest.mark.parametrize("about", [None, {}, {"settings": "{}"}])
def test_a_file_of_something_else_is_left_aside(about: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "fit.safetensors"
    save_file({"model/logit.bias": torch.zeros(1)}, path, about)
    assert batches_needed(path) == 60


@pytest.mark.parametrize(
    "other",
    [
        {"epochs": 7},
        {"batch_size": 31},
        {"learning_rate": 1.1e-2},
        {"decay": 0.1},
        {"patience": 5},
        {"positive_weight": 2.0},
        {"seed": 1},
    ],
    ids=str,
)
def test_the_checkpoint_of_another_fit_is_left_aside(other: dict[str, Any], tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path / "fit.safetensors", **other)
    assert batches_needed(path) == 60
    assert batches_needed(checkpoint_of(path)) == 30


def test_the_checkpoint_of_another_network_or_of_other_outcomes_is_left_aside(
    tmp_path: Path,
) -> None:
    path = checkpoint_of(tmp_path / "fit.safetensors")
    wider = TriageMLP(5, (9, 4))
    rows = Interrupted(TRAIN, 10**9, stop)
    fit(wider, rows, checkpoint=path)
    assert len(rows.asked) == 60

    checkpoint_of(path)
    shuffled, rows = np.random.default_rng(0).permutation(Y_TRAIN), Interrupted(TRAIN, 10**9, stop)
    fit_binary(mlp(), rows, shuffled, TUNING, Y_TUNING, **SETTINGS, checkpoint=path)
    assert len(rows.asked) == 60


def test_a_kill_while_writing_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fit.safetensors"
    written: list[Path] = []

    def write_half(tensors: State, target: Path, about: dict[str, str]) -> None:
        save_file(tensors, target, about)
        written.append(target)
        if len(written) == 3:
            target.write_bytes(target.read_bytes()[:500])
            raise KilledError

    monkeypatch.setattr("wardround.training.checkpoint.save_file", write_half)
    with pytest.raises(KilledError):
        fit(mlp(), checkpoint=path)
    monkeypatch.undo()
    assert batches_needed(path) == 40, "two epochs were saved"


def test_predictions_do_not_depend_on_the_batch() -> None:
    model, rows = mlp(), DenseInputs(np.random.default_rng(0).normal(size=(101, 5)))
    whole = predict_proba(model, rows, device="cpu")
    assert whole.dtype == np.float64 and whole.shape == (101,)
    assert ((whole > 0) & (whole < 1)).all() and np.ptp(whole) > 0.01
    pieces = predict_proba(model, rows, batch_size=7, device="cpu")
    np.testing.assert_allclose(pieces, whole, rtol=1e-6)
    nobody = DenseInputs(np.empty((0, 5)))
    assert predict_proba(model, nobody, device="cpu").shape == (0,)


def test_a_loss_that_is_no_number_is_an_error() -> None:
    X = TRAIN.tabular.copy()
    X[17, 2] = np.nan
    with pytest.raises(WardroundError, match=r"loss is not a number in epoch 1; .*0\.01") as caught:
        fit(mlp(), DenseInputs(X))
    assert "\n" not in str(caught.value)


def test_rows_and_outcomes_that_do_not_fit() -> None:
    with pytest.raises(WardroundError, match="differ in number"):
        fit_binary(mlp(), TRAIN, Y_TRAIN[1:], TUNING, Y_TUNING, **SETTINGS)
    with pytest.raises(WardroundError, match="differ in number"):
        fit_binary(mlp(), TRAIN, Y_TRAIN, TUNING, Y_TUNING[1:], **SETTINGS)
    for outcomes in (np.zeros(300), np.ones(300)):
        with pytest.raises(WardroundError, match="one class only"):
            fit_binary(mlp(), TRAIN, outcomes, TUNING, Y_TUNING, **SETTINGS)
