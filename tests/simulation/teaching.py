"""Small decoders, taught fast and kept for the tests that share them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from wardround.models import Decoder, DecoderConfig
from wardround.training import Documents, PretrainConfig, pretrain, save_model


def teach(train: Documents, tuning: Documents, vocabulary: int, iterations: int) -> Decoder:
    torch.manual_seed(0)
    sizes = {"context": 256, "layers": 2, "heads": 4, "width": 64, "hidden": 256}
    model = Decoder(DecoderConfig(vocabulary, positions="rotary", dropout=0.0, **sizes))
    config = PretrainConfig(
        iterations=iterations,
        warmup=iterations // 20,
        decay=iterations,
        batch=16,
        accumulation=1,
        learning_rate=4e-3,
        final_learning_rate=8e-5,
        evaluate_every=iterations // 4,
        evaluation_sequences=200,
        precision="float32",
    )
    pretrain(model, train, tuning, config)
    return model


def kept(make: Callable[[], Decoder], folder: Path) -> None:
    model = make()
    folder.mkdir()
    save_model(model, folder)
