"""Detection of a working NVIDIA driver and its GPU."""

from __future__ import annotations

import ctypes


def has_driver() -> bool:
    """Return whether the CUDA driver initialises. Without one, TensorRT may abort the process."""
    try:
        return int(ctypes.CDLL("libcuda.so.1").cuInit(0)) == 0
    except (OSError, AttributeError):
        return False


# CUdevice_attribute
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def compute_capability(index: int = 0) -> tuple[int, int] | None:
    """Return a GPU's compute capability, such as (8, 9); None without a driver or this GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        codes = [cuda.cuInit(0), cuda.cuDeviceGet(ctypes.byref(device), index)]
        codes.append(cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device))
        codes.append(cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device))
    except (OSError, AttributeError):
        return None
    return (major.value, minor.value) if not any(codes) else None
