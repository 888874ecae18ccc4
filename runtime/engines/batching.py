"""Many threads, one engine: what they want restored is run together, a batch at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Gathers items of several threads into batches.

    Whoever finds a lane of the engine free runs what waits, its own and others', and then lets the
    next thread do so. While batches run, others queue up for the next: the busier, the fuller.
    There is no thread to start or to end, and a lone caller waits for nobody.

    Args:
        run: a batch of items to their results, in order. Called by `lanes` threads at a time.
        batch: most items a run.
        lanes: runs at once.
    """

    def __init__(
        self, run: Callable[[Sequence[Item]], Sequence[Result]], batch: int, lanes: int = 1
    ) -> None:
        self._run, self._batch, self._lanes = run, batch, lanes
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._taking = threading.Lock()
        self._free = threading.Semaphore(lanes)

    def __call__(self, items: Sequence[Item]) -> list[Result]:
        """Results of some items, once they have been run; raises what their run raised."""
        mine: list[Future[Result]] = [Future() for _ in items]
        self._waiting.extend(zip(items, mine, strict=True))
        for future in mine:
            while not future.done():
                with self._free:
                    some = [] if future.done() else self._take()
                    if some:
                        self._run_some(some)
                if not some:  # it is done, or another lane has it
                    wait([future])
        return [future.result() for future in mine]

    def _take(self) -> list[tuple[Item, Future[Result]]]:
        with self._taking:
            share = -(-len(self._waiting) // self._lanes)  # what waits is for the other lanes too
            return [self._waiting.popleft() for _ in range(min(self._batch, share))]

    def _run_some(self, some: Sequence[tuple[Item, Future[Result]]]) -> None:
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


class Lanes:
    """Spreads the faces of a batch over the lanes of a CPU: each runs single faces.

    Measured: threads of one run wait for one another after every layer, those of two runs never
    do, and what a face leaves in the caches is not swept out by the next of its batch.

    Args:
        run: a feed of arrays of one batch to outputs of it.
        count: runs at once; with one, batches run as they are.
    """

    def __init__(self, run: Callable[[Arrays], Arrays], count: int) -> None:
        self._run = run
        self._pool = ThreadPoolExecutor(count) if count > 1 else None

    def __call__(self, feed: Arrays) -> Arrays:
        batch = len(next(iter(feed.values())))
        if self._pool is None or batch == 1:
            return self._run(feed)
        singles = [{name: array[i : i + 1] for name, array in feed.items()} for i in range(batch)]
        parts = list(self._pool.map(self._run, singles))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


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
