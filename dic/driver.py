"""Whether this machine has an NVIDIA driver that works."""

from __future__ import annotations

import ctypes


def has_driver() -> bool:
    """Whether an NVIDIA driver works here. TensorRT may end the process without one."""
    try:
        return int(ctypes.CDLL("libcuda.so.1").cuInit(0)) == 0
    except (OSError, AttributeError):
        return False
