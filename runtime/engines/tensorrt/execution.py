"""One execution context of a plan, with its CUDA stream and buffers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from dic.engine_file import EngineError
from runtime.engines.arrays import DeviceArray
from runtime.engines.tensorrt.graph import CudaGraph

if TYPE_CHECKING:
    from runtime.engines.tensorrt.engine import TensorRTEngine


class Execution:
    """An execution context with its CUDA stream and buffers; it serves one run at a time.

    The device and page-locked buffers have the profile's largest batch, so that a run on host
    arrays allocates nothing. Construct, use and free it with the GPU's context current.

    Raises:
        EngineError: the GPU has too little memory for the context.
    """

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
            raise EngineError(
                f"{engine.path}: not enough memory on {engine.device} for an execution context; "
                "free GPU memory, or build the plan with a smaller --max-batch"
            )
        self._stream = cuda.Stream()
        # Only the first context of a plan selects profile 0 automatically.
        if self._context.active_optimization_profile != 0:
            self._context.set_optimization_profile_async(0, self._stream.handle)
        self._device: dict[str, Any] = {}
        self._host: dict[str, Any] = {}
        for tensor in (*self._inputs, *self._outputs):
            shape = (engine.max_batch, *tensor.shape[1:])
            self._host[tensor.name] = cuda.pagelocked_empty(shape, np.dtype(tensor.dtype))
            self._device[tensor.name] = cuda.mem_alloc(self._host[tensor.name].nbytes)
            self._context.set_tensor_address(tensor.name, int(self._device[tensor.name]))
        self._graph = CudaGraph(self._context, self._stream) if config is None else None
        self._min_batch, self._batch = engine._min_batch, 0

    def run(self, feed: Mapping[str, Any], batch: int, on_device: bool) -> dict[str, Any]:
        """Run one batch.

        Args:
            feed: a contiguous array (`batch`, ...) per input, in host or GPU memory.
            batch: number of faces.
            on_device: return `DeviceArray`s instead of NumPy arrays.
        """
        cuda, stream = self._cuda, self._stream
        # Batches below the profile's minimum get padding rows, which stay uninitialised.
        padded = max(batch, self._min_batch)
        for tensor in self._inputs:
            source, buffer = feed[tensor.name], self._device[tensor.name]
            if isinstance(source, DeviceArray):
                # Copying a few kilobytes is cheaper than capturing a CUDA graph per address.
                cuda.memcpy_dtod_async(int(buffer), source.pointer, source.nbytes, stream)
            else:
                staged = self._host[tensor.name][:batch]
                staged[...] = source
                cuda.memcpy_htod_async(buffer, staged, stream)
            if padded != self._batch:
                self._context.set_input_shape(tensor.name, (padded, *tensor.shape[1:]))
        self._batch = padded
        self._execute(padded)
        return self._device_outputs(batch) if on_device else self._host_outputs(batch)

    def _execute(self, batch: int) -> None:
        if self._graph is not None and self._graph.launch(batch):
            return
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError("TensorRT could not run the plan; see its log (-v)")

    def _host_outputs(self, batch: int) -> dict[str, Any]:
        """The outputs as NumPy arrays, copied because the next run overwrites the buffers."""
        for tensor in self._outputs:
            staged = self._host[tensor.name][:batch]
            self._cuda.memcpy_dtoh_async(staged, self._device[tensor.name], self._stream)
        self._stream.synchronize()
        return {tensor.name: self._host[tensor.name][:batch].copy() for tensor in self._outputs}

    def _device_outputs(self, batch: int) -> dict[str, Any]:
        """The outputs in newly allocated GPU memory, which the next run does not overwrite."""
        outputs = {}
        for tensor in self._outputs:
            shape, dtype = (batch, *tensor.shape[1:]), np.dtype(tensor.dtype)
            sizes = tuple(size or 0 for size in shape)
            size = math.prod(sizes) * dtype.itemsize
            memory = DeviceMemory(self._cuda, self._gpu, size)
            self._cuda.memcpy_dtod_async(
                memory.pointer, int(self._device[tensor.name]), size, self._stream
            )
            outputs[tensor.name] = DeviceArray(memory.pointer, sizes, dtype, self._index, memory)
        self._stream.synchronize()
        return outputs

    def free(self) -> None:
        """Wait for the stream, then free the CUDA graph, the context and the buffers."""
        self._stream.synchronize()
        if self._graph is not None:
            self._graph.drop()
        self._graph = self._context = None
        for memory in (*self._device.values(), *(array.base for array in self._host.values())):
            memory.free()


class DeviceMemory:
    """GPU memory that may be freed in any thread.

    PyCUDA frees an allocation only in a thread where its context is current, so this makes it so.

    Args:
        size: in bytes.
    """

    def __init__(self, cuda: Any, context: Any, size: int) -> None:
        self._context, self._allocation = context, cuda.mem_alloc(size)
        self.pointer = int(self._allocation)

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be shutting down
            self._context.push()
            try:
                self._allocation.free()
            finally:
                self._context.pop()
