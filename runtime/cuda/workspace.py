"""What work on one picture after another needs on a GPU: a stream, and buffers that grow."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.gpu import NON_BLOCKING, Gpu


class Workspace:
    """A stream with GPU and page-locked buffers, for one thread at a time.

    Buffers are kept by name and only grow, so that pictures like those before allocate nothing.
    Make, use and free it with the GPU's context current.

    Attributes:
        stream: the CUDA stream, as PyCUDA has it, in which everything happens.

    Raises:
        pycuda.driver.Error: the GPU failed, for example by running out of memory; the workspace
            must be freed.
    """

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self._device: dict[str, tuple[Any, int]] = {}  # allocation and its bytes
        self._host: dict[str, NDArray[np.uint8]] = {}
        self._copying: set[str] = set()  # page-locked buffers that a pending copy may read
        self.stream: Any = gpu.cuda.Stream(NON_BLOCKING)

    @property
    def handle(self) -> int:
        """Of the stream."""
        return int(self.stream.handle)

    @property
    def nbytes(self) -> int:
        """Bytes of GPU and page-locked memory that it holds."""
        device = sum(size for _, size in self._device.values())
        return device + sum(array.nbytes for array in self._host.values())

    def memory(self, name: str, size: int) -> int:
        """The address of a buffer of at least `size` bytes; its content is undefined."""
        held, room = self._device.get(name, (None, 0))
        if room < size:
            if held is not None:
                self.synchronise()  # what is queued may use it
                del self._device[name]
                held.free()
            held = self.gpu.cuda.mem_alloc(size)
            self._device[name] = held, size
        return int(held)

    def upload(self, name: str, array: NDArray[Any]) -> int:
        """Copy an array of any layout, C-contiguously, into a buffer, and return its address."""
        address = self.memory(name, array.nbytes)
        staged = self._staged(name, array.nbytes)
        staged.view(array.dtype).reshape(array.shape)[...] = array
        self.gpu.cuda.memcpy_htod_async(address, staged, self.stream)
        self._copying.add(name)
        return address

    def download(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Copy a C-contiguous array to host memory, after all that is queued."""
        size = int(np.prod(shape)) * dtype.itemsize
        staged = self._staged("download", size)
        self.gpu.cuda.memcpy_dtoh_async(staged, address, self.stream)
        self.synchronise()
        copy: NDArray[Any] = staged.view(dtype).reshape(shape).copy()
        return copy

    def _staged(self, name: str, size: int) -> NDArray[np.uint8]:
        """Page-locked memory that no pending copy reads."""
        if name in self._copying:
            self.synchronise()
        held = self._host.get(name)
        if held is None or len(held) < size:
            if held is not None:
                del self._host[name]
                allocation: Any = held.base
                allocation.free()
            held = self._host[name] = self.gpu.cuda.pagelocked_empty(size, np.dtype(np.uint8))
        return held[:size]

    def synchronise(self) -> None:
        """Wait until everything that is queued has happened."""
        self.stream.synchronize()
        self._copying.clear()

    def free(self) -> None:
        """Wait for the stream, then free everything, even if the GPU has failed."""
        failures = self.gpu.failures
        with suppress(*failures):
            self.stream.synchronize()
        allocations = [memory for memory, _ in self._device.values()]
        for memory in (*allocations, *(array.base for array in self._host.values())):
            with suppress(*failures):
                memory.free()
        self._device, self._host, self.stream = {}, {}, None
