"""Several tables on their way at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def raise_failed(futures: Iterable[Future[Any]]) -> None:
    """Raise what the first future that has failed by now has raised."""
    for future in futures:
        if future.done():
            future.result()


class Tasks:
    """Threads that work off a queue in its order; the first failure ends everything.

    Use as a context manager. Leaving the block waits for all tasks; when one has failed, or the
    block raises, the queued ones are dropped and the running ones told to stop.

    Args:
        workers: threads.
        stop: makes running tasks end soon.
        beside: work elsewhere that is not waited for, but whose failure counts, too.

    Raises:
        Exception: on leaving or on the next `submit`, what the first failed task raised.
    """

    def __init__(
        self, workers: int, stop: Callable[[], None], beside: Iterable[Future[Any]] = ()
    ) -> None:
        self._beside = list(beside)
        self._pool = ThreadPoolExecutor(workers)
        self._stop = stop
        self._futures: list[Future[Any]] = []

    def submit(
        self,
        work: Callable[Arguments, Result],
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Future[Result]:
        """Queue a call. It may wait for tasks queued before it, not for later ones."""
        raise_failed([*self._futures, *self._beside])
        future = self._pool.submit(work, *arguments, **options)
        self._futures.append(future)
        return future

    def __enter__(self) -> Tasks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ended = False
        try:
            if error is None:
                while waiting := [future for future in self._futures if not future.done()]:
                    beside = [future for future in self._beside if not future.done()]
                    wait([*waiting, *beside], return_when=FIRST_COMPLETED)
                    raise_failed([*self._futures, *self._beside])
                raise_failed([*self._futures, *self._beside])
                ended = True
        finally:
            if not ended:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
            self._pool.shutdown()
