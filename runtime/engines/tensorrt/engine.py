"""A TensorRT or TensorRT-RTX plan as an engine, shared by any number of threads."""

from __future__ import annotations

import json
import logging
import queue
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dic.console import UserError
from dic.engine_file import EngineError, sidecar
from dic.files import write_json
from runtime.engines.arrays import accept
from runtime.engines.contract import check_contract, check_feed
from runtime.engines.gpu import Clock, Gpu, open_gpu
from runtime.engines.tensorrt.lane import Lane
from runtime.engines.tensorrt.library import open_library
from runtime.engines.tensorrt.loaded_plan import LoadedPlan
from runtime.engines.tensorrt.plan_file import allows_host_code, described_plan, plan_metadata

log = logging.getLogger(__name__)

LANES = 2  # one computes while the other's inputs and outputs are copied


class TensorRTEngine:
    """An `Engine` that runs a plan.

    Attributes:
        gpu: where it runs, and where photographs can be processed beside it (`runtime.faces.gpu`).

    Args:
        path: the plan; its metadata is in the JSON file beside it.
        label: the library that built the plan, "TensorRT" or "TensorRT-RTX".
        index: CUDA device index.

    Raises:
        EngineError: the plan cannot run on this machine: the library or driver is missing, or the
            plan was built for another GPU or by another version. The message says which.
    """

    def __init__(self, path: Path, label: str, index: int) -> None:
        self.path, self.device, self.lanes = path, f"cuda:{index}", LANES
        content = path.read_bytes()
        trt = open_library(path, label, content)
        self.backend = f"{label} {trt.__version__}"
        described = described_plan(path, content)
        self.gpu = gpu = open_gpu(path, index)
        try:
            with gpu.current():
                plan = LoadedPlan(path, trt, label, gpu, content, allows_host_code(described))
        except gpu.failures as error:
            raise self._failed(error) from error
        # Lanes that are free; None is a place for one that is not made yet.
        self._idle: queue.LifoQueue[Lane | None] = queue.LifoQueue()
        for _ in range(LANES):
            self._idle.put(None)
        self._plan, self._made, self._lock = plan, 0, threading.Lock()
        # A finaliser, so that an engine that was never closed is released too, at the latest when
        # the process exits: TensorRT's objects must be destroyed before CUDA is.
        self._release = weakref.finalize(self, _release, gpu, self._idle, plan)
        try:
            self.inputs, self.outputs = plan.inputs, plan.outputs
            self.max_batch: int | None = plan.batches[1]
            self.metadata = plan_metadata(path, described, self.inputs, self.outputs)
            check_contract(path, self.metadata, self.inputs, self.outputs)
        except BaseException:
            self.close()
            raise

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        return self._run(feed)

    def gpu_milliseconds(self, feed: Mapping[str, Any]) -> float:
        """Run one batch, and return how long the GPU computed: by CUDA events in the run's stream.

        Copies are not included, nor is what the first run of a batch size prepares.

        Args:
            feed: as for `run`, and raises the same.
        """
        try:
            with self.gpu.current():
                clock = Clock(self.gpu)
                try:
                    self._run(feed, clock)
                    return clock.milliseconds()
                finally:
                    clock.free()
        except self.gpu.failures as error:
            raise self._failed(error) from error

    def _run(self, feed: Mapping[str, Any], clock: Clock | None = None) -> dict[str, Any]:
        if not self._release.alive:
            raise ValueError(f"{self.path}: the engine is closed")
        try:
            with self.gpu.current():
                lane = self._lane()
                try:
                    arrays = accept(feed, self.device, lane.handle)
                    check_feed(self.inputs, arrays, self.max_batch)
                except BaseException:  # the lane has done nothing yet
                    self._idle.put(lane)
                    raise
                try:
                    outputs = lane.run(arrays, clock)
                except BaseException:  # what is queued in its stream is unknown
                    self._discard(lane)
                    raise
                self._idle.put(lane)
                return outputs
        except self.gpu.failures as error:
            raise self._failed(error) from error

    def _lane(self) -> Lane:
        """A free lane, or a new one. If there is memory for fewer than `LANES`, they share."""
        while True:
            lane = self._idle.get()
            if lane is not None:
                return lane
            try:
                with self._plan.lock:
                    lane = Lane(self._plan)
            except BaseException as error:
                with self._lock:
                    alone = self._made == 0
                if alone or not isinstance(error, (EngineError, *self.gpu.failures)):
                    self._idle.put(None)
                    raise
                log.warning("%s: runs with fewer lanes: %s", self.path, error)
                continue
            with self._lock:
                self._made += 1
            return lane

    def _discard(self, lane: Lane) -> None:
        """Free a lane whose run failed; the next run makes another."""
        with self._lock:
            self._made -= 1
        lane.free()
        self._idle.put(None)

    def _failed(self, error: Exception) -> EngineError:
        reason = " ".join(str(error).split())
        return EngineError(
            f"{self.path}: failed on {self.device} ({reason}); try a smaller batch or another "
            "--device"
        )

    def record_verified(self) -> None:
        """Record in the JSON beside the plan the GPU and library that passed verification."""
        json_file = sidecar(self.path)
        try:
            entries = json.loads(json_file.read_text())
            entries["verified"] = f"{self.gpu.name}, {self.backend}"
            write_json(json_file, entries)
        except (OSError, ValueError, UserError) as error:
            log.info("%s: verified, but not recorded in %s: %s", self.path, json_file.name, error)

    def close(self) -> None:
        """Free the engine's GPU memory. No thread may be in `run`."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _release(gpu: Gpu, idle: queue.LifoQueue[Lane | None], plan: LoadedPlan) -> None:
    """Free an engine's lanes and plan. Only logs what fails, as an earlier error matters more."""
    try:
        with gpu.current():
            while not idle.empty():
                lane = idle.get_nowait()
                if lane is not None:
                    lane.free()
            plan.free()
    except Exception as error:
        log.info("%s: not freed: %s", plan.path, error)
