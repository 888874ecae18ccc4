"""What a simulated machine is made of: GPUs, memory, streams, events, graphs; planted faults."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, INVALID_DEVICE = 0, 1, 2, 101
INVALID_CONTEXT, INVALID_HANDLE, NOT_READY, ILLEGAL_ADDRESS = 201, 400, 600, 700
NO_FILE, NOT_FOUND = 301, 500
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, GRAPH_NOT_INSTANTIATED = 900, 901, 999
TEXTS = {
    INVALID_VALUE: "invalid argument",
    OUT_OF_MEMORY: "out of memory",
    INVALID_DEVICE: "invalid device ordinal",
    INVALID_CONTEXT: "invalid device context",
    NO_FILE: "file not found",
    NOT_FOUND: "named symbol not found",
    INVALID_HANDLE: "invalid resource handle",
    NOT_READY: "device not ready",
    ILLEGAL_ADDRESS: "an illegal memory access was encountered",
    CAPTURE_UNSUPPORTED: "operation not permitted when stream is capturing",
    CAPTURE_INVALIDATED: "operation failed due to a previous error during capture",
    GRAPH_NOT_INSTANTIATED: "unknown error",
}
LEGACY, PER_THREAD = 1, 2  # special stream handles
NULL = 0  # the driver API's number of the legacy default stream
UNWRITTEN, FREED = 0xCD, 0xDD  # fill of memory that was not written yet, or is free
GUARD = 256  # bytes behind an allocation that kernels must not write
EXECUTION_TIME = 5.0  # ms that CUDA events see of a network's execution; all else takes none
Operation = Callable[[], None]


class SimulatedError(Exception):
    """What the driver answers with an error code."""

    def __init__(self, code: int) -> None:
        super().__init__(TEXTS[code])
        self.code = code


@dataclass
class Faults:
    """Planted faults; numbers count from 1.

    Attributes:
        oom_at: these allocations (of GPU or page-locked memory) fail.
        sticky_at: the execution of a network that corrupts the device: an error, from then on
            for every call.
        false_at: these calls of `execute_async_v3` return False.
        no_capture: a run cannot be captured into a graph.
        no_instance: a graph cannot be instantiated.
        no_launch: an instantiated graph cannot be launched.
        empty_graphs: graphs record nothing, without an error.
    """

    oom_at: frozenset[int] = frozenset()
    sticky_at: int = 0
    false_at: frozenset[int] = frozenset()
    no_capture: bool = False
    no_instance: bool = False
    no_launch: bool = False
    empty_graphs: bool = False


@dataclass(eq=False)
class Gpu:
    index: int
    name: str = "Simulated GPU"
    capability: tuple[int, int] = (8, 9)
    failed: bool = False  # a sticky error
    retained: int = 0


@dataclass(eq=False)
class Memory:
    """GPU memory, or page-locked host memory (`gpu` is None)."""

    gpu: Gpu | None
    address: int
    data: NDArray[np.uint8]
    guard: NDArray[np.uint8]
    alive: bool = True


@dataclass(eq=False)
class Stream:
    gpu: Gpu
    handle: int
    blocking: bool
    queue: deque[Operation] = field(default_factory=deque)
    queued: int = 0
    capture: list[Operation] | None = None
    capturer: threading.Thread | None = None
    invalid: bool = False
    alive: bool = True

    @property
    def done(self) -> int:
        return self.queued - len(self.queue)


@dataclass(eq=False)
class Event:
    gpu: Gpu
    handle: int
    recorded: tuple[Stream, int] | None = None
    timing: bool = True
    time: float | None = None  # ms; when a stream came to it
    alive: bool = True


@dataclass(eq=False)
class Graph:
    gpu: Gpu
    operations: list[Operation]
    alive: bool = True


@dataclass(eq=False)
class Pool:
    gpu: Gpu
    threshold: int = 0
