"""Detection of a working NVIDIA driver."""

from __future__ import annotations

import ctypes


def has_driver() -> bool:
    """Return whether the CUDA driver initialises. Without one, TensorRT may abort the process."""
    try:
        return int(ctypes.CDLL("libcuda.so.1").cuInit(0)) == 0
    except (OSError, AttributeError):
        return False
