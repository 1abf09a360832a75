"""The commands: what they print, and one line for each mistake."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import wardround
from wardround import cli
from wardround.errors import WardroundError
from wardround.store import open_store

QUICK = [
    *("--set", "tasks=[ed-hospitalisation]", "--set", "models=[news, esi]"),
    *("--set", "bootstrap=20", "--set", "control_repeats=1"),
    *("--set", "forest_trees=5", "--set", "threads=1"),
]


@dataclass(frozen=True)
class Outcome:
    status: object
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command as the shell would; Python prints the text that a program exits with."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["wardround", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed, code = capsys.readouterr(), ended.value.code
        if isinstance(code, str):
            return Outcome(1, printed.out, printed.err + code + "\n")
        return Outcome(code or 0, printed.out, printed.err)

    return run


def finished(outcome: Outcome) -> str:
    assert (outcome.status, outcome.err) == (0, "")
    return outcome.out


def mistake(outcome: Outcome) -> str:
    assert outcome.status == 1
    assert outcome.err.startswith("wardround: ")
    assert len(outcome.err.splitlines()) == 1
    return outcome.err


def folder_in(text: str) -> Path:
    """The run folder that `run` names last."""
    found = re.search(r"^Report: (.+)/report\.html$", text, re.MULTILINE)
    assert found is not None
    return Path(found[1])


@pytest.fixture(scope="module")
def runs(once, hospital) -> Path:
    """Two finished runs of other seeds, and one of another task."""

    def build(place: Path) -> None:
        for settings in (["seed=1"], ["seed=2"], ["tasks=[ed-critical]"]):
            argv = ["run", "ed-triage", "--data", hospital.store.path, "--runs", place, *QUICK]
            for setting in settings:
                argv += ["--set", setting]
            cli.app([str(part) for part in argv], standalone_mode=False)

    return once("cli-runs", build) / "ed-triage"


def test_version_and_systems(call):
    assert finished(call("--version")).strip() == wardround.__version__
    listed = finished(call("systems"))
    assert "ed-triage" in listed and "complete" in listed


def test_a_hospital_becomes_a_store(call, tmp_path):
    place = tmp_path / ("a rather long name for a folder " * 3)
    said = finished(call("hospital", place / "hospital", "--patients", 20, "--seed", 4))
    assert said.startswith(f"{place}/hospital: 20 patients, ")
    assert len(said.splitlines()) == 1
    said = finished(call("ingest", place / "hospital", place / "store", "--threads", 1))
    assert f"Store: {place}/store\n" in said, "a path can be copied from the screen"
    assert re.search(r"hosp/admissions", said)
    store = open_store(place / "store")
    assert store.access == "synthetic"
    assert f"store {place}/store: complete" in finished(call("doctor", "--data", store.path))
    assert "exists" in mistake(call("ingest", place / "hospital", place / "store"))
    finished(call("ingest", place / "hospital", place / "store", "--force"))
    assert open_store(place / "store").fingerprint == store.fingerprint


def test_ingest_takes_the_tables_that_it_is_asked_for(call, hospital, tmp_path):
    wanted = "ed, hosp/patients, hosp/admissions"
    finished(call("ingest", hospital.files, tmp_path / "store", "--tables", wanted))
    store = open_store(tmp_path / "store")
    kinds = set(store.stays().collect()["kind"])
    assert kinds == {"ed", "hospital"}
    assert not store.codes().collect()["code"].str.starts_with("LAB//").any()
    assert "hosp/labevents" in store.provenance["left_out"]


def test_audit_shows_and_saves_what_would_leak(call, hospital, tmp_path):
    out = tmp_path / "audit.json"
    said = finished(
        call("audit", "ed-hospitalisation", "--data", hospital.store.path, "--out", out)
    )
    assert "ed-hospitalisation" in said
    found = json.loads(out.read_text())
    assert found["predictions"] > 0 and found["leaks"]
    assert found["truncation"]["differing"] == [] and found["truncation"]["predictions"] > 50


def test_run_prints_its_metrics_and_is_found_again(call, hospital, tmp_path):
    command = ["run", "ed-triage", "--data", hospital.store.path, "--runs", tmp_path, *QUICK]
    said = finished(call(*command))
    assert re.search(r"│ NEWS +│ 0\.\d{3} \(0\.\d{3}–[01]\.\d{3}\) │", said)
    assert "Labels shuffled (control)" in said
    assert (folder_in(said) / "report.html").is_file()
    again = finished(call(*command))
    assert "finished before" in again and folder_in(again) == folder_in(said)
    anew = finished(call(*command, "--fresh"))
    assert "finished before" not in anew and folder_in(anew) != folder_in(said)


def test_report_renders_again(call, runs, tmp_path):
    run = tmp_path / "[draft] of a run"
    shutil.copytree(sorted(runs.iterdir())[0], run)
    (run / "report.html").unlink()
    assert folder_in(finished(call("report", run))) == run
    assert (run / "report.html").is_file()


def test_compare_writes_a_page(call, runs, tmp_path):
    first, second, _ = sorted(runs.iterdir())
    page = tmp_path / "page.html"
    assert str(page) in finished(call("compare", first, second, "--out", page))
    text = page.read_text()
    assert "config.seed" in text and "NEWS" in text


def test_doctor_names_what_numbers_depend_on(call):
    said = finished(call("doctor"))
    assert all(word in said for word in ("python", "GPU", "numpy", "system ed-triage: loads"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("ingest {tmp}/nowhere {tmp}/store", "nowhere: no such folder"),
        ("ingest {tmp}/file {tmp}/store", "file: no such folder"),
        ("ingest {tmp}", "at least one source folder and the store"),
        ("ingest {tmp} {tmp}/store", "patients"),
        ("ingest {files} {store}", "exists"),
        ("ingest {files} {files} --force", "not a patient store"),
        ("ingest {files} {tmp}/store --memory much", "memory_limit 'much'"),
        ("ingest mimic-iv-demo", "https://physionet.org/content/mimic-iv-demo/2.2/"),
        ("ingest mimic-iv-demo {tmp}/store", "https://physionet.org/content/mimic-iv-ed-demo/"),
        ("ingest {files} mimic-iv {tmp}/store", "credentialed access"),
        ("hospital {files}", "pass --force"),
        ("hospital {tmp} --force", "holds something else"),
        ("hospital {tmp}/new --seed -1", "seed must be 0 or more"),
        ("hospital {tmp}/file/new --patients 1", "File exists: .*file"),
        ("audit nothing --data {store}", "unknown task 'nothing'"),
        ("audit {tmp}/no.yaml --data {store}", "no such task file"),
        ("audit ed-critical --data {tmp}/nowhere", "no such folder"),
        ("audit ed-critical --data {files}", "not a patient store"),
        ("run nothing --data {store}", "unknown system 'nothing'; installed: ed-triage"),
        ("run ed-triage --data {tmp}/nowhere", "wardround ingest SOURCE"),
        ("run ed-triage --data {files}", "not a patient store"),
        ("run ed-triage --data {tmp}/damaged", "stays.parquet has 4 bytes"),
        ("run ed-triage --data {store} --preset huge", "unknown preset 'huge'; choose one of tiny"),
        ("run ed-triage --data {store} --set preset=paper", "chosen by --preset"),
        ("run ed-triage --data {store} --set trees=3", "trees: Extra inputs .*forest_trees"),
        ("run ed-triage --data {store} --set bootstrap=some", "bootstrap: .* valid integer"),
        ("run ed-triage --data {store} --set mlp.epochs=0", "mlp.epochs: .* greater than or equal"),
        ("run ed-triage --data {store} --set seed", "key=value, got 'seed'"),
        ("run ed-triage --data {store} --set seed=[", "not YAML"),
        ("run ed-triage --data {store} --runs {tmp}/file", "Not a directory"),
        ("report {tmp}", "not a finished run"),
        ("report {tmp}/nowhere", "not a finished run"),
        ("compare {run}", "two run folders or more"),
        ("compare {run} {tmp}", "not a finished run"),
        ("compare {run} {other} --out {tmp}/page.html", "no task in common: A has ed-hosp"),
        ("compare {run} {run} --out {tmp}", "Is a directory"),
        ("doctor --data {tmp}/changed", "has changed since it was written"),
    ],
)
def test_a_mistake_is_one_line(call, hospital, runs, tmp_path, command, message):
    store = hospital.store.path
    (tmp_path / "file").touch()
    if "damaged" in command:
        shutil.copytree(store, tmp_path / "damaged")
        (tmp_path / "damaged" / "stays.parquet").write_bytes(b"PAR1")
    if "changed" in command:
        shutil.copytree(store, tmp_path / "changed")
        with (tmp_path / "changed" / "stays.parquet").open("r+b") as stream:
            stream.write(b"QAR1")
    first, _, other = sorted(runs.iterdir())
    before = sorted(tmp_path.rglob("*"))
    places = {"tmp": tmp_path, "store": store, "files": hospital.files, "run": first}
    said = mistake(call(*(part.format(**places, other=other) for part in command.split(" "))))
    assert re.search(message, said), said
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


def test_debug_shows_where(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["wardround", "--debug", "report", str(tmp_path)])
    with pytest.raises(WardroundError, match="not a finished run"):
        cli.main()


def test_an_interrupt_says_how_to_go_on(call, monkeypatch, tmp_path):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wardround.sources.hospital.generate_hospital", interrupt)
    outcome = call("hospital", tmp_path / "hospital")
    assert outcome.status == cli.INTERRUPTED
    assert outcome.err == "wardround: interrupted; run the same command again to go on\n"


def test_the_shell_sees_one_line_and_status_1(tmp_path):
    command = [Path(sys.executable).with_name("wardround"), "report", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"wardround: {tmp_path} is not a finished run (no metrics.json in it)\n"
    command.insert(1, "--debug")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback") and "write_report" in ended.stderr


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from wardround import cli\n"
        "sys.argv = ['wardround', *sys.argv[1:]]\n"
        "try:\n"
        "    cli.main()\n"
        "except SystemExit:\n"
        "    print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True
    )
    for command in ("hospital", "ingest", "audit", "run", "report", "compare", "doctor"):
        assert command in ended.stdout
    heavy = {"torch", "polars", "pandas", "numpy", "duckdb", "ibis", "sklearn", "plotly", "pyarrow"}
    assert not heavy & set(ended.stderr.split())
