"""A TensorRT or TensorRT-RTX plan as an engine, shared by any number of threads."""

from __future__ import annotations

import importlib
import json
import logging
import queue
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from dic.console import UserError
from dic.driver import has_driver
from dic.engine_file import EngineError, TensorInfo, sidecar
from dic.files import write_whole
from runtime.engines.arrays import DeviceArray, accept
from runtime.engines.contract import check_contract, check_feed
from runtime.engines.tensorrt.execution import Execution
from runtime.engines.tensorrt.gpu import plan_logger, primary_context
from runtime.engines.tensorrt.plan_file import plan_metadata

log = logging.getLogger(__name__)

MODULES = {"TensorRT": "tensorrt", "TensorRT-RTX": "tensorrt_rtx"}
INSTALL = {
    "TensorRT": "pip install tensorrt 'dic-toolkit[gpu]'",
    "TensorRT-RTX": "pip install 'dic-toolkit[rtx,gpu]'",
}
# Why a TensorRT-RTX plan cannot run, by the flags of TensorRT-RTX's EngineInvalidityDiagnostics.
INVALIDITY = {
    "VERSION_MISMATCH": "built by another version of TensorRT-RTX",
    "UNSUPPORTED_CC": "not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the CUDA driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "not enough GPU memory",
    "MALFORMED_ENGINE": "the plan is damaged",
    "CUDA_ERROR": "CUDA reports an error",
}


class TensorRTEngine:
    """An `Engine` that runs a plan.

    Args:
        path: the plan; its metadata is in the JSON file beside it.
        label: the library that built the plan, a key of MODULES.
        index: CUDA device index.

    Raises:
        EngineError: the plan cannot run on this machine: the library or driver is missing, or the
            plan was built for another GPU or by another version. The message says which.
    """

    def __init__(self, path: Path, label: str, index: int) -> None:
        self.path, self.device, self._index = path, f"cuda:{index}", index
        self._trt = trt = _library(path, label)
        self.backend = f"{label} {trt.__version__}"
        plan = path.read_bytes()
        self._logger = plan_logger(trt)
        if label == "TensorRT-RTX":  # its header can be checked without a GPU
            _check_validity(path, trt, self._logger, plan)
        self._cuda, self._context = primary_context(path, index)
        self._idle: queue.LifoQueue[Execution] = queue.LifoQueue()
        self._held: dict[str, Any] = {}
        # A finaliser, so that an engine that was never closed is released too: TensorRT's objects
        # must be destroyed while the CUDA context is current and before the process exits.
        self._release = weakref.finalize(self, _release, self._context, self._idle, self._held)
        with self._current():
            self._held["runtime"] = runtime = trt.Runtime(self._logger)
            if label == "TensorRT":  # version-compatible plans contain a lean runtime to execute
                runtime.engine_host_code_allowed = True
            self._held["engine"] = self._plan = runtime.deserialize_cuda_engine(plan)
            if self._plan is None:
                raise EngineError(
                    f"{path}: {self.backend} cannot load the plan ({self._logger.last}); build it "
                    "again on this machine with python -m export.tensorrt"
                )
            self._held["config"] = self._runtime_config()
        names = [self._plan.get_tensor_name(i) for i in range(self._plan.num_io_tensors)]
        mode = trt.TensorIOMode.INPUT
        self._inputs = [n for n in names if self._plan.get_tensor_mode(n) == mode]
        self.inputs = tuple(self._info(n) for n in names if n in self._inputs)
        self.outputs = tuple(self._info(n) for n in names if n not in self._inputs)
        profile = self._plan.get_tensor_profile_shape(self._inputs[0], 0)
        self.max_batch: int | None = int(profile[2][0])
        self.lanes = 1
        self._min_batch = int(profile[0][0])
        self.metadata = plan_metadata(path, plan, self.inputs, self.outputs)
        check_contract(path, self.metadata, self.inputs, self.outputs)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        if not self._release.alive:
            raise ValueError(f"{self.path}: the engine is closed")
        arrays = accept(feed, self.device)
        check_feed(self.inputs, arrays, self.max_batch)
        batch = next(iter(arrays.values())).shape[0]
        on_device = any(isinstance(array, DeviceArray) for array in arrays.values())
        try:
            with self._current(), self._execution() as execution:
                return execution.run(arrays, batch, on_device)
        except self._cuda.Error as error:
            reason = " ".join(str(error).split())
            raise EngineError(
                f"{self.path}: failed on {self.device} ({reason}); try a smaller batch or another "
                "--device"
            ) from error

    @contextmanager
    def _execution(self) -> Iterator[Execution]:
        """An idle execution context, or a new one; returned to the idle ones afterwards."""
        try:
            execution = self._idle.get_nowait()
        except queue.Empty:
            execution = Execution(self)
        try:
            yield execution
        finally:
            self._idle.put(execution)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Make the GPU's context current in this thread."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def _runtime_config(self) -> Any:
        """Let TensorRT-RTX capture CUDA graphs, one per batch size; None for TensorRT."""
        if not hasattr(self._trt, "CudaGraphStrategy"):
            return None
        config = self._plan.create_runtime_config()
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return config

    def _info(self, name: str) -> TensorInfo:
        dtype = np.dtype(self._trt.nptype(self._plan.get_tensor_dtype(name))).name
        shape = tuple(self._plan.get_tensor_shape(name))
        return TensorInfo(name, dtype, (None if shape[0] < 0 else shape[0], *shape[1:]))

    def record_verified(self) -> None:
        """Record in the JSON beside the plan the GPU and library that passed verification."""
        json_file = sidecar(self.path)
        with self._current():
            name = self._cuda.Device(self._index).name()
        try:
            entries = json.loads(json_file.read_text())
            entries["verified"] = f"{name}, {self.backend}"
            write_whole(json_file, (json.dumps(entries, indent=1) + "\n").encode())
        except (OSError, ValueError, UserError) as error:
            log.info("%s: verified, but not recorded in %s: %s", self.path, json_file.name, error)

    def close(self) -> None:
        """Free the engine's GPU memory. No thread may be in `run`."""
        self._plan = None
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _release(context: Any, idle: queue.LifoQueue[Execution], held: dict[str, Any]) -> None:
    """Destroy an engine's TensorRT objects: dependents before what they depend on."""
    context.push()
    try:
        while not idle.empty():
            idle.get_nowait().free()
        for name in ("config", "engine", "runtime"):
            held.pop(name, None)
    finally:
        context.pop()


def _library(path: Path, label: str) -> ModuleType:
    """Import the module that runs a library's plans.

    Raises:
        EngineError: it is not installed, cannot be imported, or needs a driver.
    """
    name = MODULES[label]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{path}: a {label} plan, but {name} is not installed; {INSTALL[label]}"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"{path}: {name} is installed but cannot be imported ({error}); reinstall it"
        ) from error
    if label == "TensorRT" and not has_driver():  # TensorRT would abort the process
        raise EngineError(f"{path}: a {label} plan, but no NVIDIA driver works here; install one")
    return module


def _check_validity(path: Path, trt: ModuleType, logger: Any, plan: bytes) -> None:
    """Check by its header whether a TensorRT-RTX plan can run on this machine.

    Raises:
        EngineError: it cannot; the message lists the reasons.
    """
    runtime = trt.Runtime(logger)
    validity, flags = runtime.get_engine_validity(plan)
    known = trt.EngineInvalidityDiagnostics.__members__
    reasons = [INVALIDITY.get(name, name) for name, flag in known.items() if int(flags) & int(flag)]
    if not has_driver():
        # Without a driver every plan reports a CUDA error, which is not the plan's fault.
        reasons = [reason for reason in reasons if reason != INVALIDITY["CUDA_ERROR"]]
        reasons.append("no NVIDIA driver works here")
    elif validity != trt.EngineValidity.INVALID:
        if reasons:
            log.info("%s: %s", path, "; ".join(reasons))
        return
    raise EngineError(
        f"{path}: this TensorRT-RTX plan cannot run here ({'; '.join(reasons) or 'invalid'}); run "
        "its ONNX file, or build the plan again for this machine"
    )
