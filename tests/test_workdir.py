"""Stages: built once, whole or not at all, and built again when an input changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from wardround.workdir import PeakMemory, Workdir, fingerprint_of


def build(value: str):
    return lambda folder: (folder / "value").write_text(value)


def test_a_stage_is_built_once_for_its_inputs(tmp_path):
    first = Workdir(tmp_path)
    folder = first.stage("work/table", build("1"), inputs={"seed": 1})
    again = Workdir(tmp_path)
    assert again.stage("work/table", build("other"), inputs={"seed": 1}) == folder
    assert (folder / "value").read_text() == "1"
    assert [r.skipped for r in first.records + again.records] == [False, True]
    again.stage("work/table", build("2"), inputs={"seed": 2})
    assert (folder / "value").read_text() == "2"


def test_a_stage_that_fails_leaves_the_earlier_one(tmp_path):
    workdir = Workdir(tmp_path)
    folder = workdir.stage("a", build("1"), inputs={"seed": 1})

    def fail(folder: Path) -> None:
        (folder / "value").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        workdir.stage("a", fail, inputs={"seed": 2})
    assert (folder / "value").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_killed_stage_is_undone(tmp_path):
    code = (
        "import sys, time, pathlib\n"
        "from wardround.workdir import Workdir\n"
        "def build(folder):\n"
        "    (folder / 'value').write_text('half')\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
        f"Workdir(pathlib.Path({str(tmp_path)!r})).stage('a', build, inputs={{}})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a").exists()
    folder = Workdir(tmp_path).stage("a", build("whole"), inputs={})
    assert (folder / "value").read_text() == "whole"


def test_fingerprints_ignore_the_order_of_keys_and_nothing_else():
    assert fingerprint_of({"a": 1, "b": [1, 2]}) == fingerprint_of({"b": [1, 2], "a": 1})
    assert fingerprint_of({"a": [1, 2]}) != fingerprint_of({"a": [2, 1]})


def test_peak_memory_sees_an_allocation():
    with PeakMemory(interval=0.01) as small:
        pass
    with PeakMemory(interval=0.01) as large:
        block = np.ones(25_000_000)
        time.sleep(0.1)
    assert block.nbytes / 2**20 * 0.9 < large.peak_mb - small.peak_mb
