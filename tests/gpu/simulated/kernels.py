"""The product's kernels on the simulated GPU: their bodies for the CPU (`host_kernels`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from host_kernels import HostLauncher

from runtime.cuda import layout

from .machine import Machine
from .objects import INVALID_VALUE, NOT_FOUND, Gpu, SimulatedError

PREFIX = "dic_"
MOST_THREADS, MOST_SHARED = 1024, 48 * 1024  # of a block
MOST_BLOCKS = (2**31 - 1, 65_535)


def named(function: str) -> str:
    """The kernel of a function of the fatbin.

    Raises:
        SimulatedError: there is none.
    """
    name = function.removeprefix(PREFIX)
    if name not in layout.ARGUMENTS or not function.startswith(PREFIX):
        raise SimulatedError(NOT_FOUND)
    return name


class Launch:
    """A launch, as PyCUDA's `prepared_async_call` takes it."""

    def __init__(
        self, name: str, grid: Any, block: Any, arguments: bytes, shared_size: int = 0
    ) -> None:
        self._name, self._grid, self._block = name, grid, block
        self._arguments, self._shared = arguments, shared_size

    def check(self, structure: np.dtype[Any]) -> None:
        """What the driver checks at the launch."""
        assert structure.char == "V", "prepared without the structure's size"
        threads = int(np.prod(self._block))
        within = all(0 < n <= most for n, most in zip(self._grid, MOST_BLOCKS, strict=True))
        if not within or not 0 < threads <= MOST_THREADS or self._shared > MOST_SHARED:
            raise SimulatedError(INVALID_VALUE)
        if len(self._arguments) != structure.itemsize:
            raise SimulatedError(INVALID_VALUE)

    def run(self, machine: Machine, gpu: Gpu) -> None:
        """Run it, if every address is one of live memory on this GPU."""
        machine.launches.append(self._name)
        (values,) = np.frombuffer(self._arguments, layout.ARGUMENTS[self._name])
        for address, size in _memory(values):
            machine.view(address, size, gpu)
        HostLauncher()(self._name, self._grid, self._shared, self._arguments, None)


def _memory(values: Any) -> list[tuple[int, int]]:
    """Address and least size of the memory that a structure points to."""
    found = []
    for name in values.dtype.names:
        value = values[name]
        if value.dtype == layout.FRAME:
            row = int(value["width"]) * int(value["channels"]) * int(value["depth"])
            size = int(value["stride"]) * (int(value["height"]) - 1) + row
            found.append((int(value["pixels"]), size))
        elif value.dtype == np.dtype(layout.POINTER):
            found.append((int(value), 1))
    return found
