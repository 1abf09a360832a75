"""Atomic writing: the old content or the new, and no leftovers of the dead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wardround.store import atomic_write
from wardround.store.atomic import recover


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_is_replaced_and_its_folder_made(tmp_path):
    for text in ("old", "new"):
        with atomic_write(tmp_path / "a" / "b.txt") as temporary:
            temporary.write_text(text)
            assert temporary.parent == tmp_path / "a"
        assert (tmp_path / "a" / "b.txt").read_text() == text
    assert names(tmp_path / "a") == ["b.txt"]


def test_a_folder_is_replaced_whole(tmp_path):
    fill(tmp_path / "f", "old", "both")
    with atomic_write(tmp_path / "f") as temporary:
        fill(temporary, "new", "both")
    assert names(tmp_path / "f") == ["both", "new"]
    assert names(tmp_path) == ["f"]


def test_a_block_that_raises_leaves_the_old(tmp_path):
    fill(tmp_path / "f", "old")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "f") as temporary:
        fill(temporary, "new")
        raise KeyboardInterrupt
    assert names(tmp_path / "f") == ["old"]
    assert names(tmp_path) == ["f"]


def test_what_a_dead_process_left_goes_and_that_of_others_stays(tmp_path, dead_pid):
    fill(tmp_path / f".f[1].{dead_pid}.tmp", "half")
    living = fill(tmp_path / f".f[1].{os.getppid()}.tmp", "half")
    another = fill(tmp_path / f".f1.{dead_pid}.tmp", "of another path")
    foreign = fill(tmp_path / ".f[1].mine.tmp", "not ours")
    with atomic_write(tmp_path / "f[1]") as temporary:
        temporary.mkdir()
    assert set(names(tmp_path)) == {"f[1]", living.name, another.name, foreign.name}


def test_a_kill_between_the_renames_is_undone(tmp_path):
    fill(tmp_path / ".f.replaced", "old")
    recover(tmp_path / "f")
    assert names(tmp_path) == ["f"] and names(tmp_path / "f") == ["old"]
    fill(tmp_path / "f2", "new")
    fill(tmp_path / ".f2.replaced", "old")
    recover(tmp_path / "f2")
    assert names(tmp_path / "f2") == ["new"]
    assert names(tmp_path) == ["f", "f2"]


def test_a_kill_in_the_middle_of_a_replacement_is_mended_by_the_next_write(tmp_path):
    fill(tmp_path / ".f.replaced", "old")
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "f"):
        assert names(tmp_path / "f") == ["old"], "it stands again while the new one is made"
        raise RuntimeError
    assert names(tmp_path) == ["f"]
