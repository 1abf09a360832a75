"""Medical coding on notes whose codes are known to the word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from tests.conftest import Once
from tests.planted_notes import PlantedNotes, plant_notes
from wardround.cli import app
from wardround.cohorts import read_coding
from wardround.errors import WardroundError
from wardround.evaluation import Results, tune_threshold
from wardround.runs import load_results, run_system
from wardround.store import open_store
from wardround.systems.medical_coding import system
from wardround.systems.medical_coding.evidence import evidence_spans
from wardround.training import load_model
from wardround.views.text import Corpus

MODELS = "models=[frequency_prior,bag_of_words,caml]"
NOTE = "pel bara pit. denies {no}. dera kan {yes} kora bis gone kose lula. gola bese buta dar"


@pytest.fixture(scope="session")
def planted(once: Once) -> PlantedNotes:
    def write(folder: Path) -> None:
        made = plant_notes(folder / "store")
        (folder / "phrases.json").write_text(json.dumps(made.phrases))
        made.mentions.write_parquet(folder / "mentions.parquet")

    folder = once("planted-notes", write)
    return PlantedNotes(
        open_store(folder / "store"),
        json.loads((folder / "phrases.json").read_text()),
        pl.read_parquet(folder / "mentions.parquet"),
    )


@pytest.fixture(scope="session")
def run(planted: PlantedNotes, once: Once) -> Path:
    """A finished run of two floors, CAML and the control."""
    config = system.Config.build("tiny", [MODELS, "bootstrap=100", "threads=1"])
    folder = once("coding-runs", lambda runs: run_system(system, planted.store, config, runs))
    return next((folder / "medical-coding").iterdir())


@pytest.fixture
def results(run: Path) -> Results:
    return load_results(run)


def value(results: Results, model: str, metric: str) -> float:
    (task,) = results.tasks
    (found,) = [m for m in [*task.models, *task.controls] if m.name == model]
    number = found.metrics[metric].value
    assert number is not None
    return number


def test_planted_phrases_are_found_and_words_apart_are_not(results: Results) -> None:
    assert value(results, "caml", "f1_micro") >= 0.90
    assert value(results, "caml", "map") >= 0.95
    for floor in ("frequency_prior", "bag_of_words"):
        assert value(results, floor, "map") < 0.6


def test_codes_dealt_out_anew_teach_frequencies_alone(results: Results) -> None:
    control, prior = (value(results, m, "map") for m in ("shuffled_labels", "frequency_prior"))
    assert control == pytest.approx(prior, abs=0.02)


def test_what_a_code_attends_to_is_its_phrase(run: Path, planted: PlantedNotes) -> None:
    cohort = read_coding(run / "work/icd10/documents/cohort")
    corpus = Corpus.open(run / "work/icd10/words/corpus")
    network = load_model(run / "model/icd10/caml")
    rows = cohort.rows("held_out")[:60]
    texts = {
        row["note_id"]: row["text"]
        for part in cohort.texts(planted.store, "held_out")
        for row in part.iter_rows(named=True)
    }
    said = planted.mentions.filter(~pl.col("denied"))
    hits = []
    for row in rows.tolist():
        note = cohort.documents["note_id"][row]
        tokens = torch.from_numpy(corpus.document(row).astype(np.int64))[None]
        mask = torch.ones_like(tokens, dtype=torch.bool)
        columns = cohort.targets[row].indices
        shares = network.explain(tokens, mask, columns.tolist())[0].numpy()
        spans = corpus.tokeniser.spans(texts[note])
        for column, weights in zip(columns.tolist(), shares, strict=True):
            code = cohort.codes[column]
            where = said.filter((pl.col("note_id") == note) & (pl.col("code") == code))
            start, stop = where.select("start", "stop").row(0)
            top = spans[np.argsort(-weights)[:5]]
            hits.append(bool(((top[:, 0] < stop) & (top[:, 1] > start)).any()))
    assert len(hits) > 100
    assert np.mean(hits) >= 0.8


def test_the_threshold_comes_from_tuning_notes(run: Path) -> None:
    cohort = read_coding(run / "work/icd10/documents/cohort")
    kept = json.loads((run / "evaluation/icd10/thresholds.json").read_text())["threshold"]
    logits = np.load(run / "model/icd10/caml/tuning.npy")
    assert kept["caml"] == tune_threshold(cohort.targets[cohort.rows("tuning")], logits).value


def test_no_patient_is_in_two_splits(run: Path) -> None:
    documents = read_coding(run / "work/icd10/documents/cohort").documents
    assert documents.group_by("subject_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert set(documents["split"]) == {"train", "tuning", "held_out"}


def test_a_new_note_gets_its_codes_with_the_words_for_them(
    run: Path, planted: PlantedNotes
) -> None:
    yes, no = list(planted.phrases)[:2]
    text = NOTE.format(yes=planted.phrases[yes], no=planted.phrases[no])
    found = system.suggest_codes(run, text)
    assert [one.code for one in found if one.suggested] == [yes]
    assert found[0].probability > 0.5 and len(found) == 10
    first = found[0].evidence[0]
    assert set(text[first.start : first.stop].split()) & set(planted.phrases[yes].split())


def test_the_command_prints_codes_and_writes_their_places(
    run: Path, planted: PlantedNotes, tmp_path: Path
) -> None:
    code = next(iter(planted.phrases))
    note = tmp_path / "note.txt"
    note.write_text(NOTE.format(yes=planted.phrases[code], no="pain"))
    out = tmp_path / "codes.json"
    done = CliRunner().invoke(app, ["code", str(note), "--model", str(run), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert code in done.output
    (first, *_) = json.loads(out.read_text())
    assert first["code"] == code and first["suggested"] and first["evidence"]


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such file; check the path"), (b"\xff\xfe", "not UTF-8 text")]
)
def test_a_note_that_cannot_be_read_is_told(
    run: Path, tmp_path: Path, content: bytes | None, said: str
) -> None:
    note = tmp_path / "note.txt"
    if content is not None:
        note.write_bytes(content)
    done = CliRunner().invoke(app, ["code", str(note), "--model", str(run)])
    assert isinstance(done.exception, WardroundError) and said in str(done.exception)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (" \n", {}, "the note is empty"),
        ("a note", {"task": "icd9"}, "no code system 'icd9'; it has icd10"),
        ("a note", {"model": "laat"}, "no model 'laat'; it has bag_of_words, caml"),
        ("a note", {"model": "frequency_prior"}, "no model 'frequency_prior'"),
    ],
)
def test_what_a_user_asks_wrongly_is_told(
    run: Path, text: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(WardroundError, match=said):
        system.suggest_codes(run, text, **options)


def test_the_report_shows_errors_by_band_and_words_by_code(
    run: Path, results: Results, planted: PlantedNotes
) -> None:
    (task,) = results.tasks
    titles = [banded.title for banded in task.banded]
    assert any("how often" in title for title in titles)
    assert any("words" in title for title in titles)
    assert task.excerpts
    phrases = {word for phrase in planted.phrases.values() for word in phrase.split()}
    told = [
        bool(phrases & set(excerpt.text[span.start : span.stop].split()))
        for excerpt in task.excerpts
        for span in excerpt.spans[:1]
    ]
    assert np.mean(told) > 0.7
    page = (run / "report.html").read_text()
    assert "<mark" in page and "Macro F1 (as formerly computed)" in page


def test_predictions_hold_what_was_billed_and_what_was_suggested(run: Path) -> None:
    rows = pl.read_parquet(run / "predictions.parquet").filter(pl.col("model") == "caml")
    assert set(rows["split"]) == {"held_out"}
    assert (rows["boolean_value"] | rows["predicted_boolean_value"]).all()
    cohort = read_coding(run / "work/icd10/documents/cohort")
    assert rows["boolean_value"].sum() == cohort.targets[cohort.rows("held_out")].sum()


def test_a_store_without_notes_is_told(tmp_path: Path, make_store: Callable) -> None:
    events = [{"subject_id": s, "time": None, "code": "GENDER//F"} for s in range(1, 9)]
    config = system.Config.build("tiny", [])
    with pytest.raises(WardroundError, match="has none; ingest the note module"):
        run_system(system, make_store(events), config, tmp_path / "runs")


def test_a_floor_alone_is_measured_and_gives_no_codes(
    planted: PlantedNotes, tmp_path: Path
) -> None:
    settings = ["models=[frequency_prior]", "control=false", "bootstrap=20"]
    done = run_system(system, planted.store, system.Config.build("tiny", settings), tmp_path)
    assert [m.name for m in load_results(done.path).tasks[0].models] == ["frequency_prior"]
    with pytest.raises(WardroundError, match="no model that reads notes"):
        system.suggest_codes(done.path, "a note")


def test_evidence_joins_neighbours_and_ranks_pieces() -> None:
    spans = np.array([[-1, -1], [0, 4], [5, 9], [20, 25], [40, 44], [50, 52]])
    weights = np.array([0.5, 0.1, 0.15, 0.2, 0.01, 0.05])
    found = evidence_spans(weights, spans)
    assert [(s.start, s.stop) for s in found] == [(0, 9), (20, 25), (50, 52)]
    assert found[0].weight == pytest.approx(0.25)
    assert evidence_spans(np.zeros(6), spans) == []


def test_even_attention_shows_no_more_than_a_few_words() -> None:
    starts = 5 * np.arange(200)
    found = evidence_spans(np.full(200, 1 / 200), np.column_stack([starts, starts + 4]))
    assert len(found) == 3
    assert all(span.stop - span.start < 60 for span in found)


def test_every_published_model_is_set_up_as_the_paper_says() -> None:
    config = system.Config.build("paper", [])
    recipes = {
        name: (recipe.learning_rate, recipe.weight_decay, recipe.batch, recipe.dropout)
        for name, recipe in config.recipes
    }
    assert recipes["laat"] == (1e-3, 1e-3, 8, 0.3)
    assert recipes["multi_res_cnn"] == (5e-4, 1e-4, 16, 0.2)
    assert recipes["plm_icd"] == (5e-5, 0, 16, None)
    assert (config.schedule.epochs, config.schedule.patience) == (20, 6)
    assert config.text.max_words == 4_000


def test_a_recipe_given_in_part_keeps_the_rest() -> None:
    config = system.Config.build("paper", ["recipes.laat.batch=2"])
    assert config.recipes.laat.batch == 2
    assert config.recipes.laat.dropout == 0.3
    assert config.recipes.caml.learning_rate == 5e-3
