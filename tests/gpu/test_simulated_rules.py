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

from runtime.cuda import layout


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


def peaks(here: Any, addresses: tuple[int, int, int], side: int = 4, **changes: Any) -> None:
    """Launch the kernel `peaks` on one face."""
    module = here.cuda.module_from_file(__file__)
    structure = layout.ARGUMENTS["peaks"]
    function = module.get_function("dic_peaks").prepare([structure])
    arguments = np.array((*addresses, side, 0), structure).tobytes()
    call = {"grid": (1, 1), "block": (256, 1, 1), "shared_size": 2048} | changes
    stream = here.cuda.Stream(1)
    grid, block = call.pop("grid"), call.pop("block")
    function.prepared_async_call(grid, block, stream, arguments, **call)
    stream.synchronize()


def test_kernels_compute_in_their_stream_on_memory_that_is_there(here: Any) -> None:
    sizes = (4 * 4 * 3, 4 * 4 * 4, layout.PEAKS.itemsize)
    memory = [here.cuda.mem_alloc(size) for size in sizes]
    addresses, stream = tuple(map(int, memory)), here.cuda.Stream(1)
    for address, size in zip(addresses, sizes, strict=True):
        here.cuda.memset_d8_async(address, 0, size, stream)
    stream.synchronize()
    peaks(here, addresses)
    assert not here.machine.view(addresses[2], sizes[2], here.machine.gpus[0]).any()
    assert here.machine.launches == ["peaks"]
    for wrong in ({"grid": (1, 70_000)}, {"block": (2048, 1, 1)}, {"shared_size": 50_000}):
        with pytest.raises(here.cuda.LogicError, match="invalid argument"):
            peaks(here, addresses, **wrong)
    with pytest.raises(here.cuda.LogicError, match="named symbol not found"):
        here.cuda.module_from_file(__file__).get_function("dic_nothing")
    memory[0].free()
    peaks(here, addresses)
    assert here.machine.violations == ["GPU memory used after it was freed"]
    with pytest.raises(here.cuda.LogicError, match="illegal memory access"):
        peaks(here, (12345, *addresses[1:]))


def test_a_kernel_that_writes_behind_an_allocation(here: Any) -> None:
    memory = [here.cuda.mem_alloc(size) for size in (48, 64, layout.PEAKS.itemsize - 4)]
    peaks(here, tuple(map(int, memory)))
    memory[2].free()
    assert here.machine.violations == ["memory written behind the end of an allocation"]


def test_a_module_unloaded_without_its_context(here: Any) -> None:
    module = here.cuda.module_from_file(__file__)
    here.context.pop()
    del module
    assert "a module destroyed" in here.machine.violations[0]


def test_time_between_events_that_a_stream_has_not_come_to(here: Any) -> None:
    runtime, stream = here.runtime, here.cuda.Stream(1)
    first, last, untimed = (runtime.cudaEventCreateWithFlags(flags)[1] for flags in (0, 0, 2))
    assert int(runtime.cudaEventElapsedTime(first, last)[0]) == 400, "not recorded"
    for event in (first, last, untimed):
        runtime.cudaEventRecord(event, stream.handle)
    assert int(runtime.cudaEventElapsedTime(first, last)[0]) == 600
    assert int(runtime.cudaEventElapsedTime(first, untimed)[0]) == 400
    runtime.cudaEventSynchronize(last)
    assert runtime.cudaEventElapsedTime(first, last) == (0, 0.0)
