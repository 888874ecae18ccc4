"""Stand-ins for `cuda.bindings.runtime` and `cuda.bindings.driver`, as in cuda-bindings 13.5.

Every function returns a tuple that begins with a `cudaError_t` and raises nothing else; handles
are objects with `__int__`, and integers are taken in their place.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import wraps
from types import ModuleType, SimpleNamespace
from typing import Any

from .machine import Machine
from .objects import TEXTS, Event, Graph, Memory, Pool, SimulatedError


class Handle:
    """A CUDA object's handle, as cuda-bindings wraps it."""

    def __init__(self, thing: Any, number: int) -> None:
        self.thing, self._number = thing, number

    def __int__(self) -> int:
        return self._number


class Instance(Graph):
    """An executable graph."""


class cuuint64_t(int):  # noqa: N801  # cuda.bindings.driver's name
    def getPtr(self) -> int:  # noqa: N802
        return id(self)


def make(machine: Machine) -> tuple[ModuleType, ModuleType]:  # one namespace, like pycuda_driver
    """The modules runtime and driver, for one machine."""
    runtime: Any = ModuleType("cuda.bindings.runtime")
    driver: Any = ModuleType("cuda.bindings.driver")
    driver.cuuint64_t = cuuint64_t
    codes = {"cudaSuccess": 0} | {f"cudaError{code}": code for code in TEXTS}
    error_t: Any = enum.IntEnum("cudaError_t", codes)  # type: ignore[misc]
    runtime.cudaError_t = error_t
    runtime.cudaStreamCaptureMode = enum.IntEnum(
        "cudaStreamCaptureMode",
        {
            f"cudaStreamCaptureMode{n}": i
            for i, n in enumerate(("Global", "ThreadLocal", "Relaxed"))
        },
    )
    runtime.cudaMemAllocationType = enum.IntEnum(
        "cudaMemAllocationType", {"cudaMemAllocationTypePinned": 1}
    )
    runtime.cudaMemLocationType = enum.IntEnum(
        "cudaMemLocationType", {"cudaMemLocationTypeDevice": 1}
    )
    runtime.cudaMemPoolAttr = enum.IntEnum(
        "cudaMemPoolAttr", {"cudaMemPoolAttrReleaseThreshold": 4}
    )
    runtime.cudaStreamLegacy, runtime.cudaEventDisableTiming = 1, 2
    runtime.cudaMemPoolProps = lambda: SimpleNamespace(
        allocType=None, handleTypes=0, location=SimpleNamespace(type=None, id=0), maxSize=0
    )

    def returning(results: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Turn exceptions into codes; `results` values follow the code."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                try:
                    with machine.lock:
                        found = function(*args, **kwargs)
                except SimulatedError as error:
                    return (error_t(error.code), *[None] * results)
                return (error_t(0), found) if results else (error_t(0),)

            setattr(runtime, function.__name__, call)
            return call

        return decorate

    def the(handle: Any, kind: type) -> Any:
        if not isinstance(handle, Handle):
            raise TypeError(f"Argument is not instance of type (expected {kind.__name__})")
        if not isinstance(handle.thing, kind):
            raise SimulatedError(400)
        return handle.thing

    @returning(0)
    def cudaStreamBeginCapture(stream: Any, mode: Any) -> None:  # noqa: N802
        if mode is not runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal:
            machine.violations.append("a capture that is not thread-local disturbs other threads")
        machine.begin_capture(machine.stream(int(stream)))

    @returning(1)
    def cudaStreamEndCapture(stream: Any) -> Handle:  # noqa: N802
        graph = machine.end_capture(machine.stream(int(stream)))
        return Handle(graph, id(graph))

    @returning(1)
    def cudaGraphInstantiate(graph: Any, flags: int) -> Handle:  # noqa: N802
        if machine.faults.no_instance:
            raise SimulatedError(999)
        found = the(graph, Graph)
        instance = Instance(found.gpu, [] if machine.faults.empty_graphs else [*found.operations])
        machine.live.add(instance)
        return Handle(instance, id(instance))

    def destroy(graph: Graph) -> None:
        if not graph.alive:
            machine.violations.append("a graph destroyed twice")
        if machine.must_be_current(graph.gpu, "a graph"):
            graph.alive, graph.operations = False, []
            machine.live.discard(graph)

    @returning(0)
    def cudaGraphDestroy(graph: Any) -> None:  # noqa: N802
        destroy(the(graph, Graph))

    @returning(0)
    def cudaGraphExecDestroy(graphExec: Any) -> None:  # noqa: N802, N803
        destroy(the(graphExec, Instance))

    @returning(0)
    def cudaGraphLaunch(graphExec: Any, stream: Any) -> None:  # noqa: N802, N803
        instance = the(graphExec, Instance)
        if not instance.alive:
            machine.violations.append("a graph launched after it was destroyed")
        if machine.faults.no_launch:
            raise SimulatedError(999)
        queue = machine.stream(int(stream))
        machine.replays += 1
        for operation in instance.operations:
            machine.enqueue(queue, operation)

    @returning(1)
    def cudaEventCreateWithFlags(flags: int) -> Handle:  # noqa: N802
        event = machine.new_event()
        event.timing = not flags & runtime.cudaEventDisableTiming
        return Handle(event, event.handle)

    @returning(0)
    def cudaEventRecord(event: Any, stream: Any) -> None:  # noqa: N802
        machine.record(the(event, Event), machine.stream(int(stream)))

    @returning(0)
    def cudaStreamWaitEvent(stream: Any, event: Any, flags: int) -> None:  # noqa: N802
        machine.wait(machine.stream(int(stream)), the(event, Event))

    @returning(0)
    def cudaEventSynchronize(event: Any) -> None:  # noqa: N802
        machine.wait_for(the(event, Event))

    @returning(1)
    def cudaEventElapsedTime(start: Any, end: Any) -> float:  # noqa: N802
        first, last = the(start, Event), the(end, Event)
        if not (first.timing and last.timing) or first.recorded is None or last.recorded is None:
            raise SimulatedError(400)
        if first.time is None or last.time is None:
            raise SimulatedError(600)
        return last.time - first.time

    @returning(0)
    def cudaEventDestroy(event: Any) -> None:  # noqa: N802
        machine.destroy(the(event, Event))

    @returning(1)
    def cudaMemPoolCreate(poolProps: Any) -> Handle:  # noqa: N802, N803
        if (poolProps.allocType, poolProps.location.type) != (1, 1):
            raise SimulatedError(1)
        pool = Pool(machine.gpus[poolProps.location.id])
        return Handle(pool, id(pool))

    @returning(0)
    def cudaMemPoolSetAttribute(memPool: Any, attr: Any, value: Any) -> None:  # noqa: N802, N803
        value.getPtr()  # as the real one, which raises AttributeError for a plain integer
        the(memPool, Pool).threshold = int(value)

    @returning(1)
    def cudaMallocFromPoolAsync(size: int, memPool: Any, stream: Any) -> int:  # noqa: N802, N803
        pool, queue = the(memPool, Pool), machine.stream(int(stream))
        if pool.gpu is not machine.current():
            raise SimulatedError(1)
        if not pool.threshold:
            machine.violations.append("a pool that gives its memory back at every synchronisation")
        machine.enqueue(queue, lambda: None)
        machine.pooled += 1
        return machine.allocate(size).address

    @returning(0)
    def cudaFreeAsync(devPtr: Any, hStream: Any) -> None:  # noqa: N802, N803
        memory: Memory = machine.memory_at(int(devPtr))
        if not memory.alive:
            machine.violations.append("memory freed twice")
            return
        if memory.gpu is not None and machine.must_be_current(memory.gpu, "pool memory"):
            queue = machine.stream(int(hStream))
            machine.enqueue(queue, lambda: machine.release(memory))

    @returning(1)
    def cudaGetErrorString(error: Any) -> bytes:  # noqa: N802
        return TEXTS[int(error)].encode()

    @returning(1)
    def cudaDriverGetVersion() -> int:  # noqa: N802
        return 13000

    return runtime, driver
