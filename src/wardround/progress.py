"""Progress bars for long work, silent when nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, showing a bar named `what` on an interactive standard error."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as bar:
        yield from bar.track(items, total=total, description=what)


@contextmanager
def live(
    what: str, total: int, done: int = 0, shown: bool = True
) -> Iterator[Callable[[str], None]]:
    """A bar named `what` that the caller moves on a step at a time, saying how it goes.

    Yields:
        called once a step, with the figures to show beside the bar.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=Console(stderr=True),
        disable=not (shown and sys.stderr.isatty()),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=total, completed=done, figures="")
        yield lambda figures: bar.update(task, advance=1, figures=figures)
