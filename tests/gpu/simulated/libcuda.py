"""Stand-in for `libcuda.so.1` as ctypes loads it: the few functions that the product calls."""

from __future__ import annotations

import ctypes
from typing import Any

from .machine import Machine
from .objects import SimulatedError


class LibCuda:
    """Functions that return CUDA's codes. Pointers are ctypes' `byref` objects."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0 if index < len(self._machine.gpus) else 101

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        major, minor = self._machine.gpus[_number(device)].capability
        value._obj.value = {75: major, 76: minor}[attribute]
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802
        gpu = self._machine.gpus[_number(device)]
        gpu.retained += 1
        context._obj.value = gpu.index + 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, device: Any) -> int:  # noqa: N802
        self._machine.gpus[_number(device)].retained -= 1
        return 0

    def cuCtxPushCurrent_v2(self, context: Any) -> int:  # noqa: N802
        self._machine.stack.append(self._machine.gpus[_number(context) - 1])
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:  # noqa: N802
        if not self._machine.stack:
            return 201
        self._machine.stack.pop()
        return 0

    def cuStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        try:
            self._machine.synchronise(self._machine.stream(_number(stream)))
        except SimulatedError as error:
            return error.code
        return 0


def _number(value: Any) -> int:
    return int((value.value if isinstance(value, ctypes._SimpleCData) else value) or 0)
