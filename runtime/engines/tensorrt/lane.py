"""One of the parallel runs of a plan: a stream, its buffers, and a bucket for each batch size."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.arrays import Accepted, DeviceArray, Stacked
from runtime.engines.gpu import NON_BLOCKING, Clock, CudaError, DeviceMemory
from runtime.engines.tensorrt.bucket import Bucket, bucket_sizes
from runtime.engines.tensorrt.loaded_plan import LoadedPlan

log = logging.getLogger(__name__)

REPLAYS = 2  # compared with an ordinary run before a graph is trusted
UNTOUCHED = 0xA5  # outputs are filled with it before a replay
CLOSE = 0.01  # of the largest value: a replay's floats may differ so far from an ordinary run's


class Lane:
    """Runs batches one after another on a stream of its own.

    Page-locked and GPU buffers have the profile's largest batch, so that a run on host arrays
    allocates nothing. While one lane's run computes, another's inputs and outputs are copied.
    Make, use and free it with the GPU's context current.

    Raises:
        EngineError, CudaError, pycuda.driver.Error: the GPU failed; the lane must be freed.
    """

    def __init__(self, plan: LoadedPlan) -> None:
        self._plan, self._sizes = plan, bucket_sizes(*plan.batches)
        self._buckets: dict[int, Bucket] = {}
        self._device: dict[str, Any] = {}
        self._host: dict[str, NDArray[Any]] = {}
        self._workspace: Any = None
        self._stream: Any = None
        try:
            self._allocate()
        except BaseException:
            self.free()
            raise

    def _allocate(self) -> None:
        cuda, plan = self._plan.gpu.cuda, self._plan
        self._stream = cuda.Stream(NON_BLOCKING)
        for tensor in (*plan.inputs, *plan.outputs):
            shape = (plan.batches[1], *tensor.shape[1:])
            self._host[tensor.name] = cuda.pagelocked_empty(shape, np.dtype(tensor.dtype))
            size = self._host[tensor.name].nbytes
            self._device[tensor.name] = cuda.mem_alloc(size)
            # Padding rows are zeros or earlier faces, never what other programs left in memory.
            cuda.memset_d8_async(int(self._device[tensor.name]), 0, size, self._stream)
        if plan.workspace:
            self._workspace = cuda.mem_alloc(plan.workspace)

    @property
    def handle(self) -> int:
        """Of the stream."""
        return int(self._stream.handle)

    def run(self, feed: Mapping[str, Accepted], clock: Clock | None = None) -> dict[str, Any]:
        """Run one batch.

        Args:
            feed: a contiguous array (batch, ...) per input, in host or GPU memory.
            clock: marks the beginning and the end of the network's run in the lane's stream.

        Returns:
            NumPy arrays, or `DeviceArray`s if an input is in GPU memory. The run has finished.
        """
        batch = next(iter(feed.values())).shape[0]
        size = self._sizes[bisect_left(self._sizes, batch)]
        for tensor in self._plan.inputs:
            self._upload(tensor.name, feed[tensor.name])
        if size not in self._buckets:
            with self._plan.lock:
                self._prepare(size)
        if clock is not None:
            clock.mark(self.handle)
        self._buckets[size].run()
        if clock is not None:
            clock.mark(self.handle)
        if any(isinstance(array, DeviceArray | Stacked) for array in feed.values()):
            return self._device_outputs(batch)
        return self._host_outputs(batch)

    def _upload(self, name: str, source: Accepted) -> None:
        """Copy an input into the buffer whose address the contexts and graphs know."""
        gpu, buffer = self._plan.gpu, int(self._device[name])
        if isinstance(source, np.ndarray):
            staged = self._host[name][: len(source)]
            staged[...] = source
            gpu.cuda.memcpy_htod_async(buffer, staged, self._stream)
            return
        parts = source.parts if isinstance(source, Stacked) else (source,)
        for stream in {part.stream for part in parts if part.stream is not None}:
            gpu.after(self.handle, stream)
        for part in parts:
            gpu.cuda.memcpy_dtod_async(buffer, part.pointer, part.nbytes, self._stream)
            buffer += part.nbytes

    def _prepare(self, size: int) -> None:
        """Make a bucket, and compare replays of its graph with an ordinary run.

        A graph can be empty without an error; its replay would return the last batch's faces.
        """
        cuda = self._plan.gpu.cuda
        addresses = {name: int(memory) for name, memory in self._device.items()}
        workspace = int(self._workspace) if self._workspace is not None else 0
        bucket = Bucket(self._plan, size, addresses, workspace, self.handle)
        self._buckets[size] = bucket
        bucket.enqueue()
        expected = self._host_outputs(size)
        if bucket.capture():
            for _ in range(REPLAYS):
                for name in expected:
                    memory, nbytes = int(self._device[name]), expected[name].nbytes
                    cuda.memset_d8_async(memory, UNTOUCHED, nbytes, self._stream)
                try:
                    bucket.run()
                    why = _difference(expected, self._host_outputs(size))
                except CudaError as error:
                    why = str(error)
                if why:
                    bucket.give_up_graph(why)
                    break
        self._plan.save_cache()

    def _host_outputs(self, batch: int) -> dict[str, Any]:
        """The outputs as NumPy arrays, copied because the next run overwrites the buffers."""
        cuda, names = self._plan.gpu.cuda, [tensor.name for tensor in self._plan.outputs]
        for name in names:
            cuda.memcpy_dtoh_async(self._host[name][:batch], int(self._device[name]), self._stream)
        self._stream.synchronize()
        return {name: self._host[name][:batch].copy() for name in names}

    def _device_outputs(self, batch: int) -> dict[str, Any]:
        """The outputs in memory from the GPU's pool, which the next run does not overwrite."""
        gpu, outputs = self._plan.gpu, {}
        for tensor in self._plan.outputs:
            dtype = np.dtype(tensor.dtype)
            shape = (batch, *(size or 0 for size in tensor.shape[1:]))
            size = math.prod(shape) * dtype.itemsize
            memory = DeviceMemory(gpu, size, self.handle)
            source = int(self._device[tensor.name])
            gpu.cuda.memcpy_dtod_async(memory.pointer, source, size, self._stream)
            outputs[tensor.name] = DeviceArray(memory.pointer, shape, dtype, gpu.index, memory)
        self._stream.synchronize()
        return outputs

    def free(self) -> None:
        """Wait for the stream, then free everything, even if the GPU has failed."""
        failures = self._plan.gpu.failures
        with suppress(*failures):
            if self._stream is not None:
                self._stream.synchronize()
        for bucket in self._buckets.values():
            with suppress(*failures):
                bucket.free()
        self._buckets.clear()
        held = [*self._device.values(), *(array.base for array in self._host.values())]
        for memory in (*held, *([self._workspace] if self._workspace is not None else ())):
            with suppress(*failures):
                memory.free()
        self._device, self._host, self._workspace, self._stream = {}, {}, None, None


def _difference(expected: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> str:
    """How a replay's outputs differ from an ordinary run's; empty if they agree."""
    for name, wanted in expected.items():
        given = got[name]
        if not (given.view(np.uint8) != UNTOUCHED).any():
            return f"its replay leaves {name} untouched"
        integer = wanted.dtype.kind in "iu"
        near = 1.0 if integer else CLOSE * float(np.abs(wanted).max(initial=0))
        if not np.allclose(given.astype(np.float64), wanted, rtol=0, atol=near, equal_nan=True):
            return f"its replay computes another {name} than an ordinary run"
    return ""
