"""On a GPU: the same losses, the same paths and the same risks as on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wardround.models import Decoder, DecoderConfig
from wardround.simulation import Clock, Prefix, Stops, simulate
from wardround.training import Documents, PretrainConfig, losses, pretrain

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

VOCABULARY, END = 60, 7
RECIPE = PretrainConfig(
    iterations=60,
    batch=8,
    accumulation=1,
    learning_rate=3e-3,
    final_learning_rate=1e-3,
    warmup=5,
    decay=60,
    precision="float32",
    evaluate_every=20,
)


def decoder(positions: str = "learned") -> Decoder:
    torch.manual_seed(1)
    sizes = {"layers": 2, "heads": 4, "width": 64, "hidden": 128, "dropout": 0.0}
    return Decoder(DecoderConfig(VOCABULARY, 64, positions=positions, **sizes))  # type: ignore[arg-type]


def nothing_static(documents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return np.full((len(documents), 1), VOCABULARY - 1)


def documents(count: int, seed: int) -> Documents:
    """Each token is one of four that may follow the one before it."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(10, 150, count)
    tokens = (np.cumsum(rng.integers(1, 5, lengths.sum())) % (VOCABULARY - 1)).astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Documents(tokens, offsets, nothing_static, 1)


def taught(device: str, positions: str = "rotary", **changes: object) -> Decoder:
    model = decoder(positions)
    recipe = replace(RECIPE, **changes)  # type: ignore[arg-type]
    pretrain(model, documents(80, 0), documents(20, 1), recipe, device=device)
    return model.cpu()


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_gpu_learns_what_a_cpu_learns(positions: str) -> None:
    test = documents(30, 2)
    found = {
        device: losses(taught(device, positions), test, device="cpu").mean()
        for device in ("cpu", "cuda")
    }
    assert found["cuda"] == pytest.approx(found["cpu"], abs=0.02)
    mixed = losses(taught("cuda", positions, precision="bfloat16"), test, device="cuda").mean()
    assert mixed == pytest.approx(found["cpu"], abs=0.05)


def test_a_checkpoint_of_a_gpu_goes_on_on_a_cpu(tmp_path: Path) -> None:
    train, tuning = documents(80, 0), documents(20, 1)
    path, model = tmp_path / "half.safetensors", decoder()
    pretrain(model, train, tuning, replace(RECIPE, iterations=30), checkpoint=path, device="cuda")
    again = decoder()
    history = pretrain(again, train, tuning, RECIPE, checkpoint=path, device="cpu")
    whole = decoder()
    straight = pretrain(whole, train, tuning, RECIPE, device="cpu")
    assert history.tuning_loss[-1] == pytest.approx(straight.tuning_loss[-1], abs=0.02)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("estimator", ["count", "survival"])
def test_a_gpu_plays_out_the_futures_that_a_cpu_does(positions: str, estimator: str) -> None:
    model = taught("cpu", positions)
    rng = np.random.default_rng(0)
    known = [
        Prefix(np.array([VOCABULARY - 1]), rng.integers(0, VOCABULARY - 1, n), 40.0)
        for n in (3, 30, 62, 90, 140)
    ]
    sets = np.zeros((2, VOCABULARY), bool)
    sets[0, END], sets[1, [11, 12]] = True, True
    mean = np.zeros(VOCABULARY)
    mean[20:30] = 1.0
    found = {}
    for device in ("cpu", "cuda"):
        found[device] = simulate(
            model,
            known,
            Stops(sets, sets[0], 200),
            Clock(mean),
            futures=60,
            estimator=estimator,  # type: ignore[arg-type]
            slots=64,
            keep_paths=True,
            device=device,
        )
    same = [
        len(a) == len(b) and (a == b).all()
        for one, other in zip(found["cpu"], found["cuda"], strict=True)
        for a, b in zip(one.paths or [], other.paths or [], strict=True)
    ]
    # A path parts where a rounding moves a draw across a bound; few do.
    assert np.mean(same) > 0.95
    for one, other in zip(found["cpu"], found["cuda"], strict=True):
        a, b = (
            np.isfinite(x.first).mean(axis=0) if x.absorbed is None else x.absorbed.mean(axis=0)
            for x in (one, other)
        )
        np.testing.assert_allclose(a, b, atol=0.05)
