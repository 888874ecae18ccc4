"""Arrays of another library in the simulated GPU's memory, whose content is still being computed.

`__dlpack__` and `__cuda_array_interface__` as PyTorch, CuPy and Numba have them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .machine import Machine
from .objects import LEGACY


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class Pending:
    """An array in GPU memory that a stream of its library will write when it comes to that.

    Attributes:
        handle: of the stream.
        taken: streams that consumers handed over.
    """

    def __init__(self, machine: Machine, array: NDArray[Any], index: int = 0) -> None:
        self.machine, self.gpu, self.array = machine, machine.gpus[index], array
        machine.stack.append(self.gpu)
        try:
            self._memory = machine.allocate(array.nbytes)
            self._stream = machine.new_stream(blocking=True)
        finally:
            machine.stack.pop()
        self.handle, self.taken = self._stream.handle, list[int]()
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        machine.enqueue(
            self._stream,
            lambda: np.copyto(machine.view(self._memory.address, array.nbytes, self.gpu), content),
        )

    def free(self) -> None:
        self.machine.stack.append(self.gpu)
        self.machine.free(self._memory)
        self.machine.destroy(self._stream)
        self.machine.stack.pop()


class ByInterface(Pending):
    """By `__cuda_array_interface__`; version 2, like PyTorch's, has no stream."""

    version = 3

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        entries = {
            "version": self.version,
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self._memory.address, False),
            "strides": None,
        }
        return entries | ({"stream": self.handle} if self.version > 2 else {})


class ByOldInterface(ByInterface):
    version = 2


class ByDlpack(ByOldInterface):
    """By DLPack as well, like PyTorch's arrays."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.gpu.index

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        assert stream is not None, "no stream was handed over: PyTorch would take the legacy one"
        self.taken.append(stream)
        position = self._stream.queued
        if stream != LEGACY:
            waiting = self.machine.streams[stream]
            self.machine.enqueue(waiting, lambda: self.machine.drain(self._stream, position))
        shape = (ctypes.c_int64 * self.array.ndim)(*self.array.shape)
        kind = {"i": 0, "u": 1, "f": 2}[self.array.dtype.kind]
        tensor = _DLTensor(
            self._memory.address, 2, self.gpu.index, self.array.ndim, kind,
            8 * self.array.dtype.itemsize, 1, shape, None, 0,
        )  # fmt: skip
        self._kept = (shape, tensor)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(tensor), b"dltensor", None)
