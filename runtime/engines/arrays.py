"""Arrays of other libraries, read in place in host or GPU memory.

Protocols: `__cuda_array_interface__` version 3 (documented by Numba) and DLPack (dmlc; the C
structures follow `dlpack.h`).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CPU, CUDA, CUDA_HOST = 1, 2, 3  # DLDeviceType
KINDS = {0: "i", 1: "u", 2: "f"}  # DLDataTypeCode to NumPy's kind


@dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array in GPU memory.

    Other libraries read it without a copy: `torch.as_tensor(array)`, `cupy.asarray(array)`.

    Attributes:
        pointer: device address of the first element.
        shape: size of each dimension.
        dtype: NumPy dtype of the elements.
        index: CUDA device index.
        owner: object that keeps the memory allocated.
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
            "stream": None,  # no synchronisation needed: the computation has finished
        }


def accept(feed: Mapping[str, Any], device: str) -> dict[str, NDArray[Any] | DeviceArray]:
    """Convert arrays of any library to NumPy arrays, or to `DeviceArray`s on the engine's GPU.

    Nothing is copied. Waits until work that is pending on that GPU has finished.

    Args:
        feed: arrays by input name.
        device: the engine's device, "cpu" or "cuda:N".

    Raises:
        ValueError: a value is not an array, not contiguous, or on another device.
    """
    accepted = {name: _accept(name, array, device) for name, array in feed.items()}
    for index in {array.index for array in accepted.values() if isinstance(array, DeviceArray)}:
        _synchronise(index)
    return accepted


def _accept(name: str, array: Any, device: str) -> NDArray[Any] | DeviceArray:
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "__cuda_array_interface__"):
        on_gpu = _from_interface(name, array, device)
    elif hasattr(array, "__dlpack__"):
        kind, index = array.__dlpack_device__()
        if kind in (CPU, CUDA_HOST):
            return _on_cpu(name, array)
        if kind != CUDA:
            raise ValueError(
                f"{name}: is on a device that is neither the CPU nor an NVIDIA GPU; copy it to the "
                "CPU first"
            )
        on_gpu = _from_capsule(name, array.__dlpack__(), int(index))
    else:
        raise ValueError(f"{name}: expected an array, got {type(array).__name__}")
    if device != f"cuda:{on_gpu.index}":
        raise ValueError(
            f"{name}: is on cuda:{on_gpu.index}, but the engine is on {device}; copy it to {device}"
        )
    return on_gpu


def _on_cpu(name: str, array: Any) -> NDArray[Any]:
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError) as error:  # a dtype or layout DLPack lacks
        raise ValueError(
            f"{name}: cannot be read in place ({error}); convert it to a NumPy array"
        ) from error


def _from_interface(name: str, array: Any, device: str) -> DeviceArray:
    interface = array.__cuda_array_interface__
    dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
    strides = interface.get("strides")
    if strides is not None and not _contiguous(shape, tuple(strides), dtype.itemsize):
        raise ValueError(f"{name}: is not contiguous; pass a contiguous copy")
    index = 0 if not device.startswith("cuda") else int(device.partition(":")[2])
    if hasattr(array, "__dlpack_device__"):  # the interface has no device index
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
    """The array that an unconsumed DLPack capsule describes; the capsule owns its memory."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = ctypes.cast(get(capsule, b"dltensor"), ctypes.POINTER(_DLTensor)).contents
    if tensor.code not in KINDS or tensor.lanes != 1:
        raise ValueError(f"{name}: has a dtype that no engine accepts")
    dtype = np.dtype(f"{KINDS[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides:
        strides = tuple(step * dtype.itemsize for step in tensor.strides[: tensor.ndim])
        if not _contiguous(shape, strides, dtype.itemsize):
            raise ValueError(f"{name}: is not contiguous; pass a contiguous copy")
    pointer = (tensor.data or 0) + tensor.byte_offset
    return DeviceArray(pointer, shape, dtype, index, capsule)


def _synchronise(index: int) -> None:
    """Wait for all work on a GPU: other libraries' streams are not ordered with the engine's."""
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
    """Whether strides in bytes are C-contiguous; those of dimensions of size 1 are ignored."""
    wanted = (math.prod(shape[i + 1 :]) * itemsize for i in range(len(shape)))
    return all(size == 1 or a == b for size, a, b in zip(shape, strides, wanted, strict=True))
