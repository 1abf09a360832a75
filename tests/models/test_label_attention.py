"""Label attention by its equations, in slices, and under a mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from wardround.models import label_attention
from wardround.models.label_attention import (
    CAMLAttention,
    CrossAttention,
    LAATAttention,
    attention,
    label_logits,
)

BATCH, TIME, WIDTH, LABELS = 3, 11, 6, 10


@pytest.fixture(params=[1 << 30, 4 * BATCH * TIME, 1], ids=["whole", "slices", "single codes"])
def slices(request, monkeypatch) -> Iterator[int]:
    monkeypatch.setitem(label_attention.SLICE, "cpu", request.param)
    yield request.param


def features(seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(BATCH, TIME, WIDTH, generator=torch.Generator().manual_seed(seed))
    return drawn.requires_grad_()


def mask(*lengths: int) -> torch.Tensor:
    return torch.arange(TIME) < torch.tensor(lengths)[:, None]


def layers() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    made = [
        CAMLAttention(WIDTH, LABELS),
        LAATAttention(WIDTH, 4, LABELS),
        CrossAttention(WIDTH, LABELS),
    ]
    with torch.no_grad():
        for layer in made:
            for value in layer.parameters():
                value.add_(0.5 * torch.randn_like(value))
    return made


def by_hand(layer: torch.nn.Module, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and attention of one document, (time, width), in float64."""
    w = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    if isinstance(layer, CrossAttention):
        keys, values, queries = x @ w["key.weight"].T, x @ w["value.weight"].T, w["query"]
        values = values + w["value.bias"]
    else:
        values, queries = x, w["query.weight"]
        keys = np.tanh(x @ w["project.weight"].T) if isinstance(layer, LAATAttention) else x
    shares = np.exp(queries @ keys.T)
    shares /= shares.sum(1, keepdims=True)
    seen = shares @ values
    if isinstance(layer, CrossAttention):
        centred = seen - seen.mean(1, keepdims=True)
        seen = centred / np.sqrt(seen.var(1, keepdims=True) + 1e-5)
        seen = seen * w["norm.weight"] + w["norm.bias"]
        return seen @ w["output.weight"][0] + w["output.bias"], shares
    return (w["output.weight"] * seen).sum(1) + w["output.bias"], shares


def test_equations(slices) -> None:
    lengths = (TIME, 4, 1)
    for layer in layers():
        logits = layer(features(), mask(*lengths))
        shown = layer.weights(features(), mask(*lengths), torch.tensor([7, 2]))
        assert logits.shape == (BATCH, LABELS) and shown.shape == (BATCH, 2, TIME)
        for number, length in enumerate(lengths):
            x = features()[number, :length].detach().double().numpy()
            expected, shares = by_hand(layer, x)
            np.testing.assert_allclose(logits[number].detach(), expected, atol=1e-5)
            found = shown[number].detach()
            np.testing.assert_allclose(found[:, :length], shares[[7, 2]], atol=1e-6)
            assert not found[:, length:].any()


def test_without_a_mask_everything_is_read(slices) -> None:
    for layer in layers():
        whole = layer(features(), mask(TIME, TIME, TIME))
        torch.testing.assert_close(layer(features(), None), whole)
        assert (layer(features(), mask(TIME, 4, 1)) - whole)[1:].abs().max() > 1e-2


def test_slices_change_no_gradient(slices) -> None:
    for layer in layers():
        gradients = []
        for size in (slices, 1 << 30):
            label_attention.SLICE["cpu"] = size
            given = features()
            weights = torch.arange(BATCH * LABELS).view(BATCH, LABELS) / 10
            (layer(given, mask(TIME, 4, 1)) * weights).sum().backward()
            gradients.append([given.grad, *(value.grad for value in layer.parameters())])
            layer.zero_grad()
        for ours, theirs in zip(*gradients, strict=True):
            assert ours.abs().max() > 0
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_by_finite_differences(slices) -> None:
    torch.manual_seed(0)
    shapes = [(2, 5, 3), (2, 5, 4), (6, 3), (6, 4)]
    given = [torch.randn(shape, requires_grad=True) for shape in shapes]
    read = torch.arange(5) < torch.tensor([[5], [3]])

    def total() -> torch.Tensor:
        return label_logits(*given, read).square().sum()  # type: ignore[arg-type]

    total().backward()
    for tensor in given:
        place = tuple(size // 2 - (size > 4) for size in tensor.shape)
        with torch.no_grad():
            slope = 0.0
            for sign in (1, -1):
                tensor[place] += sign * 1e-2
                slope += sign * float(total()) / 2e-2
                tensor[place] -= sign * 1e-2
        assert float(tensor.grad[place]) == pytest.approx(slope, rel=2e-2, abs=2e-2)


def test_a_document_without_tokens_gives_the_biases(slices) -> None:
    for layer in layers()[:2]:
        logits = layer(features(), mask(TIME, 0, 1))
        torch.testing.assert_close(logits[1], layer.output.bias)  # type: ignore[union-attr]
    assert layers()[2](features(), mask(0, 0, 0)).isfinite().all()


def test_scores_are_float32_under_autocast(slices) -> None:
    """Scores whose differences bfloat16 cannot hold."""
    keys = torch.tensor([[[256.0], [257.0]]])
    with torch.autocast("cpu", torch.bfloat16):
        shares = attention(keys, torch.ones(1, 1), None)
        logits = layers()[0](features(), None)
    assert shares.dtype == logits.dtype == torch.float32
    assert float(shares[0, 0, 1]) == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-5)


def test_backward_keeps_one_slice(monkeypatch) -> None:
    """What autograd keeps does not grow with the codes."""
    monkeypatch.setitem(label_attention.SLICE, "cpu", 8 * BATCH * TIME)

    def kept(labels: int) -> int:
        sizes: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes() // 4
            return tensor

        layer, given = CAMLAttention(WIDTH, labels), features()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            layer(given, None)
        return sum(sizes.values())

    assert kept(64) - kept(32) < 32 * BATCH * TIME / 2
    monkeypatch.setitem(label_attention.SLICE, "cpu", 1 << 30)
    assert kept(64) - kept(32) > 32 * BATCH * TIME
