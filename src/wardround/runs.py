"""The runner: a system, a store and a config become a run folder.

A run folder holds `config.yaml`, `environment.json`, `run.json`, `log.txt`, the stages that the
system built (`work/…`, `model/…`), `predictions.parquet`, `metrics.json` and `report.html`. The
report is written last: a folder without one is unfinished, and the next run with the same system,
config and data goes on in it.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import filelock
import meds
import polars as pl
import psutil
import yaml

from wardround import __version__
from wardround.errors import WardroundError
from wardround.evaluation import Results, StageTiming
from wardround.reports import render_report
from wardround.store import PatientStore, atomic_write
from wardround.store.atomic import remove
from wardround.system import System, SystemConfig, available_systems
from wardround.workdir import Workdir, fingerprint_of

log = logging.getLogger("wardround")

PREDICTION_COLUMNS = pl.Schema(
    {
        "subject_id": pl.Int64(),
        "prediction_time": pl.Datetime("us"),
        "boolean_value": pl.Boolean(),
        "predicted_boolean_value": pl.Boolean(),
        "predicted_boolean_probability": pl.Float64(),
        "task": pl.String(),
        "model": pl.String(),
        "split": pl.String(),
    }
)


@dataclass(frozen=True)
class Run:
    """A run folder and how it came about: `new`, `resumed` or `found` (finished before)."""

    path: Path
    origin: str

    @property
    def report(self) -> Path:
        return self.path / "report.html"


def run_system(
    system: System,
    store: PatientStore,
    config: SystemConfig,
    runs_dir: Path,
    *,
    fresh: bool = False,
) -> Run:
    """Prepare, fit, evaluate and report; skip what an earlier start of the same run finished.

    Args:
        system: what to run.
        store: the data.
        config: validated settings.
        runs_dir: run folders go to `runs_dir/<system>/<stamp>`.
        fresh: start a new folder even if the same run is there, finished or not.

    Returns:
        The folder. With `origin` `found`, nothing was computed.
    """
    name = system.card.name
    identity = fingerprint_of(
        {
            "system": name,
            "version": __version__,
            "package": _release_of(name),
            "config": config.model_dump(mode="json", exclude={"threads"}),
            "files": config.file_hashes(),
            "store": store.fingerprint,
        }
    )
    earlier = None if fresh else _find(runs_dir / name, identity)
    if earlier is not None and (earlier / "report.html").is_file():
        return Run(earlier, "found")
    folder = earlier or _create(runs_dir / name, identity, store, config)
    with _locked(folder), _logging_to(folder / "log.txt"):
        for leftover in list(folder.rglob(".*.tmp")):  # of a start that was killed
            remove(leftover)
        log.info("%s, preset %s, data %s", name, config.preset, store.path)
        workdir = Workdir(folder)
        prepared = system.prepare(store, config, workdir)
        fitted = system.fit(prepared, config, workdir)
        evaluation = system.evaluate(fitted, prepared, config, workdir)
        _write_predictions(evaluation.predictions, folder / "predictions.parquet")
        results = evaluation.results.model_copy(
            update={
                "system": name,
                "title": system.card.title,
                "paper": system.card.paper,
                "preset": config.preset,
                "reported": system.card.reported,
                "departures": [
                    *system.card.departures,
                    *([] if config.paper_compat else system.card.paper_compat),
                ],
                "undone": system.card.paper_compat if config.paper_compat else [],
                "data": describe_data(store),
                "config": config.model_dump(mode="json"),
                "environment": json.loads((folder / "environment.json").read_text()),
                "stages": [
                    StageTiming(
                        name=r.name, seconds=r.seconds, peak_mb=r.peak_mb, skipped=r.skipped
                    )
                    for r in workdir.records
                ],
            }
        )
        with atomic_write(folder / "metrics.json") as temporary:
            temporary.write_text(results.to_json())
        write_report(folder)
        log.info("finished")
    return Run(folder, "resumed" if earlier else "new")


def load_results(run: Path) -> Results:
    """Read the metrics of a finished run."""
    file = run / "metrics.json"
    if not file.is_file():
        raise WardroundError(f"{run} is not a finished run (no metrics.json in it)")
    try:
        return Results.from_json(file.read_text())
    except ValueError as error:
        raise WardroundError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error


def store_of(run: Path) -> Path:
    """Where the store of a run stood."""
    return Path(json.loads((run / "run.json").read_text())["store"])


def write_report(run: Path) -> Path:
    """Render `report.html` of a run from its metrics alone."""
    results = load_results(run)
    target = run / "report.html"
    with atomic_write(target) as temporary:
        render_report(results, temporary)
    return target


def describe_data(store: PatientStore) -> dict[str, Any]:
    """Where a run's data came from, for its report."""
    return {
        "path": str(store.path),
        "source": store.provenance.get("source"),
        "source_version": store.provenance.get("source_version"),
        "access": store.access,
        "fingerprint": store.fingerprint,
        "subjects": sum(shard["subjects"] for shard in store.provenance["shards"].values()),
        "events": sum(shard["rows"] for shard in store.provenance["shards"].values()),
    }


def environment() -> dict[str, Any]:
    """Versions and hardware that a number may depend on."""
    packages = {}
    for requirement in requires("wardround") or []:
        name = requirement.split(";")[0].strip()
        for mark in "<>=![~ ":
            name = name.split(mark)[0]
        if "extra ==" in requirement:
            continue
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "wardround": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "packages": packages,
    }


def _release_of(name: str) -> str | None:
    """The distribution that an installed system comes in, with its version."""
    point = available_systems().get(name)
    return f"{point.dist.name} {point.dist.version}" if point and point.dist else None


def _find(folder: Path, identity: str) -> Path | None:
    """The newest run with this identity."""
    for run in sorted(folder.glob("*/run.json"), reverse=True):
        try:
            if json.loads(run.read_text())["identity"] == identity:
                return run.parent
        except (ValueError, KeyError):
            continue
    return None


def _create(folder: Path, identity: str, store: PatientStore, config: SystemConfig) -> Path:
    started = datetime.now(UTC)
    stamp = started.strftime("%Y%m%d-%H%M%S-%f")[:-3]
    about = {
        "identity": identity,
        "store": str(store.path.absolute()),
        "store_fingerprint": store.fingerprint,
        "started_at": started.isoformat(timespec="seconds"),
        "command": sys.argv,
    }
    with atomic_write(folder / stamp) as temporary:
        temporary.mkdir()
        (temporary / "config.yaml").write_text(
            yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        )
        (temporary / "environment.json").write_text(json.dumps(environment(), indent=1))
        (temporary / "run.json").write_text(json.dumps(about, indent=1))
    return folder / stamp


def _write_predictions(predictions: pl.DataFrame, path: Path) -> None:
    table = predictions.select(PREDICTION_COLUMNS.names()).cast(PREDICTION_COLUMNS)
    labels = table.select("subject_id", "prediction_time", "boolean_value")
    meds.LabelSchema.validate(meds.LabelSchema.align(labels.to_arrow()))
    with atomic_write(path) as temporary:
        table.write_parquet(temporary)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes off a run folder."""
    try:
        held = filelock.FileLock(folder / ".lock").acquire(timeout=0)
    except filelock.Timeout as error:
        raise WardroundError(
            f"another process is working on {folder}; wait for it, or pass --fresh for a new run"
        ) from error
    with held:
        yield


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Keep the run's log; ids and counts only ever reach it, no patient-level values."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    except BaseException as error:
        log.error("stopped: %s: %s", type(error).__name__, error)
        raise
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()
