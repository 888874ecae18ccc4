"""A GPU: its context, and what engines and kernels take from the two CUDA bindings.

PyCUDA does contexts, memory, streams and copies. What it lacks comes from cuda-bindings on the
same streams: CUDA graphs, events on other libraries' streams, stream-ordered allocation.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dic.engine_file import EngineError
from runtime.engines.arrays import DeviceArray

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not ordered with the legacy default stream
KEPT = 1 << 40  # bytes: the pool keeps all memory that it once had (release threshold)

_GPUS: dict[int, Gpu] = {}  # by CUDA device index
_LOCK = threading.Lock()


class CudaError(Exception):
    """A function of cuda-bindings returned an error code."""


class Gpu:
    """A GPU whose primary context, which other libraries share, is retained until the exit.

    Results in GPU memory may outlive their engine, so there is one object a GPU and process.

    Attributes:
        index: CUDA device index.
        cuda: `pycuda.driver`.
        cudart: `cuda.bindings.runtime`.
        failures: exceptions of both bindings.
    """

    def __init__(self, cuda: Any, cudart: Any, driver: Any, index: int) -> None:
        self.cuda, self.cudart, self.index = cuda, cudart, index
        self._driver, self._pool = driver, None
        self.failures: tuple[type[Exception], ...] = (cuda.Error, CudaError)
        self._context = cuda.Device(index).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread; afterwards the one before is current again."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def check(self, result: tuple[Any, ...]) -> Any:
        """Return the value of a cuda-bindings function's result (error code, value).

        Raises:
            CudaError: the code is not success.
        """
        code, *values = result
        if int(code) != 0:
            _, text = self.cudart.cudaGetErrorString(code)
            raise CudaError(text.decode() if isinstance(text, bytes) else str(text))
        return values[0] if values else None

    def after(self, stream: int, other: int) -> None:
        """Let a stream wait for what another, also of another library, has queued now.

        Args:
            stream, other: handles; 1 is the legacy default stream, 2 the per-thread one.
        """
        cudart = self.cudart
        event = self.check(cudart.cudaEventCreateWithFlags(cudart.cudaEventDisableTiming))
        try:
            self.check(cudart.cudaEventRecord(event, other))
            self.check(cudart.cudaStreamWaitEvent(stream, event, 0))
        finally:
            self.check(cudart.cudaEventDestroy(event))  # CUDA defers it until the event is over

    def pool(self) -> Any:
        """The memory pool of results, made on first use; its context must be current."""
        with _LOCK:
            if self._pool is None:
                cudart = self.cudart
                properties = cudart.cudaMemPoolProps()
                properties.allocType = cudart.cudaMemAllocationType.cudaMemAllocationTypePinned
                properties.location.type = cudart.cudaMemLocationType.cudaMemLocationTypeDevice
                properties.location.id = self.index
                pool = self.check(cudart.cudaMemPoolCreate(properties))
                # By default a pool gives its memory back to the driver at every synchronisation.
                threshold = cudart.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
                kept = self._driver.cuuint64_t(KEPT)
                self.check(cudart.cudaMemPoolSetAttribute(pool, threshold, kept))
                self._pool = pool
            return self._pool

    @property
    def name(self) -> str:
        """Of the product, such as "NVIDIA GeForce RTX 4090"."""
        return str(self.cuda.Device(self.index).name())

    @property
    def identity(self) -> str:
        """Product, compute capability and driver version: what compiled kernels depend on."""
        major, minor = self.cuda.Device(self.index).compute_capability()
        return f"{self.name}, {major}.{minor}, driver {self.cuda.get_driver_version()}"


class Clock:
    """Times what a stream does between two points, by CUDA events in it. For one thread.

    Raises:
        CudaError: the GPU failed. Its context must be current.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._events = gpu, list[Any]()

    def mark(self, stream: int) -> None:
        """Note the time at which a stream, given by its handle, comes to this point."""
        cudart = self._gpu.cudart
        self._events.append(self._gpu.check(cudart.cudaEventCreateWithFlags(0)))
        self._gpu.check(cudart.cudaEventRecord(self._events[-1], stream))

    def milliseconds(self) -> float:
        """Between the first two marks; waits until the stream has come there."""
        first, last = self._events[:2]
        self._gpu.check(self._gpu.cudart.cudaEventSynchronize(last))
        return float(self._gpu.check(self._gpu.cudart.cudaEventElapsedTime(first, last)))

    def free(self) -> None:
        """Destroy the events."""
        while self._events:
            self._gpu.check(self._gpu.cudart.cudaEventDestroy(self._events.pop()))


class DeviceMemory:
    """Memory from a GPU's pool. It may be freed in any thread.

    Args:
        size: in bytes.
        stream: handle of the stream that writes to it first.
    """

    def __init__(self, gpu: Gpu, size: int, stream: int) -> None:
        self._gpu, self.pointer = gpu, 0
        pool = gpu.pool()
        self.pointer = int(gpu.check(gpu.cudart.cudaMallocFromPoolAsync(size, pool, stream)))

    def __del__(self) -> None:
        # Freed in the order of the legacy default stream, which comes after the work of other
        # libraries' blocking streams that may still read it. The interpreter may be exiting.
        with suppress(Exception):
            if self.pointer:
                with self._gpu.current():
                    cudart = self._gpu.cudart
                    cudart.cudaFreeAsync(self.pointer, cudart.cudaStreamLegacy)


def to_host(array: DeviceArray) -> NDArray[Any]:
    """Copy an array of a GPU that is in use by an engine, on which no work is pending.

    Raises:
        EngineError: the GPU failed.
    """
    gpu = _GPUS[array.index]
    copy: NDArray[Any] = np.empty(array.shape, array.dtype)
    try:
        with gpu.current():
            gpu.cuda.memcpy_dtoh(copy, array.pointer)
    except gpu.failures as error:
        raise EngineError(f"cuda:{array.index}: failed ({error}); see nvidia-smi") from error
    return copy


def open_gpu(path: Path, index: int) -> Gpu:
    """Return a GPU by its CUDA device index.

    Args:
        path: the plan, for error messages.

    Raises:
        EngineError: a binding cannot be imported, or the GPU does not exist or cannot be used.
    """
    cuda = _imported(path, "pycuda.driver", "pycuda")
    cudart = _imported(path, "cuda.bindings.runtime", "cuda-bindings")
    driver = _imported(path, "cuda.bindings.driver", "cuda-bindings")
    try:
        cuda.init()
        count = cuda.Device.count()
        if index >= count:
            raise EngineError(
                f"{path}: device cuda:{index} does not exist; this machine has {count} GPUs, "
                "numbered from 0"
            )
        with _LOCK:
            if index not in _GPUS:
                _GPUS[index] = Gpu(cuda, cudart, driver, index)
            return _GPUS[index]
    except cuda.Error as error:
        raise EngineError(
            f"{path}: the GPU cannot be used ({error}); check the NVIDIA driver"
        ) from error


def _imported(path: Path, module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"{path}: {package} is not installed or does not match the driver ({error}); "
            "pip install 'dic-toolkit[gpu]'"
        ) from error
