"""The stand-ins have the names, arguments and constants of the real modules, and no others.

So what the product calls on them exists. TensorRT-RTX is compared with the installed module,
cuda-bindings too where it is installed; PyCUDA cannot be built without CUDA, so the signatures of
its sources are recorded here.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from typing import Any

import pytest
from simulated import Machine, cudart, pycuda_driver, tensorrt

# PyCUDA 2026.1, src/wrapper/wrap_cudadrv.cpp: arguments after `self`.
PYCUDA = {
    "init": ("flags",),
    "get_driver_version": (),
    "pagelocked_empty": ("shape", "dtype", "order", "mem_flags"),
    "mem_alloc": ("size",),
    "memcpy_dtoh": ("dest", "src"),
    "memcpy_htod_async": ("dest", "src", "stream"),
    "memcpy_dtoh_async": ("dest", "src", "stream"),
    "memcpy_dtod_async": ("dest", "src", "size", "stream"),
    "memset_d8_async": ("dest", "data", "size", "stream"),
    "module_from_file": ("filename",),
    "Device.count": (),
    "Device.name": (),
    "Device.compute_capability": (),
    "Device.total_memory": (),
    "Device.retain_primary_context": (),
    "Context.push": (),
    "Context.pop": (),
    "Context.get_device": (),
    "Context.synchronize": (),
    "Stream.synchronize": (),
    "Stream.is_done": (),
    "Stream.wait_for_event": ("evt",),
    "Stream.handle": (),
    "Event.record": ("stream",),
    "DeviceAllocation.free": (),
    "PagelockedHostAllocation.free": (),
    "Module.get_function": ("name",),
    # pycuda/driver.py
    "Function.prepare": ("arg_types", "texrefs"),
    "Function.prepared_async_call": ("grid", "block", "stream", "args", "kwargs"),
}
EXCEPTIONS = {"Error", "MemoryError", "LogicError"}
# cuda-bindings 13.5, cuda.bindings.runtime.
BINDINGS = {
    "cudaStreamBeginCapture": ("stream", "mode"),
    "cudaStreamEndCapture": ("stream",),
    "cudaGraphInstantiate": ("graph", "flags"),
    "cudaGraphDestroy": ("graph",),
    "cudaGraphExecDestroy": ("graphExec",),
    "cudaGraphLaunch": ("graphExec", "stream"),
    "cudaEventCreateWithFlags": ("flags",),
    "cudaEventRecord": ("event", "stream"),
    "cudaStreamWaitEvent": ("stream", "event", "flags"),
    "cudaEventSynchronize": ("event",),
    "cudaEventElapsedTime": ("start", "end"),
    "cudaEventDestroy": ("event",),
    "cudaMemPoolCreate": ("poolProps",),
    "cudaMemPoolSetAttribute": ("memPool", "attr", "value"),
    "cudaMallocFromPoolAsync": ("size", "memPool", "stream"),
    "cudaFreeAsync": ("devPtr", "hStream"),
    "cudaGetErrorString": ("error",),
    "cudaDriverGetVersion": (),
}


def arguments(function: Any) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(function).parameters if name != "self")


def members(cls: type) -> list[tuple[str, Any]]:
    """Public attributes of a class and its bases but `object`."""
    names = {name for base in cls.__mro__[:-1] for name in vars(base)}
    return [(n, inspect.getattr_static(cls, n)) for n in sorted(names) if not n.startswith("_")]


def test_pycuda() -> None:
    module = pycuda_driver.make(Machine())
    found: dict[str, tuple[str, ...]] = {}
    for name, thing in vars(module).items():
        if name.startswith("_") or name in EXCEPTIONS:
            continue
        if inspect.isclass(thing):
            for member, value in members(thing):
                function = value.__func__ if isinstance(value, staticmethod) else value
                is_property = isinstance(value, property)
                found[f"{name}.{member}"] = () if is_property else arguments(function)
        else:
            found[name] = arguments(thing)
    assert found == PYCUDA


def test_cuda_bindings() -> None:
    module, _ = cudart.make(Machine())
    functions = {n: f for n, f in vars(module).items() if inspect.isfunction(f)}
    del functions["cudaMemPoolProps"]  # a class
    assert {name: arguments(function) for name, function in functions.items()} == BINDINGS


def test_the_installed_cuda_bindings() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    module, _ = cudart.make(Machine())
    for name, names in BINDINGS.items():
        assert arguments(getattr(real, name)) == names, name
    for name, thing in vars(module).items():
        if inspect.isclass(thing) and issubclass(thing, enum.Enum) and name != "cudaError_t":
            for member in thing:
                assert int(getattr(getattr(real, name), member.name)) == member, member


@pytest.mark.parametrize("name", tensorrt.CLASSES)
def test_tensorrt_rtx(name: str) -> None:
    real = getattr(pytest.importorskip("tensorrt_rtx"), name)
    made = getattr(tensorrt, "RtxRuntime" if name == "Runtime" else name)
    if issubclass(made, enum.Enum):
        known = real.__members__
        assert {m.name for m in made} <= set(known)
        if name in tensorrt.NUMBERED:
            assert all(int(known[m.name]) == m.value for m in made)
        return
    for member, value in members(made):
        if member in ("machine", "gpu", "engine", "module", "logger", "compiled"):
            continue
        assert hasattr(real, member), f"{name}.{member}"
        if inspect.isfunction(value):
            text = getattr(real, member).__doc__
            overloads = [
                re.findall(r"(\w+): ", line)[1:]
                for line in text.splitlines()
                if f"{member}(self" in line
            ]
            ours = list(arguments(value))
            assert any(ours == known[: len(ours)] for known in overloads), (member, overloads)


def test_product_names_that_differ_are_errors() -> None:
    """As `retainprimary_context`, which the first version of the engine called, does not exist."""
    module = pycuda_driver.make(Machine())
    with pytest.raises(AttributeError):
        module.Device(0).retainprimary_context()
    assert not hasattr(importlib.import_module("simulated.tensorrt"), "Builder")
