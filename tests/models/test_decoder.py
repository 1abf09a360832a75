"""The decoder: what each token may see, how positions enter, and its size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from wardround.errors import WardroundError
from wardround.models import Decoder, DecoderConfig
from wardround.models.decoder import ROWS, rotate, rotation

VOCABULARY = 70


def decoder(positions: Any = "learned", **sizes: Any) -> Decoder:
    torch.manual_seed(0)
    given = {"layers": 2, "heads": 2, "width": 16, "hidden": 32, **sizes}
    model = Decoder(DecoderConfig(VOCABULARY, 20, positions=positions, **given)).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(1))


BOTH = pytest.mark.parametrize("positions", ["learned", "rotary"])


@BOTH
@torch.no_grad()
def test_later_tokens_change_no_earlier_score(positions) -> None:
    model, read = decoder(positions), tokens(2, 20)
    before = model(read)
    assert before.shape == (2, 20, VOCABULARY)
    for at in (1, 7, 19):
        changed = read.clone()
        changed[:, at:] = (changed[:, at:] + 1) % VOCABULARY
        after = model(changed)
        torch.testing.assert_close(after[:, :at], before[:, :at])
        assert (after[:, at] - before[:, at]).abs().max() > 1e-3


@BOTH
@torch.no_grad()
def test_earlier_tokens_and_their_order_matter(positions) -> None:
    model, read = decoder(positions), tokens(1, 20)
    swapped = read.clone()
    swapped[0, 3], swapped[0, 8] = read[0, 8], read[0, 3]
    assert (model(swapped)[0, -1] - model(read)[0, -1]).abs().max() > 1e-4


@BOTH
@torch.no_grad()
def test_a_mask_hides_what_it_hides(positions) -> None:
    """Two patients in one sequence, each with positions of its own, score as alone."""
    model, read = decoder(positions), tokens(1, 20)
    block = torch.block_diag(torch.ones(8, 8), torch.ones(12, 12)).bool().tril()
    own = torch.cat([torch.arange(8), torch.arange(12)])[None]
    found = model(read, positions=own, attend=model.masked(block[None, None]))
    torch.testing.assert_close(found[:, :8], model(read[:, :8]))
    torch.testing.assert_close(found[:, 8:], model(read[:, 8:]))
    assert (found[:, 8:] - model(read)[:, 8:]).abs().max() > 1e-3


@torch.no_grad()
def test_a_forward_pass_by_the_equations() -> None:
    """GPT-2's block (Radford et al. 2019) in numpy, exact GELU, no biases."""
    model, read = decoder(), tokens(1, 6)
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return (x - x.mean(-1, keepdims=True)) / deviation * weights[f"{name}.weight"]

    stream = weights["embedding.weight"][read[0]] + weights["position.weight"][:6]
    for block in ("blocks.0", "blocks.1"):
        x = norm(stream, f"{block}.before_attention")
        parts = np.split(x @ weights[f"{block}.attention.project.weight"].T, 3, axis=1)
        heads = []
        for head in range(2):
            query, key, value = (part[:, head * 8 : head * 8 + 8] for part in parts)
            scores = query @ key.T / math.sqrt(8)
            scores[np.triu_indices(6, 1)] = -np.inf
            share = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(share / share.sum(-1, keepdims=True) @ value)
        stream = stream + np.hstack(heads) @ weights[f"{block}.attention.out.weight"].T
        x = norm(stream, f"{block}.before_expansion") @ weights[f"{block}.expand.weight"].T
        erf = np.vectorize(math.erf)(x / math.sqrt(2))
        stream = stream + (0.5 * x * (1 + erf)) @ weights[f"{block}.contract.weight"].T
    expected = norm(stream, "norm") @ weights["embedding.weight"][:VOCABULARY].T
    np.testing.assert_allclose(model(read)[0], expected, atol=1e-5)


@torch.no_grad()
def test_rotary_positions_are_relative() -> None:
    """Scores depend on how far apart two tokens are, and so do a whole decoder's."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator)

    def score(at: int, seen: int) -> float:
        turned = [
            rotate(heads, rotation(torch.tensor([[where]]), 8, 10_000.0))
            for heads, where in ((query, at), (key, seen))
        ]
        return float((turned[0] * turned[1]).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(0, 0) == pytest.approx(float((query * key).sum()), abs=1e-5)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3
    assert abs(score(9, 4) - score(4, 9)) > 1e-3
    model, read = decoder("rotary"), tokens(1, 20)
    moved = model(read, positions=torch.arange(500, 520)[None])
    torch.testing.assert_close(moved, model(read), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_rotary_pairs_turn_as_published() -> None:
    """Su et al. 2021, eq. 34: pair i turns by m * base^(-2i/d)."""
    at, width, base = 3, 6, 50.0
    heads = torch.randn(1, 1, 1, width, generator=torch.Generator().manual_seed(0))
    found = rotate(heads, rotation(torch.tensor([[at]]), width, base))[0, 0, 0]
    for pair in range(width // 2):
        angle = at * base ** (-2 * pair / width)
        turned = complex(heads[..., pair], heads[..., pair + width // 2]) * complex(
            math.cos(angle), math.sin(angle)
        )
        assert float(found[pair]) == pytest.approx(turned.real, abs=1e-5)
        assert float(found[pair + width // 2]) == pytest.approx(turned.imag, abs=1e-5)


@torch.no_grad()
def test_learned_positions_are_absolute_and_end_with_the_context() -> None:
    model, read = decoder(), tokens(1, 10)
    moved = model(read, positions=torch.arange(5, 15)[None])
    assert (moved - model(read)).abs().max() > 1e-2
    with pytest.raises((IndexError, RuntimeError)):
        model(tokens(1, 21))
    assert decoder("rotary")(tokens(1, 60)).shape == (1, 60, VOCABULARY)


@torch.no_grad()
def test_rows_that_fill_up_the_vocabulary_are_never_scored() -> None:
    model, read = decoder(), tokens(1, 12)
    assert model.embedding.weight.shape[0] == 2 * ROWS > VOCABULARY
    before = model(read)
    model.embedding.weight[VOCABULARY:] = 1e6
    assert before.shape[-1] == VOCABULARY and torch.equal(model(read), before)


def test_input_and_output_embeddings_are_one_matrix() -> None:
    model = decoder()
    functional.cross_entropy(model(tokens(2, 12)).flatten(0, 1), tokens(24)).backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None and (gradient[:VOCABULARY].abs().sum(1) > 0).all()
    assert not any(v.shape == (VOCABULARY, 16) for v in model.state_dict().values())


@BOTH
def test_dropout_acts_in_training_alone(positions) -> None:
    model, read = decoder(positions, dropout=0.5), tokens(1, 12)
    assert torch.equal(model(read), model(read))
    model.train()
    assert not torch.equal(model(read), model(read))


@BOTH
def test_the_published_size_takes_a_step_on_no_memory(positions) -> None:
    """6 layers, 768 wide, about 4,400 tokens: 45 to 50 million parameters."""
    with torch.device("meta"):
        model = Decoder(DecoderConfig(4_367, positions=positions))
        read = torch.zeros(2, 2048, dtype=torch.int64)
        functional.cross_entropy(model(read).flatten(0, 1), read.flatten()).backward()
    count = sum(value.numel() for value in model.parameters())
    rows = -(-4_367 // ROWS) * ROWS
    block = 4 * 768 * 768 + 2 * 768 * 3072 + 2 * 768
    learned = 2048 * 768 if positions == "learned" else 0
    assert count == rows * 768 + learned + 6 * block + 768
    assert 45e6 < count < 50e6
    assert all(value.grad is not None for value in model.parameters())


def test_a_new_decoder_knows_nothing() -> None:
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(VOCABULARY, 20, 6, 2, 64, 128)).eval()
    read = tokens(8, 21)
    with torch.no_grad():
        scores = model(read[:, :-1])
    loss = functional.cross_entropy(scores.flatten(0, 1), read[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(VOCABULARY), abs=0.1)
    spread = model.blocks[0].contract.weight.data.std() / model.blocks[0].expand.weight.data.std()
    assert float(spread) == pytest.approx(1 / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vocabulary": 0}, "vocabulary must be 1 or more"),
        ({"layers": 0}, "layers must be 1 or more"),
        ({"width": 20, "heads": 3}, r"width \(20\) must be a multiple of heads \(3\)"),
        ({"width": 6, "heads": 2, "positions": "rotary"}, "heads of an even width"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1"),
    ],
)
def test_sizes_that_make_no_decoder(sizes, message) -> None:
    with pytest.raises(WardroundError, match=message):
        DecoderConfig(**{"vocabulary": 10, **sizes})
