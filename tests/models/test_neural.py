"""Networks beside their equations in numpy; sizes, gradients and padding of the published ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor, nn

from wardround.models import CodeBagNet, Standardiser, TriageMLP, VitalsLSTM

Weights = dict[str, np.ndarray]
PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: TriageMLP(64),
    "code_bag": lambda: CodeBagNet(7_930, 64),
    "lstm": lambda: VitalsLSTM(61),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def fitted(size: int) -> Standardiser:
    return Standardiser.fit(np.random.default_rng(9).normal(3, 5, (50, size)))


def weights(network: nn.Module) -> Weights:
    return {name: value.double().numpy() for name, value in network.state_dict().items()}


def dense(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def scaled(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return (x - w[f"{name}.mean"]) / w[f"{name}.scale"]


def agree(found: Tensor, expected: np.ndarray) -> None:
    assert expected.std() > 0.01, "rows that are all alike would show nothing"
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-5)


def ragged(rng: np.random.Generator, sizes: list[int], n_codes: int) -> tuple[Tensor, Tensor]:
    """Ids and offsets of bags of these sizes."""
    ids = rng.integers(1, n_codes + 1, sum(sizes))
    return torch.from_numpy(ids), torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]))


def batch(network: nn.Module, rows: int, seed: int = 1) -> tuple[Tensor, ...]:
    """Arguments of a network's `forward`, of rows of many lengths."""
    rng = np.random.default_rng(seed)
    config = network.config
    tabular = torch.from_numpy(rng.normal(3, 5, (rows, config["n_features"]))).float()
    if isinstance(network, CodeBagNet):
        return tabular, *ragged(rng, rng.integers(0, 30, rows).tolist(), config["n_codes"])
    if isinstance(network, VitalsLSTM):
        vitals = rng.normal(3, 5, (rows, 24, config["n_channels"]))
        return (
            tabular,
            torch.from_numpy(vitals).float(),
            torch.from_numpy(rng.integers(1, 25, rows)),
        )
    return (tabular,)


def one_row(arguments: tuple[Tensor, ...], row: int, network: nn.Module) -> tuple[Tensor, ...]:
    """The same row without the others, and without their padding."""
    tabular = arguments[0][row : row + 1]
    if isinstance(network, CodeBagNet):
        _, codes, offsets = arguments
        own = codes[offsets[row] : offsets[row + 1]]
        return tabular, own, torch.tensor([0, len(own)])
    if isinstance(network, VitalsLSTM):
        _, vitals, lengths = arguments
        return tabular, vitals[row : row + 1, : lengths[row]], lengths[row : row + 1]
    return (tabular,)


def test_mlp_by_its_equation() -> None:
    network = TriageMLP(5, (4, 3), standardiser=fitted(5))
    (x,) = batch(network, 7)
    w = weights(network)
    h = scaled(w, "standardise", x.double().numpy())
    h = relu(dense(w, "layers.0", h))
    h = relu(dense(w, "layers.2", h))
    agree(network(x), dense(w, "logit", h)[:, 0])


def test_code_bag_by_its_equation() -> None:
    network = CodeBagNet(11, 5, 6, 4, (3, 2), standardiser=fitted(5))
    with torch.no_grad():
        network.embed.weight[1:].normal_()
    tabular, codes, offsets = batch(network, 9)
    w = weights(network)
    sums = np.stack(
        [
            sum((w["embed.weight"][c] for c in codes[a:b]), start=np.zeros(6))
            for a, b in pairwise(offsets)
        ]
    )
    of_codes = relu(dense(w, "on_codes.0", sums))
    h = np.concatenate([of_codes, scaled(w, "standardise", tabular.double().numpy())], axis=1)
    h = relu(dense(w, "layers.0", h))
    h = relu(dense(w, "layers.2", h))
    expected = dense(w, "logit", h)[:, 0]
    assert expected.std() > 0.01
    np.testing.assert_allclose(
        network(tabular, codes, offsets).detach(), expected, rtol=1e-4, atol=1e-5
    )


def test_lstm_by_its_equation() -> None:
    """Gates in torch's order: input, forget, cell, output."""
    network = VitalsLSTM(5, 3, 4, 6, 5, standardiser=fitted(5), channel_standardiser=fitted(3))
    tabular, vitals, lengths = batch(network, 8)
    w = weights(network)
    channels = scaled(w, "standardise_channels", vitals.double().numpy())
    last = np.zeros((8, 4))
    for row in range(8):
        h, c = np.zeros(4), np.zeros(4)
        for hour in range(lengths[row]):
            gates = (
                w["lstm.weight_ih_l0"] @ channels[row, hour]
                + w["lstm.bias_ih_l0"]
                + w["lstm.weight_hh_l0"] @ h
                + w["lstm.bias_hh_l0"]
            )
            i, f, g, o = gates.reshape(4, 4)
            c = expit(f) * c + expit(i) * np.tanh(g)
            h = expit(o) * np.tanh(c)
        last[row] = h
    of_columns = relu(dense(w, "on_columns.0", scaled(w, "standardise", tabular.double().numpy())))
    h = relu(dense(w, "layers.0", np.concatenate([last, of_columns], axis=1)))
    expected = dense(w, "logit", h)[:, 0]
    assert expected.std() > 0.01
    np.testing.assert_allclose(
        network(tabular, vitals, lengths).detach(), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mlp", [64 * 128 + 128, 128 * 64 + 64, 64 + 1]),
        (
            "code_bag",
            [7_931 * 1_024, 1_024 * 256 + 256, (256 + 64) * 128 + 128, 128 * 50 + 50, 50 + 1],
        ),
        # Four gates of 32 units, two biases each as torch keeps them; 67 columns less the 6 vitals.
        ("lstm", [4 * 32 * (7 + 32 + 2), 61 * 96 + 96, (32 + 96) * 64 + 64, 64 + 1]),
    ],
)
def test_parameters_at_the_published_sizes(name: str, parts: list[int]) -> None:
    assert sum(p.numel() for p in PUBLISHED[name]().parameters()) == sum(parts)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_step_at_the_published_sizes(name: str) -> None:
    """200 rows, the published batch: every parameter learns, and the loss of the batch falls."""
    network = PUBLISHED[name]()
    arguments = batch(network, 200)
    y = (arguments[0][:, 0] > 3).float()
    loss_of = nn.BCEWithLogitsLoss()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    first = loss_of(network(*arguments), y)
    first.backward()
    for parameter, value in network.named_parameters():
        assert value.grad is not None and torch.isfinite(value.grad).all(), parameter
        assert value.grad.abs().max() > 0, parameter
    before = [value.detach().clone() for value in network.parameters()]
    optimiser.step()
    assert all((a != b).any() for a, b in zip(before, network.parameters(), strict=True))
    assert loss_of(network(*arguments), y) < first


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_batch_gives_what_each_row_alone_gives(name: str) -> None:
    network = PUBLISHED[name]().eval()
    arguments = batch(network, 12)
    with torch.no_grad():
        together = network(*arguments)
        alone = [network(*one_row(arguments, row, network)) for row in range(12)]
    assert together.shape == (12,) and all(found.shape == (1,) for found in alone)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert together.std() > 0.01


def test_hours_past_the_length_are_not_read() -> None:
    network = VitalsLSTM(4, 3)
    tabular, vitals, lengths = batch(network, 10)
    padded = vitals.clone()
    padded[torch.arange(24) >= lengths[:, None]] = torch.nan
    assert padded.isnan().any()
    torch.testing.assert_close(network(tabular, padded, lengths), network(tabular, vitals, lengths))
    longer = torch.cat([vitals, torch.full((10, 5, 3), 1e6)], dim=1)
    torch.testing.assert_close(network(tabular, longer, lengths), network(tabular, vitals, lengths))


def test_the_last_hour_and_the_order_of_hours_are_read() -> None:
    network = VitalsLSTM(4, 3)
    tabular, vitals, lengths = batch(network, 10)
    before = network(tabular, vitals, lengths)
    moved = vitals.clone()
    moved[torch.arange(10), lengths - 1] += 5
    assert (network(tabular, moved, lengths) != before).all()
    turned = vitals.flip(1)
    whole = torch.full((10,), 24)
    assert (network(tabular, turned, whole) != network(tabular, vitals, whole)).all()


def bag_logits(network: CodeBagNet, *bags: list[int]) -> Tensor:
    tabular = torch.ones(len(bags), network.config["n_features"])
    codes = torch.tensor([code for bag in bags for code in bag], dtype=torch.int64)
    offsets = torch.tensor([0, *np.cumsum([len(bag) for bag in bags])])
    with torch.no_grad():
        return network(tabular, codes, offsets)


def test_padding_adds_nothing_to_a_bag_even_after_training() -> None:
    network = CodeBagNet(9, 4, 8, 6, (5,))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    for step in range(20):
        tabular, codes, offsets = batch(network, 16, seed=step)
        codes[::3] = 0
        optimiser.zero_grad()
        nn.functional.softplus(network(tabular, codes, offsets)).sum().backward()
        optimiser.step()
    assert (network.embed.weight[1:].abs().max(dim=1).values > 0.1).all(), "the others have learnt"
    found = bag_logits(network, [3, 5], [0, 3, 0, 5, 0], [], [0, 0])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])


def test_a_bag_has_no_order_and_counts_repeats() -> None:
    network = CodeBagNet(9, 4, 8, 6, (5,))
    with torch.no_grad():
        network.embed.weight[1:].normal_()
    found = bag_logits(network, [1, 2, 3], [3, 1, 2], [1, 2, 3, 3], [1, 2])
    torch.testing.assert_close(found[0], found[1])
    assert len({round(float(logit), 6) for logit in found}) == 3


def test_a_code_outside_the_batch_gets_no_gradient() -> None:
    network = CodeBagNet(9, 4, 8, 6, (5,))
    network(torch.ones(1, 4), torch.tensor([2, 0, 7]), torch.tensor([0, 3])).sum().backward()
    touched = network.embed.weight.grad.abs().sum(dim=1) > 0
    assert touched.nonzero().flatten().tolist() == [2, 7]


def test_embeddings_start_small() -> None:
    """A long bag must not drown the columns: the published layer draws from ±0.05."""
    table = CodeBagNet(500, 4).embed.weight.detach()
    assert (table[0] == 0).all()
    assert table.abs().max() <= 0.05
    assert table[1:].std().item() == pytest.approx(0.1 / 12**0.5, rel=0.02)


@pytest.mark.parametrize(
    "network",
    [
        TriageMLP(4, (3,), standardiser=Standardiser.fit([[1.0, 2, 3, 4], [5, 1, 2, 9]])),
        CodeBagNet(6, 4, 5, 3, (3,), standardiser=fitted(4)),
        VitalsLSTM(4, 2, 3, 5, 4, standardiser=fitted(4), channel_standardiser=fitted(2)),
    ],
    ids=lambda network: type(network).__name__,
)
def test_a_network_is_rebuilt_from_its_config_and_weights(network: nn.Module) -> None:
    again = type(network)(**network.config)
    again.load_state_dict(network.state_dict())
    arguments = batch(network, 5)
    assert torch.equal(again(*arguments), network(*arguments))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TriageMLP(0), "n_features must be a whole number from 1, got 0"),
        (lambda: TriageMLP(3, (4, -1)), r"hidden\[1\] must be a whole number from 1, got -1"),
        (lambda: CodeBagNet(0, 3), "n_codes must be"),
        (lambda: VitalsLSTM(3, hidden=2.5), "hidden must be a whole number from 1, got 2.5"),
        (lambda: TriageMLP(3, standardiser=fitted(2)), "fitted on 2 columns, the network has 3"),
        (lambda: VitalsLSTM(3, 7, channel_standardiser=fitted(6)), "fitted on 6 channels"),
    ],
)
def test_sizes_that_do_not_fit(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"tabular must have shape \(any, 3\), got \(2, 4\)"):
        TriageMLP(3)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"codes_offsets must have shape \(3\), got \(2,\)"):
        CodeBagNet(5, 3, 2, 2, (2,))(torch.zeros(2, 3), torch.tensor([1]), torch.tensor([0, 1]))
    lstm = VitalsLSTM(3, 2)
    with pytest.raises(ValueError, match=r"vitals must have shape \(any, any, 2\)"):
        lstm(torch.zeros(4, 3), torch.zeros(4, 6, 3), torch.ones(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"tabular must have shape \(4, 3\), got \(1, 3\)"):
        lstm(torch.zeros(1, 3), torch.zeros(4, 6, 2), torch.ones(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"lengths must have shape \(4\), got \(3,\)"):
        lstm(torch.zeros(4, 3), torch.zeros(4, 6, 2), torch.ones(3, dtype=torch.int64))
