"""ETHOS-ARES from records to a report: on a small hospital, on the open demo, interrupted."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from wardround import cli
from wardround.errors import WardroundError
from wardround.runs import load_results, run_system
from wardround.store import PatientStore, open_store
from wardround.system import load_system
from wardround.systems.ethos_ares.config import RUNNING, EthosAresConfig
from wardround.systems.ethos_ares.decoder import load_decoder
from wardround.systems.ethos_ares.prepared import LATER, derived, prepare, some_subjects
from wardround.views.timeline import Tokeniser
from wardround.workdir import Workdir

SYSTEM = load_system("ethos-ares")
#: The package has a system of that name, which hides the module.
module = sys.modules["wardround.systems.ethos_ares.system"]
TASKS = ("hospital-mortality", "icu-admission", "ed-hospitalisation", "length-of-stay", "drg")
#: A run that takes seconds: what it learns is nothing, what it does is everything.
QUICK = [
    "network.context=128",
    "network.layers=1",
    "network.width=16",
    "network.heads=2",
    "network.hidden=32",
    "training.iterations=12",
    "training.decay=12",
    "training.warmup=2",
    "training.evaluate_every=6",
    "simulation.futures=2",
    "simulation.max_predictions=12",
    "simulation.max_tokens=40",
    "windowed_counts.trees=5",
    "windowed_counts.windows=[1d,full]",
    "baselines=[news2, logistic_regression, lightgbm]",
    "bootstrap=20",
    "threads=1",
]


def quick(*more: str, tasks: tuple[str, ...] = TASKS) -> EthosAresConfig:
    return EthosAresConfig.build("tiny", [*QUICK, f"tasks=[{', '.join(tasks)}]", *more])


@pytest.fixture(scope="session")
def run(hospital, once) -> Path:
    """A finished run on the small hospital."""
    folder = once("ethos-run", lambda path: run_system(SYSTEM, hospital.store, quick(), path))
    return next((folder / "ethos-ares").iterdir())


def test_a_run_measures_every_task_beside_baselines_and_control(run) -> None:
    results = load_results(run)
    names = [task.name for task in results.tasks]
    later = [name + LATER for name in TASKS if name in RUNNING]
    assert sorted(names) == sorted([*TASKS, *later])
    for task in results.tasks:
        models = [model.name for model in task.models]
        if task.name in ("length-of-stay", "drg"):
            assert models == ["ethos"]
            assert task.splits[0].positives is None
            assert task.models[0].metrics
        else:
            assert models[0] == "ethos"
            assert [control.name for control in task.controls] == ["shuffled_labels"]
            assert task.models[0].subgroups
    assert {curve.label for curve in results.training} == {"ETHOS", "Futures dealt out anew"}
    assert [len(curve.tokens) for curve in results.training] == [2, 1]  # the control learns half
    assert results.departures and not results.undone
    assert not (run / "checkpoints").exists()


def test_predictions_are_of_tuning_and_held_out_subjects(run, hospital) -> None:
    rows = pl.read_parquet(run / "predictions.parquet")
    splits = dict(hospital.store.splits().iter_rows())
    assert set(rows["split"]) == {"tuning", "held_out"}
    assert all(
        splits[subject] == split for subject, split in rows[["subject_id", "split"]].iter_rows()
    )
    risk = rows["predicted_boolean_probability"]
    assert risk.is_between(0, 1).all()
    counts = rows.group_by("task", "model").len()
    assert (
        counts.group_by("task").agg(pl.col("len").n_unique())["len"].to_list()
        == [1] * counts["task"].n_unique()
    ), "every model predicts the same rows"


def test_vocabulary_quantiles_and_weights_come_from_train_alone(run, hospital, tmp_path) -> None:
    """Spoiling what is held out changes nothing that was learnt."""
    splits = hospital.store.splits()
    train = splits.filter(pl.col("split") == "train")["subject_id"]
    kept = Tokeniser.load(run / "model" / "tokeniser")
    alone = Tokeniser.fit(hospital.store, kept.preset, subjects=train, derived=derived(quick()))
    assert alone.vocabulary.tokens == kept.vocabulary.tokens
    assert alone.breaks == kept.breaks


def test_a_killed_run_goes_on_and_ends_the_same(run, hospital, tmp_path, monkeypatch) -> None:
    """Stopped in the middle of the simulation; what was finished is found again."""
    real, calls = module.estimate_risks, []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "estimate_risks", dies)
    with pytest.raises(KeyboardInterrupt):
        run_system(SYSTEM, hospital.store, quick(), tmp_path)
    monkeypatch.setattr(module, "estimate_risks", real)
    again = run_system(SYSTEM, hospital.store, quick(), tmp_path)
    assert again.origin == "resumed"
    first, second = load_results(run), load_results(again.path)
    assert first.tasks == second.tasks
    assert any(stage.skipped for stage in second.stages)


def test_the_files_that_settings_name_are_part_of_a_run(hospital, tmp_path) -> None:
    task = tmp_path / "dies.yaml"
    text = "title: Death\nstart: {stay: hospital, edge: start}\nevent: MEDS_DEATH\nhorizon: "
    hashes = []
    for horizon in ("30d", "60d"):
        task.write_text(text + horizon)
        hashes.append(quick(tasks=(str(task),)).file_hashes())
    assert hashes[0] != hashes[1]
    task.unlink()
    with pytest.raises(WardroundError, match="a setting names it"):
        quick(tasks=(str(task),)).file_hashes()


def test_a_task_that_the_store_cannot_answer_is_left_out(make_store, hospital, tmp_path) -> None:
    """Without an emergency department the rest still runs; the reason is kept."""
    store = hospital.store
    stays = store.stays().filter(pl.col("kind") != "ed").collect()
    events = store.events().filter(~pl.col("code").str.starts_with("ED//")).collect()
    bare = make_store(events.with_columns(stay_id=pl.lit(None, pl.Int64)), stays)
    prepared = prepare(bare, quick(), Workdir(tmp_path / "work"))
    assert "hospital-mortality" in prepared.tasks
    assert "needs ed stays" in prepared.skipped["ed-hospitalisation"]


def test_published_rules_run_to_the_end(hospital, tmp_path) -> None:
    config = quick("paper_compat=true", tasks=("icu-mortality", "sofa"))
    done = run_system(SYSTEM, hospital.store, config, tmp_path)
    results = load_results(done.path)
    assert [task.name for task in results.tasks] == ["icu-mortality", "sofa"]
    assert results.undone
    sofa = next(task for task in results.tasks if task.name == "sofa")
    assert sofa.splits[-1].rows > 0


def test_subjects_are_drawn_alike_for_all_tasks() -> None:
    rows = pl.DataFrame({"subject_id": np.repeat(np.arange(50), 3)})
    other = rows.filter(pl.col("subject_id") % 2 == 0)
    subjects = np.arange(50)
    first = some_subjects(rows, 30, subjects, seed=1)["subject_id"].unique().sort()
    second = some_subjects(other, 30, subjects, seed=1)["subject_id"].unique().sort()
    assert len(first) == 10 and len(second) == 10
    assert set(first.filter(first % 2 == 0)) <= set(second)


# wardround risk --------------------------------------------------------------------------------


def a_stay(store: PatientStore, split: str = "held_out") -> dict[str, object]:
    stays = store.stays().collect().join(store.splits(), on="subject_id")
    long = pl.col("end") - pl.col("start") > timedelta(days=3)
    found = stays.filter(pl.col("kind") == "hospital", pl.col("split") == split, long)
    return found.sort("stay_id").row(0, named=True)


def test_curves_of_a_stay_end_at_until(run, hospital) -> None:
    stay = a_stay(hospital.store)
    until = stay["start"] + timedelta(days=1)
    curves = SYSTEM.stay_risk(run, hospital.store, stay["stay_id"], until=until, points=4, movers=1)
    assert [curve.task for curve in curves.curves] == ["hospital-mortality", "icu-admission"]
    mortality = curves.curve("hospital-mortality")
    assert mortality.points[0].time == stay["start"]
    assert all(point.time <= until for curve in curves.curves for point in curve.points)
    assert all(event.time <= until for event in curves.events)
    assert curves.end is None and not curves.outcomes
    assert not any("learnt from this very patient" in note for note in curves.notes)


def test_an_ed_visit_is_followed_to_its_end(run, hospital) -> None:
    """Its own arrival, which competes with an admission, settles nothing."""
    stays = hospital.store.stays().filter(pl.col("kind") == "ed").collect().sort("stay_id")
    for stay in stays.head(5).iter_rows(named=True):
        curves = SYSTEM.stay_risk(run, hospital.store, stay["stay_id"], points=2, movers=0)
        (curve,) = curves.curves
        assert curve.task == "ed-hospitalisation" and curve.points
        assert curve.points[0].time == stay["start"]
        assert curve.settled is None or curve.settled > stay["start"]


def test_the_tasks_are_those_that_the_run_asked(run) -> None:
    """A task left out, or a file changed since, changes nothing for a finished run."""
    asked = {path.parent.name for path in (run / "work").glob("*/task.json")}
    assert asked == {*TASKS, *(name + LATER for name in TASKS if name in RUNNING)}


def test_two_tasks_of_one_name_are_refused(hospital, tmp_path) -> None:
    own = tmp_path / "hospital-mortality.yaml"
    own.write_text(
        "title: Mine\nstart: {stay: hospital, edge: start}\nevent: MEDS_DEATH\nhorizon: 9d\n"
    )
    config = quick(tasks=("hospital-mortality", str(own)))
    with pytest.raises(WardroundError, match="rename hospital-mortality"):
        prepare(hospital.store, config, Workdir(tmp_path / "work"))


def test_a_patient_of_train_is_named(run, hospital) -> None:
    stay = a_stay(hospital.store, "train")
    curves = SYSTEM.stay_risk(run, hospital.store, stay["stay_id"], points=1, movers=0)
    assert any("learnt from this very patient" in note for note in curves.notes)


def test_the_command_draws_a_page(run, hospital, tmp_path, capsys, monkeypatch) -> None:
    stay, page = a_stay(hospital.store), tmp_path / "page.html"
    command = ["wardround", "risk", "--stay", str(stay["stay_id"]), "--model", str(run)]
    monkeypatch.setattr("sys.argv", [*command, "--points", "3", "--out", str(page)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "Death in hospital" in capsys.readouterr().out
    assert "<html" in page.read_text()


@pytest.mark.parametrize(
    ("stay", "message"), [(12, "has no stay 12"), (None, "no run's tasks|none of the run's tasks")]
)
def test_a_stay_that_cannot_be_followed_is_one_line(run, hospital, stay, message) -> None:
    if stay is None:
        icu = hospital.store.stays().filter(pl.col("kind") == "icu").collect()
        stay = icu["stay_id"][0]
    with pytest.raises(WardroundError, match=message):
        SYSTEM.stay_risk(run, hospital.store, stay)


# Real records ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_runs_from_tokens_to_a_page(demo, tmp_path) -> None:
    config = quick(
        "training.iterations=60", "training.decay=60", tasks=("hospital-mortality", "drg")
    )
    done = run_system(SYSTEM, demo, config, tmp_path)
    results = load_results(done.path)
    flow = results.tasks[0].flow
    admissions = demo.stays().filter(pl.col("kind") == "hospital").collect()
    assert flow[0].rows == len(admissions) == 275
    decoder = load_decoder(done.path / "model" / "ethos")
    vocabulary = json.loads((done.path / "model" / "tokeniser" / "vocabulary.json").read_text())
    assert decoder.sizes.vocabulary == len(vocabulary["tokens"])
    stay = admissions.sort("stay_id").row(0, named=True)
    curves = SYSTEM.stay_risk(done.path, open_store(demo.path), stay["stay_id"], points=3)
    assert curves.curve("hospital-mortality").points
