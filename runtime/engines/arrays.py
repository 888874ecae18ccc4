"""Arrays of other libraries, read in place in host or GPU memory.

Protocols: `__cuda_array_interface__` version 3 (documented by Numba) and DLPack (dmlc; the C
structures follow `dlpack.h`). Both hand over a CUDA stream, so that a consumer's work follows the
producer's without waiting on the host.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dic.engine_file import EngineError

CPU, CUDA, CUDA_HOST = 1, 2, 3  # DLDeviceType
KINDS = {0: "i", 1: "u", 2: "f"}  # DLDataTypeCode to NumPy's kind
LEGACY_STREAM = 1  # both protocols' number of CUDA's legacy default stream


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
        stream: handle of the CUDA stream in which work on it may be pending; None if none is.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    index: int
    owner: Any
    stream: int | None = None

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
            "stream": self.stream,  # None: no synchronisation needed
        }


def accept(
    feed: Mapping[str, Any], device: str, stream: int = LEGACY_STREAM
) -> dict[str, NDArray[Any] | DeviceArray]:
    """Convert arrays of any library to NumPy arrays, or to `DeviceArray`s on the engine's GPU.

    Nothing is copied, and nothing waited for.

    Args:
        feed: arrays by input name.
        device: the engine's device, "cpu" or "cuda:N".
        stream: handle of the CUDA stream in which the engine reads arrays in GPU memory. Work that
            a DLPack producer has pending comes before what the engine queues there; with
            `__cuda_array_interface__`, `DeviceArray.stream` says after what it must come.

    Raises:
        ValueError: a value is not an array, not contiguous, or on another device.
    """
    return {name: _accept(name, array, device, stream) for name, array in feed.items()}


def _accept(name: str, array: Any, device: str, stream: int) -> NDArray[Any] | DeviceArray:
    if isinstance(array, np.ndarray):
        return array
    if isinstance(array, DeviceArray):
        _check_device(name, array.index, device)
        return array
    # DLPack first: PyTorch's arrays have both, and their `__cuda_array_interface__` no stream.
    if hasattr(array, "__dlpack__"):
        kind, index = array.__dlpack_device__()
        if kind in (CPU, CUDA_HOST):
            return _on_cpu(name, array)
        if kind != CUDA:
            raise ValueError(
                f"{name}: is on a device that is neither the CPU nor an NVIDIA GPU; copy it to the "
                "CPU first"
            )
        _check_device(name, int(index), device)
        try:
            capsule = array.__dlpack__(stream=stream)
        except (BufferError, RuntimeError, TypeError) as error:
            raise ValueError(f"{name}: cannot be read in place ({error}); pass a copy") from error
        return _from_capsule(name, capsule, int(index))
    if hasattr(array, "__cuda_array_interface__"):
        return _from_interface(name, array, device)
    raise ValueError(f"{name}: expected an array, got {type(array).__name__}")


def _check_device(name: str, index: int, device: str) -> None:
    if device != f"cuda:{index}":
        raise ValueError(
            f"{name}: is on cuda:{index}, but the engine is on {device}; copy it to {device}"
        )


def _on_cpu(name: str, array: Any) -> NDArray[Any]:
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError) as error:  # a dtype or layout DLPack lacks
        raise ValueError(
            f"{name}: cannot be read in place ({error}); convert it to a NumPy array"
        ) from error


def _from_interface(name: str, array: Any, device: str) -> DeviceArray:
    """An array by `__cuda_array_interface__`, which has no device: it must be the engine's."""
    interface = array.__cuda_array_interface__
    dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
    strides = interface.get("strides")
    if strides is not None and not _contiguous(shape, tuple(strides), dtype.itemsize):
        raise ValueError(f"{name}: is not contiguous; pass a contiguous copy")
    index = 0 if not device.startswith("cuda") else int(device.partition(":")[2])
    _check_device(name, index, device)
    # Before version 3 nothing was said of streams; the default stream was meant.
    stream = interface.get("stream", LEGACY_STREAM if interface.get("version", 0) < 3 else None)
    return DeviceArray(int(interface["data"][0]), shape, dtype, index, array, stream)


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


def wait_for(index: int, streams: Iterable[int]) -> None:
    """Wait until streams of a GPU have finished, for libraries that take no stream.

    Args:
        index: CUDA device index.
        streams: handles.

    Raises:
        EngineError: the GPU failed.
    """
    driver = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: Any) -> None:
        code = getattr(driver, name)(*arguments)
        if code != 0:
            raise EngineError(f"cuda:{index}: {name} failed with CUDA error {code}; see nvidia-smi")

    device, context = ctypes.c_int(), ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        call("cuCtxPushCurrent_v2", context)
        try:
            for stream in streams:
                call("cuStreamSynchronize", ctypes.c_void_p(stream))
        finally:
            call("cuCtxPopCurrent_v2", ctypes.byref(context))
    finally:
        call("cuDevicePrimaryCtxRelease_v2", device)


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """Whether strides in bytes are C-contiguous; those of dimensions of size 1 are ignored."""
    wanted = (math.prod(shape[i + 1 :]) * itemsize for i in range(len(shape)))
    return all(size == 1 or a == b for size, a, b in zip(shape, strides, wanted, strict=True))
