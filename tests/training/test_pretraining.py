"""Pretraining: what it minimises, what it keeps, going on after a kill, and many devices."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from wardround.errors import WardroundError
from wardround.models import Decoder, DecoderConfig
from wardround.training import (
    Documents,
    PretrainConfig,
    PretrainHistory,
    load_model,
    losses,
    pretrain,
    save_model,
)
from wardround.training.packing import IGNORED, pack_windows

#: Tokens 0..9 follow a chain; 10 and 11 are static and tell which of two chains.
TOKENS, KINDS = 10, 2
VOCABULARY = TOKENS + KINDS
CONTEXT = 24
RECIPE = PretrainConfig(
    iterations=12,
    batch=4,
    accumulation=2,
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    warmup=3,
    decay=10,
    precision="float32",
    evaluate_every=4,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Kind:
    """Static context: which chain a timeline follows."""

    def __init__(self, kinds: np.ndarray) -> None:
        self.kinds = kinds

    def __call__(self, documents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        return np.full((len(documents), 1), TOKENS) + self.kinds[documents, None]


def chains() -> np.ndarray:
    """Transition probabilities (kind, from, to)."""
    rng = np.random.default_rng(42)
    return rng.dirichlet(np.full(TOKENS, 0.15), (KINDS, TOKENS))


def planted(count: int, seed: int, longest: int = 60) -> Documents:
    """Timelines of Markov chains; the first token of each is drawn evenly."""
    rng = np.random.default_rng(seed)
    steps = chains().cumsum(axis=2)
    kinds, lengths = rng.integers(0, KINDS, count), rng.integers(2, longest, count)
    state, rows = rng.integers(0, TOKENS, count), []
    for _ in range(longest):
        rows.append(state)
        state = (steps[kinds, state] < rng.random(count)[:, None]).sum(axis=1).clip(0, TOKENS - 1)
    tokens = np.stack(rows, axis=1)[np.arange(longest) < lengths[:, None]]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Documents(tokens.astype(np.uint16), offsets, Kind(kinds), 1)


def surprise(documents: Documents) -> np.ndarray:
    """Negative log-likelihood of each token under the chain that drew it."""
    tokens = documents.tokens.astype(int)
    kinds = np.repeat(documents.contexts.kinds, np.diff(documents.offsets))  # type: ignore[attr-defined]
    found = -np.log(chains()[kinds, np.roll(tokens, 1), tokens])
    found[documents.offsets[:-1]] = math.log(TOKENS)
    return found


TRAIN, TUNING = planted(60, 0), planted(12, 1)


SHORTEST = TRAIN.select(np.diff(TRAIN.offsets).argmin(keepdims=True))


def decoder(seed: int = 0, **sizes: Any) -> Decoder:
    torch.manual_seed(seed)
    given = {"layers": 2, "heads": 2, "width": 16, "hidden": 32, "dropout": 0.0, **sizes}
    return Decoder(DecoderConfig(VOCABULARY, CONTEXT, **given))


def fit(model: Decoder, train: Documents = TRAIN, **options: Any) -> PretrainHistory:
    names = {name: options.pop(name) for name in asdict(RECIPE) if name in options}
    return pretrain(model, train, TUNING, replace(RECIPE, **names), **{"device": "cpu", **options})


def same(first: Decoder, second: Decoder) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def furthest(first: Decoder, second: Decoder) -> float:
    ours, theirs = first.state_dict(), second.state_dict()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def test_planted_chains_are_learnt_to_their_entropy() -> None:
    train, tuning, test = planted(600, 2), planted(60, 3), planted(100, 4)
    model = decoder(width=32, hidden=64)
    recipe = replace(
        RECIPE, iterations=160, batch=16, accumulation=1, warmup=10, decay=160, evaluate_every=40
    )
    history = pretrain(model, train, tuning, recipe, device="cpu")
    floor = surprise(tuning).mean()
    assert history.tuning_loss[-1] < floor + 0.1 and history.loss[0] > floor + 0.2
    found = losses(model, test, device="cpu")
    assert found.dtype == np.float32 and np.isfinite(found).all()
    assert found.mean() == pytest.approx(surprise(test).mean(), abs=0.12)
    assert np.corrcoef(found, surprise(test))[0, 1] > 0.95
    # Without the static token the chain of a timeline must be guessed from its first tokens.
    blind = replace(test, contexts=lambda documents, tokens: np.full((len(documents), 1), TOKENS))
    assert losses(model, blind, device="cpu").mean() > found.mean() + 0.3


def test_history_tells_what_happened() -> None:
    model = decoder()
    history = fit(model, iterations=10)
    assert history.step == [4, 8, 10]
    lengths = {len(values) for values in asdict(history).values() if isinstance(values, list)}
    assert lengths == {3}
    assert history.tokens == sorted(history.tokens)
    assert history.learning_rate == [RECIPE.rate(step - 1) for step in history.step]
    assert history.best == int(np.argmin(history.tuning_loss))
    assert min(history.tokens_per_second) > 0 and not model.training
    found = losses(model, TUNING, stride=CONTEXT, device="cpu")
    assert history.tuning_loss[history.best] == pytest.approx(found.mean(), rel=1e-5)


def test_steps_by_a_plain_loop_over_single_windows() -> None:
    """No packing, no masks: each window alone, the mean over all tokens of a step, AdamW."""
    model, plain = decoder(), decoder()
    fit(model, iterations=5, batch=3, evaluate_every=5, clip=0.7)
    matrices = [p for p in plain.parameters() if p.dim() == 2]
    vectors = [p for p in plain.parameters() if p.dim() == 1]
    assert len(matrices) == 2 + 2 * 4 and len(vectors) == 2 * 2 + 1
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    windows = pack_windows(TRAIN, CONTEXT, seed=0, epoch=0)
    for step in range(5):
        parts = []
        for sequence in range(6 * step, 6 * step + 6):
            for window in range(windows.bounds[sequence], windows.bounds[sequence + 1]):
                start, length = windows.start[window], windows.length[window]
                tokens = TRAIN.tokens[start : start + length].astype(int)
                static = TRAIN.contexts(windows.document[window : window + 1], start)[0]
                scores = plain(torch.tensor([[*static, *tokens[:-1]]]))[0]
                parts.append(
                    functional.cross_entropy(scores, torch.tensor(tokens), reduction="none")
                )
        torch.cat(parts).mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.7)
        for group in optimiser.param_groups:
            group["lr"] = RECIPE.rate(step)
        optimiser.step()
        optimiser.zero_grad()
    assert furthest(model, plain) < 2e-5


def test_the_rate_climbs_then_falls_along_a_cosine() -> None:
    recipe = PretrainConfig()
    assert recipe.rate(0) == pytest.approx(6e-4 / 5001)
    assert recipe.rate(2500) == pytest.approx(6e-4 * 2501 / 5001)
    assert recipe.rate(5_000) == pytest.approx(6e-4)
    assert recipe.rate(52_500) == pytest.approx((6e-4 + 1e-5) / 2)
    assert recipe.rate(100_000) == recipe.rate(199_999) == 1e-5
    assert recipe.batch * recipe.accumulation * 2048 == 1_048_576


def test_accumulation_is_a_larger_batch() -> None:
    one, other = decoder(), decoder()
    fit(one, batch=8, accumulation=1)
    fit(other, batch=2, accumulation=4)
    assert furthest(one, other) < 2e-5


def test_the_best_weights_are_kept() -> None:
    few = TRAIN.select(np.arange(4))
    options = {"learning_rate": 0.03, "warmup": 0, "decay": 80, "evaluate_every": 5}
    model = decoder()
    history = fit(model, few, iterations=80, **options)
    assert history.best < len(history.step) - 1
    assert history.tuning_loss[-1] > history.tuning_loss[history.best] + 0.05
    short = decoder()
    fit(short, few, iterations=history.step[history.best], **options)
    assert same(model, short)
    patient = fit(decoder(), few, iterations=80, patience=2, **options)
    assert patient.step[-1] == patient.step[patient.best] + 10 < 80


def test_training_ends_once_enough_tokens_were_predicted() -> None:
    history = fit(decoder(), iterations=1_000, tokens=1_500, evaluate_every=1_000)
    assert 1_500 <= history.tokens[-1] < 1_500 + 8 * CONTEXT and len(history.step) == 1


def test_a_part_of_tuning_can_be_looked_at() -> None:
    model = decoder()
    history = fit(model, iterations=1, evaluation_sequences=3)
    windows = pack_windows(TUNING, CONTEXT)
    targets, _ = windows.targets(np.arange(3))
    found = losses(model, TUNING, stride=CONTEXT, device="cpu")[targets]
    assert history.tuning_loss[0] == pytest.approx(found.mean(), rel=1e-5)


def test_seeds_and_dropout() -> None:
    models = [decoder(dropout=0.2) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        fit(model, seed=seed)
        torch.rand(7)  # the state of the generator outside has no part in it
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_bfloat16_is_near_float32() -> None:
    exact, rounded = decoder(), decoder()
    fit(exact)
    history = fit(rounded, precision="bfloat16")
    assert 0 < furthest(exact, rounded) < 0.1
    assert all(value.dtype == torch.float32 for value in rounded.state_dict().values())
    assert history.tuning_loss[-1] == pytest.approx(
        losses(exact, TUNING, device="cpu").mean(), abs=0.05
    )


def test_losses_pick_their_own_arithmetic() -> None:
    model = decoder()
    exact = losses(model, TUNING)
    picked = losses(model, TUNING, precision="auto")
    assert picked == pytest.approx(exact, abs=0.05, nan_ok=True)


class KilledError(Exception):
    pass


class Interrupted:
    """Static context that ends the training at the given call."""

    def __init__(self, contexts: Kind, after: int, how: Callable[[], None]) -> None:
        self.contexts, self.after, self.how, self.calls = contexts, after, how, 0

    def __call__(self, documents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls > self.after:
            self.how()
        return self.contexts(documents, tokens)


def stop() -> None:
    raise KilledError


def interrupted(after: int, how: Callable[[], None] = stop) -> Documents:
    contexts = TRAIN.contexts
    assert isinstance(contexts, Kind)
    return replace(TRAIN, contexts=Interrupted(contexts, after, how))


KEPT: dict[str, Any] = {"iterations": 12, "evaluate_every": 5, "checkpoint_every": 0.0, "seed": 5}


@pytest.mark.parametrize("after", [1, 2, 9, 16, 24])
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path: Path, after: int) -> None:
    """In the first step, between looks, across epochs and in the last step."""
    whole, halved = decoder(dropout=0.1), decoder(dropout=0.1)
    expected = fit(whole, **KEPT)
    file = tmp_path / "below" / "pretraining.safetensors"
    with pytest.raises(KilledError):
        fit(halved, interrupted(after), checkpoint=file, **KEPT)
    halved = decoder(seed=9, dropout=0.1)  # its own weights must not matter any more
    if after < 3:
        assert not file.exists()
        halved = decoder(dropout=0.1)
    history = fit(halved, checkpoint=file, **KEPT)
    assert same(whole, halved)
    ours, theirs = asdict(history), asdict(expected)
    for timed in (ours, theirs):
        del timed["tokens_per_second"]
    assert ours == theirs
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.slow
def test_sigkill(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
import test_pretraining as t
from pathlib import Path
torch.set_num_threads(1)
t.fit(t.decoder(), t.interrupted(15, t.kill), checkpoint=Path("kept.safetensors"), **t.KEPT)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    whole, halved = decoder(), decoder(seed=9)
    fit(whole, **KEPT)
    fit(halved, checkpoint=tmp_path / "kept.safetensors", **KEPT)
    assert same(whole, halved)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": 2e-2},
        {"seed": 6},
        {"windows": "published"},
        {"evaluate_every": 3},
        {"train": TRAIN.select(np.arange(50))},
    ],
)
def test_a_checkpoint_of_another_run_is_left_aside(tmp_path: Path, changed) -> None:
    file = tmp_path / "kept.safetensors"
    with pytest.raises(KilledError):
        fit(decoder(), interrupted(15), checkpoint=file, **KEPT)
    assert file.is_file()
    model, anew = decoder(), decoder()
    fit(model, checkpoint=file, **{**KEPT, **changed})
    fit(anew, **{**KEPT, **changed})
    assert same(model, anew) and not file.exists()


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"no tensors"])
def test_a_damaged_checkpoint_is_reported_and_left_aside(tmp_path, damage, caplog) -> None:
    file = tmp_path / "kept.safetensors"
    with pytest.raises(KilledError):
        fit(decoder(), interrupted(15), checkpoint=file, **KEPT)
    file.write_bytes(damage(file.read_bytes()))
    model, anew = decoder(), decoder()
    fit(model, checkpoint=file, **KEPT)
    fit(anew, **KEPT)
    assert same(model, anew) and "training starts anew" in caplog.text


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Each reads half the batches; then both go on from where one left off."""
    for name, part in (("tokens", TRAIN.tokens), ("offsets", TRAIN.offsets)):
        np.save(tmp_path / f"{name}.npy", part)
    mapped = replace(
        TRAIN,
        tokens=np.load(tmp_path / "tokens.npy", mmap_mode="r"),
        offsets=np.load(tmp_path / "offsets.npy", mmap_mode="r"),
    )
    one, two = decoder(dropout=0.1), decoder(dropout=0.1)
    expected = fit(one, **KEPT)
    file = tmp_path / "kept.safetensors"
    with pytest.raises(KilledError):
        fit(decoder(dropout=0.1), interrupted(13), checkpoint=file, **KEPT)
    history = fit(two, mapped, checkpoint=file, devices=2, **KEPT)
    assert furthest(one, two) < 1e-5
    assert np.allclose(history.tuning_loss, expected.tuning_loss, atol=1e-5)
    assert history.tokens == expected.tokens and not file.exists()
    with pytest.raises(WardroundError, match="loss is not a number at step"):
        fit(decoder(), devices=2, iterations=200, learning_rate=1e30)


@pytest.mark.slow
def test_packed_windows_learn_no_worse_than_published_ones() -> None:
    """On timelines shorter than a window, most of which a published one mixes."""
    found = {}
    for windows in ("packed", "published"):
        history = pretrain(
            decoder(width=32, hidden=64),
            planted(300, 2, longest=20),
            planted(100, 3, longest=20),
            replace(
                RECIPE,
                iterations=150,
                batch=16,
                accumulation=1,
                warmup=10,
                decay=150,
                evaluate_every=25,
                windows=windows,  # type: ignore[arg-type]
            ),
            device="cpu",
        )
        found[windows] = min(history.tuning_loss)
    assert found["packed"] < found["published"] - 0.05


def brute_force(model: Decoder, documents: Documents, stride: int) -> np.ndarray:
    """One forward pass for each token, with the past that its window gives it."""
    found: list[float] = []
    span, c = CONTEXT - 1 + 1, 1
    for number in range(len(documents.offsets) - 1):
        begin, end = documents.offsets[number : number + 2]
        for at in range(begin, end):
            start = begin
            while at - start >= span:
                start += stride
            static = documents.contexts(np.array([number]), np.array([start]))[0]
            read = [*static, *documents.tokens[start:at].astype(int)]
            assert len(read) <= CONTEXT and c == len(static)
            with torch.no_grad():
                scores = model(torch.tensor([read]))[0, -1].log_softmax(-1)
            found.append(-float(scores[int(documents.tokens[at])]))
    return np.array(found)


@pytest.mark.parametrize("stride", [1, 7, 24])
def test_losses_by_one_pass_a_token(stride: int) -> None:
    model, documents = decoder().eval(), planted(4, 8, longest=70)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(4)
    found = losses(model, documents, stride=stride, batch=2, device="cpu")
    np.testing.assert_allclose(found, brute_force(model, documents, stride), atol=1e-4)


def test_losses_of_some_timelines_and_without_static_context() -> None:
    model = decoder()
    found = losses(model, TRAIN, device="cpu")
    some = np.array([7, 2, 30])
    parts = [found[TRAIN.offsets[i] : TRAIN.offsets[i + 1]] for i in some]
    np.testing.assert_allclose(
        losses(model, TRAIN.select(some), device="cpu"), np.concatenate(parts), atol=1e-5
    )
    bare = replace(TRAIN, context_size=0)
    alone = losses(model, bare, device="cpu")
    assert np.array_equal(np.flatnonzero(np.isnan(alone)), TRAIN.offsets[:-1])
    with pytest.raises(WardroundError, match=r"stride must lie in 1\.\.24"):
        losses(model, TRAIN, stride=25, device="cpu")


def test_timelines_without_static_context_are_learnt_too() -> None:
    model = decoder()
    history = pretrain(
        model,
        replace(TRAIN, context_size=0),
        replace(TUNING, context_size=0),
        RECIPE,
        device="cpu",
    )
    found = losses(model, replace(TUNING, context_size=0), stride=CONTEXT, device="cpu")
    assert history.tuning_loss[history.best] == pytest.approx(np.nanmean(found), rel=1e-5)


def test_a_pretrained_decoder_is_saved_and_loaded(tmp_path: Path) -> None:
    model = decoder(positions="rotary")
    fit(model, iterations=3)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.sizes == model.sizes and same(model, loaded) and not loaded.training
    damaged = tmp_path / "model.json"
    damaged.write_text(damaged.read_text().replace('"heads": 2', '"heads": 3'))
    with pytest.raises(WardroundError):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 1e30, "iterations": 200}, "not a number at step .*lower learning_rate"),
        ({"device": "cpu:0", "devices": 2}, "cannot be had .name the kind alone"),
        ({"device": "abacus"}, "device=abacus, devices=1 cannot be had"),
        ({"accumulation": 3, "devices": 2}, "accumulation .3. must be a multiple of devices .2."),
        ({"train": TRAIN.select(np.array([], int))}, "training timelines hold no token"),
        ({"train": replace(TRAIN, tokens=TRAIN.tokens + 3)}, "the decoder knows 12"),
        ({"windows": "published", "train": SHORTEST}, "shorter than one window"),
    ],
)
def test_errors(options, message) -> None:
    with pytest.raises(WardroundError, match=message):
        fit(decoder(), **options)


def test_an_empty_tuning_set_is_refused() -> None:
    with pytest.raises(WardroundError, match="tuning timelines hold no token"):
        pretrain(decoder(), TRAIN, TUNING.select(np.array([], int)), RECIPE, device="cpu")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"iterations": 0}, "iterations must be 1 or more"),
        ({"patience": 0}, "patience must be 1 or more, or none"),
        ({"warmup": 20}, "warmup .20. must end before decay does .10."),
        ({"final_learning_rate": 1.0}, "final_learning_rate must lie in 0..learning_rate"),
    ],
)
def test_settings_that_make_no_sense(setting, message) -> None:
    with pytest.raises(WardroundError, match=message):
        replace(RECIPE, **setting)


def test_nothing_is_predicted_on_static_context_and_padding() -> None:
    batch = pack_windows(TRAIN, CONTEXT, epoch=0).batch(np.arange(5))
    static: Tensor = batch.tokens >= TOKENS
    assert static.any() and (batch.labels[batch.segments == 0] == IGNORED).all()
    assert not (batch.labels >= TOKENS).any()
