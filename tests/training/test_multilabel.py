"""Fitting documents to many labels: what a step is, batches, divergence, and going on."""

from __future__ import annotations

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
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from wardround.errors import WardroundError
from wardround.models import (
    CAML,
    BiGRU,
    BiGRUConfig,
    CAMLConfig,
    MultiResCNN,
    MultiResCNNConfig,
)
from wardround.training import multilabel
from wardround.training.multilabel import (
    PUBLISHED_BUCKETS,
    MultilabelConfig,
    MultilabelHistory,
    TokenDocuments,
    batches,
    fit_multilabel,
    passes,
    predict_logits,
)

VOCABULARY, LABELS = 40, 6
RECIPE = MultilabelConfig(learning_rate=2e-2, weight_decay=1e-3, batch=5, epochs=3, warmup=2)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planted(count: int, seed: int, longest: int = 50) -> tuple[TokenDocuments, csr_matrix]:
    """Label c is there where the words c and c + 10 follow each other."""
    rng = np.random.default_rng(seed)
    present = rng.random((count, LABELS)) < np.linspace(0.5, 0.15, LABELS)
    notes = []
    for row in present:
        words = rng.integers(20, VOCABULARY - 2, rng.integers(25, longest)).tolist()
        for label in np.flatnonzero(row).tolist():
            at = int(rng.integers(0, len(words)))
            words[at:at] = [label, label + 10]
        notes.append(words)
    tokens = np.concatenate([np.array(words, np.int32) for words in notes])
    offsets = np.concatenate([[0], np.cumsum([len(words) for words in notes])])
    return TokenDocuments(tokens, offsets), csr_matrix(present.astype(np.int8))


TRAIN, TARGETS = planted(33, 0)
TUNING, TUNING_TARGETS = planted(14, 1)


def score(logits: np.ndarray, targets: csr_matrix) -> float:
    """Mean average precision over documents with a label."""
    wanted = targets.toarray()
    rows = wanted.any(1)
    pairs = zip(wanted[rows], logits[rows], strict=True)
    return float(np.mean([average_precision_score(y, z) for y, z in pairs]))


def caml(seed: int = 0, **options: Any) -> CAML:
    torch.manual_seed(seed)
    return CAML(CAMLConfig(LABELS, VOCABULARY, 8, channels=6, kernel=4, **options))


def multi(seed: int = 0, **options: Any) -> MultiResCNN:
    torch.manual_seed(seed)
    sizes = MultiResCNNConfig(LABELS, VOCABULARY, 8, channels=3, kernels=(3, 5), **options)
    return MultiResCNN(sizes)


def fit(model: nn.Module, train: TokenDocuments = TRAIN, **options: Any) -> MultilabelHistory:
    names = {name: options.pop(name) for name in asdict(RECIPE) if name in options}
    evaluate = options.pop("evaluate", score)
    given = (TARGETS, TUNING, TUNING_TARGETS, evaluate, replace(RECIPE, **names))
    return fit_multilabel(model, train, *given, **{"device": "cpu", **options})


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def furthest(first: nn.Module, second: nn.Module) -> float:
    ours, theirs = first.state_dict(), second.state_dict()
    return max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours)


def test_planted_phrases_are_learnt() -> None:
    train, targets = planted(250, 2)
    test, test_targets = planted(80, 3)
    torch.manual_seed(0)
    model = CAML(CAMLConfig(LABELS, VOCABULARY, 16, channels=16, kernel=4))
    recipe = MultilabelConfig(learning_rate=1e-2, batch=16, epochs=8, warmup=20)
    history = fit_multilabel(
        model, train, targets, TUNING, TUNING_TARGETS, score, recipe, device="cpu"
    )
    assert history.loss[-1] < history.loss[0] / 3 and not model.training
    logits = predict_logits(model, test, device="cpu")
    assert score(logits, test_targets) > 0.97
    prior = np.tile(targets.mean(0), (80, 1))
    assert score(logits, test_targets) > score(np.asarray(prior), test_targets) + 0.2
    yes = next(number for number in range(80) if test_targets[number, 0])
    tokens, mask = test.batch(np.array([yes]), model.padding)
    shown = model.explain(tokens, mask, [0])[0, 0]
    assert abs(int(shown.argmax()) - test.batch(np.array([yes]), -1)[0][0].tolist().index(0)) <= 2


# Steps ----------------------------------------------------------------------------------------


def plainly(model: nn.Module, recipe: MultilabelConfig, epochs: int) -> None:
    """Each document alone, the mean over documents and labels of a batch, AdamW."""
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay)
    step, dense = 0, torch.from_numpy(TARGETS.toarray()).float()
    per_epoch = len(batches(TRAIN.lengths, recipe, 0, 0))
    for epoch in range(epochs):
        for rows in batches(TRAIN.lengths, recipe, 0, epoch):
            total = torch.zeros(())
            for row in rows:
                tokens = torch.as_tensor(next(iter(TRAIN.select([row])))).long()[None]
                z = model(tokens, torch.ones_like(tokens, dtype=torch.bool))
                p, y = torch.sigmoid(z), dense[row]
                total = total - (y * p.log() + (1 - y) * (1 - p).log()).sum()
            (total / (len(rows) * LABELS)).backward()
            if recipe.clip is not None and not recipe.paper_compat:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step, per_epoch * recipe.epochs)
            optimiser.step()
            optimiser.zero_grad()
            step += 1


@pytest.mark.parametrize("options", [{"clip": 0.05}, {"clip": None}, {"clip": 0.05, "batch": 50}])
def test_steps_by_a_plain_loop(options) -> None:
    model, plain = caml(dropout=0.0), caml(dropout=0.0)
    fit(model, epochs=1, **options)
    plainly(plain, replace(RECIPE, epochs=1, **options), 1)
    assert furthest(model, plain) < 2e-5
    assert furthest(model, caml()) > 1e-2


@pytest.mark.parametrize("parts", [{"micro_batch": 2}, {"micro_tokens": 70}, {"micro_tokens": 1}])
def test_accumulation_is_the_whole_batch(parts) -> None:
    one, other = caml(dropout=0.0), caml(dropout=0.0)
    fit(one)
    fit(other, **parts)
    assert 0 < furthest(one, other) < 5e-5


def test_the_rate() -> None:
    recipe = MultilabelConfig(learning_rate=1e-3)
    steps = 89_099 // 8 * 20
    assert recipe.rate(0, steps) == pytest.approx(1e-3 / 2_001)
    assert recipe.rate(2_000, steps) == pytest.approx(1e-3)
    assert recipe.rate((steps + 2_000) // 2, steps) == pytest.approx(5e-4)
    assert 0 < recipe.rate(steps - 1, steps) < 1e-8
    few = [recipe.rate(step, 100) for step in range(100)]  # a tenth of them
    assert int(np.argmax(few)) == 10 and few[10] == pytest.approx(1e-3)
    assert recipe.rate(5, 0) <= 1e-3
    published = replace(recipe, paper_compat=True)
    assert published.rate(99, 100) == pytest.approx(1e-3 * 100 / 2_001)


def test_bfloat16_is_near_float32() -> None:
    exact, rounded = caml(), caml()
    fit(exact, precision="auto")
    fit(rounded, precision="bfloat16")
    assert 0 < furthest(exact, rounded) < 0.3
    assert all(value.dtype == torch.float32 for value in rounded.parameters())


def test_seeds() -> None:
    models = [caml() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        fit(model, seed=seed)
        torch.rand(7)  # the state of the generator outside has no part in it
    assert same(models[0], models[1]) and not same(models[0], models[2])


# Batches --------------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(0, 5_000), min_size=1, max_size=300).map(np.array)


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 3))
def test_batches_hold_each_document_once(lengths, size, epoch) -> None:
    made = batches(lengths, MultilabelConfig(batch=size), 7, epoch)
    rows = np.concatenate(made)
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    assert max(map(len, made)) <= size and len(made) == -(-len(lengths) // size)
    again = batches(lengths, MultilabelConfig(batch=size), 7, epoch)
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 9))
def test_published_batches_keep_to_their_bucket(lengths, size) -> None:
    recipe = MultilabelConfig(batch=size, paper_compat=True)
    made = batches(lengths, recipe, 7, 0)
    edges = [-1, *PUBLISHED_BUCKETS, 10**9]
    bucket = [sum(length > edge for edge in edges) - 1 for length in lengths]
    kept = np.concatenate([np.empty(0, int), *made])
    assert len(set(kept.tolist())) == len(kept)
    assert all(len(rows) == size and len({bucket[row] for row in rows}) == 1 for rows in made)
    assert len(made) == sum(bucket.count(number) // size for number in set(bucket))


def test_batches_are_of_like_length_and_differ_between_epochs() -> None:
    lengths = np.random.default_rng(0).integers(1, 4_000, 3_000)
    for recipe in (MultilabelConfig(batch=8), MultilabelConfig(batch=8, paper_compat=True)):
        made = batches(lengths, recipe, 0, 0)
        read = sum(len(rows) * lengths[rows].max() for rows in made)
        assert read < 1.15 * sum(lengths[rows].sum() for rows in made)
        longest = [lengths[rows].max() for rows in made]
        assert abs(np.corrcoef(longest, np.arange(len(made)))[0, 1]) < 0.2  # not in order
        other = batches(lengths, recipe, 0, 1)
        assert not np.array_equal(made[0], other[0]) and len(made) == len(other)


@settings(max_examples=60)
@given(LENGTHS, st.integers(1, 9), st.one_of(st.none(), st.integers(1, 20_000)))
def test_passes_keep_to_their_limits(lengths, documents, tokens) -> None:
    parts = [np.arange(len(lengths))[piece] for piece in passes(lengths, documents, tokens)]
    assert np.array_equal(np.concatenate(parts), np.arange(len(lengths)))
    for part in parts:
        assert len(part) <= documents
        assert len(part) == 1 or tokens is None or len(part) * lengths[part].max() <= tokens


def test_documents() -> None:
    tokens = np.arange(10, dtype=np.uint16)
    documents = TokenDocuments(tokens, np.array([0, 4, 4, 10]), limit=5)
    assert documents.lengths.tolist() == [4, 0, 5] and len(documents) == 3
    given, mask = documents.batch(np.array([2, 0, 1]), 99)
    assert given.tolist() == [[4, 5, 6, 7, 8], [0, 1, 2, 3, 99], [99] * 5]
    assert mask.sum(1).tolist() == [5, 4, 0] and given.dtype == torch.int64
    chosen = documents.select(np.array([2, 1]))
    assert [part.tolist() for part in chosen] == [[4, 5, 6, 7, 8], []]
    assert chosen.select(np.array([0])).lengths.tolist() == [5]
    assert documents.batch(np.array([1]), 99)[0].tolist() == [[99]]
    assert chosen.fingerprint() != documents.fingerprint()


# What is kept ---------------------------------------------------------------------------------


def test_the_best_epoch_is_kept_and_patience_ends() -> None:
    planned = iter([0.3, 0.5, 0.4, 0.5, 0.49, 0.2, 0.9])
    model = caml()
    history = fit(model, epochs=7, patience=3, evaluate=lambda *_: next(planned))
    assert history.tuning_score == [0.3, 0.5, 0.4, 0.5, 0.49] and history.best == 1
    short, planned = caml(), iter([0.3, 0.5])
    stop = replace(RECIPE, epochs=7)

    def ended(*_: Any) -> float:
        if (found := next(planned, None)) is None:
            raise KilledError
        kept.append({name: value.clone() for name, value in short.state_dict().items()})
        return found

    kept: list[dict[str, Tensor]] = []
    with pytest.raises(KilledError):
        fit(short, evaluate=ended, epochs=stop.epochs)
    assert all(torch.equal(value, kept[1][name]) for name, value in model.state_dict().items())
    per_epoch = -(-len(TRAIN) // RECIPE.batch)
    assert history.step == [per_epoch * (number + 1) for number in range(5)]
    rates = [stop.rate(step - 1, 7 * per_epoch) for step in history.step]
    assert history.learning_rate == pytest.approx(rates)
    assert min(history.documents_per_second) > 0 and history.restarts == []


def test_the_loss_curve(monkeypatch) -> None:
    monkeypatch.setattr(multilabel, "CURVE", 3)
    history = fit(caml(), epochs=2)
    assert history.curve_step == [3, 6, 10, 13]  # 7 batches an epoch
    assert np.isfinite(history.curve_loss).all() and history.curve_loss[-1] < history.curve_loss[0]


def test_evaluation_sees_the_logits_of_tuning_in_its_order() -> None:
    model, seen = caml(), []

    def keep(logits: np.ndarray, targets: csr_matrix) -> float:
        seen.append(np.array(logits))
        assert (targets != TUNING_TARGETS).nnz == 0
        return 0.5

    fit(model, epochs=1, evaluate=keep)
    for row in range(len(TUNING)):
        tokens, mask = TUNING.batch(np.array([row]), model.padding)
        expected = model(tokens, mask).detach()[0]
        np.testing.assert_allclose(seen[0][row], expected, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 200, 1 << 14])
def test_predictions_of_a_file(tmp_path, tokens) -> None:
    torch.manual_seed(0)
    model = BiGRU(BiGRUConfig(LABELS, VOCABULARY, 8, hidden=4)).train()
    file = tmp_path / "below" / "logits.npy"
    found = predict_logits(model, TUNING, out=file, tokens=tokens, device="cpu")
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    whole = predict_logits(model, TUNING, device="cpu")
    np.testing.assert_allclose(found, whole, atol=1e-6)
    assert [path.name for path in file.parent.iterdir()] == ["logits.npy"]
    with pytest.raises(WardroundError, match="no document"):
        predict_logits(model, TUNING.select(np.empty(0, int)), device="cpu")


# Divergence -----------------------------------------------------------------------------------


class Diverging(nn.Module):
    """A model that breaks at the given training passes, in one of the ways that are known."""

    def __init__(self, model: CAML, at: dict[int, str]) -> None:
        super().__init__()
        self.model, self.at, self.calls, self.padding = model, at, 0, model.padding

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        how = None
        if self.training:
            how = self.at.get(self.calls)
            self.calls += 1
        if how in ("yes", "no"):
            with torch.no_grad():
                self.model.attention.output.bias.fill_(1e4 if how == "yes" else -1e4)
        logits = self.model(tokens, mask)
        if how == "nan":
            return logits * float("nan")
        if how == "gradient":
            return logits + (logits * 0).sqrt().sum() * 0
        return logits


REASONS = {
    "nan": "the loss is not a number",
    "gradient": "a gradient is not a number",
    "yes": "it says yes to 100% of all labels",
    "no": "it says no to all labels",
}


@pytest.mark.parametrize("how", REASONS)
def test_a_fit_that_diverges_goes_back(how) -> None:
    """In the second epoch; the others are as those of a fit that went well."""
    good, bad = caml(), Diverging(caml(), {9: how})
    expected = fit(good, epochs=2)

    def fallen(logits: np.ndarray, targets: csr_matrix) -> float:
        return 0.01 if logits.max() < -100 else score(logits, targets)

    history = fit(bad, epochs=2, evaluate=fallen)
    assert history.loss[0] == expected.loss[0] and len(history.loss) == 2
    (restart,) = history.restarts
    assert restart["reason"] == REASONS[how]
    assert (restart["epoch"], restart["factor"]) == (1, 0.5)
    assert restart["step"] == (9 if how in ("nan", "gradient") else 14)
    assert history.learning_rate[1] == pytest.approx(expected.learning_rate[1] / 2)
    assert all(value.isfinite().all() for value in bad.state_dict().values())
    assert history.tuning_score[1] > 0.2 and not same(good, bad.model)


def test_a_fit_that_diverges_again_and_again() -> None:
    every = dict.fromkeys(range(8, 100), "nan")
    history = fit(Diverging(caml(), every), epochs=3, restarts=2)
    assert [restart["factor"] for restart in history.restarts] == [0.5, 0.25, 0.25]
    assert len(history.loss) == 1 and history.best == 0
    with pytest.raises(WardroundError, match=r"diverged in epoch 1 \(the loss .* 3 times; lower"):
        fit(Diverging(caml(), dict.fromkeys(range(100), "nan")), restarts=2)
    with pytest.raises(WardroundError, match="score on tuning is not a number"):
        fit(caml(), evaluate=lambda *_: float("nan"))


def test_an_early_epoch_may_say_no_to_everything() -> None:
    rare = csr_matrix((np.ones(2, np.int8), ([0, 1], [0, 1])), shape=TARGETS.shape)
    model = caml()
    with torch.no_grad():
        model.attention.output.bias.fill_(-6)
    given = (TUNING, TUNING_TARGETS, lambda *_: 0.2)
    history = fit_multilabel(model, TRAIN, rare, *given, RECIPE, device="cpu")
    assert history.restarts == [] and len(history.loss) == 3


# Going on -------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


def stop() -> None:
    raise KilledError


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupted(after: int, how: Callable[[], None] = stop) -> TokenDocuments:
    """Documents that end the training when so many batches were read."""

    class Interrupted(TokenDocuments):
        calls = 0

        def batch(self, rows: np.ndarray, padding: int) -> tuple[Tensor, Tensor]:
            Interrupted.calls += 1
            if Interrupted.calls > after:
                how()
            return super().batch(rows, padding)

    return Interrupted(TRAIN.tokens, TRAIN.offsets)


KEPT: dict[str, Any] = {"checkpoint_every": 0.0, "seed": 5}


@pytest.mark.parametrize(
    ("build", "after"),
    [(caml, 0), (caml, 1), (caml, 7), (caml, 8), (caml, 20), (multi, 10)],
    ids=["first step", "second step", "end of epoch", "next epoch", "last epoch", "statistics"],
)
def test_a_killed_fit_ends_as_an_undisturbed_one(tmp_path, build, after) -> None:
    whole = build()
    expected = fit(whole, **KEPT)
    file = tmp_path / "below" / "fit.safetensors"
    with pytest.raises(KilledError):
        fit(build(), interrupted(after), checkpoint=file, **KEPT)
    assert file.exists() == (after > 0)
    halved = build(seed=9 if after > 0 else 0)  # its own weights must not matter any more
    history = fit(halved, checkpoint=file, **KEPT)
    assert same(whole, halved)
    ours, theirs = asdict(history), asdict(expected)
    for timed in (ours, theirs):
        del timed["documents_per_second"]
    assert ours == theirs
    assert list(tmp_path.rglob("*.*")) == []


def test_a_fit_killed_after_it_diverged(tmp_path) -> None:
    """Rate, attempt and what it goes back to are kept as well."""
    whole = Diverging(caml(), {9: "nan"})
    expected = fit(whole, **KEPT)
    file = tmp_path / "fit.safetensors"
    with pytest.raises(KilledError):
        fit(Diverging(caml(), {9: "nan"}), interrupted(13), checkpoint=file, **KEPT)
    halved = Diverging(caml(seed=9), {})
    history = fit(halved, checkpoint=file, **KEPT)
    assert same(whole.model, halved.model) and history.restarts == expected.restarts != []


@pytest.mark.slow
def test_sigkill(tmp_path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
import test_multilabel as t
from pathlib import Path
torch.set_num_threads(1)
t.fit(t.caml(), t.interrupted(10, t.kill), checkpoint=Path("kept.safetensors"), **t.KEPT)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    whole, halved = caml(), caml(seed=9)
    fit(whole, **KEPT)
    fit(halved, checkpoint=tmp_path / "kept.safetensors", **KEPT)
    assert same(whole, halved)


@pytest.mark.parametrize("changed", [{"learning_rate": 1e-2}, {"seed": 6}, {"batch": 4}])
def test_other_settings_start_anew(tmp_path, changed) -> None:
    file = tmp_path / "fit.safetensors"
    with pytest.raises(KilledError):
        fit(caml(), interrupted(10), checkpoint=file, **KEPT)
    whole, fresh = caml(), caml()
    fit(whole, **KEPT | changed)
    fit(fresh, checkpoint=file, **KEPT | changed)
    assert same(whole, fresh)


def test_mistakes_are_told() -> None:
    with pytest.raises(WardroundError, match="33 training documents and 14 rows"):
        fit_multilabel(
            caml(), TRAIN, TUNING_TARGETS, TUNING, TUNING_TARGETS, score, RECIPE, device="cpu"
        )
    none = csr_matrix(TARGETS.shape, dtype=np.int8)
    with pytest.raises(WardroundError, match="no training document has a label"):
        fit_multilabel(caml(), TRAIN, none, TUNING, TUNING_TARGETS, score, RECIPE, device="cpu")
    with pytest.raises(WardroundError, match="no bucket of lengths holds 50 documents"):
        fit(caml(), batch=50, paper_compat=True)
    with pytest.raises(WardroundError, match="epochs must be 1 or more, got 0"):
        replace(RECIPE, epochs=0)
    with pytest.raises(WardroundError, match="learning_rate"):
        replace(RECIPE, learning_rate=0.0)
