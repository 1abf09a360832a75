"""Writing so that a killed process leaves the old file or the new one, never half of one."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary file (or folder) is removed when the block raises; what a killed process left
    is removed by the next one that writes `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    _clear_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        put_in_place(temporary, path)
    finally:
        remove(temporary)


def put_in_place(new: Path, path: Path) -> None:
    """Rename `new` to `path`, whose former content goes.

    A folder takes two renames; `recover` mends a kill between them.
    """
    if not (new.is_dir() and path.is_dir()):
        new.replace(path)
        return
    path.rename(_replaced(path))
    new.rename(path)
    _discard(_replaced(path))


def recover(path: Path) -> None:
    """Finish or undo a replacement of the folder `path` that was killed between its renames."""
    old = _replaced(path)
    if not old.is_dir():
        return
    if path.exists():
        _discard(old)
    else:
        old.rename(path)


def remove(path: Path) -> None:
    """Delete a file or a whole folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def _discard(old: Path) -> None:
    """Delete what is out of use; another process that recovers may be deleting it, too."""
    if old.is_symlink():
        old.unlink(missing_ok=True)
    else:
        shutil.rmtree(old, ignore_errors=True)


def _clear_leftovers(path: Path) -> None:
    """Delete temporary files of `path` whose process is gone, or was an earlier one of our id."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = leftover.name.removesuffix(".tmp").rpartition(".")[2]
        if pid.isdigit() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
            remove(leftover)
