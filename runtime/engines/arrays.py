"""Arrays of other libraries: where they are, and how an engine reads them in place.

`__cuda_array_interface__` (version 3) is documented by Numba, DLPack by dmlc (its C structures
are `dlpack.h`'s).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CPU, CUDA, CUDA_HOST = 1, 2, 3  # DLPack's kinds of memory
KINDS = {0: "i", 1: "u", 2: "f"}  # DLPack's codes of types, as NumPy's letters


@dataclass(frozen=True)
class DeviceArray:
    """An array in a GPU's memory, contiguous.

    Other libraries take it without a copy: `torch.as_tensor(array)`, `cupy.asarray(array)`.

    Attributes:
        pointer: address of its first number.
        shape: sizes.
        dtype: NumPy's.
        index: of the GPU.
        owner: keeps the memory.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    index: int
    owner: Any

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": None,  # what computed it has finished
        }


def accept(feed: Mapping[str, Any], device: str) -> dict[str, NDArray[Any] | DeviceArray]:
    """Arrays of any library as NumPy's, or in place on the engine's GPU.

    Args:
        device: the engine's, "cpu" or "cuda:N".

    Raises:
        ValueError: something is no array, not contiguous, or on another device.
    """
    taken = {name: _accept(name, array, device) for name, array in feed.items()}
    for index in {array.index for array in taken.values() if isinstance(array, DeviceArray)}:
        _finish(index)
    return taken


def _accept(name: str, array: Any, device: str) -> NDArray[Any] | DeviceArray:
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "__cuda_array_interface__"):
        found = _from_interface(name, array, device)
    elif hasattr(array, "__dlpack__"):
        kind, index = array.__dlpack_device__()
        if kind in (CPU, CUDA_HOST):
            return _on_cpu(name, array)
        if kind != CUDA:
            raise ValueError(f"{name}: is on a device that is neither the CPU nor an NVIDIA GPU")
        found = _from_capsule(name, array.__dlpack__(), int(index))
    else:
        raise ValueError(f"{name}: an array is expected, not {type(array).__name__}")
    if device != f"cuda:{found.index}":
        raise ValueError(f"{name}: is on cuda:{found.index}, and the engine on {device}")
    return found


def _on_cpu(name: str, array: Any) -> NDArray[Any]:
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError) as error:  # of a type or kind without DLPack
        raise ValueError(f"{name}: cannot be read in place: {error}") from error


def _from_interface(name: str, array: Any, device: str) -> DeviceArray:
    interface = array.__cuda_array_interface__
    dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
    strides = interface.get("strides")
    if strides is not None and not _contiguous(shape, tuple(strides), dtype.itemsize):
        raise ValueError(f"{name}: is not contiguous")
    index = 0 if not device.startswith("cuda") else int(device.partition(":")[2])
    if hasattr(array, "__dlpack_device__"):  # the interface does not say which GPU
        index = int(array.__dlpack_device__()[1])
    return DeviceArray(int(interface["data"][0]), shape, dtype, index, array)


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_capsule(name: str, capsule: Any, index: int) -> DeviceArray:
    """What an unconsumed DLPack capsule describes. The capsule keeps the memory."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = ctypes.cast(get(capsule, b"dltensor"), ctypes.POINTER(_DLTensor)).contents
    if tensor.code not in KINDS or tensor.lanes != 1:
        raise ValueError(f"{name}: is of a type that engines do not take")
    dtype = np.dtype(f"{KINDS[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides:
        strides = tuple(step * dtype.itemsize for step in tensor.strides[: tensor.ndim])
        if not _contiguous(shape, strides, dtype.itemsize):
            raise ValueError(f"{name}: is not contiguous")
    pointer = (tensor.data or 0) + tensor.byte_offset
    return DeviceArray(pointer, shape, dtype, index, capsule)


def _finish(index: int) -> None:
    """Wait for what a GPU computes: other libraries' streams know nothing of an engine's."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    driver.cuCtxPushCurrent_v2(context)
    driver.cuCtxSynchronize()
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    driver.cuDevicePrimaryCtxRelease_v2(device)


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """In rows, without gaps. How far it is to the next of one does not matter."""
    wanted = (math.prod(shape[i + 1 :]) * itemsize for i in range(len(shape)))
    return all(size == 1 or a == b for size, a, b in zip(shape, strides, wanted, strict=True))
