"""Every rule of the simulated GPU, broken on purpose: it must be noticed."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from simulated import Machine, installed
from simulated.make import foreign_plan


@pytest.fixture
def here() -> Iterator[Any]:
    """A machine of its own, its modules, and a context that is current; nothing is checked."""
    with installed(Machine(2)) as machine:
        cuda = importlib.import_module("pycuda.driver")
        runtime = importlib.import_module("cuda.bindings.runtime")
        context = cuda.Device(0).retain_primary_context()
        context.push()
        yield SimpleNamespace(machine=machine, cuda=cuda, runtime=runtime, context=context)


def broken(machine: Machine) -> str:
    with pytest.raises(AssertionError) as caught:
        machine.finish()
    return str(caught.value)


def begin(here: Any, stream: Any) -> int:
    mode = here.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    return int(here.runtime.cudaStreamBeginCapture(stream.handle, mode)[0])


def test_a_leak_and_a_context_that_stays_current(here: Any) -> None:
    memory = here.cuda.mem_alloc(16)
    found = broken(here.machine)
    assert "never freed: memory" in found
    assert "a thread ended with a current context" in found
    memory.free()
    here.context.pop()
    here.machine.finish()


def test_memory_freed_twice_or_used_after_it_was_freed(here: Any) -> None:
    memory, other, stream = here.cuda.mem_alloc(16), here.cuda.mem_alloc(16), here.cuda.Stream(1)
    here.cuda.memcpy_dtod_async(int(other), int(memory), 16, stream)
    memory.free()  # waits, as the real one does
    assert not here.machine.violations
    with pytest.raises(here.cuda.LogicError):
        memory.free()
    here.cuda.memcpy_dtod_async(int(other), int(memory), 16, stream)
    stream.synchronize()
    assert here.machine.violations == ["GPU memory used after it was freed"]


def test_objects_destroyed_without_their_context(here: Any) -> None:
    stream, memory = here.cuda.Stream(1), here.cuda.mem_alloc(4)
    here.context.pop()
    second = here.cuda.Device(1).retain_primary_context()
    second.push()
    del stream
    memory.free()
    assert len(here.machine.violations) == 2


def test_copies_happen_when_they_are_waited_for(here: Any) -> None:
    stream, memory = here.cuda.Stream(1), here.cuda.mem_alloc(4)
    host = here.cuda.pagelocked_empty(4, np.uint8)
    host[:] = 7
    here.cuda.memcpy_htod_async(memory, host, stream)
    host[:] = 9  # too early
    back = here.cuda.pagelocked_empty(4, np.uint8)
    here.cuda.memcpy_dtoh_async(back, memory, stream)
    assert not (back == 9).any()
    stream.synchronize()
    assert (back == 9).all()
    here.cuda.memcpy_htod_async(memory, np.zeros(4, np.uint8), stream)
    assert "not page-locked" in here.machine.violations[0]


def test_what_a_capture_forbids(here: Any) -> None:
    stream = here.cuda.Stream(1)
    assert begin(here, stream) == 0
    with pytest.raises(here.cuda.LogicError, match="capturing"):
        stream.synchronize()
    assert int(here.runtime.cudaStreamEndCapture(stream.handle)[0]) == 901
    assert begin(here, stream) == 0
    allowed: list[Any] = []
    thread = threading.Thread(target=lambda: allowed.append(allocate_elsewhere(here)))
    thread.start()
    thread.join()
    assert allowed, "thread-local: other threads may allocate"
    with pytest.raises(here.cuda.LogicError, match="capturing"):
        here.cuda.mem_alloc(4)
    assert int(here.runtime.cudaStreamEndCapture(stream.handle)[0]) == 901
    mode = here.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert int(here.runtime.cudaStreamBeginCapture(1, mode)[0]) == 900, "the legacy stream"


def allocate_elsewhere(here: Any) -> Any:
    here.context.push()
    try:
        return here.cuda.mem_alloc(4)
    finally:
        here.context.pop()


def test_nothing_works_without_a_context(here: Any) -> None:
    here.context.pop()
    for call in (lambda: here.cuda.mem_alloc(4), lambda: here.cuda.Stream(1), here.context.pop):
        with pytest.raises(here.cuda.LogicError, match="invalid device context"):
            call()


def test_runs_need_addresses_shapes_and_memory(here: Any, tmp_path: Path) -> None:
    trt = importlib.import_module("tensorrt")

    class Logger(trt.ILogger):
        last = ""

        def log(self, severity: Any, msg: str) -> None:
            Logger.last = msg

    plan = foreign_plan(tmp_path / "x.trt").read_bytes()
    engine = trt.Runtime(Logger()).deserialize_cuda_engine(plan)
    managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    context, stream = engine.create_execution_context(managed), here.cuda.Stream(1)
    assert not context.execute_async_v3(stream.handle)
    assert "not set" in Logger.last
    assert not context.set_input_shape("x0", (5, 4))
    assert "not in the range" in Logger.last
    assert context.set_input_shape("x0", (4, 4))
    memory = [here.cuda.mem_alloc(4096) for _ in range(3)]
    for name, address in zip(("x0", "y"), memory, strict=False):
        assert context.set_tensor_address(name, int(address))
    assert not context.execute_async_v3(stream.handle)
    assert "device memory" in Logger.last
    context.set_device_memory(int(memory[2]), 4096)
    assert begin(here, stream) == 0
    assert context.execute_async_v3(stream.handle)
    assert "before an ordinary run" in here.machine.violations[0]
