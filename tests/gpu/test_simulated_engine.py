"""The TensorRT engine on a simulated GPU, whose rules it must keep (see `simulated/machine.py`)."""

from __future__ import annotations

import gc
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from simulated import Faults, Machine
from simulated.arrays import ByDlpack, ByInterface, ByOldInterface, Pending
from simulated.make import LIBRARIES, make_plan
from simulated.objects import EXECUTION_TIME

from dic.engine_file import EngineError
from runtime.engines.arrays import DeviceArray, wait_for
from runtime.engines.contract import Engine
from runtime.engines.load import load_engine
from runtime.engines.tensorrt.bucket import bucket_sizes
from runtime.engines.tensorrt.lane import UNTOUCHED

IMAGE = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def wanted(tiny_engine: Path) -> dict[str, np.ndarray]:
    """The outputs of IMAGE on the CPU."""
    with load_engine(tiny_engine, "cpu") as engine:
        return engine.run({"image": IMAGE})


def agree(given: dict[str, np.ndarray], wanted: dict[str, np.ndarray], batch: int) -> None:
    for name, array in wanted.items():
        np.testing.assert_allclose(given[name].astype(float), array[:batch], atol=1, err_msg=name)


@pytest.fixture(params=LIBRARIES)
def plan(request: pytest.FixtureRequest, tiny_engine: Path, tmp_path: Path) -> Path:
    return make_plan(tiny_engine, tmp_path / "dic.trt", request.param)


def test_a_plan_computes_what_its_onnx_file_computes(
    plan: Path, machine: Machine, wanted: dict[str, np.ndarray]
) -> None:
    with load_engine(plan, "cuda") as engine:
        for batch in (1, 4, 3, 2, 1, 4):
            agree(engine.run({"image": IMAGE[:batch]}), wanted, batch)
    assert machine.replays >= 6, "runs replay graphs"
    assert json.loads(plan.with_name("dic.trt.json").read_text())["verified"].startswith("Sim")


def test_gpu_time_is_that_between_events_in_the_lanes_stream(plan: Path, machine: Machine) -> None:
    """Simulated events see time pass only while a network runs: nothing of the host, no copy, and
    no run that is not this one.
    """
    with load_engine(plan, "cuda") as engine:
        for batch in (1, 4, 3, 4):
            before = machine.executions
            assert engine.gpu_milliseconds({"image": IMAGE[:batch]}) == EXECUTION_TIME
            assert machine.executions > before
        machine.faults.sticky_at = machine.executions + 1
        with pytest.raises(EngineError, match="illegal memory access") as caught:
            engine.gpu_milliseconds({"image": IMAGE})
    del caught


def test_buckets_are_powers_of_two_within_the_profile() -> None:
    assert bucket_sizes(1, 32) == [1, 2, 4, 8, 16, 32]
    assert bucket_sizes(3, 20) == [3, 4, 8, 16, 20]
    assert bucket_sizes(1, 1) == [1]
    assert bucket_sizes(6, 6) == [6]


def test_a_batch_size_that_comes_again_is_not_prepared_again(plan: Path, machine: Machine) -> None:
    with load_engine(plan, "cuda") as engine:
        for batch in (1, 2, 3):
            engine.run({"image": IMAGE[:batch]})
        live, allocations = len(machine.live), machine.allocations
        for batch in (1, 2, 3, 4, 1, 2):
            engine.run({"image": IMAGE[:batch]})
        assert (len(machine.live), machine.allocations) == (live, allocations)


def test_a_profile_with_a_smallest_batch_is_padded(
    machine: Machine, tiny_engine: Path, tmp_path: Path, wanted: dict[str, np.ndarray]
) -> None:
    plan = make_plan(tiny_engine, tmp_path / "dic.trt", batch=((3, 3, 6),))
    with load_engine(plan, "cuda") as engine:
        agree(engine.run({"image": IMAGE[:1]}), wanted, 1)
        with pytest.raises(ValueError, match="batches of up to 6"):
            engine.run({"image": np.zeros((7, 16, 16, 3), np.uint8)})
        agree(engine.run({"image": IMAGE[:4]}), wanted, 4)


# What the GPU's other users hand over.


@pytest.mark.parametrize("kind", [ByDlpack, ByInterface, ByOldInterface])
def test_pending_work_on_an_array_comes_before_the_run(
    kind: type[Pending], plan: Path, machine: Machine, wanted: dict[str, np.ndarray]
) -> None:
    """The array is written when its stream is waited for, by the engine's stream if it asked."""
    with load_engine(plan, "cuda") as engine:
        array = kind(machine, IMAGE)
        given = engine.run({"image": array})
        assert all(isinstance(output, DeviceArray) for output in given.values())
        array.free()
        agree({n: content(machine, output) for n, output in given.items()}, wanted, 4)
        again = engine.run({"image": given_back(machine, IMAGE)})  # a DeviceArray, as an input
        agree({n: content(machine, output) for n, output in again.items()}, wanted, 4)
        if isinstance(array, ByDlpack):
            assert array.taken[0] in machine.streams, "the lane's stream is handed over"
        del given, again
    gc.collect()


def content(machine: Machine, array: DeviceArray) -> np.ndarray:
    """Read what another library sees of a result: by its interface, without waiting."""
    interface = array.__cuda_array_interface__
    assert interface["stream"] is None
    memory = machine.view(interface["data"][0], array.nbytes, machine.gpus[array.index])
    return memory.view(array.dtype).reshape(array.shape).copy()


def given_back(machine: Machine, array: np.ndarray) -> DeviceArray:
    source = ByInterface(machine, array)

    class Owner:
        def __del__(self) -> None:
            source.free()

    pointer = source.__cuda_array_interface__["data"][0]
    return DeviceArray(pointer, array.shape, array.dtype, 0, Owner(), source.handle)


def test_results_outlive_the_engine_and_their_thread(plan: Path, machine: Machine) -> None:
    engine = load_engine(plan, "cuda")
    array = ByDlpack(machine, IMAGE)
    found = [engine.run({"image": array})]
    array.free()
    engine.close()
    assert content(machine, found[0]["face"]).std() > 0
    thread = threading.Thread(target=found.clear)
    thread.start()
    thread.join()


def test_an_array_on_another_gpu_is_refused(
    tiny_engine: Path, tmp_path: Path, machine: Machine
) -> None:
    machine.add_gpu()
    with load_engine(make_plan(tiny_engine, tmp_path / "x.trt"), "cuda") as engine:
        array = ByDlpack(machine, IMAGE, index=1)
        with pytest.raises(ValueError, match="is on cuda:1, but the engine is on cuda:0"):
            engine.run({"image": array})
        array.free()


def test_waiting_for_other_streams_checks_every_code(machine: Machine) -> None:
    """For libraries that take no stream, such as ONNX Runtime."""
    array = ByInterface(machine, IMAGE)
    wait_for(0, [array.handle])
    assert (machine.view(array._memory.address, 4, array.gpu) == IMAGE.reshape(-1)[:4]).all()
    with pytest.raises(EngineError, match="cuStreamSynchronize failed with CUDA error 400"):
        wait_for(0, [12345])
    assert not machine.stack
    assert machine.gpus[0].retained == 0
    array.free()


# Graphs.


@pytest.mark.parametrize("fault", ["empty_graphs", "no_capture", "no_instance", "no_launch"])
def test_a_graph_that_does_not_work_is_given_up(
    fault: str,
    plan: Path,
    machine: Machine,
    wanted: dict[str, np.ndarray],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The batch differs from the one of the first run, so a stale result would show."""
    caplog.set_level(logging.INFO)
    setattr(machine.faults, fault, True)
    with load_engine(plan, "cuda") as engine:
        engine.run({"image": IMAGE[::-1].copy()})
        replays = machine.replays
        agree(engine.run({"image": IMAGE}), wanted, 4)
        own = plan.read_bytes()[:4] == b"ptrt"
        if own or fault == "empty_graphs":
            assert machine.replays == replays
            assert "runs without a CUDA graph" in caplog.text
        if fault == "empty_graphs":
            assert "untouched" in caplog.text


def test_outputs_that_look_untouched_are_compared_whole() -> None:
    from runtime.engines.tensorrt.lane import _difference

    face = np.full((2, 3), UNTOUCHED, np.uint8)
    assert "untouched" in _difference({"face": face}, {"face": face})
    other = np.array([[0.5, 1.0]], np.float32)
    assert "another" in _difference({"sr": other}, {"sr": other + 0.1})
    assert not _difference({"sr": other}, {"sr": other + 0.001})


# Memory, and what is freed when.


def close(engine: Engine) -> None:
    engine.close()


def drop(engine: Engine) -> None:
    del engine
    gc.collect()


@pytest.mark.parametrize("end", [close, drop])
def test_everything_is_freed(end: Callable[[Engine], None], plan: Path, machine: Machine) -> None:
    """By `close`, and by the finaliser (`machine.finish` counts)."""
    engine = [load_engine(plan, "cuda")]
    engine[0].run({"image": IMAGE})
    assert machine.live
    end(engine.pop())
    assert not machine.live
    for _ in range(2):
        load_engine(plan, "cuda").close()


def test_out_of_memory_anywhere_is_one_line_and_leaks_nothing(
    tiny_engine: Path, machine: Machine, wanted: dict[str, np.ndarray], tmp_path: Path
) -> None:
    plan = make_plan(tiny_engine, tmp_path / "dic.trt", "tensorrt")
    with load_engine(plan, "cuda") as engine:
        engine.run({"image": IMAGE})
    every = machine.allocations
    assert every >= 6
    for number in range(1, every + 1):
        machine.allocations, machine.faults = 0, Faults(oom_at=frozenset({number}))
        with pytest.raises(EngineError, match="out of memory") as caught:
            load_engine(plan, "cuda").run({"image": IMAGE})
        assert "\n" not in str(caught.value)
        del caught
        gc.collect()
        assert not machine.live, number
    machine.faults = Faults()
    with load_engine(plan, "cuda") as engine:
        agree(engine.run({"image": IMAGE}), wanted, 4)


def test_memory_for_one_lane_is_enough(
    plan: Path, machine: Machine, wanted: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    """The second lane's first allocation fails: both threads' runs share the first lane."""
    with load_engine(plan, "cuda") as engine:
        lane = engine._idle.get()  # in use
        machine.faults = Faults(oom_at=frozenset({machine.allocations + 1}))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(engine.run, {"image": IMAGE})
            while "fewer lanes" not in caplog.text:
                assert not waiting.done()
            engine._idle.put(lane)
            agree(waiting.result(), wanted, 4)


def test_lanes_are_bounded(plan: Path, machine: Machine, wanted: dict[str, np.ndarray]) -> None:
    with load_engine(plan, "cuda") as engine, ThreadPoolExecutor(8) as pool:
        assert engine.lanes == 2
        runs = [pool.submit(engine.run, {"image": IMAGE[: 1 + n % 4]}) for n in range(40)]
        for n, run in enumerate(runs):
            agree(run.result(), wanted, 1 + n % 4)
        assert len(machine.streams) <= engine.lanes
        assert all(not stream.blocking for stream in machine.streams.values())


# Failures.


def test_a_refused_run_quotes_tensorrt_and_the_next_works(
    plan: Path, machine: Machine, wanted: dict[str, np.ndarray]
) -> None:
    with load_engine(plan, "cuda") as engine:
        machine.faults = Faults(false_at=frozenset({machine.enqueues + 1}))
        with pytest.raises(EngineError, match=r"execute_async_v3 \(.*planted failure\)") as caught:
            engine.run({"image": IMAGE[:1]})
        agree(engine.run({"image": IMAGE}), wanted, 4)
    del caught


def test_a_shape_or_address_that_is_refused_is_an_error(
    plan: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulated.tensorrt import IExecutionContext

    for name in ("set_input_shape", "set_tensor_address"):
        with monkeypatch.context() as patched:
            patched.setattr(IExecutionContext, name, lambda self, *_: self._fail("not so"))
            with pytest.raises(EngineError, match=rf"{name} \(.*not so\)") as caught:
                load_engine(plan, "cuda")
        del caught


def test_a_sticky_error_is_reported_and_closing_does_not_hide_it(
    plan: Path, machine: Machine
) -> None:
    with (  # noqa: PT012
        pytest.raises(EngineError, match="illegal memory access"),
        load_engine(plan, "cuda") as engine,
    ):
        machine.faults.sticky_at = machine.executions + 1
        engine.run({"image": IMAGE})
    with pytest.raises(ValueError, match="closed"):
        engine.run({"image": IMAGE})
    with pytest.raises(EngineError, match="illegal memory access"):
        load_engine(plan, "cuda")


def test_a_wrong_input_costs_no_lane(plan: Path, machine: Machine) -> None:
    with load_engine(plan, "cuda") as engine:
        live = len(machine.live)
        for _ in range(5):
            with pytest.raises(ValueError, match=r"image uint8 \[batch, 16, 16, 3\]"):
                engine.run({"image": IMAGE.astype(np.float32)})
        assert len(machine.live) == live


def test_the_second_gpu_is_used_alone(
    plan: Path, machine: Machine, wanted: dict[str, np.ndarray]
) -> None:
    machine.add_gpu((8, 6))
    with load_engine(plan, "cuda:1") as second:
        agree(second.run({"image": IMAGE}), wanted, 4)
        assert {stream.gpu.index for stream in machine.streams.values()} == {1}
        with load_engine(plan, "cuda:0") as first:
            agree(first.run({"image": IMAGE}), wanted, 4)
            agree(second.run({"image": IMAGE[:1]}), wanted, 1)
    with pytest.raises(EngineError, match="cuda:2 does not exist; this machine has 2 GPUs"):
        load_engine(plan, "cuda:2")
