"""Fitting a network to a binary outcome, with checkpoints that a killed run goes on from."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from wardround.errors import WardroundError
from wardround.progress import track
from wardround.training.checkpoint import (
    below,
    optimiser_tensors,
    read_checkpoint,
    restore_optimiser,
    write_checkpoint,
)
from wardround.training.devices import pick_device
from wardround.training.inputs import Inputs
from wardround.training.steps import copy_weights

log = logging.getLogger("wardround")

PREDICT_BATCH = 4096


@dataclass
class FitHistory:
    """What happened, epoch by epoch.

    Attributes:
        loss: mean training loss.
        tuning_auroc: NaN where the tuning rows hold one class.
        best_epoch: whose weights were kept, from 0.
    """

    loss: list[float] = field(default_factory=list)
    tuning_auroc: list[float] = field(default_factory=list)
    best_epoch: int = -1


def fit_binary(
    model: nn.Module,
    train: Inputs,
    y_train: np.ndarray,
    tuning: Inputs,
    y_tuning: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    decay: float = 0.0,
    patience: int | None = None,
    positive_weight: float | None = None,
    seed: int = 0,
    device: str = "auto",
    checkpoint: Path | None = None,
    what: str = "Epochs",
) -> FitHistory:
    """Minimise binary cross-entropy with Adam; the model is left with its final weights.

    Args:
        model: gives a logit a row; its last layer is `model.logit`, an `nn.Linear`.
        train, y_train: training rows and outcomes, 0/1 of shape (n,).
        tuning, y_tuning: rows for early stopping; never trained on.
        epochs, batch_size, learning_rate: as usual.
        decay: the rate of step k is `learning_rate / (1 + decay * k)`, as Keras decays.
        patience: stop after so many epochs without a better tuning AUROC and keep the best
            weights. None trains all epochs and keeps the last.
        positive_weight: weight of positive rows in the loss. The bias is moved back by its
            logarithm afterwards, so that outputs stay risks of the unweighted outcome.
        seed: order of the rows; the weights come from whoever built the model.
        device: `cpu`, `cuda`, or `auto`.
        checkpoint: file that every epoch is saved to, and that a fit with the same settings and
            outcomes goes on from; removed at the end. The result is bit for bit that of an
            undisturbed fit on the same machine.
        what: the title of the progress bar.

    Raises:
        WardroundError: lengths that do not fit, one class only, or a loss that is not a number.
    """
    y_train, y_tuning = np.asarray(y_train, np.float32), np.asarray(y_tuning, bool)
    if len(train) != len(y_train) or len(tuning) != len(y_tuning):
        raise WardroundError("fit: rows and outcomes differ in number")
    if not 0 < y_train.sum() < len(y_train):
        raise WardroundError("fit: the training outcomes hold one class only")
    where = torch.device(pick_device(device))
    model.to(where)
    weight = None if positive_weight is None else torch.tensor(positive_weight, device=where)
    loss_of = nn.BCEWithLogitsLoss(pos_weight=weight)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    settings = {
        "rows": len(train),
        "outcomes": zlib.crc32(y_train.tobytes()),
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "decay": decay,
        "patience": patience,
        "positive_weight": positive_weight,
        "seed": seed,
        "model": {name: list(value.shape) for name, value in model.state_dict().items()},
    }
    history, best = FitHistory(), copy_weights(model)
    if checkpoint is not None:
        history, best = _resume(checkpoint, settings, model, optimiser, history, best)
    targets = torch.from_numpy(y_train)
    per_epoch = -(-len(train) // batch_size)
    for epoch in track(range(len(history.loss), epochs), what):
        if patience is not None and epoch - 1 - history.best_epoch >= patience:
            break
        # Seeded by the epoch, so that a resumed fit meets the same rows in the same order.
        order = np.random.default_rng((seed, epoch)).permutation(len(train))
        torch.manual_seed(seed * 100_003 + epoch)
        model.train()
        total = 0.0
        for number in range(per_epoch):
            rows = order[number * batch_size : (number + 1) * batch_size]
            for group in optimiser.param_groups:
                group["lr"] = learning_rate / (1 + decay * (epoch * per_epoch + number))
            optimiser.zero_grad(set_to_none=True)
            logit = model(*(part.to(where) for part in train.batch(rows)))
            loss = loss_of(logit, targets[rows].to(where))
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(rows)
        if not np.isfinite(total):
            raise WardroundError(
                f"fit: the loss is not a number in epoch {epoch + 1}; lower learning_rate "
                f"({learning_rate:g}) or look for extreme values in the columns"
            )
        history.loss.append(total / len(train))
        history.tuning_auroc.append(_auroc(y_tuning, predict_proba(model, tuning, device=device)))
        if patience is None or _improved(history):
            history.best_epoch, best = epoch, copy_weights(model)
        if checkpoint is not None:
            _save(checkpoint, settings, model, optimiser, history, best)
    model.load_state_dict(best)
    if positive_weight is not None:
        last = model.get_submodule("logit")
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.sub_(float(np.log(positive_weight)))
    model.eval()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    log.info("fit: %d epochs, best %d", len(history.loss), history.best_epoch + 1)
    return history


def predict_proba(
    model: nn.Module, inputs: Inputs, *, batch_size: int = PREDICT_BATCH, device: str = "auto"
) -> np.ndarray:
    """Risks of all rows: float64, shape (n,)."""
    where = torch.device(pick_device(device))
    model.to(where).eval()
    parts = [np.empty(0)]
    with torch.inference_mode():
        for start in range(0, len(inputs), batch_size):
            rows = np.arange(start, min(start + batch_size, len(inputs)))
            logit = model(*(part.to(where) for part in inputs.batch(rows)))
            parts.append(torch.sigmoid(logit.double()).cpu().numpy())
    return np.concatenate(parts)


def _auroc(y: np.ndarray, p: np.ndarray) -> float:
    return float(roc_auc_score(y, p)) if 0 < y.sum() < len(y) else float("nan")


def _improved(history: FitHistory) -> bool:
    """The last epoch beats every one before; without an AUROC the training loss decides."""
    *before, now = history.tuning_auroc
    if np.isnan(now):
        *before, now = (-loss for loss in history.loss)
    return not before or now > max(before)


def _save(
    path: Path,
    settings: Mapping[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    history: FitHistory,
    best: Mapping[str, Tensor],
) -> None:
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    tensors |= {f"adam/{name}": value for name, value in optimiser_tensors(optimiser).items()}
    write_checkpoint(path, settings, asdict(history), tensors)


def _resume(
    path: Path,
    settings: Mapping[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    history: FitHistory,
    best: dict[str, Tensor],
) -> tuple[FitHistory, dict[str, Tensor]]:
    """Load a checkpoint of the same fit; one of another fit, or a damaged one, is ignored."""
    found = read_checkpoint(path, settings)
    if found is None:
        return history, best
    progress, tensors = found
    model.load_state_dict(below("model/", tensors))
    restore_optimiser(optimiser, below("adam/", tensors))
    history = FitHistory(**progress)
    log.info("training goes on after epoch %d", len(history.loss))
    return history, below("best/", tensors)
