"""The decoder of a run: taught, found again, and how its futures are sampled."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from wardround import __version__
from wardround.errors import WardroundError
from wardround.models import Decoder, DecoderConfig
from wardround.simulation.risk import Sampling
from wardround.systems.ethos_ares.config import EthosAresConfig
from wardround.systems.ethos_ares.prepared import Prepared
from wardround.training import Documents, PretrainConfig, load_model, pretrain, save_model
from wardround.workdir import Workdir

ETHOS = "ethos"
#: The decoder that learns from dealt-out futures.
CONTROL = "control"


def pretrained(
    name: str, iterations: int, prepared: Prepared, config: EthosAresConfig, workdir: Workdir
) -> Path:
    """The stage that holds a decoder."""
    settings = config.training.model_dump()
    devices = settings.pop("devices")
    settings |= {"iterations": iterations}
    settings["decay"] = min(settings["decay"], iterations)
    settings["warmup"] = min(settings["warmup"], settings["decay"])
    recipe = PretrainConfig(**settings, windows="published" if config.paper_compat else "packed")

    def documents(split: str) -> Documents:
        if name == CONTROL:
            return prepared.dealt_documents(split, config.seed)
        return prepared.documents(split)

    def build(folder: Path) -> None:
        torch.manual_seed(config.seed)
        sizes = DecoderConfig(len(prepared.timelines.vocabulary), **config.network.model_dump())
        model = Decoder(sizes)
        history = pretrain(
            model,
            documents("train"),
            documents("tuning"),
            recipe,
            checkpoint=workdir.path / "checkpoints" / f"{name}.safetensors",
            seed=config.seed,
            device=config.device,
            devices=devices,
            what=f"Pretraining {name}",
        )
        save_model(model, folder)
        (folder / "history.json").write_text(json.dumps(asdict(history), indent=1))

    inputs = {
        "timelines": workdir.fingerprint("work/timelines"),
        "version": __version__,
        "network": config.network.model_dump(),
        "recipe": asdict(recipe),
        "seed": config.seed,
    }
    return workdir.stage(f"model/{name}", build, inputs=inputs)


def load_decoder(folder: Path) -> Decoder:
    """A decoder that a run saved."""
    model = load_model(folder)
    if not isinstance(model, Decoder):
        raise WardroundError(f"{folder} holds a {type(model).__name__}, not a decoder")
    return model


def sampling_of(config: EthosAresConfig) -> Sampling:
    """How this run plays out futures."""
    s = config.simulation
    return Sampling(
        futures=s.futures,
        half_width=s.half_width,
        max_futures=max(s.max_futures, s.futures),
        max_tokens=s.max_tokens,
        slots=s.slots,
        seed=config.seed,
        device=config.device,
        dtype=getattr(torch, s.dtype),
    )
