"""One execution context of a plan, its stream, and its memory."""

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
    """An execution context with its stream and buffers: what one run at a time needs.

    Device and page-locked memory are of the profile's largest batch, so that a run allocates
    nothing. Made, used and freed with the GPU's context current.
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
        self._graph = CudaGraph(self._context, self._stream) if config is None else None
        self._min_batch, self._batch = engine._min_batch, 0

    def run(self, feed: Mapping[str, Any], batch: int, on_device: bool) -> dict[str, Any]:
        cuda, stream = self._cuda, self._stream
        # Padding rows, where the batch is smaller than the profile's, are uninitialised.
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
            memory = DeviceMemory(self._cuda, self._gpu, size)
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


class DeviceMemory:
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
