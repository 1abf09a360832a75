"""Next-token pretraining of a decoder, on one device or many, that a killed run goes on from."""

from __future__ import annotations

import logging
import math
import mmap
import time
import zlib
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wardround.errors import WardroundError
from wardround.models import Decoder
from wardround.progress import live, track
from wardround.training.checkpoint import (
    below,
    optimiser_tensors,
    read_checkpoint,
    restore_optimiser,
    write_checkpoint,
)
from wardround.training.devices import Precision, autocast, pick_device, pick_precision
from wardround.training.packing import (
    CHUNK,
    IGNORED,
    Documents,
    PackedWindows,
    Stream,
    batches,
    document_mask,
    pack_windows,
    scored_windows,
    window_span,
)
from wardround.training.steps import Since, copy_weights, step_seed

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger("wardround")

FABRIC_PRECISION: dict[str, Literal["32-true", "bf16-mixed"]] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
}


@dataclass(frozen=True)
class PretrainConfig:
    """The recipe. The defaults are those of ETHOS-ARES (its `train` configuration).

    Attributes:
        iterations: steps of the optimiser.
        tokens: stop, too, once so many tokens were predicted.
        batch: sequences that a device reads at once.
        accumulation: batches whose gradients make a step, dealt out to the devices: a step means
            the same on any number of them that divides this.
        learning_rate, final_learning_rate, warmup, decay: the rate climbs over `warmup` steps,
            falls along a cosine until step `decay` and stays.
        weight_decay: of matrices; vectors have none.
        betas: of AdamW.
        clip: largest norm of the gradient.
        precision: of the forward pass; weights and optimiser are float32. See `pick_precision`.
        windows: `packed`, or `published`: one stream of all patients cut anywhere.
        evaluate_every: steps between looks at the tuning loss.
        evaluation_sequences: how many tuning sequences are looked at; None for all.
        patience: stop after so many looks without a better tuning loss.
        checkpoint_every: seconds between checkpoints.
        compile: run the network through `torch.compile`.
    """

    iterations: int = 200_000
    tokens: int | None = None
    batch: int = 32
    accumulation: int = 16
    learning_rate: float = 6e-4
    final_learning_rate: float = 1e-5
    warmup: int = 5_000
    decay: int = 100_000
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    precision: Precision = "auto"
    windows: Literal["packed", "published"] = "packed"
    evaluate_every: int = 1_000
    evaluation_sequences: int | None = 2_000
    patience: int | None = None
    checkpoint_every: float = 600.0
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "accumulation", "evaluate_every"):
            if getattr(self, name) < 1:
                raise WardroundError(f"pretrain: {name} must be 1 or more")
        for name in ("tokens", "evaluation_sequences", "patience"):
            if (limit := getattr(self, name)) is not None and limit < 1:
                raise WardroundError(f"pretrain: {name} must be 1 or more, or none")
        if not 0 <= self.warmup <= self.decay:
            raise WardroundError(
                f"pretrain: warmup ({self.warmup}) must end before decay does ({self.decay})"
            )
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise WardroundError("pretrain: final_learning_rate must lie in 0..learning_rate")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        if step >= self.decay:
            return self.final_learning_rate
        share = (step - self.warmup) / (self.decay - self.warmup)
        height = self.learning_rate - self.final_learning_rate
        return self.final_learning_rate + 0.5 * (1 + math.cos(math.pi * share)) * height


@dataclass
class PretrainHistory:
    """What happened between one look at the tuning loss and the next; lists of one length.

    Attributes:
        step: steps done.
        tokens: tokens predicted so far.
        loss: mean training loss since the last look, in nats a token.
        tuning_loss: mean over the tuning tokens looked at, in nats a token.
        learning_rate: of the last step.
        tokens_per_second: predicted in training since the last look; of all devices together.
        best: which look saw the weights that were kept, from 0.
    """

    step: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    tuning_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    tokens_per_second: list[float] = field(default_factory=list)
    best: int = -1


def pretrain(
    model: Decoder,
    train: Documents,
    tuning: Documents,
    config: PretrainConfig,
    *,
    checkpoint: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    what: str = "Pretraining",
) -> PretrainHistory:
    """Teach a decoder to predict the next token; it is left with the best weights on tuning.

    The loss is the mean over all tokens that a step predicts. Cuts, order and dropout are drawn
    from (seed, epoch) and (seed, step), so that neither a restart nor the number of devices
    changes what is learnt, but for the rounding of sums.

    Args:
        model: its `context` is the length of sequences.
        train: timelines that are learnt.
        tuning: timelines that choose the weights; never trained on. Read as packed windows whatever
            `config.windows`, since that is how the decoder is used.
        config: the recipe.
        checkpoint: file that a killed run with the same settings and tokens goes on from, bit for
            bit on the same machine; removed at the end.
        seed: of all but the initial weights.
        device: `cpu`, `cuda`, `cuda:1` or `auto`.
        devices: how many; more than one are processes of their own, started here (Lightning
            Fabric, distributed data parallel).
        what: the title of the progress bar.

    Raises:
        WardroundError: timelines that do not fit the decoder, or a loss that is not a number.
    """
    if config.accumulation % devices:
        raise WardroundError(
            f"pretrain: accumulation ({config.accumulation}) must be a multiple of devices "
            f"({devices})"
        )
    for name, documents in (("training", train), ("tuning", tuning)):
        documents.check(name, model.sizes.vocabulary, model.sizes.context)
    device = pick_device(device)
    config = replace(config, precision=pick_precision(config.precision, device))
    job = _Job(train, tuning, config, checkpoint, seed, what)
    fabric = _fabric(device, devices, config.precision)
    with TemporaryDirectory() as folder:
        outcome = Path(folder, "outcome.safetensors")
        # Lightning copies the arguments of what it launches, so that the job goes in the function;
        # and what this returns must fit a pipe.
        error = fabric.launch(partial(_work, job, outcome), model)
        if error is not None:
            raise WardroundError(error)
        found = read_checkpoint(outcome, {})
    assert found is not None
    history = PretrainHistory(**found[0])
    model.load_state_dict(found[1])
    model.eval()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    log.info(
        "pretrain: %d steps, %d tokens, tuning loss %.4f at step %d",
        history.step[-1],
        history.tokens[-1],
        history.tuning_loss[history.best],
        history.step[history.best],
    )
    return history


def losses(
    model: Decoder,
    documents: Documents,
    *,
    stride: int | None = None,
    batch: int = 16,
    device: str = "auto",
    precision: Precision = "float32",
    what: str = "Scoring tokens",
) -> np.ndarray:
    """How surprising each token is: negative log-likelihoods in nats, float32.

    Args:
        model: the decoder.
        documents: timelines to score.
        stride: tokens that a window adds to the one before. Small ones see more of the past and
            cost more. Half a window unless told.
        batch: sequences scored at once.
        device, precision: as in `pretrain`.
        what: the title of the progress bar.

    Returns:
        One value for each token of the timelines that take part, in their order. Without static
        context, the first token of each has nothing to be predicted from and gets NaN.
    """
    context = model.sizes.context
    documents.check("given", model.sizes.vocabulary, context)
    span = window_span(documents, context)
    stride = span // 2 if stride is None else stride
    if not 1 <= stride <= span:
        raise WardroundError(f"losses: stride must lie in 1..{span}, the tokens of a window")
    windows = scored_windows(documents, context, stride)
    where = torch.device(pick_device(device))
    network = _NextToken(model).to(where).eval()
    begin, end = documents.bounds
    # A timeline's tokens lie together, in the result as in the file.
    result = np.full(int((end - begin).sum()), np.nan, np.float32)
    shift = np.cumsum(end - begin) - end
    for numbers in track(batches(windows, batch), what, total=-(-len(windows) // batch)):
        read = windows.batch(numbers).to(where)
        with torch.inference_mode(), autocast(where, pick_precision(precision, where.type)):
            values = network(*read.parts, reduction="none")
        targets, document = windows.targets(numbers)
        labelled = (read.labels != IGNORED).flatten()
        result[targets + shift[document]] = values[labelled].cpu().numpy()
    return result


class _NextToken(nn.Module):
    """A decoder with its loss, so that what is compiled and distributed is one call."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        segments: Tensor,
        labels: Tensor,
        reduction: str = "sum",
    ) -> Tensor:
        attend = self.decoder.masked(document_mask(segments))
        logits = self.decoder(tokens, positions=positions, attend=attend)
        return functional.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction=reduction,
        )


@dataclass(frozen=True)
class _Job:
    """What each process is told."""

    train: Documents
    tuning: Documents
    config: PretrainConfig
    checkpoint: Path | None
    seed: int
    what: str


def _work(job: _Job, outcome: Path, fabric: Fabric, model: Decoder) -> str | None:
    """Leave history and best weights in a file; or say what went wrong."""
    try:
        history, best = _train(fabric, model, job)
    except WardroundError as error:
        return str(error)
    if fabric.is_global_zero:
        write_checkpoint(outcome, {}, asdict(history), best)
    return None


def _train(fabric: Fabric, model: Decoder, job: _Job) -> tuple[PretrainHistory, dict[str, Tensor]]:
    config, world, rank = job.config, fabric.world_size, fabric.global_rank
    network: nn.Module = _NextToken(model)
    if config.compile:
        network = torch.compile(network)  # type: ignore[assignment]
    optimiser = _optimiser(model, config, fabric.device)
    network, optimiser = fabric.setup(network, optimiser)
    tuning = pack_windows(job.tuning, model.sizes.context)
    stream = Stream(job.train, model.sizes.context, config.windows, job.seed)
    history, best, step, tokens = PretrainHistory(), copy_weights(model), 0, 0
    since = Since()

    settings = _settings(job, model) if job.checkpoint is not None else {}
    if (found := read_checkpoint(job.checkpoint, settings)) is not None:
        progress, tensors = found
        model.load_state_dict(below("model/", tensors))
        best = below("best/", tensors)
        restore_optimiser(optimiser, below("optimiser/", tensors))
        history, since = PretrainHistory(**progress["history"]), Since(**progress["since"])
        step, tokens = progress["step"], progress["tokens"]
        stream = Stream(
            job.train, model.sizes.context, config.windows, job.seed, **progress["stream"]
        )
        log.info("pretraining goes on after step %d", step)

    def save() -> None:
        if job.checkpoint is None or rank:
            return
        tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in best.items()}
        tensors |= {f"optimiser/{n}": v for n, v in optimiser_tensors(optimiser).items()}
        progress = {
            "step": step,
            "tokens": tokens,
            "stream": {"epoch": stream.epoch, "at": stream.at},
            "since": asdict(since),
            "history": asdict(history),
        }
        write_checkpoint(job.checkpoint, settings, progress, tensors)

    saved = time.monotonic()
    with live(job.what, config.iterations, step, shown=not rank) as advance:
        while not _done(config, history, step, tokens):
            began = time.monotonic()
            for group in optimiser.param_groups:
                group["lr"] = config.rate(step)
            pieces = [stream.take(config.batch) for _ in range(config.accumulation)]
            predicted = sum(piece.labels for piece in pieces)
            mine = range(rank, len(pieces), world)
            total = torch.zeros((), device=fabric.device)
            network.train()
            for number in mine:
                torch.manual_seed(step_seed(job.seed, step, number))
                read = pieces[number].batch().to(fabric.device)
                with fabric.no_backward_sync(network, enabled=number != mine[-1]):  # type: ignore[arg-type]
                    loss = network(*read.parts)
                    # Devices average their gradients: what each adds counts `world` times.
                    fabric.backward(loss * (world / predicted))
                total += loss.detach()
            mean = float(fabric.all_reduce(total, reduce_op="sum")) / predicted  # type: ignore[arg-type]
            if not math.isfinite(mean):
                raise WardroundError(
                    f"pretrain: the loss is not a number at step {step + 1}; lower learning_rate "
                    f"({config.learning_rate:g}) or set precision=float32"
                )
            fabric.clip_gradients(
                network, optimiser, max_norm=config.clip, error_if_nonfinite=False
            )
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step, tokens = step + 1, tokens + predicted
            since.add(mean * predicted, predicted, time.monotonic() - began)
            advance(f"loss {mean:.3f}, {since.tokens / since.seconds:,.0f} tokens/s")
            ended = step == config.iterations or tokens >= (config.tokens or math.inf)
            if ended or step % config.evaluate_every == 0:
                look = _evaluate(fabric, network, tuning, config)
                history.step.append(step)
                history.tokens.append(tokens)
                history.loss.append(since.loss / since.tokens)
                history.tuning_loss.append(look)
                history.learning_rate.append(config.rate(step - 1))
                history.tokens_per_second.append(since.tokens / since.seconds)
                since = Since()
                if history.best < 0 or look < history.tuning_loss[history.best]:
                    history.best, best = len(history.step) - 1, copy_weights(model)
            if time.monotonic() - saved >= config.checkpoint_every:
                save()
                saved = time.monotonic()
    return history, best


def _done(config: PretrainConfig, history: PretrainHistory, step: int, tokens: int) -> bool:
    waited = len(history.step) - 1 - history.best
    return (
        step >= config.iterations
        or tokens >= (config.tokens or math.inf)
        or (config.patience is not None and waited >= config.patience)
    )


@torch.no_grad()
def _evaluate(
    fabric: Fabric, network: nn.Module, tuning: PackedWindows, config: PretrainConfig
) -> float:
    """Mean loss of the tuning tokens, each process reading its share of the batches."""
    network.eval()
    limit = min(config.evaluation_sequences or len(tuning), len(tuning))
    total = torch.zeros((), device=fabric.device, dtype=torch.float64)
    starts = range(0, limit, config.batch)
    for at in starts[fabric.global_rank :: fabric.world_size]:
        numbers = np.arange(at, min(at + config.batch, limit))
        total += network(*tuning.batch(numbers).to(fabric.device).parts)
    total = fabric.all_reduce(total, reduce_op="sum")  # type: ignore[assignment]
    mean = float(total) / tuning.labels(np.arange(limit))
    if not math.isfinite(mean):
        raise WardroundError("pretrain: the tuning loss is not a number; lower learning_rate")
    return mean


def _optimiser(model: Decoder, config: PretrainConfig, device: torch.device) -> torch.optim.AdamW:
    matrices = [value for value in model.parameters() if value.dim() >= 2]
    vectors = [value for value in model.parameters() if value.dim() < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


def _fabric(device: str, devices: int, precision: Precision) -> Fabric:
    from lightning.fabric import Fabric  # takes seconds to import
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    share_memmaps()
    try:
        where = torch.device(device)
        if where.index is not None and devices > 1:
            raise ValueError("name the kind alone, or one device")
        return Fabric(
            accelerator=where.type,
            devices=devices if where.index is None else [where.index],
            strategy="auto" if devices == 1 else "ddp_spawn",
            precision=FABRIC_PRECISION[precision],
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WardroundError(
            f"pretrain: device={device}, devices={devices} cannot be had ({reason})"
        ) from error


def share_memmaps() -> None:
    """Send arrays that are mapped from files to other processes as the names of the files."""
    ForkingPickler.register(np.memmap, _reduce_memmap)


def _reduce_memmap(array: np.memmap) -> Any:
    if isinstance(array.base, mmap.mmap) and array.filename is not None:
        file = (array.filename, array.dtype, "r", array.offset, array.shape)
        return np.memmap, file
    return np.asarray(array).__reduce__()  # a part of one


def _settings(job: _Job, model: Decoder) -> dict[str, Any]:
    config = asdict(job.config)
    del config["checkpoint_every"], config["compile"]
    return {
        **config,
        "seed": job.seed,
        "model": asdict(model.sizes),
        "train": _fingerprint(job.train),
        "tuning": _fingerprint(job.tuning),
    }


def _fingerprint(documents: Documents) -> list[int]:
    tokens = 0
    for at in range(0, len(documents.tokens), CHUNK):
        tokens = zlib.crc32(documents.tokens[at : at + CHUNK].tobytes(), tokens)
    bounds = np.concatenate(documents.bounds)
    return [tokens, zlib.crc32(bounds.tobytes()), documents.context_size]
