"""The coding models: equations, sizes, filling, and what a code attends to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wardround.errors import WardroundError
from wardround.models import (
    CAML,
    LAAT,
    PLMCA,
    PLMICD,
    BiGRU,
    BiGRUConfig,
    CAMLConfig,
    ChunkedConfig,
    LAATConfig,
    MultiResCNN,
    MultiResCNNConfig,
    VanillaConv,
    VanillaConvConfig,
)

VOCABULARY, LABELS = 30, 7
#: Codes of MIMIC-IV ICD-10, and words of a vocabulary of that size.
C, V = 7_942, 50_000


def encoder(kind: str = "roberta", **given: Any) -> Any:
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 12,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.3,
        **given,
    }
    if kind == "bert":
        return BertModel(BertConfig(**sizes, pad_token_id=0))
    return RobertaModel(RobertaConfig(**sizes, pad_token_id=1, bos_token_id=0, eos_token_id=2))


WORDS = {
    "VanillaConv": lambda **o: VanillaConv(
        VanillaConvConfig(LABELS, VOCABULARY, 5, channels=9, **o)
    ),
    "BiGRU": lambda **o: BiGRU(BiGRUConfig(LABELS, VOCABULARY, 5, hidden=4, **o)),
    "CAML": lambda **o: CAML(CAMLConfig(LABELS, VOCABULARY, 5, channels=6, **o)),
    "CAML odd": lambda **o: CAML(CAMLConfig(LABELS, VOCABULARY, 5, channels=6, kernel=3, **o)),
    "MultiResCNN": lambda **o: MultiResCNN(
        MultiResCNNConfig(LABELS, VOCABULARY, 5, channels=3, kernels=(3, 5, 9), **o)
    ),
    "LAAT": lambda **o: LAAT(LAATConfig(LABELS, VOCABULARY, 5, hidden=4, projection=3, **o)),
}
CHUNKED = {
    "PLMICD": lambda **o: PLMICD(encoder(), ChunkedConfig(LABELS, 8, **o)),
    "PLMICD bert": lambda **o: PLMICD(encoder("bert"), ChunkedConfig(LABELS, 8, **o)),
    "PLMCA": lambda **o: PLMCA(encoder(), ChunkedConfig(LABELS, 8, **o)),
}
ALL = WORDS | CHUNKED
EVERY = pytest.mark.parametrize("name", ALL)
ATTENTIVE = pytest.mark.parametrize(
    "name", [name for name in ALL if name not in ("VanillaConv", "BiGRU")]
)


def build(name: str, **options: Any) -> Any:
    """With weights large enough that each part shows in the logits."""
    torch.manual_seed(1)
    model = ALL[name](**options).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
        for key, value in model.named_buffers():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif key.endswith("running_mean"):
                value.uniform_(-0.5, 0.5)
        if name in WORDS:
            model.embed.weight[model.padding] = 0
    return model


def note(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, VOCABULARY - 1, length)


def batch(model: Any, *notes: np.ndarray) -> tuple[Tensor, Tensor]:
    longest = max(map(len, notes))
    tokens = torch.full((len(notes), longest), model.padding)
    mask = torch.zeros(len(notes), longest, dtype=torch.bool)
    for number, words in enumerate(notes):
        tokens[number, : len(words)] = torch.as_tensor(words)
        mask[number, : len(words)] = True
    return tokens, mask


# By the equations, in numpy -------------------------------------------------------------------


def convolved(x: np.ndarray, w: dict, name: str, padding: int) -> np.ndarray:
    """Cross-correlation over time of (time, in): (time', out)."""
    weight = w[f"{name}.weight"]
    size = weight.shape[2]
    x = np.pad(x, ((padding, padding), (0, 0)))
    bias = w.get(f"{name}.bias", 0.0)
    return (
        np.array(
            [np.einsum("ki,oik->o", x[t : t + size], weight) for t in range(len(x) - size + 1)]
        )
        + bias
    )


def attended(x: np.ndarray, keys: np.ndarray, w: dict) -> np.ndarray:
    shares = np.exp(w["attention.query.weight"] @ keys.T)
    seen = shares / shares.sum(1, keepdims=True) @ x
    return (w["attention.output.weight"] * seen).sum(1) + w["attention.output.bias"]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gru(x: np.ndarray, w: dict, suffix: str) -> np.ndarray:
    """The last state (Cho et al. 2014 as cuDNN has it: gates r, z, n)."""
    state = np.zeros(len(w[f"read.weight_hh_l0{suffix}"]) // 3)
    for step in x:
        of_input = w[f"read.weight_ih_l0{suffix}"] @ step + w[f"read.bias_ih_l0{suffix}"]
        of_state = w[f"read.weight_hh_l0{suffix}"] @ state + w[f"read.bias_hh_l0{suffix}"]
        (ir, iz, new), (hr, hz, old) = np.split(of_input, 3), np.split(of_state, 3)
        update = sigmoid(iz + hz)
        state = (1 - update) * np.tanh(new + sigmoid(ir + hr) * old) + update * state
    return state


def lstm(x: np.ndarray, w: dict, suffix: str) -> np.ndarray:
    """All states, (time, hidden)."""
    state = cell = np.zeros(len(w[f"read.weight_hh_l0{suffix}"]) // 4)
    states = []
    for step in x:
        gates = w[f"read.weight_ih_l0{suffix}"] @ step + w[f"read.bias_ih_l0{suffix}"]
        gates = gates + w[f"read.weight_hh_l0{suffix}"] @ state + w[f"read.bias_hh_l0{suffix}"]
        enter, forget, new, out = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
        state = sigmoid(out) * np.tanh(cell)
        states.append(state)
    return np.array(states)


def by_hand(name: str, w: dict, words: np.ndarray) -> np.ndarray:
    x = w["embed.weight"][words]
    if name == "VanillaConv":
        found = np.tanh(convolved(x, w, "convolve", 0)).max(0)
        return w["output.weight"] @ found + w["output.bias"]
    if name == "BiGRU":
        last = np.concatenate([gru(x, w, ""), gru(x[::-1], w, "_reverse")])
        return w["output.weight"] @ last + w["output.bias"]
    if name.startswith("CAML"):
        x = np.tanh(convolved(x, w, "convolve", 1 if name.endswith("odd") else 5))
        return attended(x, x, w)
    if name == "LAAT":
        x = np.hstack([lstm(x, w, ""), lstm(x[::-1], w, "_reverse")[::-1]])
        return attended(x, np.tanh(x @ w["attention.project.weight"].T), w)
    branches = []
    for number, kernel in enumerate((3, 5, 9)):
        at = f"branches.{number}"

        def norm(x: np.ndarray, layer: str, at: str = at) -> np.ndarray:
            mean, variance = w[f"{at}.{layer}.running_mean"], w[f"{at}.{layer}.running_var"]
            x = (x - mean) / np.sqrt(variance + 1e-5)
            return x * w[f"{at}.{layer}.weight"] + w[f"{at}.{layer}.bias"]

        stream = np.tanh(convolved(x, w, f"{at}.first", kernel // 2))
        inner = norm(convolved(stream, w, f"{at}.second", kernel // 2), "second_norm")
        inner = norm(convolved(np.tanh(inner), w, f"{at}.third", kernel // 2), "third_norm")
        short = norm(convolved(stream, w, f"{at}.shortcut", 0), "shortcut_norm")
        branches.append(np.tanh(inner + short))
    x = np.hstack(branches)
    return attended(x, x, w)


@pytest.mark.parametrize("name", WORDS)
@torch.no_grad()
def test_equations(name) -> None:
    """Notes of a batch, each by itself in float64."""
    model, notes = build(name), [note(13), note(6, 1)]
    w = {key: value.double().numpy() for key, value in model.state_dict().items()}
    found = model(*batch(model, *notes))
    assert found.shape == (2, LABELS) and found.std(0).min() > 1e-4
    for logits, words in zip(found, notes, strict=True):
        np.testing.assert_allclose(logits, by_hand(name, w, words), atol=1e-5)


@pytest.mark.parametrize("name", CHUNKED)
@torch.no_grad()
def test_chunks_by_a_plain_loop(name) -> None:
    """Each chunk alone, nothing filled up, positions said aloud."""
    model, notes = build(name), [note(29), note(16, 1), note(3, 2)]
    found = model(*batch(model, *notes))
    first = 0 if name.endswith("bert") else 2  # RoBERTa counts from pad_token_id + 1
    for logits, words in zip(found, notes, strict=True):
        parts = []
        for at in range(0, len(words), 8):
            chunk = torch.as_tensor(words[at : at + 8])[None]
            positions = torch.arange(first, first + chunk.shape[1])[None]
            parts.append(model.encoder(chunk, position_ids=positions).last_hidden_state[0])
        expected = model.attention(torch.cat(parts)[None], None)[0]
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


# What fills up --------------------------------------------------------------------------------


@EVERY
@torch.no_grad()
def test_filling_changes_nothing(name) -> None:
    """A note scores the same alone, with a longer one, and whatever stands in the filling."""
    model = build(name)
    for length in (1, 2, 3, 9, 16):
        short = note(length)
        alone = model(*batch(model, short))[0]
        tokens, mask = batch(model, short, note(43, 1))
        assert (model(tokens, mask)[0] - alone).abs().max() < 1e-5
        strange = tokens.masked_fill(~mask, 4)
        assert (model(strange, mask)[0] - alone).abs().max() < 1e-5


@EVERY
@torch.no_grad()
def test_paper_compat_reads_filling(name) -> None:
    model, plain = build(name, paper_compat=True), build(name)
    if name in WORDS:  # the published padding row is trained
        model.embed.weight[model.padding] = 0.3
    short, longer = note(9), note(43, 1)
    alone = model(*batch(model, short))[0]
    assert (model(*batch(model, short, longer))[0] - alone).abs().max() > 1e-3
    plain.load_state_dict(model.state_dict())
    whole = batch(model, note(16), note(16, 1))  # nothing is filled up, in chunks neither
    if name == "MultiResCNN":
        features, _ = plain.features(*whole)
        expected = plain.attention(torch.tanh(features), None)
    else:
        expected = plain(*whole)
    torch.testing.assert_close(model(*whole), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", WORDS)
def test_which_row_is_never_trained(name) -> None:
    for compat, fixed in ((False, VOCABULARY - 1), (True, 0)):
        model = build(name, paper_compat=compat, dropout=0.0)
        words = np.concatenate([[0], note(9)])
        model(*batch(model, words, note(30, 1))).square().sum().backward()
        gradient = model.embed.weight.grad.abs().sum(1)
        assert gradient[fixed] == 0
        if not compat or name != "LAAT":  # whose LSTM is packed in the published code, too
            assert gradient[VOCABULARY - 1 - fixed] > 0


def test_batch_statistics_are_of_tokens_alone() -> None:
    runs = []
    for extra in (0, 30):
        model = build("MultiResCNN", dropout=0.0).train()
        tokens, mask = batch(model, note(9), note(12, 1))
        tokens = nn.functional.pad(tokens, (0, extra), value=model.padding)
        logits = model(tokens, nn.functional.pad(mask, (0, extra)))
        runs.append((logits, model.branches[1].third_norm.running_var.clone()))
    for ours, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with pytest.raises(WardroundError, match="fewer than 2 tokens"):
        model(*batch(model, note(1)))


@EVERY
@torch.no_grad()
def test_a_note_without_words(name) -> None:
    model = build(name)
    tokens, mask = batch(model, note(0), note(20))
    assert model(tokens, mask).isfinite().all()
    alone = model(tokens[:1, :1], mask[:1, :1])
    torch.testing.assert_close(alone, model(tokens, mask)[:1], atol=1e-5, rtol=1e-5)


# Training -------------------------------------------------------------------------------------


@EVERY
def test_gradients_reach_every_parameter(name) -> None:
    model = build(name, **({"dropout": 0.1} if name in WORDS else {})).train()
    model(*batch(model, note(30), note(17, 1))).square().sum().backward()
    for key, value in model.named_parameters():
        assert value.grad is not None and value.grad.abs().max() > 0, key


def test_gradient_checkpointing_changes_no_gradient() -> None:
    found, runs = [], []
    for option in (False, True):
        model = build("PLMICD", gradient_checkpointing=option).train()
        model.encoder.encoder.layer[0].intermediate.register_forward_hook(
            lambda *_, option=option: runs.append(option)
        )
        model(*batch(model, note(30), note(17, 1))).square().sum().backward()
        found.append([value.grad for value in model.parameters()])
    assert runs == [False, True, True]  # once more in the backward pass
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_vectors_are_where_training_begins() -> None:
    vectors = np.random.default_rng(0).normal(size=(VOCABULARY, 5)).astype(np.float32)
    model = CAML(CAMLConfig(LABELS, VOCABULARY, 5), vectors)
    np.testing.assert_array_equal(model.embed.weight.detach(), vectors)
    assert model.embed.weight.requires_grad
    with pytest.raises(WardroundError, match=r"shape \(29, 5\)"):
        CAML(CAMLConfig(LABELS, VOCABULARY, 5), vectors[1:])
    drawn = CAML(CAMLConfig(LABELS, VOCABULARY, 5)).embed.weight
    norms = torch.ones(VOCABULARY)
    norms[-1] = 0
    torch.testing.assert_close(drawn.norm(dim=1), norms)


def test_initial_weights() -> None:
    """Xavier's bound is sqrt(6 / (in + out)) with the kernel in both; LAAT's are N(0, 0.03)."""
    torch.manual_seed(0)
    conv, caml = VanillaConv(VanillaConvConfig(500, 50)), CAML(CAMLConfig(500, 50))
    for weight, both in (
        (conv.convolve.weight, 4 * (100 + 500)),
        (conv.output.weight, 500 + 500),
        (caml.convolve.weight, 10 * (100 + 50)),
        (caml.attention.query.weight, 50 + 500),
        (caml.attention.output.weight, 50 + 500),
    ):
        bound = np.sqrt(6 / both)
        assert 0.98 * bound < float(weight.detach().abs().max()) <= 1.0001 * bound
    laat, plm = LAAT(LAATConfig(500, 50)), PLMCA(encoder(), ChunkedConfig(5_000, 8))
    for weight in (
        laat.attention.project.weight,
        laat.attention.query.weight,
        laat.attention.output.weight,
        plm.attention.query,
    ):
        assert float(weight.detach().std()) == pytest.approx(0.03, rel=0.02)
        assert abs(float(weight.detach().mean())) < 1e-3


# Sizes ----------------------------------------------------------------------------------------

WORD_ROWS = V * 100
BRANCHES = sum(
    100 * 100 * k + 100 * 50 * k + 50 * 50 * k + 100 * 50 + 3 * 2 * 50
    for k in (3, 5, 9, 15, 19, 25)
)
#: RoBERTa-base without its pooler, by hand: embeddings and their norm, then 12 blocks.
ROBERTA = (50_265 + 514 + 1 + 2) * 768 + 12 * (
    4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
)
PUBLISHED = {
    "VanillaConv": (VanillaConv, VanillaConvConfig, WORD_ROWS + 100 * 500 * 4 + 500 + 501 * C),
    "BiGRU": (
        BiGRU,
        BiGRUConfig,
        WORD_ROWS + 2 * 3 * 256 * (100 + 256 + 2) + 513 * C,
    ),
    "CAML": (CAML, CAMLConfig, WORD_ROWS + 100 * 50 * 10 + 50 + (50 + 50 + 1) * C),
    "MultiResCNN": (MultiResCNN, MultiResCNNConfig, WORD_ROWS + BRANCHES + (300 + 300 + 1) * C),
    "LAAT": (
        LAAT,
        LAATConfig,
        WORD_ROWS + 2 * 4 * 512 * (100 + 512 + 2) + 1024 * 512 + (512 + 1024 + 1) * C,
    ),
}


def counted(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name) -> None:
    model, config, expected = PUBLISHED[name]
    with torch.device("meta"):
        assert counted(model(config(C, V))) == expected


def test_published_sizes_of_encoders() -> None:
    from transformers import RobertaConfig, RobertaModel

    with torch.device("meta"):
        about = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1)
        icd = PLMICD(RobertaModel(about), ChunkedConfig(C))
        ca = PLMCA(RobertaModel(about), ChunkedConfig(C))
        assert counted(icd) == ROBERTA + 768 * 768 + (768 + 768 + 1) * C
        assert counted(ca) == ROBERTA + 2 * 768 * 768 + 768 + 768 * C + 2 * 768 + 769
        tokens = torch.zeros(2, 4_096, dtype=torch.long)
        features = icd.encoder(tokens.view(-1, 128)).last_hidden_state
        assert icd.attention(features.view(2, 4_096, 768), None).shape == (2, C)


def test_sizes_are_checked() -> None:
    with pytest.raises(WardroundError, match="labels must be 1 or more, got 0"):
        CAMLConfig(0, 10)
    with pytest.raises(WardroundError, match="dropout"):
        LAATConfig(5, 10, dropout=1.0)
    with pytest.raises(WardroundError, match=r"odd, got \(3, 4\)"):
        MultiResCNNConfig(5, 10, kernels=(3, 4))
    for kind, positions in (("roberta", 10), ("bert", 12)):
        PLMICD(encoder(kind), ChunkedConfig(5, positions))
        with pytest.raises(WardroundError, match=f"encoder's {positions} positions"):
            PLMICD(encoder(kind), ChunkedConfig(5, positions + 1))


@EVERY
@torch.no_grad()
def test_rebuilt_from_its_config(name) -> None:
    import json

    model = build(name)
    about = json.loads(json.dumps(model.config))
    if name in WORDS:
        other = type(model)(type(model.sizes)(**about))
    else:
        other = type(model).from_config(**about)
    other.load_state_dict(model.state_dict())
    given = batch(model, note(20), note(9, 1))
    torch.testing.assert_close(other.eval()(*given), model(*given))


# What a code attends to -----------------------------------------------------------------------


@ATTENTIVE
@torch.no_grad()
def test_explanations(name) -> None:
    model, notes = build(name), [note(21), note(9, 1), note(1, 2)]
    tokens, mask = batch(model, *notes)
    shown = model.explain(tokens, mask, [5, 0, 5])
    assert shown.shape == (3, 3, 21) and shown.dtype == torch.float32 and shown.min() >= 0
    torch.testing.assert_close(shown.sum(2), torch.ones(3, 3))
    assert not shown[1, :, 9:].any() and not shown[2, :, 1:].any()
    torch.testing.assert_close(shown[:, 0], shown[:, 2])
    assert (shown[:2, 0] - shown[:2, 1]).abs().max() > 1e-4
    alone = model.explain(tokens[1:2, :9], mask[1:2, :9], torch.tensor([5]))
    torch.testing.assert_close(shown[1:2, :1, :9], alone, atol=1e-5, rtol=1e-5)
    if "CAML" not in name:  # whose positions are not tokens
        features, read = model.features(tokens, mask)
        full = model.attention.weights(features, read, torch.arange(LABELS))
        torch.testing.assert_close(shown, full[:, [5, 0, 5], :21])


@torch.no_grad()
def test_positions_between_tokens_are_shared() -> None:
    """An even kernel: of T + 1 positions, each but the ends lies between two tokens."""
    model, words = build("CAML"), note(4)
    w = {key: value.double().numpy() for key, value in model.state_dict().items()}
    x = np.tanh(convolved(w["embed.weight"][words], w, "convolve", 5))
    shares = np.exp(w["attention.query.weight"][2] @ x.T)
    a, b, c, d, e = shares / shares.sum()
    expected = [a + b / 2, (b + c) / 2, (c + d) / 2, d / 2 + e]
    tokens, mask = batch(model, words, note(11, 1))
    shown = model.explain(tokens, mask, [2])[0, 0]
    np.testing.assert_allclose(shown, [*expected, *[0] * 7], atol=1e-6)


@pytest.mark.parametrize("name", CHUNKED)
@torch.no_grad()
def test_late_chunks_are_read_and_only_by_the_codes(name) -> None:
    model = build(name)
    words = note(8 * 14)
    changed = words.copy()
    changed[8 * 11 + 3] = (changed[8 * 11 + 3] + 1) % (VOCABULARY - 4) + 3
    both = batch(model, words, changed)
    logits = model(*both)
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    features, _ = model.features(*both)
    differ = (features[0] - features[1]).abs().amax(1) > 1e-6
    assert differ.nonzero().flatten().tolist() == list(range(8 * 11, 8 * 12))


@torch.no_grad()
def test_chunks_of_filling_are_not_encoded(monkeypatch) -> None:
    model = build("PLMICD")
    seen = []
    forward = model.encoder.forward

    def counting(tokens: Tensor, **options: Any) -> Any:
        seen.append(len(tokens))
        return forward(tokens, **options)

    monkeypatch.setattr(model.encoder, "forward", counting)
    model(*batch(model, note(80), note(9, 1), note(1, 2), note(0)))
    assert seen == [10 + 2 + 1]
