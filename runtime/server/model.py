"""One served engine: admission, batches over all clients, deadlines, recovery, statistics."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dic.engine_file import EngineError
from runtime.engines.batching import Batcher
from runtime.engines.contract import Engine

Arrays = dict[str, NDArray[Any]]

BATCH = 32  # most faces of a run if the engine has no limit of its own
FIRST_RETRY, LAST_RETRY = 0.5, 60.0  # seconds between attempts to open a failed engine again

log = logging.getLogger("runtime.server")


class QueueFullError(Exception):
    """Too many faces wait already; the client may retry."""


class ExpiredError(Exception):
    """The deadline passed, or the client left, before the run began."""


@dataclass
class Statistics:
    """Counters since the start, as Triton's statistics extension has them; times in ns.

    Attributes:
        requests: by outcome: "success", or the reason of a failure.
        faces: restored.
        runs: of the engine.
        batches: runs by the number of faces.
        queue, compute: time of faces in the queue and in runs, summed over requests.
        total: time of successful requests.
        last: Unix time in ms of the last request.
    """

    requests: Counter[str] = field(default_factory=Counter)
    faces: int = 0
    runs: int = 0
    batches: Counter[int] = field(default_factory=Counter)
    queue: int = 0
    compute: int = 0
    total: int = 0
    last: int = 0


@dataclass
class _Item:
    """One face in the queue, as arrays with a batch of 1."""

    arrays: Arrays
    queued: int
    wanted: Callable[[], bool]


@dataclass
class _Result:
    outputs: Arrays | None  # None: no longer wanted when its run began
    queue: int
    compute: int


class ServedModel:
    """An engine under a name. Thread-safe; faces of all callers share batches.

    After a run fails, the model is not ready and refuses requests until its engine was opened
    again, which is tried until it succeeds.

    Args:
        name, version: as clients address it.
        open_engine: loads the engine; called at once, and after each failure. `close` closes it.
        max_queue: faces that may wait or run at once.

    Attributes:
        failure: why the engine is not in use; empty if it is.

    Raises:
        EngineError: it cannot be loaded.
    """

    def __init__(
        self, name: str, version: str, open_engine: Callable[[], Engine], max_queue: int
    ) -> None:
        self.name, self.version, self.max_queue = name, version, max_queue
        self.failure = ""
        self._open, self._closed = open_engine, threading.Event()
        self.engine = engine = open_engine()
        self.statistics = Statistics()
        self._lock = threading.Lock()
        self._pending = 0
        self._running = 0
        self.max_batch = min(engine.max_batch or BATCH, BATCH)
        self._batcher = Batcher(self._run, self.max_batch, engine.lanes)

    def close(self) -> None:
        """Close the engine. No thread may be in `infer`."""
        self._closed.set()
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return not self.failure

    @property
    def pending(self) -> int:
        """Faces that wait or run."""
        return self._pending

    def infer(
        self, feed: Mapping[str, NDArray[Any]], wanted: Callable[[], bool] = lambda: True
    ) -> Arrays:
        """Run faces, possibly in batches with those of others.

        Args:
            feed: an array for each of the engine's inputs, of any batch size.
            wanted: asked when a run is about to begin; False drops the face.

        Returns:
            an array for each of the engine's outputs.

        Raises:
            ValueError: the arrays are not the engine's inputs.
            QueueFullError: no room for so many faces.
            ExpiredError: `wanted` was False.
            EngineError: the engine failed, now or before.
        """
        started = time.monotonic_ns()
        self.statistics.last = time.time_ns() // 1_000_000
        try:
            outputs, queue, compute = self._infer(feed, wanted, started)
        except Exception as error:
            self._count(type(error).__name__)
            raise
        with self._lock:
            self.statistics.requests["success"] += 1
            self.statistics.queue += queue
            self.statistics.compute += compute
            self.statistics.total += time.monotonic_ns() - started
        return outputs

    def _infer(
        self, feed: Mapping[str, NDArray[Any]], wanted: Callable[[], bool], started: int
    ) -> tuple[Arrays, int, int]:
        self._check(feed)
        count = len(next(iter(feed.values())))
        with self._lock:
            if self.failure:
                raise EngineError(self.failure)
            if self._pending + count > self.max_queue:
                raise QueueFullError(
                    f"{self._pending} faces are waiting, {self.max_queue} may; retry later"
                )
            self._pending += count
        try:
            items = [
                _Item({name: array[i : i + 1] for name, array in feed.items()}, started, wanted)
                for i in range(count)
            ]
            results = self._batcher(items)
        finally:
            with self._lock:
                self._pending -= count
        outputs = [result.outputs for result in results]
        known = [given for given in outputs if given is not None]
        if len(known) < count:
            raise ExpiredError("the deadline passed, or the client left, before the run began")
        joined = {name: np.concatenate([given[name] for given in known]) for name in known[0]}
        return joined, max(r.queue for r in results), max(r.compute for r in results)

    def _check(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """Check names, dtypes, shapes and that batches are equal and not empty."""
        expected = {tensor.name: tensor for tensor in self.engine.inputs}
        if set(feed) != set(expected):
            raise ValueError(f"the inputs are {', '.join(expected)}, got {', '.join(feed)}")
        batches = set()
        for name, array in feed.items():
            tensor = expected[name]
            if array.dtype.name != tensor.dtype:
                raise ValueError(f"{name}: must be {tensor.dtype}, got {array.dtype}")
            if array.ndim != len(tensor.shape) or array.shape[1:] != tensor.shape[1:]:
                sizes = ", ".join(str(size or "batch") for size in tensor.shape)
                raise ValueError(f"{name}: must be [{sizes}], got {list(array.shape)}")
            batches.add(len(array))
        if len(batches) != 1 or 0 in batches:
            raise ValueError(f"a batch has at least one face, got {sorted(batches)}")

    def _run(self, items: Sequence[_Item]) -> list[_Result]:
        begun = time.monotonic_ns()
        live = [item for item in items if item.wanted()]
        outputs: Arrays = {}
        if live:
            names = live[0].arrays
            feed = {name: np.concatenate([item.arrays[name] for item in live]) for name in names}
            outputs = self._run_engine(feed)
        compute = time.monotonic_ns() - begun
        with self._lock:
            self.statistics.faces += len(live)
            self.statistics.runs += bool(live)
            self.statistics.batches[len(live)] += bool(live)
        results, at = [], 0
        alive = {id(item) for item in live}
        for item in items:
            given = None
            if id(item) in alive:
                given = {name: array[at : at + 1] for name, array in outputs.items()}
                at += 1
            results.append(_Result(given, begun - item.queued, compute))
        return results

    def _run_engine(self, feed: Arrays) -> Arrays:
        with self._lock:
            if self.failure:  # of a run that began before this one
                raise EngineError(self.failure)
            self._running += 1
        try:
            return self.engine.run(feed)
        except EngineError as error:
            self._fail(error)
            raise
        finally:
            with self._lock:
                self._running -= 1

    def _fail(self, error: EngineError) -> None:
        """Refuse requests until a thread has opened the engine again."""
        with self._lock:
            if self.failure or self._closed.is_set():
                return
            self.failure = f"{self.name}: the engine failed and is opened again: {error}"
        self._log("failed", str(error))
        threading.Thread(target=self._reopen, name=f"reopen {self.name}", daemon=True).start()

    def _reopen(self) -> None:
        while self._running:  # parallel runs, which the old engine must outlive
            time.sleep(0.01)
        # First, so that its memory is free. What it fails with does not matter any more.
        with contextlib.suppress(EngineError):
            self.engine.close()
        wait = FIRST_RETRY
        while not self._closed.is_set():
            try:
                self.engine = self._open()
            except EngineError as error:
                self._log("not opened", str(error))
                self._closed.wait(wait)
                wait = min(2 * wait, LAST_RETRY)
                continue
            self.failure = ""
            self._log("opened again", "")
            if self._closed.is_set():
                self.engine.close()
            return

    def _log(self, event: str, error: str) -> None:
        known = {"model": self.name, "version": self.version, "engine": event}
        log.warning(json.dumps({**known, "error": error} if error else known))

    def _count(self, reason: str) -> None:
        with self._lock:
            self.statistics.requests[reason] += 1


class SharedEngine:
    """A served model in the place of its engine: what uses it shares batches with all clients."""

    def __init__(self, model: ServedModel) -> None:
        engine = model.engine
        self._model = model
        self.path, self.metadata, self.device = engine.path, engine.metadata, engine.device
        self.inputs, self.outputs, self.backend = engine.inputs, engine.outputs, engine.backend
        # More callers than the engine's lanes, so that batches fill.
        self.max_batch, self.lanes = engine.max_batch, max(engine.lanes, 4)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        return self._model.infer(feed)

    def close(self) -> None:
        """Leave the engine open: it is the server's."""

    def __enter__(self) -> SharedEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        pass
