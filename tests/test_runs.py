"""Run folders: made once for an identity, resumed after a failure, found when finished."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import meds
import numpy as np
import polars as pl
import pytest
import yaml

from wardround import __version__
from wardround.errors import WardroundError
from wardround.evaluation import (
    FlowStep,
    Reported,
    Resamples,
    Results,
    SplitCount,
    TaskResult,
    evaluate_binary,
)
from wardround.runs import _release_of, load_results, run_system, write_report
from wardround.store import PatientStore
from wardround.system import Card, Evaluation, System, SystemConfig
from wardround.workdir import Workdir

DAY = datetime(2150, 1, 1)
#: Odd ids have a high value more often.
ROWS = [
    {"subject_id": s, "time": DAY, "code": "LAB//1", "numeric_value": (s * 7 % 10) + 3.0 * (s % 2)}
    for s in range(1, 200)
]


class OddIdsConfig(SystemConfig):
    presets: ClassVar[dict[str, dict[str, Any]]] = {"tiny": {}, "paper": {"weight": 2.0}}
    weight: float = 1.0


class OddIds:
    """Predicts from one value whether a subject's id is odd; `calls` counts what was built."""

    Config = OddIdsConfig
    card = Card(
        name="odd-ids",
        title="Odd ids",
        paper="Nobody et al. 2150",
        summary="s",
        needs="n",
        hardware="h",
        state="complete",
        tasks={"odd": {"title": "Odd", "description": "The id is odd."}},
        models={"value": "Value"},
        reported_tables=[{"source": "table 1", "values": {"value": {"odd": {"auroc": 0.9}}}}],
        departures=["The subjects are numbers."],
        paper_compat=[],
    )

    def __init__(self, stop_in_fit: BaseException | None = None) -> None:
        self.stop_in_fit = stop_in_fit
        self.calls: list[str] = []

    def prepare(self, store: PatientStore, config: OddIdsConfig, workdir: Workdir) -> Path:
        def build(folder: Path) -> None:
            self.calls.append("prepare")
            store.events().collect().write_parquet(folder / "table.parquet")

        return workdir.stage("work/odd", build, inputs={"store": store.fingerprint})

    def fit(self, prepared: Path, config: OddIdsConfig, workdir: Workdir) -> Path:
        def build(folder: Path) -> None:
            self.calls.append("fit")
            (folder / "half").touch()
            if self.stop_in_fit is not None:
                raise self.stop_in_fit
            noise = np.random.default_rng(config.seed).normal(size=len(ROWS))
            np.save(folder / "noise.npy", noise * config.weight)

        return workdir.stage("model/odd/value", build, inputs={"weight": config.weight})

    def evaluate(
        self, fitted: Path, prepared: Path, config: OddIdsConfig, workdir: Workdir
    ) -> Evaluation:
        self.calls.append("evaluate")
        table = pl.read_parquet(prepared / "table.parquet").sort("subject_id")
        logit = table["numeric_value"].to_numpy() - 6 + np.load(fitted / "noise.npy")
        risk, y = 1 / (1 + np.exp(-logit)), table["subject_id"].to_numpy() % 2 == 1
        resamples = Resamples(table["subject_id"].to_numpy(), 30, config.seed)
        task = TaskResult(
            name="odd",
            title="Odd",
            description="d",
            flow=[FlowStep(step="all", rows=len(y), subjects=len(y))],
            splits=[
                SplitCount(split="held_out", subjects=len(y), rows=len(y), positives=int(y.sum()))
            ],
            models=[evaluate_binary("value", "Value", y, risk, resamples)],
        )
        predictions = table.select(
            "subject_id",
            prediction_time=pl.col("time") + timedelta(hours=1),
            boolean_value=pl.Series(y),
            predicted_boolean_value=pl.Series(risk > 0.5),
            predicted_boolean_probability=pl.Series(risk),
            task=pl.lit("odd"),
            model=pl.lit("value"),
            split=pl.lit("held_out"),
            of_no_concern=pl.lit(1),
        )
        return Evaluation(Results(tasks=[task]), predictions)


@pytest.fixture
def store(make_store) -> PatientStore:
    return make_store(ROWS)


def folders(runs: Path) -> list[str]:
    return sorted(path.name for path in (runs / "odd-ids").iterdir())


def numbers(run: Path) -> Results:
    """Without what differs between any two runs."""
    return load_results(run).model_copy(update={"stages": []})


def test_a_run_is_made_once_then_found_and_made_anew_on_request(store, tmp_path):
    system = OddIds()
    assert isinstance(system, System)
    config, runs = OddIdsConfig.build("tiny"), tmp_path / "runs"
    first = run_system(system, store, config, runs)
    assert first.origin == "new"
    assert system.calls == ["prepare", "fit", "evaluate"]
    found = run_system(system, store, config, runs)
    assert (found.path, found.origin) == (first.path, "found")
    assert system.calls == ["prepare", "fit", "evaluate"]
    fresh = run_system(system, store, config, runs, fresh=True)
    assert fresh.origin == "new" and fresh.path != first.path
    assert system.calls == ["prepare", "fit", "evaluate"] * 2
    assert numbers(fresh.path) == numbers(first.path), "same seed, same metrics"
    assert run_system(system, store, config, runs).path == fresh.path, "the newest is found"


def test_what_a_run_is_depends_on_its_package_and_not_on_threads(store, tmp_path, monkeypatch):
    system, runs = OddIds(), tmp_path / "runs"
    first = run_system(system, store, OddIdsConfig.build("tiny"), runs)
    threaded = run_system(system, store, OddIdsConfig.build("tiny", ["threads=2"]), runs)
    assert (threaded.path, threaded.origin) == (first.path, "found")
    # The system comes in another release of its package: its numbers may be others.
    monkeypatch.setattr("wardround.runs._release_of", lambda name: "odd 2.0")
    assert run_system(system, store, OddIdsConfig.build("tiny"), runs).origin == "new"


def test_a_system_is_known_by_the_package_that_it_comes_in():
    assert _release_of("ed-triage") == f"wardround {__version__}"
    assert _release_of("odd-ids") is None, "not installed"


def test_the_folder_tells_how_the_run_came_about(store, tmp_path):
    config = OddIdsConfig.build("tiny", ["weight=0.5"])
    run = run_system(OddIds(), store, config, tmp_path / "runs")
    names = {path.name for path in run.path.iterdir() if path.name != ".lock"}
    assert names == {
        *("config.yaml", "environment.json", "run.json", "log.txt"),
        *("work", "model", "predictions.parquet", "metrics.json", "report.html"),
    }
    saved = yaml.safe_load((run.path / "config.yaml").read_text())
    assert OddIdsConfig.model_validate(saved) == config
    about = json.loads((run.path / "run.json").read_text())
    assert about["store_fingerprint"] == store.fingerprint
    environment = json.loads((run.path / "environment.json").read_text())
    assert {"numpy", "polars", "torch"} <= set(environment["packages"])
    log = (run.path / "log.txt").read_text()
    assert "work/odd" in log and log.endswith("finished\n")
    assert not logging.getLogger("wardround").handlers


def test_metrics_carry_the_card_the_data_and_the_stages(store, tmp_path):
    run = run_system(OddIds(), store, OddIdsConfig.build("paper"), tmp_path / "runs")
    results = load_results(run.path)
    assert Results.from_json(results.to_json()) == results
    assert (run.path / "metrics.json").read_text() == results.to_json()
    assert (results.system, results.title, results.preset) == ("odd-ids", "Odd ids", "paper")
    assert results.reported == [
        Reported(task="odd", model="value", metric="auroc", value=0.9, source="table 1")
    ]
    assert results.departures == ["The subjects are numbers."]
    assert results.config["weight"] == 2
    assert results.data["fingerprint"] == store.fingerprint
    assert results.data["subjects"] == results.data["events"] == len(ROWS)
    assert [(s.name, s.skipped) for s in results.stages] == [
        ("work/odd", False),
        ("model/odd/value", False),
    ]
    assert results.tasks[0].models[0].metrics["auroc"].value > 0.6


def test_predictions_are_meds_predictions(store, tmp_path):
    run = run_system(OddIds(), store, OddIdsConfig(), tmp_path / "runs")
    table = pl.read_parquet(run.path / "predictions.parquet")
    assert table.columns == [
        "subject_id",
        "prediction_time",
        "boolean_value",
        "predicted_boolean_value",
        "predicted_boolean_probability",
        *("task", "model", "split"),
    ]
    labels = table.select("subject_id", "prediction_time", "boolean_value")
    meds.LabelSchema.validate(meds.LabelSchema.align(labels.to_arrow()))
    assert len(table) == len(ROWS)
    assert table["predicted_boolean_probability"].is_between(0, 1).all()


@pytest.mark.parametrize(
    "stop", [RuntimeError("no"), KeyboardInterrupt(), WardroundError("a mistake")]
)
def test_a_stopped_run_goes_on_where_it_stood(store, tmp_path, stop):
    config, runs = OddIdsConfig(), tmp_path / "runs"
    with pytest.raises(type(stop)):
        run_system(OddIds(stop_in_fit=stop), store, config, runs)
    (stopped,) = folders(runs)
    folder = runs / "odd-ids" / stopped
    assert f"stopped: {type(stop).__name__}" in (folder / "log.txt").read_text()
    assert not (folder / "model" / "odd" / "value").exists()
    assert not (folder / "metrics.json").exists()
    again = OddIds()
    run = run_system(again, store, config, runs)
    assert (run.path, run.origin) == (folder, "resumed")
    assert again.calls == ["fit", "evaluate"]
    assert [s.skipped for s in load_results(folder).stages] == [True, False]
    whole = run_system(OddIds(), store, config, tmp_path / "elsewhere")
    assert numbers(run.path) == numbers(whole.path)


def test_what_a_killed_start_left_is_cleared(store, tmp_path):
    config, runs = OddIdsConfig(), tmp_path / "runs"
    with pytest.raises(RuntimeError):
        run_system(OddIds(stop_in_fit=RuntimeError()), store, config, runs)
    (folder,) = (runs / "odd-ids").iterdir()
    half = folder / "model" / "odd" / ".value.12345.tmp"
    half.mkdir(parents=True)
    (half / "stage.json").write_text("{")
    (folder / ".metrics.json.12345.tmp").write_text("{")
    assert run_system(OddIds(), store, config, runs).origin == "resumed"
    assert [path.name for path in folder.rglob(".*")] == [".lock"]


def test_another_setting_or_other_data_is_another_run(make_store, store, tmp_path):
    runs = tmp_path / "runs"
    first = run_system(OddIds(), store, OddIdsConfig(), runs)
    other_setting = run_system(OddIds(), store, OddIdsConfig(weight=3), runs)
    changed = [{**row, "numeric_value": 0.0} if row is ROWS[0] else row for row in ROWS]
    other_data = run_system(OddIds(), make_store(changed, name="b"), OddIdsConfig(), runs)
    same_data = run_system(OddIds(), make_store(ROWS, name="c"), OddIdsConfig(), runs)
    assert other_setting.origin == other_data.origin == "new"
    assert (same_data.path, same_data.origin) == (first.path, "found"), "a copy is the same data"
    assert len(folders(runs)) == 3


def test_the_seed_makes_the_metrics(store, tmp_path):
    first = run_system(OddIds(), store, OddIdsConfig(seed=1), tmp_path / "a")
    same = run_system(OddIds(), store, OddIdsConfig(seed=1), tmp_path / "b")
    other = run_system(OddIds(), store, OddIdsConfig(seed=2), tmp_path / "c")
    assert numbers(first.path) == numbers(same.path)
    assert numbers(first.path).tasks != numbers(other.path).tasks


def test_two_processes_do_not_share_a_run(store, tmp_path):
    config, runs = OddIdsConfig(), tmp_path / "runs"
    with pytest.raises(RuntimeError):
        run_system(OddIds(stop_in_fit=RuntimeError()), store, config, runs)
    (folder,) = (runs / "odd-ids").iterdir()
    code = (
        "import sys, filelock\n"
        "with filelock.FileLock(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, folder / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(WardroundError, match=r"another process is working on .*--fresh"):
            run_system(OddIds(), store, config, runs)
        other.communicate()
    assert run_system(OddIds(), store, config, runs).origin == "resumed"


def test_a_damaged_folder_beside_is_no_obstacle(store, tmp_path):
    runs = tmp_path / "runs"
    (runs / "odd-ids" / "20990101-000000-000").mkdir(parents=True)
    (runs / "odd-ids" / "20990101-000000-000" / "run.json").write_text("{")
    assert run_system(OddIds(), store, OddIdsConfig(), runs).origin == "new"


def test_a_report_is_rendered_again_from_the_metrics_alone(store, tmp_path):
    run = run_system(OddIds(), store, OddIdsConfig(), tmp_path / "runs")
    first = run.report.read_text()
    run.report.unlink()
    assert write_report(run.path) == run.report
    assert run.report.read_text() == first


@pytest.mark.parametrize("text", [None, "{", "{}", '{"tasks": 3}'])
def test_what_is_not_a_finished_run_is_refused(tmp_path, text):
    folder = tmp_path / "run"
    if text is not None:
        folder.mkdir()
        (folder / "metrics.json").write_text(text)
    with pytest.raises(WardroundError, match=r"not a finished run|cannot be read") as raised:
        write_report(folder)
    assert len(str(raised.value).splitlines()) == 1
    assert folder.exists() == (text is not None)
    assert not (folder / "report.html").exists()
