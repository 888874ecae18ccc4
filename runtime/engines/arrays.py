"""Arrays of other libraries, read in place in host or GPU memory.

Protocols: `__cuda_array_interface__` version 3 (documented by Numba) and DLPack. Both hand over a
CUDA stream, so that a consumer's work follows the producer's without waiting on the host.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dic.engine_file import EngineError
from runtime.engines.dlpack import CPU, CUDA, CUDA_HOST, read_capsule, to_capsule

NO_STREAM = -1  # DLPack's number: the consumer needs no synchronisation
LEGACY_STREAM = 1  # both protocols' number of CUDA's legacy default stream


@dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array in GPU memory.

    Other libraries read it without a copy: `torch.from_dlpack(array)`, `cupy.asarray(array)`.

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

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.index

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule that keeps the memory allocated.

        Args:
            stream: handle of the stream in which the consumer reads it; None is the legacy default
                stream, and -1 asks for no synchronisation.
            max_version: ignored: capsules without a version are taken by every consumer.
            dl_device: where the consumer wants it: only here.
            copy: False or None: it is never copied.

        Raises:
            BufferError: it would have to be copied.
            EngineError: the GPU failed.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(f"an array on cuda:{self.index} is exported in place only")
        # What this package makes has no work pending. Otherwise the host waits: the stream is
        # another library's, and no binding need be at hand here to order the two.
        if self.stream is not None and stream not in (NO_STREAM, self.stream):
            wait_for(self.index, [self.stream])
        return to_capsule(
            self.pointer, self.shape, self.dtype, self.__dlpack_device__(), self.owner
        )

    def row(self, number: int) -> DeviceArray:
        """A part along the first dimension, without it; in the same memory."""
        shape = self.shape[1:]
        size = math.prod(shape) * self.dtype.itemsize
        return replace(self, pointer=self.pointer + number * size, shape=shape)


@dataclass(frozen=True)
class Stacked:
    """Arrays on one GPU that an engine reads as one batch, in order.

    Attributes:
        parts: of one shape and dtype, one per row of the batch.
    """

    parts: tuple[DeviceArray, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.parts), *self.parts[0].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.parts[0].dtype


# What an engine's library reads: in host memory, or on its GPU.
Accepted = NDArray[Any] | DeviceArray | Stacked


def accept(
    feed: Mapping[str, Any], device: str, stream: int = LEGACY_STREAM
) -> dict[str, Accepted]:
    """Convert arrays of any library to NumPy arrays, or to arrays on the engine's GPU.

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


def _accept(name: str, array: Any, device: str, stream: int) -> Accepted:
    if isinstance(array, np.ndarray):
        return array
    if isinstance(array, DeviceArray | Stacked):
        for part in array.parts if isinstance(array, Stacked) else (array,):
            _check_device(name, part.index, device)
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


def _from_capsule(name: str, capsule: Any, index: int) -> DeviceArray:
    """The array that an unconsumed DLPack capsule describes; the capsule owns its memory."""
    try:
        pointer, shape, dtype, strides = read_capsule(capsule)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if strides is not None and not _contiguous(shape, strides, dtype.itemsize):
        raise ValueError(f"{name}: is not contiguous; pass a contiguous copy")
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
