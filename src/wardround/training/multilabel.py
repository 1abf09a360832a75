"""Fitting a network that reads documents to many labels at once, and predicting with it.

One loop for every model of Edin et al., SIGIR 2023 (arXiv 2304.10909), section 4: the comparison is
fair because nothing but the network and its four numbers differ.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional

from wardround.errors import WardroundError
from wardround.progress import live, track
from wardround.training.checkpoint import (
    below,
    optimiser_tensors,
    read_checkpoint,
    restore_optimiser,
    write_checkpoint,
)
from wardround.training.devices import Precision, autocast, pick_device, pick_precision
from wardround.training.packing import CHUNK
from wardround.training.steps import copy_weights, step_seed

log = logging.getLogger("wardround")

#: Upper ends of the published buckets of lengths, in tokens (its `configs/dataloader`).
PUBLISHED_BUCKETS = (*range(400, 2201, 200), 2600, 3000, 4000)
#: Batches whose documents are drawn together before they are sorted by length.
POOL = 100
#: Tokens that prediction reads at once, what fills up included.
PREDICT_TOKENS = 1 << 14
PREDICT_DOCUMENTS = 64
#: Steps between points of the loss curve.
CURVE = 100
#: Logits of all documents that lie closer are the same.
SAME = 1e-2


class Reader(Protocol):
    """What a model must be beside an `nn.Module`: (tokens, mask) -> logits (batch, labels)."""

    padding: int


@dataclass(frozen=True)
class TokenDocuments:
    """Documents as flat arrays, which may be memory-mapped.

    Attributes:
        tokens: (tokens,) ids of all documents, one after the other; any integer type.
        offsets: (n + 1,) where each begins; the last one's end.
        limit: only so many tokens of each are read, from its beginning.
        chosen: which documents take part; all, unless told.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    limit: int | None = None
    chosen: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1 if self.chosen is None else len(self.chosen)

    def select(self, documents: np.ndarray) -> TokenDocuments:
        """These documents alone, by index among those that take part."""
        whole = np.arange(len(self.offsets) - 1) if self.chosen is None else self.chosen
        return replace(self, chosen=whole[np.asarray(documents)])

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the documents that take part begin and end, as read."""
        offsets = np.asarray(self.offsets, np.int64)
        begin, end = offsets[:-1], offsets[1:]
        if self.chosen is not None:
            begin, end = begin[self.chosen], end[self.chosen]
        return begin, end if self.limit is None else np.minimum(end, begin + self.limit)

    @property
    def lengths(self) -> np.ndarray:
        """(n,) tokens of each document, as read."""
        begin, end = self.bounds
        return end - begin

    def __iter__(self) -> Iterator[np.ndarray]:
        """The documents, as read."""
        for begin, end in zip(*(bound.tolist() for bound in self.bounds), strict=True):
            yield self.tokens[begin:end]

    def batch(self, rows: np.ndarray, padding: int) -> tuple[Tensor, Tensor]:
        """Documents side by side.

        Args:
            rows: (b,) numbers among those that take part.
            padding: fills up the shorter ones.

        Returns:
            Tokens, int64 (b, longest, at least 1), and a mask, true where they are a document's.
        """
        part = self.select(rows)
        lengths = part.lengths
        tokens = np.full((len(rows), max(int(lengths.max(initial=0)), 1)), padding, np.int64)
        for row, document in zip(tokens, part, strict=True):
            row[: len(document)] = document
        mask = np.arange(tokens.shape[1]) < lengths[:, None]
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def fingerprint(self) -> list[int]:
        """Two sets of documents with the same are the same."""
        tokens = 0
        for at in range(0, len(self.tokens), CHUNK):
            tokens = zlib.crc32(self.tokens[at : at + CHUNK].tobytes(), tokens)
        return [tokens, zlib.crc32(np.concatenate(self.bounds).tobytes())]


@dataclass(frozen=True)
class MultilabelConfig:
    """The recipe. The defaults are those that all published models share.

    Attributes:
        learning_rate, weight_decay: of AdamW, on all weights.
        batch: documents of a step.
        micro_batch: documents that the device reads at once; the whole batch unless told.
            Gradients add up to those of the batch.
        micro_tokens: the same in tokens, what fills up included; a single document may exceed it.
        epochs: at most.
        warmup: steps over which the rate climbs, at most a tenth of all steps; it then falls
            along a line to 0.
        patience: stop after so many epochs without a better score on tuning.
        clip: largest norm of the gradient; None for none.
        precision: of the forward pass; weights and optimiser are float32. `auto` is bfloat16 on
            CUDA and float32 elsewhere.
        restarts: how often a fit that diverged goes back to the last good epoch, each time with
            half the rate.
        checkpoint_every: seconds between checkpoints, beside one after each epoch.
        compile: run the network through `torch.compile`.
        paper_compat: batches and steps as published. Documents are put into buckets by their
            length, and what fills no whole batch of its bucket is left out of the epoch; the
            warm-up is `warmup` steps whatever their number; gradients are not clipped.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch: int = 8
    micro_batch: int | None = None
    micro_tokens: int | None = None
    epochs: int = 20
    warmup: int = 2_000
    patience: int | None = 6
    clip: float | None = 1.0
    precision: Precision = "auto"
    restarts: int = 3
    checkpoint_every: float = 600.0
    compile: bool = False
    paper_compat: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "epochs", "micro_batch", "micro_tokens", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise WardroundError(f"fit: {name} must be 1 or more, got {value}")
        for name in ("warmup", "restarts", "weight_decay"):
            if getattr(self, name) < 0:
                raise WardroundError(f"fit: {name} must be 0 or more, got {getattr(self, name)}")
        if not self.learning_rate > 0 or (self.clip is not None and not self.clip > 0):
            raise WardroundError("fit: learning_rate and clip must be above 0")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of so many."""
        warmup = self.warmup if self.paper_compat else min(self.warmup, steps // 10)
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        return self.learning_rate * (steps - step) / max(steps - warmup, 1)


@dataclass
class MultilabelHistory:
    """What happened, epoch by epoch; the first five lists are of one length.

    Attributes:
        step: steps done.
        loss: mean training loss.
        tuning_score: what `evaluate` gave.
        learning_rate: of the last step.
        documents_per_second: read in training.
        curve_step, curve_loss: mean training loss of the last 100 steps, within epochs.
        restarts: each time that training diverged: `epoch` and `step` at which it was seen, the
            `reason`, and the `factor` on the learning rate from then on.
        best: which epoch's weights were kept, from 0.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    tuning_score: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    documents_per_second: list[float] = field(default_factory=list)
    curve_step: list[int] = field(default_factory=list)
    curve_loss: list[float] = field(default_factory=list)
    restarts: list[dict[str, Any]] = field(default_factory=list)
    best: int = -1


#: Logits (n, labels) and targets (n, labels) -> a score, the higher the better.
Evaluate = Callable[[np.ndarray, csr_matrix], float]


def fit_multilabel(
    model: nn.Module,
    train: TokenDocuments,
    targets: csr_matrix,
    tuning: TokenDocuments,
    tuning_targets: csr_matrix,
    evaluate: Evaluate,
    config: MultilabelConfig,
    *,
    checkpoint: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    what: str = "Epochs",
) -> MultilabelHistory:
    """Minimise binary cross-entropy, mean over documents and labels; the best weights stay.

    Training has diverged where the loss or a gradient is no number, or where a model has come to
    say yes to all labels, or no to all after it had learnt better. It then goes back to the end
    of the last good epoch and halves the rate; the history tells.

    Args:
        model: a `Reader`.
        train, targets: documents and (n, labels) 0/1; a batch alone is made dense.
        tuning, tuning_targets: choose the epoch; never trained on.
        evaluate: the score on tuning, mean average precision as published.
        config: the recipe.
        checkpoint: file that a killed fit with the same settings, documents and targets goes on
            from, bit for bit on the same machine; removed at the end.
        seed: of batches and dropout; the weights come from whoever built the model.
        device: `cpu`, `cuda`, `cuda:1` or `auto`.
        what: the title of the progress bar.

    Raises:
        WardroundError: numbers of rows that do not fit, nothing to learn, or a training that
            diverged before its first epoch was over, `restarts` times and once more.
    """
    for name, documents, given in (
        ("training", train, targets),
        ("tuning", tuning, tuning_targets),
    ):
        if len(documents) != given.shape[0]:
            raise WardroundError(
                f"fit: {len(documents)} {name} documents and {given.shape[0]} rows of targets"
            )
        if not len(documents) or not given.nnz:
            raise WardroundError(f"fit: no {name} document has a label")
    fit = _Fit(model, train, targets, tuning, tuning_targets, evaluate, config, seed, device)
    with _fast_products(fit.where, fit.precision):
        history = fit.run(checkpoint, what)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    log.info(
        "fit: %d epochs, best %d (%.4f)",
        len(history.loss),
        history.best + 1,
        history.tuning_score[history.best],
    )
    return history


def predict_logits(
    model: nn.Module,
    documents: TokenDocuments,
    *,
    out: Path | np.ndarray | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    tokens: int = PREDICT_TOKENS,
    what: str = "Predicting",
) -> np.ndarray:
    """Logits of all labels, float32 (n, labels); documents are read in order of length.

    Args:
        model: a `Reader`.
        documents: what it reads.
        out: a `.npy` file to write, which stands there whole or not at all; or an array to fill.
            A new array unless told.
        device, precision: as in `fit_multilabel`.
        tokens: read at once, what fills up included.
        what: the title of the progress bar.

    Returns:
        The array; that of a file is memory-mapped, for reading.
    """
    if isinstance(out, Path):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        try:
            _predict(model, documents, temporary, device, precision, tokens, what)
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
        return np.load(out, mmap_mode="r")
    return _predict(model, documents, out, device, precision, tokens, what)


def _predict(
    model: nn.Module,
    documents: TokenDocuments,
    out: Path | np.ndarray | None,
    device: str,
    precision: Precision,
    tokens: int,
    what: str,
) -> np.ndarray:
    where = torch.device(pick_device(device))
    model.to(where).eval()
    lengths = documents.lengths
    order = np.argsort(-lengths, kind="stable")  # what needs most memory comes first
    pieces = list(passes(lengths[order], PREDICT_DOCUMENTS, tokens))
    found = out if isinstance(out, np.ndarray) else None
    with torch.inference_mode(), autocast(where, pick_precision(precision, where.type, cpu=False)):
        for piece in track(pieces, what) if what else pieces:
            rows = order[piece]
            given = documents.batch(rows, _padding(model))
            logits = model(*(part.to(where) for part in given)).float().cpu().numpy()
            if found is None:
                shape = (len(documents), logits.shape[1])
                if isinstance(out, Path):
                    found = np.lib.format.open_memmap(out, "w+", np.float32, shape)
                else:
                    found = np.empty(shape, np.float32)
            found[rows] = logits
    if found is None:
        raise WardroundError("predict: there is no document")
    if isinstance(found, np.memmap):
        found.flush()
    return found


def passes(lengths: np.ndarray, documents: int, tokens: int | None) -> Iterator[slice]:
    """Cut a run of documents where the device has read enough.

    Args:
        lengths: (n,) tokens of each.
        documents: at most so many in a part.
        tokens: documents times the longest of a part, at most; a part has one document at least.
    """
    begin, longest = 0, 0
    for at, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        full = tokens is not None and (at + 1 - begin) * longest > tokens
        if at > begin and (at - begin == documents or full):
            yield slice(begin, at)
            begin, longest = at, length
    if begin < len(lengths):
        yield slice(begin, len(lengths))


def batches(
    lengths: np.ndarray, config: MultilabelConfig, seed: int, epoch: int
) -> list[np.ndarray]:
    """Rows of each batch of an epoch: documents of like length, in random order.

    Documents are dealt into pools at random, sorted in each, and cut; nothing is left out. With
    `paper_compat` a bucket of lengths makes batches of its own and drops its remainder.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    size = config.batch
    if config.paper_compat:
        bucket = np.searchsorted(PUBLISHED_BUCKETS, lengths[order])
        members = [order[bucket == number] for number in range(len(PUBLISHED_BUCKETS) + 1)]
        cut = [
            rows[at : at + size] for rows in members for at in range(0, len(rows) - size + 1, size)
        ]
    else:
        pools = [order[at : at + size * POOL] for at in range(0, len(order), size * POOL)]
        ranked = [rows[np.argsort(lengths[rows], kind="stable")] for rows in pools]
        cut = [rows[at : at + size] for rows in ranked for at in range(0, len(rows), size)]
    return [cut[number] for number in rng.permutation(len(cut))]


@dataclass
class _Progress:
    """How far a fit is: batches `at` of `epoch`; sums of this epoch; rate and attempt."""

    epoch: int = 0
    at: int = 0
    loss: float = 0.0
    documents: int = 0
    seconds: float = 0.0
    curve: float = 0.0
    factor: float = 1.0

    def begin(self, epoch: int) -> None:
        self.epoch, self.at, self.loss, self.documents = epoch, 0, 0.0, 0
        self.seconds, self.curve = 0.0, 0.0


class _Fit:
    def __init__(
        self,
        model: nn.Module,
        train: TokenDocuments,
        targets: csr_matrix,
        tuning: TokenDocuments,
        tuning_targets: csr_matrix,
        evaluate: Evaluate,
        config: MultilabelConfig,
        seed: int,
        device: str,
    ) -> None:
        self.config, self.seed, self.evaluate = config, seed, evaluate
        self.train, self.targets = train, targets.tocsr()
        self.tuning, self.tuning_targets = tuning, tuning_targets.tocsr()
        self.where = torch.device(pick_device(device))
        self.device = device
        self.precision = pick_precision(config.precision, self.where.type, cpu=False)
        self.model = model.to(self.where)
        compiled = torch.compile(model, dynamic=True) if config.compile else model
        self.network: Callable[..., Tensor] = compiled
        self.optimiser = torch.optim.AdamW(
            model.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.lengths = train.lengths
        self.per_epoch = len(batches(self.lengths, config, seed, 0))
        if not self.per_epoch:
            raise WardroundError(
                f"fit: no bucket of lengths holds {config.batch} documents; take a smaller batch "
                "or paper_compat=false"
            )
        self.steps = self.per_epoch * config.epochs
        self.progress, self.history = _Progress(), MultilabelHistory()
        self.best = copy_weights(model)
        self.good = self._state()

    def run(self, checkpoint: Path | None, what: str) -> MultilabelHistory:
        config, progress = self.config, self.progress
        settings = self._settings() if checkpoint is not None else {}
        self._resume(checkpoint, settings)
        progress, history = self.progress, self.history
        saved = time.monotonic()
        done = progress.epoch * self.per_epoch + progress.at
        folder = None if checkpoint is None else checkpoint.parent
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        shape = self.tuning_targets.shape
        with tempfile.TemporaryFile(dir=folder) as file, live(what, self.steps, done) as advance:
            logits: np.ndarray = np.memmap(file, np.float32, "w+", shape=shape)
            while progress.epoch < config.epochs and not self._waited():
                plan = batches(self.lengths, config, self._seed(), progress.epoch)
                reason = None
                while progress.at < len(plan) and reason is None:
                    reason = self._step(plan[progress.at])
                    if reason is None:
                        advance(self._figures())
                        if checkpoint and time.monotonic() - saved >= config.checkpoint_every:
                            self._save(checkpoint, settings)
                            saved = time.monotonic()
                if reason is None:
                    predict_logits(
                        self.model,
                        self.tuning,
                        out=logits,
                        device=self.device,
                        precision=self.precision,
                        what="",
                    )
                    score = float(self.evaluate(logits, self.tuning_targets))
                    reason = self._collapse(logits, score)
                if reason is None:
                    self._end_epoch(score)
                elif not self._restart(reason):
                    break
                if checkpoint is not None:
                    self._save(checkpoint, settings)
                    saved = time.monotonic()
        self.model.load_state_dict(self.best)
        self.model.eval()
        return history

    def _step(self, rows: np.ndarray) -> str | None:
        """One step of the optimiser; what went wrong, if anything did."""
        config, progress, began = self.config, self.progress, time.monotonic()
        step = progress.epoch * self.per_epoch + progress.at
        for group in self.optimiser.param_groups:
            group["lr"] = config.rate(step, self.steps) * progress.factor
        self.model.train()
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        total = torch.zeros((), device=self.where)
        pieces = passes(self.lengths[rows], config.micro_batch or len(rows), config.micro_tokens)
        for number, piece in enumerate(pieces):
            torch.manual_seed(step_seed(self._seed(), step, number))
            tokens, mask = self.train.batch(rows[piece], _padding(self.model))
            wanted = torch.from_numpy(self.targets[rows[piece]].toarray().astype(np.float32))
            with autocast(self.where, self.precision):
                logits = self.network(tokens.to(self.where), mask.to(self.where))
            loss = functional.binary_cross_entropy_with_logits(
                logits.float(), wanted.to(self.where)
            )
            loss = loss * (len(tokens) / len(rows))
            loss.backward()
            total += loss.detach()
        clip = math.inf if config.clip is None or config.paper_compat else config.clip
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        value, size = torch.stack([total, norm]).tolist()
        if math.isfinite(value) and math.isfinite(size):
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if not math.isfinite(value):
            return "the loss is not a number"
        if not math.isfinite(size):
            return "a gradient is not a number"
        progress.at += 1
        progress.loss += value * len(rows)
        progress.documents += len(rows)
        progress.seconds += time.monotonic() - began
        progress.curve += value
        if progress.at % CURVE == 0:
            self.history.curve_step.append(step + 1)
            self.history.curve_loss.append(progress.curve / CURVE)
            progress.curve = 0.0
        return None

    def _collapse(self, logits: np.ndarray, score: float) -> str | None:
        """Why an epoch's predictions show that training diverged; None where they do not."""
        said, spread, scores = 0, 0.0, self.history.tuning_score
        for at in range(0, len(logits), 256):
            part = logits[at : at + 256]
            if not np.isfinite(part).all():
                return "a prediction is not a number"
            said += int((part > 0).sum())
            spread = max(spread, float(np.ptp(part, axis=0).max()))
        if said > 0.95 * logits.size and self.targets.nnz < 0.5 * math.prod(self.targets.shape):
            return f"it says yes to {said / logits.size:.0%} of all labels"
        if not math.isfinite(score):
            raise WardroundError("fit: the score on tuning is not a number; has tuning labels?")
        # An early epoch may say no to everything; one that follows a better one may not.
        if scores and score < max(scores) / 2:
            if not said:
                return "it says no to all labels"
            if spread < SAME and len(logits) > 1:
                return "it says the same of all documents"
        return None

    def _end_epoch(self, score: float) -> None:
        progress, history = self.progress, self.history
        step = (progress.epoch + 1) * self.per_epoch
        history.step.append(step)
        history.loss.append(progress.loss / progress.documents)
        history.tuning_score.append(score)
        history.learning_rate.append(self.config.rate(step - 1, self.steps) * progress.factor)
        history.documents_per_second.append(progress.documents / max(progress.seconds, 1e-9))
        if history.best < 0 or score > history.tuning_score[history.best]:
            history.best, self.best = len(history.step) - 1, copy_weights(self.model)
        progress.begin(progress.epoch + 1)
        self.good = self._state()

    def _restart(self, reason: str) -> bool:
        """Back to the last good epoch; false where that was tried often enough."""
        progress, history = self.progress, self.history
        enough = len(history.restarts) >= self.config.restarts
        where = f"in epoch {progress.epoch + 1}"
        if enough and history.best < 0:
            raise WardroundError(
                f"fit: training diverged {where} ({reason}), {len(history.restarts) + 1} times; "
                f"lower learning_rate ({self.config.learning_rate:g})"
            )
        if not enough:
            progress.factor /= 2
        history.restarts.append(
            {
                "epoch": progress.epoch,
                "step": progress.epoch * self.per_epoch + progress.at,
                "reason": reason,
                "factor": progress.factor,
            }
        )
        log.warning(
            "training diverged %s (%s); %s",
            where,
            reason,
            "it ends with the best epoch" if enough else "half the rate from the last good epoch",
        )
        begun = progress.epoch * self.per_epoch
        kept = sum(step <= begun for step in history.curve_step)
        del history.curve_step[kept:], history.curve_loss[kept:]
        progress.begin(progress.epoch)
        self.model.load_state_dict(below("model/", self.good))
        restore_optimiser(self.optimiser, below("optimiser/", self.good))
        return not enough

    def _waited(self) -> bool:
        epochs, patience = len(self.history.step), self.config.patience
        given_up = len(self.history.restarts) > self.config.restarts
        return given_up or (patience is not None and epochs - 1 - self.history.best >= patience)

    def _seed(self) -> int:
        """Another after each restart: the same batches would end the same way."""
        return self.seed + 1_000_003 * len(self.history.restarts)

    def _figures(self) -> str:
        progress, scores = self.progress, self.history.tuning_score
        best = f", best {max(scores):.3f}" if scores else ""
        rate = progress.documents / max(progress.seconds, 1e-9)
        return f"loss {progress.loss / progress.documents:.4f}, {rate:,.0f} documents/s{best}"

    def _state(self) -> dict[str, Tensor]:
        """A copy of weights and optimiser, in the CPU's memory."""
        tensors = {f"model/{name}": value for name, value in copy_weights(self.model).items()}
        return tensors | {
            f"optimiser/{name}": value.detach().to("cpu", copy=True)
            for name, value in optimiser_tensors(self.optimiser).items()
        }

    def _save(self, path: Path, settings: Mapping[str, Any]) -> None:
        tensors = {f"best/{name}": value for name, value in self.best.items()}
        tensors |= {f"good/{name}": value for name, value in self.good.items()}
        if self.progress.at:  # at an epoch's end they are the same
            tensors |= {f"now/{name}": value for name, value in self._state().items()}
        progress = {"progress": asdict(self.progress), "history": asdict(self.history)}
        write_checkpoint(path, settings, progress, tensors)

    def _resume(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        if (found := read_checkpoint(path, settings)) is None:
            return
        about, tensors = found
        self.progress = _Progress(**about["progress"])
        self.history = MultilabelHistory(**about["history"])
        self.best, self.good = below("best/", tensors), below("good/", tensors)
        now = below("now/", tensors) if self.progress.at else self.good
        self.model.load_state_dict(below("model/", now))
        restore_optimiser(self.optimiser, below("optimiser/", now))
        log.info("training goes on after %d epochs", self.progress.epoch)

    def _settings(self) -> dict[str, Any]:
        config = asdict(self.config)
        del config["checkpoint_every"], config["compile"]
        return {
            **config,
            "precision": self.precision,
            "seed": self.seed,
            "model": {name: list(value.shape) for name, value in self.model.state_dict().items()},
            "sizes": getattr(self.model, "config", None),
            "train": self.train.fingerprint() + _matrix(self.targets),
            "tuning": self.tuning.fingerprint() + _matrix(self.tuning_targets),
        }


def _matrix(targets: csr_matrix) -> list[int]:
    parts = (targets.indptr.astype(np.int64), targets.indices.astype(np.int64))
    return [*targets.shape, *(zlib.crc32(part.tobytes()) for part in parts)]


def _padding(model: nn.Module) -> int:
    return int(model.padding)  # type: ignore[arg-type]


@contextmanager
def _fast_products(where: torch.device, precision: Precision) -> Iterator[None]:
    """TF32 for what stays float32 beside bfloat16, as scores of label attention do."""
    before = torch.get_float32_matmul_precision()
    if where.type == "cuda" and precision == "bfloat16":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
