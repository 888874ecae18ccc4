"""Stand-in for `pycuda.driver`: names, arguments and ownership as in PyCUDA 2026.1.

Sources: src/wrapper/wrap_cudadrv.cpp (signatures) and src/cpp/cuda.hpp (an object remembers the
context that was current when it was made, and is destroyed only while that one is current).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .machine import Machine
from .objects import NO_FILE, OUT_OF_MEMORY, Gpu, Memory, SimulatedError

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


def make(machine: Machine) -> ModuleType:  # one namespace: longer than a function should be
    """The module, for one machine."""
    module: Any = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    class LogicError(Error):
        pass

    def raising(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except SimulatedError as error:
                kind = MemoryError if error.code == OUT_OF_MEMORY else LogicError
                failure = kind(f"{function.__name__} failed: {error}")
            # PyCUDA's functions are C++: their exceptions keep no arguments alive.
            del args, kwargs
            raise failure

        return call

    class Context:
        def __init__(self, gpu: Gpu) -> None:
            self._gpu = gpu
            gpu.retained += 1

        def push(self) -> None:
            machine.stack.append(self._gpu)

        @staticmethod
        @raising
        def pop() -> None:
            if not machine.stack:
                raise SimulatedError(201)
            machine.stack.pop()

        @staticmethod
        def get_device() -> Device:
            return Device(machine.current().index)

        @staticmethod
        @raising
        def synchronize() -> None:
            gpu = machine.current()
            for stream in [s for s in machine.streams.values() if s.gpu is gpu]:
                machine.synchronise(stream)

    class Device:
        @raising
        def __init__(self, number: int) -> None:
            if not 0 <= number < len(machine.gpus):
                raise SimulatedError(101)
            self._gpu = machine.gpus[number]

        @staticmethod
        def count() -> int:
            return len(machine.gpus)

        def name(self) -> str:
            return self._gpu.name

        def compute_capability(self) -> tuple[int, int]:
            return self._gpu.capability

        def total_memory(self) -> int:
            return 8 << 30

        def retain_primary_context(self) -> Context:
            return Context(self._gpu)

    class Stream:
        @raising
        def __init__(self, flags: int = 0) -> None:
            self._stream = machine.new_stream(blocking=not flags & NON_BLOCKING)

        @property
        def handle(self) -> int:
            return self._stream.handle

        @raising
        def synchronize(self) -> None:
            machine.current()
            machine.synchronise(self._stream)

        def is_done(self) -> bool:
            return not self._stream.queue

        @raising
        def wait_for_event(self, evt: Event) -> None:
            machine.wait(self._stream, evt._event)

        def __del__(self) -> None:
            if hasattr(self, "_stream"):
                machine.destroy(self._stream)

    class Event:
        @raising
        def __init__(self, flags: int = 0) -> None:
            self._event = machine.new_event()

        @raising
        def record(self, stream: Stream | None = None) -> Event:
            machine.record(self._event, stream._stream if stream else machine.stream(0))
            return self

        def __del__(self) -> None:
            if hasattr(self, "_event"):
                machine.destroy(self._event)

    class DeviceAllocation:
        def __init__(self, memory: Memory) -> None:
            self._memory, self._valid = memory, True

        def __int__(self) -> int:
            return self._memory.address

        def __index__(self) -> int:
            return self._memory.address

        @raising
        def free(self) -> None:
            if not self._valid:
                raise SimulatedError(400)
            self._valid = False
            assert self._memory.gpu is not None
            if machine.must_be_current(self._memory.gpu, "an allocation"):
                machine.free(self._memory)

        def __del__(self) -> None:
            if self._valid:
                self.free()

    class PagelockedHostAllocation:
        def __init__(self, memory: Memory, gpu: Gpu, interface: dict[str, Any]) -> None:
            self._memory, self._gpu, self._valid = memory, gpu, True
            self.__array_interface__ = interface

        @raising
        def free(self) -> None:
            if not self._valid:
                raise SimulatedError(400)
            self._valid = False
            if machine.must_be_current(self._gpu, "page-locked memory"):
                machine.free(self._memory)

        def __del__(self) -> None:
            if self._valid:
                with suppress(Error):
                    self.free()

    @raising
    def pagelocked_empty(
        shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0
    ) -> NDArray[Any]:
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        count = int(np.prod(sizes)) * np.dtype(dtype).itemsize
        memory = machine.allocate(count, pinned=True)
        interface = memory.data.view(dtype).reshape(sizes).__array_interface__
        return np.asarray(PagelockedHostAllocation(memory, machine.current(), interface))

    @raising
    def mem_alloc(size: int) -> DeviceAllocation:
        return DeviceAllocation(machine.allocate(int(size)))

    def buffer(array: Any, writable: bool, pinned: bool = True) -> NDArray[np.uint8]:
        view = memoryview(array)
        if not view.contiguous or (writable and view.readonly):
            raise BufferError("ndarray is not contiguous or not writable")
        flat: NDArray[np.uint8] = np.asarray(array).reshape(-1).view(np.uint8)
        if pinned:
            machine.check_pinned(flat)
        return flat

    def queue_of(stream: Stream | None) -> Any:
        return stream._stream if stream is not None else machine.stream(0)

    @raising
    def memcpy_htod_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
        gpu, bytes_, to = machine.current(), buffer(src, False), int(dest)

        def copy() -> None:
            machine.check_pinned(bytes_)
            machine.copies.append(("up", len(bytes_)))
            machine.view(to, len(bytes_), gpu)[:] = bytes_

        machine.enqueue(queue_of(stream), copy)

    @raising
    def memcpy_dtoh_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
        gpu, bytes_, start = machine.current(), buffer(dest, True), int(src)

        def copy() -> None:
            machine.check_pinned(bytes_)
            machine.copies.append(("down", len(bytes_)))
            bytes_[:] = machine.view(start, len(bytes_), gpu)

        machine.enqueue(queue_of(stream), copy)

    @raising
    def memcpy_dtoh(dest: Any, src: Any) -> None:
        gpu, bytes_, start = machine.current(), buffer(dest, True, pinned=False), int(src)

        def copy() -> None:
            machine.copies.append(("down", len(bytes_)))
            bytes_[:] = machine.view(start, len(bytes_), gpu)

        machine.enqueue(machine.stream(0), copy)
        machine.synchronise(machine.stream(0))

    @raising
    def memcpy_dtod_async(dest: Any, src: Any, size: int, stream: Stream | None = None) -> None:
        gpu, to, start = machine.current(), int(dest), int(src)

        def copy() -> None:
            machine.view(to, size, gpu)[:] = machine.view(start, size, gpu)

        machine.enqueue(queue_of(stream), copy)

    @raising
    def memset_d8_async(dest: Any, data: int, size: int, stream: Stream | None = None) -> None:
        gpu, to = machine.current(), int(dest)

        def fill() -> None:
            machine.view(to, size, gpu)[:] = data

        machine.enqueue(queue_of(stream), fill)

    class Module:
        """A fatbin: every kernel of the product, whatever the file holds."""

        def __init__(self, gpu: Gpu) -> None:
            self._gpu = gpu
            machine.live.add(id(self))

        def __del__(self) -> None:
            machine.live.discard(id(self))
            machine.must_be_current(self._gpu, "a module")

        @raising
        def get_function(self, name: str) -> Function:
            return Function(self, kernels.named(name))

    class Function:
        def __init__(self, module: Module, name: str) -> None:
            self._module, self._name = module, name

        def prepare(self, arg_types: Any, texrefs: Any = None) -> Function:
            (self._structure,) = arg_types
            return self

        @raising
        def prepared_async_call(
            self, grid: Any, block: Any, stream: Stream | None, *args: Any, **kwargs: Any
        ) -> None:
            launch = kernels.Launch(self._name, grid, block, *args, **kwargs)
            launch.check(self._structure)
            gpu = machine.current()
            machine.enqueue(queue_of(stream), lambda: launch.run(machine, gpu))

    @raising
    def module_from_file(filename: str) -> Module:
        if not Path(filename).is_file():
            raise SimulatedError(NO_FILE)
        return Module(machine.current())

    def init(flags: int = 0) -> None:
        module.initialised = True

    @raising
    def get_driver_version() -> int:
        return 13000

    for thing in (
        Error, MemoryError, LogicError, Context, Device, Stream, Event, DeviceAllocation,
        PagelockedHostAllocation, Module, Function, pagelocked_empty, mem_alloc, memcpy_dtoh,
        memcpy_htod_async, module_from_file,
        memcpy_dtoh_async, memcpy_dtod_async, memset_d8_async, init, get_driver_version,
    ):  # fmt: skip
        setattr(module, thing.__name__, thing)
    return module
