"""Masked pretraining: what is hidden, what is minimised, going on, and what is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from wardround.errors import WardroundError
from wardround.training import masked
from wardround.training.masked import (
    MaskedConfig,
    SpecialTokens,
    pretrain_masked,
    save_encoder,
)
from wardround.training.multilabel import TokenDocuments
from wardround.training.packing import IGNORED

WORDS, FIRST = 12, 5  # begin 0, padding 1, end 2, unknown 3, mask 4
VOCABULARY = FIRST + WORDS
SPECIAL = SpecialTokens(mask=4, padding=1, others=(0, 2, 3))
RECIPE = MaskedConfig(
    iterations=8,
    batch=4,
    accumulation=2,
    chunk=16,
    learning_rate=5e-3,
    warmup=2,
    evaluate_every=3,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def grammar(count: int, seed: int) -> TokenDocuments:
    """A document keeps to three neighbouring words; begin and end stand around."""
    rng = np.random.default_rng(seed)
    notes = []
    for _ in range(count):
        words = FIRST + 3 * rng.integers(WORDS // 3) + rng.integers(0, 3, rng.integers(12, 50))
        notes.append(np.concatenate([[0], words, [2]]))
    offsets = np.concatenate([[0], np.cumsum([len(words) for words in notes])])
    return TokenDocuments(np.concatenate(notes).astype(np.uint16), offsets)


TRAIN, TUNING = grammar(40, 0), grammar(10, 1)


def encoder(kind: str = "roberta", seed: int = 0, **given: Any) -> Any:
    from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 20,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 1,
        **given,
    }
    if kind == "bert":
        return BertForMaskedLM(BertConfig(**sizes))
    return RobertaForMaskedLM(RobertaConfig(**sizes, bos_token_id=0, eos_token_id=2))


def fit(model: Any, train: TokenDocuments = TRAIN, **options: Any) -> Any:
    names = {name: options.pop(name) for name in asdict(RECIPE) if name in options}
    recipe = replace(RECIPE, **names)
    return pretrain_masked(model, train, TUNING, SPECIAL, recipe, **{"device": "cpu", **options})


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_a_grammar_is_learnt_below_its_unigram_entropy(kind) -> None:
    train = grammar(150, 2)
    model = encoder(kind, hidden_size=16, intermediate_size=16, initializer_range=0.2)
    recipe = {"iterations": 60, "batch": 16, "accumulation": 1, "warmup": 5, "chunk": 12}
    history = fit(model, train, evaluate_every=15, learning_rate=2e-2, **recipe)
    counts = np.bincount(TUNING.tokens)[FIRST:]
    share = counts[counts > 0] / counts.sum()
    entropy = -float((share * np.log(share)).sum())
    assert 0.85 * math.log(WORDS) < entropy <= math.log(WORDS)
    # What is left is which of the three.
    assert 0.9 * math.log(3) < history.tuning_loss[-1] < 0.65 * entropy < history.loss[0]
    assert history.step == [15, 30, 45, 60] and not model.training
    assert history.best == int(np.argmin(history.tuning_loss))


def test_what_is_hidden() -> None:
    """15 % of the words; of these 80 % masked, 10 % another word or by chance the same."""
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(0, VOCABULARY, (400, 100)))
    mask = torch.arange(100) < torch.from_numpy(rng.integers(1, 100, 400))[:, None]
    shown, labels = masked._Masks(SPECIAL, VOCABULARY, 0.15)(tokens, mask, rng)
    at = labels != IGNORED
    assert torch.equal(shown[~at], tokens[~at]) and torch.equal(labels[at], tokens[at])
    assert not (at & ~mask).any() and tokens[at].min() >= FIRST
    words = mask & (tokens >= FIRST)
    assert float(at.sum() / words.sum()) == pytest.approx(0.15, abs=0.01)
    hidden = shown[at] == SPECIAL.mask
    kept = shown[at] == tokens[at]
    assert float(hidden.float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float(kept.float().mean()) == pytest.approx(0.1 + 0.1 / WORDS, abs=0.02)
    others = shown[at][~hidden & ~kept]
    assert sorted(set(others.tolist())) == list(range(FIRST, VOCABULARY))


def test_chunks_hold_each_token_once() -> None:
    documents = replace(TRAIN, limit=37)
    chunks = masked._Chunks(documents, 16)
    given, mask = chunks.batch(np.arange(len(chunks)), 1)
    assert torch.equal(given[mask], torch.from_numpy(np.concatenate(list(documents))).long())
    assert mask.sum(1).max() == 16 and len(chunks) == sum(-(-n // 16) for n in documents.lengths)
    recipe = replace(RECIPE, batch=3, accumulation=2)
    rows = [row for step in range(60) for row in chunks.step(step, recipe, 0)]
    assert all(len(part) == 3 for part in rows)
    first, second = np.concatenate(rows)[: 2 * len(chunks)].reshape(2, -1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(len(chunks)))
    assert first.tolist() != second.tolist()


def test_a_step_by_the_whole_model(monkeypatch) -> None:
    """The library's own loss over all positions, of both batches at once; AdamW."""
    model, plain = encoder(), encoder()
    read = []
    draw = masked._Masks.__call__

    def keep(self: Any, tokens: Tensor, mask: Tensor, rng: Any) -> Any:
        found = draw(self, tokens, mask, rng)
        read.append((*found, mask))
        return found

    monkeypatch.setattr(masked._Masks, "__call__", keep)
    fit(model, iterations=1, warmup=0, clip=0.3)
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in plain.parameters() if p.dim() > 1], "weight_decay": 0.01},
            {"params": [p for p in plain.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=RECIPE.learning_rate,
        betas=RECIPE.betas,
    )
    logits = [plain(shown, attention_mask=mask.long()).logits for shown, _, mask in read[:2]]
    losses = [
        functional.cross_entropy(z.flatten(0, 1), labels.flatten(), reduction="none")
        for z, (_, labels, _) in zip(logits, read[:2], strict=True)
    ]
    labels = torch.cat([labels.flatten() for _, labels, _ in read[:2]])
    torch.cat(losses)[labels != IGNORED].mean().backward()
    nn.utils.clip_grad_norm_(plain.parameters(), 0.3)
    optimiser.step()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 1e-4, name


def test_the_rate() -> None:
    recipe = MaskedConfig(iterations=100, warmup=9, learning_rate=1.0)
    assert recipe.rate(0) == pytest.approx(0.1) and recipe.rate(9) == 1.0
    assert recipe.rate(99) == pytest.approx(1 / 91)
    cosine = replace(recipe, schedule="cosine", warmup=0)
    assert cosine.rate(50) == pytest.approx(0.5) and cosine.rate(25) == pytest.approx(0.8536, 1e-4)


class KilledError(Exception):
    pass


def interrupt(model: Any, after: int) -> None:
    """End the training when the encoder has read so often."""
    passes = iter(range(after))

    def hook(*_: Any) -> None:
        if next(passes, None) is None:
            raise KilledError

    model.base_model.register_forward_pre_hook(hook)


@pytest.mark.parametrize("after", [1, 2, 9])
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path, after) -> None:
    """In the first step, between looks and within one."""
    options: dict[str, Any] = {"seed": 5, "checkpoint_every": 0.0}
    dropout = {"hidden_dropout_prob": 0.1}
    whole = encoder(**dropout)
    expected = fit(whole, **options)
    file = tmp_path / "below" / "masked.safetensors"
    halved = encoder(**dropout)
    interrupt(halved, after)
    with pytest.raises(KilledError):
        fit(halved, checkpoint=file, **options)
    assert file.exists() == (after > 1)
    halved = encoder(seed=9 if after > 1 else 0, **dropout)
    history = fit(halved, checkpoint=file, **options)
    assert same(whole, halved)
    ours, theirs = asdict(history), asdict(expected)
    for timed in (ours, theirs):
        del timed["tokens_per_second"]
    assert ours == theirs
    assert list(tmp_path.rglob("*.*")) == []


def test_a_folder_that_the_library_reads(tmp_path) -> None:
    from transformers import AutoModel, AutoModelForMaskedLM

    model = encoder()
    fit(model, iterations=2, warmup=1)
    folder = tmp_path / "below" / "encoder"
    save_encoder(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["encoder"]
    read = torch.tensor([[0, 5, 6, 7, 2]])
    found = AutoModel.from_pretrained(folder).eval()(read).last_hidden_state
    torch.testing.assert_close(found, model.base_model(read).last_hidden_state)
    whole = AutoModelForMaskedLM.from_pretrained(folder).eval()
    torch.testing.assert_close(whole(read).logits, model(read).logits)
    with pytest.raises(WardroundError, match="is there already"):
        save_encoder(model, folder)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    model = encoder()

    def broken(folder: Any, save: Callable[..., None] = model.save_pretrained) -> None:
        save(folder)
        raise KilledError

    monkeypatch.setattr(model, "save_pretrained", broken)
    with pytest.raises(KilledError):
        save_encoder(model, tmp_path / "encoder")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_told() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(WardroundError, match="chunks of 19 are longer than the model's 18"):
        fit(encoder(), chunk=19)
    with pytest.raises(WardroundError, match="tokens run from 0 to 16, the model knows 16"):
        fit(encoder(vocab_size=16))
    only = TokenDocuments(np.array([0, 2, 0, 2]), np.array([0, 2, 4]))
    with pytest.raises(WardroundError, match="training documents hold no token"):
        fit(encoder(), only)
    with pytest.raises(WardroundError, match="pad_token_id is 0"):
        fit(encoder(pad_token_id=0))
    with pytest.raises(WardroundError, match="warmup"):
        replace(RECIPE, warmup=8)
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(WardroundError, match="GPT2LMHeadModel is not read"):
        fit(gpt)
