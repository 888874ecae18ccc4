"""Many threads, one engine: what they want restored is run together, a batch at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Gathers items of several threads into batches.

    Whoever finds the engine free runs what waits, its own and others', and then lets the next
    thread do so. While a batch runs, others queue up for the next: the busier, the fuller. There
    is no thread to start or to end, and a lone caller waits for nobody.

    Args:
        run: a batch of items to their results, in order. Called by one thread at a time.
        batch: most items a run.
    """

    def __init__(self, run: Callable[[Sequence[Item]], Sequence[Result]], batch: int) -> None:
        self._run, self._batch = run, batch
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._free = threading.Lock()

    def __call__(self, items: Sequence[Item]) -> list[Result]:
        """Results of some items, once they have been run; raises what their run raised."""
        mine: list[Future[Result]] = [Future() for _ in items]
        self._waiting.extend(zip(items, mine, strict=True))
        for future in mine:
            while not future.done():
                with self._free:
                    if not future.done():
                        self._run_some()
        return [future.result() for future in mine]

    def _run_some(self) -> None:
        some = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
        try:
            results = self._run([item for item, _ in some])
            if len(results) != len(some):
                raise RuntimeError(f"{len(results)} results of {len(some)} items")
        except BaseException as error:
            for _, future in some:
                future.set_exception(error)
            if not isinstance(error, Exception):  # Ctrl-C is for whoever was interrupted
                raise
            return
        for (_, future), result in zip(some, results, strict=True):
            future.set_result(result)


def overlapped(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Results of `work` on each item, in order, from some threads.

    At most twice as many items as workers are under way or waiting to be taken, so that neither
    a long list nor a slow taker fills the memory.
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
