"""Engines run by TensorRT or TensorRT-RTX: plans, on an NVIDIA GPU, through PyCUDA.

A `_Lane` holds what one run needs: an execution context, a stream, device and page-locked memory
for the largest batch of the profile. Threads take a lane each from a pool, so that they neither
wait for one another nor allocate. Everything that knows of TensorRT and CUDA is in this one file,
and makes it long.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import logging
import math
import queue
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from runtime.arrays import DeviceArray, accept
from runtime.console import UserError, write_whole
from runtime.engine import (
    LQ_SIZE,
    METADATA_PREFIX,
    EngineError,
    Metadata,
    TensorInfo,
    check_contract,
    check_feed,
)

log = logging.getLogger(__name__)

MODULES = {"TensorRT": "tensorrt", "TensorRT-RTX": "tensorrt_rtx"}
INSTALL = {
    "TensorRT": "pip install tensorrt 'dic-toolkit[gpu]'",
    "TensorRT-RTX": "pip install 'dic-toolkit[rtx,gpu]'",
}
# Why a TensorRT-RTX plan does not fit, by the flags of EngineInvalidityDiagnostics.
MISFITS = {
    "VERSION_MISMATCH": "built by another version",
    "UNSUPPORTED_CC": "not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "too little GPU memory",
    "MALFORMED_ENGINE": "the plan is damaged",
    "CUDA_ERROR": "CUDA reports an error",
}


_CONTEXTS: dict[int, Any] = {}  # primary contexts by GPU


class TensorRTEngine:
    """An `Engine`; see `runtime.load.load_engine`.

    Args:
        label: whose plan it is, a key of MODULES.
        index: of the GPU.

    Raises:
        EngineError: nothing here runs it, and why: no library, no driver, another GPU or version.
    """

    def __init__(self, path: Path, label: str, index: int) -> None:
        self.path, self.device, self._index = path, f"cuda:{index}", index
        self._trt = trt = _library(path, label)
        self.backend = f"{label} {trt.__version__}"
        plan = path.read_bytes()
        self._logger = _logger(trt)
        if label == "TensorRT-RTX":  # its header is read without a GPU, and tells most
            _check_fits(path, trt, self._logger, plan)
        self._cuda, self._context = _primary_context(path, index)
        self._lanes: queue.LifoQueue[_Lane] = queue.LifoQueue()
        self._held: dict[str, Any] = {}
        # Also for whoever forgets to close: TensorRT's objects must go while the GPU's context
        # is current, and before the process does.
        self._release = weakref.finalize(self, _release, self._context, self._lanes, self._held)
        with self._current():
            self._held["runtime"] = runtime = trt.Runtime(self._logger)
            if label == "TensorRT":  # version-compatible plans bring a runtime of their own
                runtime.engine_host_code_allowed = True
            self._held["engine"] = self._plan = runtime.deserialize_cuda_engine(plan)
            if self._plan is None:
                raise EngineError(
                    f"{path}: {self.backend} cannot load the plan: {self._logger.last}; build it "
                    "anew for this machine with python -m export.tensorrt"
                )
            self._held["config"] = self._runtime_config()
        names = [self._plan.get_tensor_name(i) for i in range(self._plan.num_io_tensors)]
        taken = trt.TensorIOMode.INPUT
        self._inputs = [n for n in names if self._plan.get_tensor_mode(n) == taken]
        self.inputs = tuple(self._info(n) for n in names if n in self._inputs)
        self.outputs = tuple(self._info(n) for n in names if n not in self._inputs)
        profile = self._plan.get_tensor_profile_shape(self._inputs[0], 0)
        self.max_batch: int | None = int(profile[2][0])
        self.lanes = 1
        self._min_batch = int(profile[0][0])
        self.metadata = _metadata(path, plan, self.inputs, self.outputs)
        check_contract(path, self.metadata, self.inputs, self.outputs)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        if not self._release.alive:
            raise ValueError(f"{self.path}: the engine is closed")
        taken = accept(feed, self.device)
        check_feed(self.inputs, taken, self.max_batch)
        batch = next(iter(taken.values())).shape[0]
        on_device = any(isinstance(array, DeviceArray) for array in taken.values())
        try:
            with self._current(), self._lane() as lane:
                return lane.run(taken, batch, on_device)
        except self._cuda.Error as error:
            reason = " ".join(str(error).split())
            raise EngineError(f"{self.path}: {self.device} failed: {reason}") from error

    @contextmanager
    def _lane(self) -> Iterator[_Lane]:
        try:
            lane = self._lanes.get_nowait()
        except queue.Empty:
            lane = _Lane(self)
        try:
            yield lane
        finally:
            self._lanes.put(lane)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Within, this thread's calls go to the engine's GPU."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def _runtime_config(self) -> Any:
        """TensorRT-RTX captures CUDA graphs itself, one for each batch size."""
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
        """Say in the plan's sidecar that it gave PyTorch's faces, and where."""
        sidecar = _sidecar(self.path)
        with self._current():
            name = self._cuda.Device(self._index).name()
        try:
            entries = json.loads(sidecar.read_text())
            entries["verified"] = f"{name}, {self.backend}"
            write_whole(sidecar, (json.dumps(entries, indent=1) + "\n").encode())
        except (OSError, ValueError, UserError) as error:
            log.info("%s: verified, which cannot be recorded: %s", self.path, error)

    def close(self) -> None:
        """Free the GPU's memory. Runs of other threads must have ended."""
        self._plan = None
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Lane:
    """What one run at a time needs. Made, used and freed with the GPU's context current."""

    def __init__(self, engine: TensorRTEngine) -> None:
        cuda, plan, config = engine._cuda, engine._plan, engine._held["config"]
        self._cuda, self._index, self._gpu = cuda, engine._index, engine._context
        self._inputs, self._outputs = engine.inputs, engine.outputs
        self._context = (
            plan.create_execution_context(config)
            if config is not None
            else plan.create_execution_context()
        )
        if self._context is None:
            raise EngineError(f"{engine.path}: {engine.device}: too little memory for its run")
        self._stream = cuda.Stream()
        # The first context of a plan takes its profile by itself, further ones do not.
        if self._context.active_optimization_profile != 0:
            self._context.set_optimization_profile_async(0, self._stream.handle)
        self._device: dict[str, Any] = {}
        self._host: dict[str, Any] = {}
        for tensor in (*self._inputs, *self._outputs):
            shape = (engine.max_batch, *tensor.shape[1:])
            self._host[tensor.name] = cuda.pagelocked_empty(shape, np.dtype(tensor.dtype))
            self._device[tensor.name] = cuda.mem_alloc(self._host[tensor.name].nbytes)
            self._context.set_tensor_address(tensor.name, int(self._device[tensor.name]))
        self._graph = _Graph(self._context, self._stream) if config is None else None
        self._min_batch, self._batch = engine._min_batch, 0

    def run(self, feed: Mapping[str, Any], batch: int, on_device: bool) -> dict[str, Any]:
        cuda, stream = self._cuda, self._stream
        # What a batch smaller than the profile's lacks is whatever the memory holds.
        whole = max(batch, self._min_batch)
        for tensor in self._inputs:
            given, held = feed[tensor.name], self._device[tensor.name]
            if isinstance(given, DeviceArray):
                # A few kilobytes within the GPU: cheaper than a graph of other addresses.
                cuda.memcpy_dtod_async(int(held), given.pointer, given.nbytes, stream)
            else:
                staged = self._host[tensor.name][:batch]
                staged[...] = given
                cuda.memcpy_htod_async(held, staged, stream)
            if whole != self._batch:
                self._context.set_input_shape(tensor.name, (whole, *tensor.shape[1:]))
        self._batch = whole
        self._execute(whole)
        return self._left_there(batch) if on_device else self._fetched(batch)

    def _execute(self, batch: int) -> None:
        if self._graph is not None and self._graph.launch(batch):
            return
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError("TensorRT could not run the plan; -v tells more")

    def _fetched(self, batch: int) -> dict[str, Any]:
        """The outputs as NumPy arrays; the page-locked memory is the next run's."""
        for tensor in self._outputs:
            staged = self._host[tensor.name][:batch]
            self._cuda.memcpy_dtoh_async(staged, self._device[tensor.name], self._stream)
        self._stream.synchronize()
        return {tensor.name: self._host[tensor.name][:batch].copy() for tensor in self._outputs}

    def _left_there(self, batch: int) -> dict[str, Any]:
        """The outputs in GPU memory of their own."""
        given = {}
        for tensor in self._outputs:
            shape, dtype = (batch, *tensor.shape[1:]), np.dtype(tensor.dtype)
            sizes = tuple(size or 0 for size in shape)
            size = math.prod(sizes) * dtype.itemsize
            memory = _Memory(self._cuda, self._gpu, size)
            self._cuda.memcpy_dtod_async(
                memory.pointer, int(self._device[tensor.name]), size, self._stream
            )
            given[tensor.name] = DeviceArray(memory.pointer, sizes, dtype, self._index, memory)
        self._stream.synchronize()
        return given

    def free(self) -> None:
        self._stream.synchronize()
        if self._graph is not None:
            self._graph.drop()
        self._graph = self._context = None
        for memory in (*self._device.values(), *(array.base for array in self._host.values())):
            memory.free()


class _Memory:
    """GPU memory that any thread may drop; PyCUDA frees only where its context is current."""

    def __init__(self, cuda: Any, context: Any, size: int) -> None:
        self._context, self._allocation = context, cuda.mem_alloc(size)
        self.pointer = int(self._allocation)

    def __del__(self) -> None:
        with suppress(Exception):  # the process may be ending
            self._context.push()
            try:
                self._allocation.free()
            finally:
                self._context.pop()


class _Graph:
    """A CUDA graph of a context's run at the batch size it has; PyCUDA has none, cuda-bindings has.

    A context's graph is of no use once its shapes have changed: it is dropped, and captured anew
    after a plain run at the new size, which TensorRT needs to prepare itself.
    """

    def __init__(self, context: Any, stream: Any) -> None:
        self._context, self._stream = context, stream
        self._batch, self._graph = 0, None
        try:
            self._cudart: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            log.info("no CUDA graphs: cuda-bindings is not installed")
            self._cudart = None

    def launch(self, batch: int) -> bool:
        """Run by the graph; False where the caller must run without."""
        if batch != self._batch:
            self.drop()
            self._batch = batch
            return False
        if self._graph is None and self._cudart is not None:
            self._graph = self._capture()
        if self._graph is None:
            return False
        (error,) = self._cudart.cudaGraphLaunch(self._graph, self._stream.handle)
        return int(error) == 0

    def drop(self) -> None:
        if self._graph is not None:
            self._cudart.cudaGraphExecDestroy(self._graph)
            self._graph = None

    def _capture(self) -> Any:
        cudart, handle = self._cudart, self._stream.handle
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        (error,) = cudart.cudaStreamBeginCapture(handle, mode)
        executable = None
        if not int(error):
            done = self._context.execute_async_v3(handle)
            error, graph = cudart.cudaStreamEndCapture(handle)
            if not int(error):
                if done:
                    error, executable = cudart.cudaGraphInstantiate(graph, 0)
                cudart.cudaGraphDestroy(graph)
        if executable is None or int(error):
            log.info("no CUDA graphs: the plan's run cannot be captured (%s)", error)
            self._cudart = None
            return None
        return executable


def _release(context: Any, lanes: queue.LifoQueue[_Lane], held: dict[str, Any]) -> None:
    """Free what an engine holds, in the order in which its parts need each other."""
    context.push()
    try:
        while not lanes.empty():
            lanes.get_nowait().free()
        for name in ("config", "engine", "runtime"):
            held.pop(name, None)
    finally:
        context.pop()


def _library(path: Path, label: str) -> ModuleType:
    """The module that runs a label's plans."""
    name = MODULES[label]
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{path}: a {label} plan, and {name} is not installed; {INSTALL[label]}"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"{path}: {name} is installed but does not load: {error}") from error
    if label == "TensorRT" and not _has_driver():  # it would end the process
        raise EngineError(f"{path}: a {label} plan, and no NVIDIA driver works here")
    return found


def _check_fits(path: Path, trt: ModuleType, logger: Any, plan: bytes) -> None:
    """Raise EngineError where a TensorRT-RTX plan cannot run here, by its header."""
    runtime = trt.Runtime(logger)
    validity, flags = runtime.get_engine_validity(plan)
    known = trt.EngineInvalidityDiagnostics.__members__
    reasons = [MISFITS.get(name, name) for name, flag in known.items() if int(flags) & int(flag)]
    if not _has_driver():
        # Without one every plan meets a CUDA error, which is nothing to blame the plan for.
        reasons = [reason for reason in reasons if reason != MISFITS["CUDA_ERROR"]]
        reasons.append("no NVIDIA driver works here")
    elif validity != trt.EngineValidity.INVALID:
        if reasons:
            log.info("%s: %s", path, "; ".join(reasons))
        return
    raise EngineError(
        f"{path}: a TensorRT-RTX plan that cannot run here: {'; '.join(reasons) or 'invalid'}"
    )


def _has_driver() -> bool:
    try:
        return int(ctypes.CDLL("libcuda.so.1").cuInit(0)) == 0
    except (OSError, AttributeError):
        return False


def _primary_context(path: Path, index: int) -> tuple[Any, Any]:
    """PyCUDA's driver module, and the GPU's primary context, which other libraries share."""
    try:
        cuda = importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise EngineError(
            f"{path}: pycuda is not installed, or not for this driver ({error}); pip install pycuda"
        ) from error
    try:
        cuda.init()
        count = cuda.Device.count()
        if index >= count:
            raise EngineError(f"{path}: no GPU cuda:{index}; there are {count} here")
        # Kept until the process ends: arrays on the GPU may outlive their engine.
        if index not in _CONTEXTS:
            _CONTEXTS[index] = cuda.Device(index).retain_primary_context()
        return cuda, _CONTEXTS[index]
    except cuda.Error as error:
        raise EngineError(f"{path}: the GPU cannot be used: {error}") from error


def _logger(trt: ModuleType) -> Any:
    """A logger that keeps the last error for our one line, and tells the rest to `logging`."""

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            line = " ".join(message.split())
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.last = line[:300]
            log.debug("%s: %s", severity.name.lower(), line)

    return Logger()


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _metadata(
    path: Path, plan: bytes, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]
) -> Metadata:
    """From the JSON beside a plan; without it, what its tensors tell."""
    sidecar = _sidecar(path)
    try:
        content = json.loads(sidecar.read_text())
        whole = dict(content.items())
        digest = whole.get("plan", {}).get("sha256")
    except OSError:
        log.warning("%s: no %s beside it; what it computes is unverified", path, sidecar.name)
        return _guessed(path, inputs, outputs)
    except (ValueError, AttributeError) as error:
        raise EngineError(f"{sidecar}: damaged ({error}); build the plan anew") from error
    if digest != hashlib.sha256(plan).hexdigest():
        raise EngineError(f"{sidecar}: is of another plan than {path.name}; build the plan anew")
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in whole.items()}
    return Metadata.parse(path, _prefixed(texts))


def _prefixed(entries: dict[str, str]) -> dict[str, str]:
    return {f"{METADATA_PREFIX}{key}": value for key, value in entries.items()}


def _guessed(
    path: Path, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]
) -> Metadata:
    image = inputs[0].name == "image"
    sizes = {tensor.name: tensor.shape for tensor in outputs}
    faces = [shape for name, shape in sizes.items() if name == "face" or name.startswith("sr")]
    side = next((shape[1 if image else 2] for shape in faces), None) or LQ_SIZE
    marks = next((s for n, s in sizes.items() if n == "scores" or n.startswith("heatmap")), ())
    entries = {
        "format_version": "1",
        "io": "image" if image else "tensor",
        "steps": str(sum(name.startswith("sr_") for name in sizes) or 0),
        "precision": "unknown",
        "target": "gpu",
        "landmarks": str(marks[1] if len(marks) in (2, 4) else 0),
        "scale": str(side // LQ_SIZE),
    }
    return Metadata.parse(path, _prefixed(entries))
