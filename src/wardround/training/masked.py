"""Masked-language-model pretraining of an encoder on documents, that a killed run goes on from.

Devlin et al. 2019, section 3.1, with masks drawn anew at each reading (RoBERTa, Liu et al. 2019,
section 4.1): of 15 % of the tokens 80 % are masked, 10 % become another token, 10 % stay, and all
of them are predicted. Sequences are the chunks that PLM-ICD later reads.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wardround.errors import WardroundError
from wardround.progress import live
from wardround.training.checkpoint import (
    below,
    optimiser_tensors,
    read_checkpoint,
    restore_optimiser,
    write_checkpoint,
)
from wardround.training.devices import Precision, autocast, pick_device, pick_precision
from wardround.training.multilabel import TokenDocuments
from wardround.training.packing import IGNORED, spread
from wardround.training.pretraining import PretrainHistory
from wardround.training.steps import Since, copy_weights, step_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("wardround")


@dataclass(frozen=True)
class MaskedConfig:
    """The recipe.

    Attributes:
        iterations: steps of the optimiser.
        batch: chunks that the device reads at once.
        accumulation: batches whose gradients make a step.
        chunk: tokens of a sequence; the last one of a document is shorter.
        masked: share of tokens that are predicted.
        learning_rate, warmup, schedule: the rate climbs over `warmup` steps and falls to 0 at the
            last one, along a line or a cosine.
        weight_decay: of matrices; vectors have none.
        betas: of AdamW.
        clip: largest norm of the gradient.
        precision: of the forward pass; `auto` is bfloat16 on CUDA and float32 elsewhere.
        evaluate_every: steps between looks at the tuning loss.
        evaluation_chunks: how many tuning chunks are looked at, always the same and under the same
            masks; None for all.
        checkpoint_every: seconds between checkpoints.
    """

    iterations: int = 20_000
    batch: int = 64
    accumulation: int = 4
    chunk: int = 128
    masked: float = 0.15
    learning_rate: float = 5e-4
    warmup: int = 1_000
    schedule: Literal["linear", "cosine"] = "linear"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    precision: Precision = "auto"
    evaluate_every: int = 500
    evaluation_chunks: int | None = 2_000
    checkpoint_every: float = 600.0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "accumulation", "chunk", "evaluate_every"):
            if getattr(self, name) < 1:
                raise WardroundError(f"masked: {name} must be 1 or more")
        if not 0 < self.masked < 1:
            raise WardroundError(f"masked: masked must lie between 0 and 1, got {self.masked}")
        if not 0 <= self.warmup < self.iterations:
            raise WardroundError(
                f"masked: warmup ({self.warmup}) must end before the last of {self.iterations} "
                "iterations"
            )

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        share = (step - self.warmup) / (self.iterations - self.warmup)
        fallen = share if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * share))
        return self.learning_rate * (1 - fallen)


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens that are no words.

    Attributes:
        mask: stands for what is to be predicted.
        padding: fills up.
        others: begin, end, unknown and the like; they are never predicted nor put for another.
    """

    mask: int
    padding: int
    others: Collection[int] = ()

    @property
    def all(self) -> list[int]:
        """Every one of them."""
        return sorted({self.mask, self.padding, *self.others})


def pretrain_masked(
    model: PreTrainedModel,
    train: TokenDocuments,
    tuning: TokenDocuments,
    special: SpecialTokens,
    config: MaskedConfig,
    *,
    checkpoint: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    what: str = "Pretraining",
) -> PretrainHistory:
    """Teach an encoder to predict masked tokens; it is left with the best weights on tuning.

    Args:
        model: a masked language model of the `transformers` library, BERT's or RoBERTa's.
        train: documents that are learnt.
        tuning: documents that choose the weights; never trained on.
        special: the vocabulary's tokens that are no words.
        config: the recipe.
        checkpoint: file that a killed run with the same settings and tokens goes on from, bit for
            bit on the same machine; removed at the end.
        seed: of order, masks and dropout.
        device: `cpu`, `cuda`, `cuda:1` or `auto`.
        what: the title of the progress bar.

    Returns:
        Losses are in nats a predicted token; `tokens` counts predicted ones.

    Raises:
        WardroundError: tokens that the model does not know, chunks that are longer than its
            positions, another kind of model, or a loss that is not a number.
    """
    network = _MaskedTokens(model)
    _check(model, train, tuning, special, config)
    where = torch.device(pick_device(device))
    precision = pick_precision(config.precision, where.type, cpu=False)
    network.to(where)
    optimiser = _optimiser(model, config)
    chunks = {"train": _Chunks(train, config.chunk), "tuning": _Chunks(tuning, config.chunk)}
    draw = _Masks(special, model.config.vocab_size, config.masked)
    history, best, step, tokens, since = PretrainHistory(), copy_weights(model), 0, 0, Since()

    settings: dict[str, Any] = {}
    if checkpoint is not None:
        settings = _settings(model, train, tuning, special, config, precision, seed)
    if (found := read_checkpoint(checkpoint, settings)) is not None:
        progress, tensors = found
        model.load_state_dict(below("model/", tensors))
        best = below("best/", tensors)
        restore_optimiser(optimiser, below("optimiser/", tensors))
        history, since = PretrainHistory(**progress["history"]), Since(**progress["since"])
        step, tokens = progress["step"], progress["tokens"]
        log.info("pretraining goes on after step %d", step)

    def save() -> None:
        if checkpoint is None:
            return
        kept = {f"model/{name}": value for name, value in copy_weights(model).items()}
        kept |= {f"best/{name}": value for name, value in best.items()}
        kept |= {f"optimiser/{n}": v for n, v in optimiser_tensors(optimiser).items()}
        progress = {
            "step": step,
            "tokens": tokens,
            "since": asdict(since),
            "history": asdict(history),
        }
        write_checkpoint(checkpoint, settings, progress, kept)

    def loss_of(rows: np.ndarray, of: str, noise: int) -> tuple[Tensor, int]:
        given, mask = chunks[of].batch(rows, special.padding)
        shown, labels = draw(given, mask, np.random.default_rng(noise))
        count = int((labels != IGNORED).sum())
        with autocast(where, precision):
            return network(shown.to(where), mask.to(where), labels.to(where)), count

    saved = time.monotonic()
    with live(what, config.iterations, step) as advance:
        while step < config.iterations:
            began = time.monotonic()
            for group in optimiser.param_groups:
                group["lr"] = config.rate(step)
            model.train()
            parts = chunks["train"].step(step, config, seed)
            total, predicted = torch.zeros((), device=where), 0
            for number, rows in enumerate(parts):
                noise = step_seed(seed, step, number)
                torch.manual_seed(noise)
                loss, count = loss_of(rows, "train", noise)
                # Sums over tokens: batches with fewer of them count less.
                loss.backward()
                total, predicted = total + loss.detach(), predicted + count
            mean = float(total) / max(predicted, 1)
            if not math.isfinite(mean):
                raise WardroundError(
                    f"masked: the loss is not a number at step {step + 1}; lower learning_rate "
                    f"({config.learning_rate:g}) or set precision=float32"
                )
            for value in model.parameters():
                if value.grad is not None:
                    value.grad.div_(max(predicted, 1))
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step, tokens = step + 1, tokens + predicted
            since.add(mean * predicted, predicted, time.monotonic() - began)
            advance(f"loss {mean:.3f}")
            if step == config.iterations or step % config.evaluate_every == 0:
                look = _evaluate(model, loss_of, len(chunks["tuning"]), config)
                history.step.append(step)
                history.tokens.append(tokens)
                history.loss.append(since.loss / max(since.tokens, 1))
                history.tuning_loss.append(look)
                history.learning_rate.append(config.rate(step - 1))
                history.tokens_per_second.append(since.tokens / max(since.seconds, 1e-9))
                since = Since()
                if history.best < 0 or look < history.tuning_loss[history.best]:
                    history.best, best = len(history.step) - 1, copy_weights(model)
            if time.monotonic() - saved >= config.checkpoint_every:
                save()
                saved = time.monotonic()
    model.load_state_dict(best)
    model.eval()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    log.info("masked: %d steps, tuning loss %.4f", step, history.tuning_loss[history.best])
    return history


def save_encoder(model: PreTrainedModel, folder: Path) -> None:
    """Write a folder that `AutoModel.from_pretrained` reads, whole or not at all.

    Args:
        model: weights become safetensors; a masked language model's head is kept beside them.
        folder: must not stand there yet.

    Raises:
        WardroundError: the folder is there.
    """
    if folder.exists():
        raise WardroundError(f"{folder} is there already; choose another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _MaskedTokens(nn.Module):
    """Encoder and head; the head sees nothing but what is predicted, which is a seventh."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        head = getattr(model, "lm_head", None) or getattr(model, "cls", None)
        masked = type(model).__name__.endswith("ForMaskedLM")
        if not isinstance(head, nn.Module) or not masked:
            raise WardroundError(
                f"masked: a {type(model).__name__} is not read; give a RobertaForMaskedLM or a "
                "BertForMaskedLM"
            )
        self.encoder, self.head = model.base_model, head

    def forward(self, tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Sum of the losses of tokens (batch, time) whose labels are not `IGNORED`."""
        hidden = self.encoder(tokens, attention_mask=mask).last_hidden_state
        at = labels != IGNORED
        scores = self.head(hidden[at])
        return functional.cross_entropy(scores.float(), labels[at], reduction="sum")


class _Masks:
    """Draws what is hidden."""

    def __init__(self, special: SpecialTokens, vocabulary: int, share: float) -> None:
        self.special, self.share = special, share
        self.words = np.setdiff1d(np.arange(vocabulary), special.all)

    def __call__(
        self, tokens: Tensor, mask: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """What is shown, and labels; both int64 (batch, time)."""
        given = tokens.numpy()
        word = mask.numpy() & ~np.isin(given, self.special.all)
        chance, kind = rng.random(given.shape), rng.random(given.shape)
        other = rng.choice(self.words, given.shape)
        chosen = word & (chance < self.share)
        shown = np.where(chosen & (kind < 0.8), self.special.mask, given)
        shown = np.where(chosen & (kind >= 0.8) & (kind < 0.9), other, shown)
        return torch.from_numpy(shown), torch.from_numpy(np.where(chosen, given, IGNORED))


class _Chunks:
    """Documents in consecutive chunks."""

    def __init__(self, documents: TokenDocuments, size: int) -> None:
        begin, end = documents.bounds
        owner, rank = spread(-(-(end - begin) // size))
        starts = begin[owner] + rank * size
        # An array of begins and ends, as if each chunk were a document.
        self.ends = np.minimum(starts + size, end[owner])
        self.starts, self.tokens = starts, documents.tokens
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, rows: np.ndarray, padding: int) -> tuple[Tensor, Tensor]:
        """Tokens int64 (rows, longest) and a mask, true at tokens."""
        bounds = np.stack([self.starts[rows], self.ends[rows]], axis=1).ravel()
        every = TokenDocuments(self.tokens, bounds)
        return every.batch(np.arange(0, len(bounds), 2), padding)

    def step(self, step: int, config: MaskedConfig, seed: int) -> list[np.ndarray]:
        """Rows of each batch of a step: epochs in random order, one after the other."""
        size = config.batch * config.accumulation
        places = np.arange(step * size, (step + 1) * size)
        rows = np.empty(size, np.int64)
        for epoch in np.unique(places // len(self)).tolist():
            if epoch != self._epoch:
                self._order = np.random.default_rng((seed, epoch)).permutation(len(self))
                self._epoch = epoch
            here = places // len(self) == epoch
            rows[here] = self._order[places[here] % len(self)]
        return np.split(rows, config.accumulation)


@torch.no_grad()
def _evaluate(
    model: nn.Module,
    loss_of: Callable[[np.ndarray, str, int], tuple[Tensor, int]],
    chunks: int,
    config: MaskedConfig,
) -> float:
    """Mean loss of the tuning chunks looked at, under the same masks each time."""
    model.eval()
    limit = min(config.evaluation_chunks or chunks, chunks)
    total, predicted = 0.0, 0
    for at in range(0, limit, config.batch):
        loss, count = loss_of(np.arange(at, min(at + config.batch, limit)), "tuning", at)
        total, predicted = total + float(loss), predicted + count
    mean = total / max(predicted, 1)
    if not math.isfinite(mean):
        raise WardroundError("masked: the tuning loss is not a number; lower learning_rate")
    return mean


def _optimiser(model: nn.Module, config: MaskedConfig) -> torch.optim.AdamW:
    learnt = [value for value in model.parameters() if value.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [v for v in learnt if v.dim() >= 2], "weight_decay": config.weight_decay},
            {"params": [v for v in learnt if v.dim() < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


def _check(
    model: PreTrainedModel,
    train: TokenDocuments,
    tuning: TokenDocuments,
    special: SpecialTokens,
    config: MaskedConfig,
) -> None:
    about = model.config
    offset = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    if about.model_type == "roberta" and special.padding != about.pad_token_id:
        raise WardroundError(
            f"masked: padding is {special.padding}, the model's pad_token_id is "
            f"{about.pad_token_id}, which its positions are counted by"
        )
    positions = about.max_position_embeddings - (0 if offset is None else offset + 1)
    if config.chunk > positions:
        raise WardroundError(
            f"masked: chunks of {config.chunk} are longer than the model's {positions} positions"
        )
    if not 0 <= special.all[0] <= special.all[-1] < about.vocab_size:
        raise WardroundError(
            f"masked: special tokens {special.all} do not lie within a vocabulary of "
            f"{about.vocab_size}"
        )
    for name, documents in (("training", train), ("tuning", tuning)):
        word, lowest, highest = False, 0, 0
        for document in documents:
            if len(document):
                lowest, highest = min(lowest, document.min()), max(highest, document.max())
                word = word or bool(np.isin(document, special.all, invert=True).any())
        if lowest < 0 or highest >= about.vocab_size:
            raise WardroundError(
                f"masked: {name} tokens run from {lowest} to {highest}, the model knows "
                f"{about.vocab_size}"
            )
        if not word:
            raise WardroundError(f"masked: the {name} documents hold no token to predict")


def _settings(
    model: PreTrainedModel,
    train: TokenDocuments,
    tuning: TokenDocuments,
    special: SpecialTokens,
    config: MaskedConfig,
    precision: Precision,
    seed: int,
) -> dict[str, Any]:
    recipe = asdict(config)
    del recipe["checkpoint_every"]
    return {
        **recipe,
        "precision": precision,
        "seed": seed,
        "special": [special.mask, special.padding, *special.all],
        "model": {name: list(value.shape) for name, value in model.state_dict().items()},
        "train": train.fingerprint(),
        "tuning": tuning.fingerprint(),
    }
