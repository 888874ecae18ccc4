"""A simulated GPU: stand-ins for PyCUDA, cuda-bindings, TensorRT and TensorRT-RTX.

A test tool. `installed` puts the stand-ins into `sys.modules`; the product imports them by the
real names and knows nothing of it. No figure about speed comes from here.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest import mock

from . import cudart, libcuda, pycuda_driver, tensorrt
from .machine import Machine
from .objects import Faults, SimulatedError
from .plan import SimulatedPlan

__all__ = ["Faults", "Machine", "SimulatedError", "SimulatedPlan", "installed"]


@contextmanager
def installed(machine: Machine) -> Iterator[Machine]:
    """Let imports inside the block find the stand-ins, and `libcuda.so.1` a working driver."""
    runtime, driver = cudart.make(machine)
    pycuda, cuda, bindings = (ModuleType(name) for name in ("pycuda", "cuda", "cuda.bindings"))
    pycuda_: Any = pycuda
    pycuda_.driver = pycuda_driver.make(machine)
    bindings_: Any = bindings
    bindings_.runtime, bindings_.driver = runtime, driver
    modules = {
        "pycuda": pycuda,
        "pycuda.driver": pycuda_.driver,
        "cuda": cuda,
        "cuda.bindings": bindings,
        "cuda.bindings.runtime": runtime,
        "cuda.bindings.driver": driver,
        "tensorrt": tensorrt.make(machine, "tensorrt"),
        "tensorrt_rtx": tensorrt.make(machine, "tensorrt_rtx"),
    }
    load = ctypes.CDLL

    def library(name: Any, *args: Any, **kwargs: Any) -> Any:
        return libcuda.LibCuda(machine) if name == "libcuda.so.1" else load(name, *args, **kwargs)

    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)  # without, importlib.util.find_spec raises
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        with mock.patch.object(ctypes, "CDLL", library):
            yield machine
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
