"""Stages of a run: each is built once, whole, and found again after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from wardround.store import atomic_write

log = logging.getLogger("wardround")


@dataclass(frozen=True)
class StageRecord:
    """What a stage cost. `skipped` stages were found from an earlier start of the run."""

    name: str
    fingerprint: str
    seconds: float
    peak_mb: float
    skipped: bool = False


class Workdir:
    """The folder of one run, and the stages that it consists of.

    A stage is a folder that one function fills. It counts as done when it stands there with the
    fingerprint of its inputs; it is moved there whole, so a killed process leaves it undone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[StageRecord] = []

    def stage(self, name: str, build: Callable[[Path], None], *, inputs: Mapping[str, Any]) -> Path:
        """Return the stage's folder, filled by `build(folder)` unless it is there already.

        Args:
            name: folder below the run, such as `model/ed-critical/lightgbm`.
            build: writes files into the empty folder that it is given.
            inputs: everything the outcome depends on, as JSON values; upstream stages by their
                `fingerprint_of`.
        """
        folder = self.path / name
        fingerprint = fingerprint_of(inputs)
        done = read_record(folder)
        if done is not None and done.fingerprint == fingerprint:
            self.records.append(
                StageRecord(name, fingerprint, done.seconds, done.peak_mb, skipped=True)
            )
            log.info("%s: done before, skipped", name)
            return folder
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            with PeakMemory() as memory:
                began = time.perf_counter()
                build(temporary)
                seconds = time.perf_counter() - began
            record = StageRecord(name, fingerprint, round(seconds, 3), round(memory.peak_mb, 1))
            (temporary / "stage.json").write_text(json.dumps(asdict(record), indent=1))
        self.records.append(record)
        log.info("%s: %.1f s, peak %.0f MB", name, seconds, memory.peak_mb)
        return folder

    def fingerprint(self, name: str) -> str:
        """The fingerprint of a stage that this run has passed."""
        return next(record.fingerprint for record in self.records if record.name == name)


def read_record(folder: Path) -> StageRecord | None:
    """What a finished stage says of itself; None where it is missing or unreadable."""
    try:
        return StageRecord(**json.loads((folder / "stage.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def fingerprint_of(inputs: Mapping[str, Any]) -> str:
    """A short hash of JSON values, blind to the order of keys."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class PeakMemory:
    """Samples this process's resident memory, children included, while the block runs."""

    def __init__(self, interval: float = 0.05) -> None:
        self.peak_mb = 0.0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        process = psutil.Process(os.getpid())
        while True:
            total = 0
            for member in [process, *process.children(recursive=True)]:
                try:
                    total += member.memory_info().rss
                except psutil.Error:  # it ended between the listing and the reading
                    continue
            self.peak_mb = max(self.peak_mb, total / 2**20)
            if self._stop.wait(self._interval):
                return

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
