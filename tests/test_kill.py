"""SIGKILL at any moment leaves the old state, or one that the next start goes on from."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from wardround.runs import load_results
from wardround.sources.hospital import generate_hospital
from wardround.sources.mimic import ingest_mimic
from wardround.store import open_store
from wardround.workdir import read_record

COMMAND = [sys.executable, "-c", "from wardround.cli import main; main()"]
SETTINGS = {
    "tasks": "[ed-hospitalisation]",
    "models": "[news, logistic_regression, random_forest, lightgbm, mlp]",
    "forest_trees": 20,
    "control_repeats": 2,
    "bootstrap": 50,
    "threads": 1,
}
SLOW = pytest.param(20, marks=pytest.mark.slow)


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def undisturbed(began: Callable[[], bool], *arguments: object) -> float:
    """Seconds of work from its first sign to the end of the process."""
    process = start(*arguments)
    await_sign(process, began)
    at = time.perf_counter()
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    return time.perf_counter() - at


def kill(began: Callable[[], bool], delay: float, *arguments: object) -> None:
    """SIGKILL a command so long after its first sign of work."""
    process = start(*arguments)
    await_sign(process, began)
    time.sleep(delay)
    process.kill()
    process.communicate()


def await_sign(process: subprocess.Popen[bytes], began: Callable[[], bool]) -> None:
    while not began() and process.poll() is None:
        time.sleep(0.002)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def files(once) -> Path:
    return once("kill-hospital", lambda path: generate_hospital(path, patients=120, seed=1))


@pytest.fixture(scope="module")
def old_store(once) -> Path:
    """Another hospital's, which stands where the new one shall."""

    def build(path: Path) -> None:
        generate_hospital(path.with_name("kill-other-hospital"), patients=40, seed=2)
        ingest_mimic([path.with_name("kill-other-hospital")], path)

    return once("kill-old-store", build)


@pytest.mark.parametrize("kills", [2, SLOW])
@pytest.mark.parametrize("over", ["nothing", "a store"])
def test_a_killed_ingest_changes_nothing(files, old_store, tmp_path, kills, over):
    dest, building = tmp_path / "here" / "store", tmp_path / "here" / ".store.building"
    command = ["ingest", files, dest, "--threads", 1] + ["--force"] * (over == "a store")
    old = open_store(old_store).fingerprint if over == "a store" else None
    work = undisturbed(building.exists, *command)
    whole = open_store(dest).fingerprint
    delays, unfinished = random.Random(1), 0
    for _ in range(kills):
        if dest.exists() and open_store(dest).fingerprint != old:
            shutil.rmtree(dest)
        if old and not dest.exists():
            shutil.copytree(old_store, dest)
        shutil.rmtree(building, ignore_errors=True)  # it is the sign of work
        delay = delays.uniform(0, work)
        kill(building.exists, delay, *command)
        found = None
        if old or dest.exists():
            store = open_store(dest)
            store.verify()
            found = store.fingerprint
        assert found in (old, whole)
        if found == whole:
            work = delay  # it was done by then
        unfinished += found != whole
    print(f"{unfinished} of {kills} kills met work")
    assert unfinished >= kills / 2, "most kills must meet work"
    shutil.rmtree(dest, ignore_errors=True)
    undisturbed(dest.exists, *command)
    assert open_store(dest).fingerprint == whole
    assert not list(dest.parent.glob(".*"))


@pytest.mark.parametrize("kills", [4, SLOW])
def test_a_killed_run_is_resumed(files, once, tmp_path, kills):
    store = once("kill-store", lambda path: ingest_mimic([files], path))
    command = ["run", "ed-triage", "--data", store]
    for key, value in SETTINGS.items():
        command += ["--set", f"{key}={value}"]

    def logged(runs: Path) -> int:
        return sum(log.stat().st_size for log in runs.glob("ed-triage/*/log.txt"))

    def folder(runs: Path) -> Path:
        (only,) = (runs / "ed-triage").iterdir()
        return only

    calm = tmp_path / "undisturbed"
    work = undisturbed(lambda: logged(calm) > 0, *command, "--runs", calm)
    expected = load_results(folder(calm)).model_copy(update={"stages": []})
    delays, sent, unfinished = random.Random(1), 0, 0
    while sent < kills:
        runs = tmp_path / f"killed-{sent}"
        done: set[str] = set()
        for _ in range(min(4, kills - sent)):
            before = logged(runs)
            delay = delays.uniform(0, work * 0.6)
            kill(lambda r=runs, b=before: logged(r) > b, delay, *command, "--runs", runs)
            sent += 1
            run = folder(runs)
            if (run / "report.html").exists():
                break
            unfinished += 1
            stages = {str(file.parent.relative_to(run)) for file in run.rglob("stage.json")}
            assert done <= stages
            done = {stage for stage in stages if "/." not in stage}  # others were half built
            assert all(read_record(run / stage) for stage in done)
        undisturbed(lambda: True, *command, "--runs", runs)
        found = load_results(folder(runs))
        assert done <= {stage.name for stage in found.stages if stage.skipped}
        assert found.model_copy(update={"stages": []}) == expected
        assert pl.read_parquet(folder(runs) / "predictions.parquet").equals(
            pl.read_parquet(folder(calm) / "predictions.parquet")
        )
        assert [path.name for path in folder(runs).rglob(".*")] == [".lock"]
    print(f"{unfinished} of {kills} kills met work")
    assert unfinished >= kills / 2, "most kills must meet work"


@pytest.mark.slow
def test_a_killed_generator_changes_nothing(files, tmp_path):
    dest = tmp_path / "hospital"
    command = ["hospital", dest, "--patients", 60, "--seed", 5, "--force"]
    work = undisturbed(lambda: any(tmp_path.glob(".hospital.*")), *command)
    whole, old = contents(dest), contents(files)
    delays, unfinished, kills = random.Random(1), 0, 10
    for _ in range(kills):
        if not dest.exists() or contents(dest) != old:
            shutil.rmtree(dest, ignore_errors=True)
            shutil.copytree(files, dest)
        for leftover in tmp_path.glob(".hospital.*"):  # the sign of work
            shutil.rmtree(leftover)
        delay = delays.uniform(0, work)
        kill(lambda: any(tmp_path.glob(".hospital.*")), delay, *command)
        found = contents(dest)
        assert found in (old, whole)
        if found == whole:
            work = delay
        unfinished += found == old
    print(f"{unfinished} of {kills} kills met work")
    assert unfinished >= kills / 2, "most kills must meet work"
    undisturbed(lambda: True, *command)
    assert contents(dest) == whole
    assert not list(tmp_path.glob(".*"))
