"""Restoring a batch of files on Ray: `runtime.infer --ray ADDRESS`.

One worker process per CPU core, or per GPU, takes a file at a time from reading to writing. These
are plain actors and not Ray Data, because files are what can fail here: Ray Data counts and repeats
blocks of rows, ends the whole batch after a block's error or repeats it without end where the file
itself kills its worker, and needs pyarrow and pandas. With actors a file whose worker died is tried
again alone, and after that it is a failure with a name.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dic.console import UserError
from dic.engine_file import EngineError
from dic.files import remove_partial_files
from dic.memory import Memory
from runtime.cluster.instance import connected, first_line
from runtime.cluster.stored import is_stored, restore_copy, restore_stored
from runtime.cluster.stores import ObjectPath
from runtime.jobs.paths import Job, Outcome
from runtime.jobs.request import Request
from runtime.jobs.run import Lines, run_request
from runtime.jobs.summary import Summary

TRIES = 3  # of a file, each of which ended its worker
GPU_FILES = 4  # files that a worker with a GPU has in progress, so that the GPU does not wait
PATIENCE = 30.0  # seconds after which waiting for the first worker is told


def restore_on_ray(request: Request, address: str) -> int:
    """Restore what is asked for on a Ray cluster; see `run_request`.

    Args:
        address: see `connected`.

    Raises:
        UserError: also where Ray cannot be reached, or standard input or output is asked for.
    """
    if "-" in (request.output, *request.inputs):
        raise UserError("--ray: standard input and output belong to this process; name files")
    execute = functools.partial(_execute, address)
    if request.summary and ":/" in str(request.summary):
        raise UserError(f"--summary {request.summary}: must be a local file")
    return restore_stored(request, execute) if is_stored(request) else run_request(request, execute)


def _execute(address: str, request: Request, jobs: list[Job], summary: Summary) -> None:
    with connected(address) as ray:
        pool = _Pool(ray, request, len(jobs))
        summary.engine = pool.engine
        print(
            f"{pool.engine.path} on {pool.engine.device} ({pool.engine.backend}), "
            f"{pool.size} workers",
            file=sys.stderr,
        )
        try:
            with Lines(len(jobs)) as lines:
                for outcome in pool.restored(jobs):
                    lines.show(summary.add(outcome))
        finally:
            pool.stop()
            # A worker that is stopped while it writes leaves a hidden file.
            remove_partial_files(output for job in summary.left for output in job.outputs)


@dataclass(frozen=True)
class _Engine:
    """What a worker's engine is."""

    path: Path
    device: str
    backend: str


class Worker:
    """One process that restores: an actor.

    Args:
        request: what is asked for.
        folder: that relative paths start from.
        sharers: workers that share this machine's memory.
        files: that are restored at once.
    """

    def __init__(self, request: Request, folder: str, sharers: int, files: int) -> None:
        from runtime.engines.load import load_engine
        from runtime.faces.restore import Restorer
        from runtime.jobs.pictures import PictureWork
        from runtime.jobs.run import face_source

        logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # its errors are in ours
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        os.chdir(folder)
        boxes, detector = face_source(request.faces) if request.faces else (None, None)
        asked = request.engine
        engine = load_engine(asked.path, asked.device, asked.threads or 1)
        self._engine = _Engine(engine.path, engine.device, engine.backend)
        self._restorer = Restorer(engine, detector=detector, batch=asked.batch)
        self._photos, self._boxes = request.photos, boxes
        self._memory, self._files = Memory.of(request.memory, sharers), files
        self._work = PictureWork(self._restorer, request.photos, boxes, self._memory)

    def engine(self) -> _Engine:
        return self._engine

    def restore(self, job: Job) -> Outcome:
        """Restore one file or object; what an earlier worker left of it is removed first."""
        remove_partial_files(job.outputs)
        if any(isinstance(path, ObjectPath) for path in (job.source, job.target)):
            return restore_copy(job, self._restore)
        return self._restore(job)

    def _restore(self, job: Job) -> Outcome:
        if not job.is_video:
            return self._work(job)
        from runtime.jobs.run import video

        size = self._memory.size
        share = None if size is None else size // self._files
        with self._memory.taken(share or 0, job.name):
            return video(job, self._restorer, self._photos, self._boxes, share)


class _Pool:
    """The workers of a batch.

    Args:
        files: at most so many workers are started.

    Attributes:
        engine: what the first worker that started loaded.
        size: workers.

    Raises:
        UserError, EngineError: no worker starts.
    """

    def __init__(self, ray: Any, request: Request, files: int) -> None:
        self._ray = ray
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        on_gpu = request.engine.device.startswith("cuda") or (
            request.engine.device == "auto" and gpus > 0
        )
        threads = request.engine.threads or 1
        most = gpus if on_gpu else int(resources.get("CPU", 0)) // threads
        if most < 1:
            what = "GPU" if on_gpu else f"machine with {threads} CPU cores"
            raise UserError(f"--ray: the cluster has no {what} for a worker")
        self.size = min(most, files)
        self._depth = GPU_FILES if on_gpu else 1
        actor = ray.remote(
            num_cpus=0 if on_gpu else threads,
            num_gpus=1 if on_gpu else 0,
            max_concurrency=self._depth,
        )(Worker)
        kind = "GPU" if on_gpu else "CPU"
        machines = sum(node["Alive"] and kind in node["Resources"] for node in ray.nodes())
        sharers = math.ceil(self.size / max(1, machines))
        self._start = functools.partial(actor.remote, request, os.getcwd(), sharers, self._depth)
        # Workers that Ray has no room for yet join when it has; nothing is given to them before.
        self._workers: set[Any] = set()
        self._failures = 0  # of workers to start
        self._starting: dict[Any, Any] = {}  # by the reference to what they will answer
        for _ in range(self.size):
            self._add()
        self.engine = self._first()

    def _add(self) -> None:
        worker = self._start()
        self._workers.add(worker)
        self._starting[worker.engine.remote()] = worker

    def _first(self) -> _Engine:
        """What the first worker loaded."""
        told = False
        while True:
            references = list(self._starting)
            started, _ = self._ray.wait(references, timeout=PATIENCE)
            if not started and not told:
                told = True
                print("waiting for workers; has Ray free CPUs or GPUs?", file=sys.stderr)
            if started and (worker := self._started(started[0])) is not None:
                engine = self._ray.get(started[0])
                assert isinstance(engine, _Engine)
                self._starting[started[0]] = worker  # `restored` takes it from there
                return engine

    def restored(self, jobs: list[Job]) -> Iterator[Outcome]:
        """Restore jobs; yields each outcome as soon as it is there.

        Raises:
            UserError: all workers have ended, and none starts again.
        """
        waiting, suspects = deque(jobs), deque[Job]()
        tries: Counter[str] = Counter()
        running: dict[Any, tuple[Job, Any]] = {}
        free: deque[Any] = deque()

        def give(queue: deque[Job]) -> None:
            worker, job = free.popleft(), queue.popleft()
            running[worker.restore.remote(job)] = job, worker

        while waiting or suspects or running:
            while free and waiting:
                give(waiting)
            if free and suspects and not waiting and not running:
                give(suspects)  # alone, so that no other file suffers
            done, _ = self._ray.wait([*running, *self._starting])
            for reference in done:
                if reference in self._starting:
                    if (ready := self._started(reference)) is not None:
                        free.extend([ready] * self._depth)
                    continue
                job, worker = running.pop(reference)
                outcome = self._outcome(reference, job)
                if outcome is not None:
                    free.append(worker)
                    yield outcome
                    continue
                free = deque(other for other in free if other is not worker)
                self._replace(worker)
                tries[str(job.target)] += 1
                if tries[str(job.target)] < TRIES:
                    suspects.append(job)
                    continue
                why = f"error: {job.name}: its worker process ended {TRIES} times; out of memory?"
                yield Outcome(job.name, str(job.target), "failed", 0, why)

    def _started(self, reference: Any) -> Any | None:
        """The worker that has answered that it is ready; None if it died, and another starts.

        Raises:
            UserError, EngineError: why no worker starts.
        """
        from ray.exceptions import RayError

        worker = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except RayError as error:
            self._failures += 1
            ours = _as_ours(error)
            if ours is not None:
                raise ours from error
            if self._failures > TRIES * self.size:
                raise UserError(f"--ray: no worker starts: {first_line(error)}") from error
            self._replace(worker)
            return None
        return worker

    def _outcome(self, reference: Any, job: Job) -> Outcome | None:
        """What a worker answered; None if it died."""
        from ray.exceptions import RayActorError, RayTaskError

        try:
            outcome = self._ray.get(reference)
        except RayTaskError as error:  # a bug of ours
            last = str(error).strip().splitlines()[-1]
            return Outcome(job.name, str(job.target), "failed", 0, f"error: {job.name}: {last}")
        except RayActorError:
            return None
        assert isinstance(outcome, Outcome)
        return outcome

    def _replace(self, worker: Any) -> None:
        """Start another worker in the place of one that died, unless that is done."""
        if worker in self._workers:
            self._workers.discard(worker)
            self._ray.kill(worker)  # it may only be cut off
            self._add()

    def stop(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker)


def _as_ours(error: Exception) -> Exception | None:
    """The error of ours that kept a worker from starting; Ray has it as text."""
    kinds = {kind.__name__: kind for kind in (UserError, EngineError)}
    found = re.findall(r"\b(UserError|EngineError): (.*)", str(error))
    return kinds[found[-1][0]](found[-1][1]) if found else None
