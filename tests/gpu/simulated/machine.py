"""The GPUs, their memory, streams, events and graphs, and the rules that CUDA keeps.

Two kinds of outcome: what the real driver answers with an error raises `SimulatedError`; what it
leaves undefined (a leak, a use after free, an object destroyed without its context) is written
to `Machine.violations`, which must be empty at the end of a test (`Machine.finish`).

Work is asynchronous: an operation is queued in its stream and happens when somebody waits for it.
Rules: the CUDA Driver API's reference manual (stream capture, legacy default stream,
stream-ordered allocation).
"""

from __future__ import annotations

import bisect
import gc
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .objects import (
    CAPTURE_INVALIDATED,
    CAPTURE_UNSUPPORTED,
    FREED,
    GUARD,
    ILLEGAL_ADDRESS,
    INVALID_CONTEXT,
    INVALID_HANDLE,
    INVALID_VALUE,
    LEGACY,
    NULL,
    OUT_OF_MEMORY,
    PER_THREAD,
    UNWRITTEN,
    Event,
    Faults,
    Gpu,
    Graph,
    Memory,
    Operation,
    SimulatedError,
    Stream,
)


class Machine:
    """A machine with GPUs. Thread-safe; waiting for a stream runs what is queued in it."""

    def __init__(self, gpus: int = 1) -> None:
        self.gpus: list[Gpu] = []
        self.faults = Faults()
        self.violations: list[str] = []
        self.lock = threading.RLock()
        self.pooled = 0  # of the allocations, those from a pool
        self.allocations = self.executions = self.enqueues = 0
        self.replays = self.compilations = self.fallbacks = 0  # counted for tests
        self.copies: list[tuple[str, int]] = []  # direction and bytes of each host copy
        self.launches: list[str] = []  # kernels that ran
        self.time = 0.0  # ms
        self.live: set[Any] = set()  # every object that must be destroyed
        self.streams: dict[int, Stream] = {}
        self._next = 0x7F0000000000
        self._addresses: list[int] = []
        self._memory: dict[int, Memory] = {}
        self._pinned: list[Memory] = []
        self._threads = threading.local()
        self._stacks: list[list[Gpu]] = []
        self._legacy: list[Stream] = []
        for _ in range(gpus):
            self.add_gpu()

    def add_gpu(self, capability: tuple[int, int] = (8, 9)) -> None:
        self.gpus.append(Gpu(len(self.gpus), capability=capability))
        self._legacy.append(Stream(self.gpus[-1], LEGACY, True))

    # Contexts: a stack of current GPUs a thread.

    @property
    def stack(self) -> list[Gpu]:
        if not hasattr(self._threads, "stack"):
            self._threads.stack = []
            self._stacks.append(self._threads.stack)
        stack: list[Gpu] = self._threads.stack
        return stack

    def current(self) -> Gpu:
        """The GPU of this thread's current context; a sticky error is the answer of every call.

        Raises:
            SimulatedError: there is none.
        """
        if not self.stack:
            raise SimulatedError(INVALID_CONTEXT)
        gpu = self.stack[-1]
        if gpu.failed:
            raise SimulatedError(ILLEGAL_ADDRESS)
        return gpu

    def must_be_current(self, gpu: Gpu, what: str) -> bool:
        """Whether a GPU is current; if not, destroying `what` now is a violation."""
        if self.stack and self.stack[-1] is gpu:
            return True
        self.violations.append(f"{what} destroyed while its GPU's context was not current: leaked")
        return False

    # Memory.

    def allocate(self, size: int, pinned: bool = False) -> Memory:
        with self.lock:
            gpu = self.current()
            self._forbid_in_capture("an allocation")
            self.allocations += 1
            if size <= 0:
                raise SimulatedError(INVALID_VALUE)
            if self.allocations in self.faults.oom_at:
                raise SimulatedError(OUT_OF_MEMORY)
            # Real addresses, which kernels on the CPU can use. They are not used again: the array
            # stays when the memory is freed.
            whole = np.full(size + GUARD, UNWRITTEN, np.uint8)
            data, guard = whole[:size], whole[size:]
            memory = Memory(None if pinned else gpu, whole.ctypes.data, data, guard)
            if pinned:
                self._pinned.append(memory)
            else:
                self._memory[memory.address] = memory
                bisect.insort(self._addresses, memory.address)
            self.live.add(memory)
            return memory

    def free(self, memory: Memory) -> None:
        """Free memory, after all work on its GPU: cuMemFree and cuMemFreeHost wait."""
        with self.lock:
            self._forbid_in_capture("freeing memory")
            if not memory.alive:
                self.violations.append("memory freed twice")
                return
            for stream in [s for s in self.streams.values() if s.gpu is memory.gpu]:
                self.drain(stream)
            self.release(memory)

    def release(self, memory: Memory) -> None:
        """Mark memory as free; later accesses are found."""
        if (memory.guard != UNWRITTEN).any():
            self.violations.append("memory written behind the end of an allocation")
        memory.alive = False
        memory.data[:] = FREED
        self.live.discard(memory)

    def view(self, address: int, size: int, gpu: Gpu) -> NDArray[np.uint8]:
        """The bytes at an address of GPU memory, at the time of the access.

        Raises:
            SimulatedError: there is no such memory; the GPU has failed from now on.
        """
        at = bisect.bisect_right(self._addresses, address) - 1
        memory = self._memory[self._addresses[at]] if at >= 0 else None
        offset = address - memory.address if memory else 0
        if memory is None or offset + size > len(memory.data) or memory.gpu is not gpu:
            gpu.failed = True
            raise SimulatedError(ILLEGAL_ADDRESS)
        if not memory.alive:
            self.violations.append("GPU memory used after it was freed")
        return memory.data[offset : offset + size]

    def memory_at(self, address: int) -> Memory:
        """The allocation that begins at an address.

        Raises:
            SimulatedError: none does.
        """
        if address not in self._memory:
            raise SimulatedError(INVALID_VALUE)
        return self._memory[address]

    def check_pinned(self, array: NDArray[Any]) -> None:
        """Note an asynchronous copy from or to host memory that is not page-locked, or is free."""
        start, end = array.ctypes.data, array.ctypes.data + array.nbytes
        for memory in self._pinned:
            if memory.address <= start and end <= memory.address + len(memory.data):
                if not memory.alive:
                    self.violations.append("page-locked memory used after it was freed")
                return
        self.violations.append("an asynchronous copy of host memory that is not page-locked")

    # Streams and events.

    def new_stream(self, blocking: bool) -> Stream:
        with self.lock:
            gpu = self.current()
            self._next += 64
            stream = Stream(gpu, self._next, blocking)
            self.streams[stream.handle] = stream
            self.live.add(stream)
            return stream

    def stream(self, handle: int) -> Stream:
        """The stream of a handle, for work of the current GPU."""
        gpu = self.current()
        if handle in (NULL, LEGACY, PER_THREAD):
            return self._legacy[gpu.index]
        stream = self.streams.get(handle)
        if stream is None or not stream.alive or stream.gpu is not gpu:
            raise SimulatedError(INVALID_HANDLE)
        return stream

    def enqueue(self, stream: Stream, operation: Operation) -> None:
        with self.lock:
            if stream.capture is not None:
                stream.capture.append(operation)
                return
            if stream.handle == LEGACY:
                self._forbid_in_capture("the legacy default stream")
                for other in self.streams.values():
                    if other.blocking and other.gpu is stream.gpu:
                        self._after(stream, other)
            elif stream.blocking:
                self._after(stream, self._legacy[stream.gpu.index])
            stream.queue.append(operation)
            stream.queued += 1

    def _after(self, stream: Stream, other: Stream) -> None:
        position = other.queued
        stream.queue.append(lambda: self.drain(other, position))
        stream.queued += 1

    def drain(self, stream: Stream, position: int | None = None) -> None:
        """Run what is queued in a stream, up to a position."""
        with self.lock:
            position = stream.queued if position is None else position
            while stream.done < position and stream.queue:
                operation = stream.queue.popleft()
                if not stream.gpu.failed:
                    operation()

    def synchronise(self, stream: Stream) -> None:
        with self.lock:
            if stream.capture is not None:
                stream.invalid = True
                raise SimulatedError(CAPTURE_UNSUPPORTED)
            self._forbid_in_capture("waiting for a stream")
            self.drain(stream)
            if stream.gpu.failed:
                raise SimulatedError(ILLEGAL_ADDRESS)

    def new_event(self) -> Event:
        with self.lock:
            self._next += 64
            event = Event(self.current(), self._next)
            self.live.add(event)
            return event

    def record(self, event: Event, stream: Stream) -> None:
        with self.lock:
            if not event.alive or event.gpu is not stream.gpu:
                raise SimulatedError(INVALID_HANDLE)
            self.enqueue(stream, lambda: setattr(event, "time", self.time))
            event.recorded = (stream, stream.queued)

    def wait_for(self, event: Event) -> None:
        """Wait on the host until a stream has come to an event."""
        with self.lock:
            if not event.alive:
                raise SimulatedError(INVALID_HANDLE)
            self._forbid_in_capture("waiting for an event")
            if event.recorded is not None:
                self.drain(*event.recorded)
            if event.gpu.failed:
                raise SimulatedError(ILLEGAL_ADDRESS)

    def wait(self, stream: Stream, event: Event) -> None:
        with self.lock:
            if not event.alive:
                raise SimulatedError(INVALID_HANDLE)
            if event.recorded is not None:
                recorded, position = event.recorded
                self.enqueue(stream, lambda: self.drain(recorded, position))

    def destroy(self, thing: Stream | Event) -> None:
        with self.lock:
            if not self.must_be_current(thing.gpu, type(thing).__name__.lower()):
                return
            if isinstance(thing, Stream):
                self.drain(thing)
                del self.streams[thing.handle]
            thing.alive = False
            self.live.discard(thing)

    # Capture.

    def begin_capture(self, stream: Stream) -> None:
        with self.lock:
            if stream.handle == LEGACY or stream.capture is not None:
                raise SimulatedError(CAPTURE_UNSUPPORTED)
            stream.capture, stream.invalid = [], False
            stream.capturer = threading.current_thread()

    def end_capture(self, stream: Stream) -> Graph:
        with self.lock:
            if stream.capture is None:
                raise SimulatedError(INVALID_VALUE)
            operations, stream.capture = stream.capture, None
            if stream.invalid:
                raise SimulatedError(CAPTURE_INVALIDATED)
            graph = Graph(stream.gpu, operations)
            self.live.add(graph)
            return graph

    def _forbid_in_capture(self, what: str) -> None:
        """In thread-local mode, the thread that captures may neither wait nor allocate."""
        for stream in self.streams.values():
            if stream.capture is not None and stream.capturer is threading.current_thread():
                stream.invalid = True
                self.violations.append(f"{what} during the capture of a graph")
                raise SimulatedError(CAPTURE_UNSUPPORTED)

    def settle(self) -> int:
        """Free what is held by a cycle only, and what is queued to be freed; what is left."""
        gc.collect()
        for stream in self._legacy:
            self.drain(stream)
        return len(self.live)

    def finish(self) -> None:
        """Raise AssertionError for every rule that was broken, and for everything not freed."""
        if self.live:
            self.settle()
        found = list(self.violations)
        if not any(gpu.failed for gpu in self.gpus):  # then nothing can be freed any more
            found += [f"never freed: {type(thing).__name__.lower()}" for thing in self.live]
        for stack in self._stacks:
            if stack:
                found.append("a thread ended with a current context: PyCUDA aborts the process")
        assert not found, "\n".join(sorted(set(found)))
