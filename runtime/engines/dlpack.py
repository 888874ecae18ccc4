"""DLPack (dmlc): arrays handed from one library to another in place, as capsules.

The C structures follow `dlpack.h`, without versions, which every consumer takes.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CPU, CUDA, CUDA_HOST = 1, 2, 3  # DLDeviceType
KINDS = {0: "i", 1: "u", 2: "f"}  # DLDataTypeCode to NumPy's kind


class DLTensor(ctypes.Structure):
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


# A prototype of our own: the attributes of `ctypes.pythonapi` belong to every user of ctypes.
_get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Host:
    """An array in GPU memory, as NumPy would see it in host memory. It must not be read."""

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Any):
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "data": (pointer, False),
            "shape": shape,
            "typestr": dtype.str,
        }


def to_capsule(
    pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int], owner: Any
) -> Any:
    """A capsule that describes a C-contiguous array.

    NumPy makes it, with the functions that free it again, and only its device is changed: a
    destructor in Python could not run while an exception passes through its consumer.

    Args:
        pointer: address of the first element.
        device: DLDeviceType and index.
        owner: object that keeps the memory allocated; held until the consumer is done with it.

    Raises:
        BufferError: DLPack has no such dtype.
    """
    capsule = np.asarray(_Host(pointer, shape, dtype, owner)).__dlpack__()
    tensor = _tensor(capsule)
    tensor.device_type, tensor.device_id = device
    return capsule


def _tensor(capsule: Any) -> Any:
    """The structure that an unconsumed capsule holds."""
    return ctypes.cast(_get(capsule, b"dltensor"), ctypes.POINTER(DLTensor)).contents


def read_capsule(
    capsule: Any,
) -> tuple[int, tuple[int, ...], np.dtype[Any], tuple[int, ...] | None]:
    """What an unconsumed capsule describes; the capsule still owns the memory.

    Returns:
        address of the first element, shape, dtype, and strides in bytes, None if C-contiguous.

    Raises:
        ValueError: NumPy has no such dtype.
    """
    tensor = _tensor(capsule)
    if tensor.code not in KINDS or tensor.lanes != 1:
        raise ValueError("has a dtype that no engine accepts")
    dtype = np.dtype(f"{KINDS[tensor.code]}{tensor.bits // 8}")
    strides = None
    if tensor.strides:
        strides = tuple(step * dtype.itemsize for step in tensor.strides[: tensor.ndim])
    pointer = (tensor.data or 0) + tensor.byte_offset
    return pointer, tuple(tensor.shape[: tensor.ndim]), dtype, strides
