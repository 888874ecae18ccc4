"""Running the work of many threads on one engine, in shared batches or parallel runs.

A lane is one of the runs that an engine executes in parallel (`Engine.lanes`).
"""

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
    """Combines the items of several calling threads into batches.

    A thread that acquires a free lane runs a batch from the shared queue, which may include other
    threads' items. Items that arrive during a run are queued for the next one, so batches grow
    with load. No worker thread is needed, and a single caller never waits for others.

    Args:
        run: maps a batch of items to their results, in order; up to `lanes` threads call it at
            once.
        batch: most items per run.
        lanes: number of parallel runs.
    """

    def __init__(
        self, run: Callable[[Sequence[Item]], Sequence[Result]], batch: int, lanes: int = 1
    ) -> None:
        self._run, self._batch, self._lanes = run, batch, lanes
        self._queue: deque[tuple[Item, Future[Result]]] = deque()
        self._dequeue_lock = threading.Lock()
        self._free_lanes = threading.Semaphore(lanes)

    def __call__(self, items: Sequence[Item]) -> list[Result]:
        """Run items and return their results, in order; raises what their run raised."""
        futures: list[Future[Result]] = [Future() for _ in items]
        self._queue.extend(zip(items, futures, strict=True))
        for future in futures:
            while not future.done():
                with self._free_lanes:
                    batch = [] if future.done() else self._next_batch()
                    if batch:
                        self._run_batch(batch)
                if not batch:  # done, or another thread is running it
                    wait([future])
        return [future.result() for future in futures]

    def _next_batch(self) -> list[tuple[Item, Future[Result]]]:
        with self._dequeue_lock:
            share = -(-len(self._queue) // self._lanes)  # leave the other lanes their share
            return [self._queue.popleft() for _ in range(min(self._batch, share))]

    def _run_batch(self, batch: Sequence[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self._run([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(
                    f"the run returned {len(results)} results for {len(batch)} items"
                )
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            if not isinstance(error, Exception):  # KeyboardInterrupt must reach this thread too
                raise
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


class Lanes:
    """Distributes the faces of a batch over parallel runs of one face each, on a CPU.

    Faster than batches (measured in benchmarks/NOTES.md): threads within one run synchronise after
    every layer and separate runs do not, and a face's activations stay in the caches instead of
    being evicted by the rest of its batch.

    Args:
        run: maps the input arrays of a batch to its output arrays.
        count: number of parallel runs; with 1, batches run unchanged.
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
    """Apply `work` to items in a pool of threads, and yield the results in order.

    At most `2 * workers` items are in progress or waiting to be consumed, so that memory stays
    bounded with long inputs and slow consumers.

    Raises:
        Exception: what `work` raised, when the result of that item is due; the rest is cancelled.
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
