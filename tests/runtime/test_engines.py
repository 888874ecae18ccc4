"""What runs an engine, how it is picked, and what it takes in place."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, Command, one_line_error

from benchmarks.gpu_parts import part_photographs
from dic.engine_file import EngineError
from runtime.cuda.kernels import FATBIN, PLACES
from runtime.engines.arrays import DeviceArray, _from_capsule, accept
from runtime.engines.batching import overlapped
from runtime.engines.dlpack import CPU, CUDA, _tensor, to_capsule
from runtime.engines.load import load_engine, parse_device
from runtime.engines.onnx_file import read_metadata

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def plan(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real TensorRT-RTX plan, built here."""
    pytest.importorskip("tensorrt_rtx")
    from export.tensorrt import main

    path = tmp_path_factory.mktemp("plan") / "tiny.trt"
    flavour = ("--flavour", "tensorrt_rtx")
    assert main([str(tiny_engine), "-o", str(path), *flavour, "--max-batch", "4"]) == 0
    return path


def test_metadata_are_read_as_onnx_reads_them(tiny_engine: Path) -> None:
    wanted = {entry.key: entry.value for entry in onnx.load(tiny_engine).metadata_props}
    assert read_metadata(tiny_engine) == wanted


def test_old_runtimes_read_the_file(tiny_engine: Path) -> None:
    """ONNX Runtime 1.16 and 1.17 refuse IR version 10 (its versioning table)."""
    model = onnx.load(tiny_engine)
    assert model.ir_version <= 9
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]


def test_a_file_of_weights_that_was_left_behind_is_named(tiny_engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "moved.onnx"
    options = {"save_as_external_data": True, "location": "moved.onnx.data", "size_threshold": 1024}
    onnx.save(onnx.load(tiny_engine), path, **options)
    load_engine(path, "cpu").close()
    (tmp_path / "moved.onnx.data").unlink()
    with pytest.raises(EngineError, match=r"moved\.onnx\.data: No such file; copy it too"):
        load_engine(path, "cpu")


def test_a_pipe_is_no_engine(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(EngineError, match="is a pipe or a device"):
        load_engine(tmp_path / "pipe.onnx", "cpu")


def test_no_damage_reads_as_metadata(tiny_engine: Path, tmp_path: Path) -> None:
    """Cut anywhere, or with any byte changed: an error in one line, or what is there."""
    whole, path = tiny_engine.read_bytes(), tmp_path / "damaged.onnx"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        if rng.random() < 0.5:
            damaged = damaged[: int(rng.integers(0, len(whole)))]
        else:
            damaged[int(rng.integers(0, 300))] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(EngineError):
            read_metadata(path)
            continue
        refused += 1
    assert refused > 80


def test_the_fastest_that_works_is_taken_and_named(
    tiny_engine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenVINO for a graph that was not written for CPUs, ONNX Runtime for one that was."""
    from runtime.engines.contract import SHIPPED

    caplog.set_level(logging.INFO, "runtime")
    for path, backend in ((tiny_engine, "OpenVINO"), (SHIPPED, "CPUExecutionProvider")):
        caplog.clear()
        with load_engine(path) as engine:
            assert backend in engine.backend
            assert f"on cpu with {engine.backend}" in caplog.text
        assert "no GPU" in caplog.text
        assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_what_fails_is_fallen_back_from_with_a_word(
    tiny_engine: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Samples with other landmarks: OpenVINO seems to find others than PyTorch. The CPU provider,
    with which the export was checked, is asked for one face only, and not for its landmarks.
    """
    model = onnx.load(tiny_engine)
    for entry in model.metadata_props:
        if entry.key == "dic.samples":
            import base64
            import io

            with np.load(io.BytesIO(base64.b64decode(entry.value))) as held:
                arrays = {name: held[name] for name in held.files}
            arrays["landmarks"] = arrays["landmarks"] + 3
            arrays["decided"][:] = True
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)
            entry.value = base64.b64encode(buffer.getvalue()).decode()
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    with load_engine(path) as engine:
        assert "CPUExecutionProvider" in engine.backend
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "OpenVINO" in warning.message
    assert "differ from PyTorch" in warning.message
    with pytest.raises(EngineError, match="differ from PyTorch"):
        load_engine(path, "openvino")


@pytest.mark.parametrize("device", ["cpu", "openvino", "auto"])
def test_damaged_weights_are_noticed(device: str, tiny_engine: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_engine)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    damaged = np.frombuffer(largest.raw_data, np.float32).copy()
    damaged[::7] *= -5
    largest.raw_data = damaged.tobytes()
    onnx.save(model, tmp_path / "damaged.onnx")
    with pytest.raises(EngineError, match="differ from PyTorch"):
        load_engine(tmp_path / "damaged.onnx", device)


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_threads_of_a_run_can_be_limited(device: str, tiny_engine: Path) -> None:
    with load_engine(tiny_engine, device, threads=1) as one, load_engine(tiny_engine) as all_:
        a, b = (engine.run({"image": IMAGE})["face"] for engine in (one, all_))
    assert np.abs(a.astype(int) - b).max() <= 1


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_lanes_compute_the_same(device: str, tiny_engine: Path) -> None:
    with (
        load_engine(tiny_engine, device) as one,
        load_engine(tiny_engine, device, lanes=2) as two,
    ):
        assert (one.lanes, two.lanes) == (1, 2)
        wanted = one.run({"image": IMAGE})["face"]
        given = overlapped(lambda _: two.run({"image": IMAGE})["face"], range(12), 4)
        for face in given:
            assert np.abs(face.astype(int) - wanted).max() <= 1
        batch = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), np.uint8)
        whole, spread = (engine.run({"image": batch}) for engine in (one, two))
        for name, array in whole.items():
            assert spread[name].shape == array.shape
        assert np.abs(spread["face"].astype(int) - whole["face"]).max() <= 1
    with pytest.raises(ValueError, match="closed"):
        two.run({"image": batch})
    for wrong in ({"lanes": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            load_engine(tiny_engine, device, **wrong)


def test_devices_are_parsed() -> None:
    assert parse_device("cuda:3") == ("cuda", 3)
    assert parse_device("auto") == ("auto", 0)


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_arrays_of_other_libraries_are_taken(device: str, tiny_engine: Path) -> None:
    with load_engine(tiny_engine, device) as engine:
        wanted = engine.run({"image": IMAGE})["face"]
        given = engine.run({"image": torch.from_numpy(IMAGE)})["face"]
        np.testing.assert_array_equal(given, wanted)
        backwards = engine.run({"image": IMAGE[::-1]})["face"]
        assert np.abs(backwards[::-1].astype(int) - wanted).max() <= 1
        for wrong in ("text", None, [1, 2]):
            with pytest.raises(ValueError, match="expected an array"):
                engine.run({"image": wrong})


class OnGpu:
    """What an array of CuPy's or PyTorch's says of itself, without its memory."""

    def __init__(self, **changes: object) -> None:
        interface = {"shape": (2, 16, 16, 3), "typestr": "|u1", "data": (4096, False), "version": 3}
        self.__cuda_array_interface__ = interface | changes


def test_an_array_on_a_gpu_does_not_go_to_a_cpu_engine(tiny_engine: Path) -> None:
    with load_engine(tiny_engine, "cpu") as engine:
        with pytest.raises(ValueError, match="is on cuda:0, but the engine is on cpu"):
            engine.run({"image": OnGpu()})
        with pytest.raises(ValueError, match="not contiguous"):
            engine.run({"image": OnGpu(strides=(1, 2, 3, 4))})


def test_dlpack_capsules_are_read_as_their_maker_wrote_them() -> None:
    """PyTorch's capsule of an array whose address PyTorch tells."""
    for tensor in (torch.arange(24, dtype=torch.float32).reshape(2, 3, 4), torch.ones(5).byte()):
        found = _from_capsule("x", tensor.__dlpack__(), 0)
        assert found.pointer == tensor.data_ptr()
        assert found.shape == tuple(tensor.shape)
        assert found.dtype == tensor.numpy().dtype
        assert found.__cuda_array_interface__["data"] == (tensor.data_ptr(), False)
    with pytest.raises(ValueError, match="not contiguous"):
        _from_capsule("x", torch.ones(4, 6)[:, ::2].__dlpack__(), 0)


class Exported:
    """An array in host memory, exported as if the host were the GPU that `DeviceArray`s are on."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0

    def __dlpack__(self, **_: object) -> object:
        array = self.array
        return to_capsule(array.ctypes.data, array.shape, array.dtype, (CPU, 0), array)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32])
def test_dlpack_capsules_are_read_by_numpy_and_pytorch(dtype: type) -> None:
    source = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    for read in (np.from_dlpack, torch.from_dlpack):
        given = read(Exported(source))
        np.testing.assert_array_equal(np.asarray(given), source)
        view = source.view()
        held, given = weakref.ref(view), read(Exported(view))
        del view
        assert held() is not None, "the consumer keeps the memory"
        del given
        assert held() is None, "and lets it go"


def test_arrays_on_a_gpu_are_exported_by_dlpack() -> None:
    """As far as a capsule tells; that consumers ask for a stream is their protocol's matter."""
    owner = np.zeros(1)
    array = DeviceArray(0x7F0000001000, (2, 3), np.dtype(np.float32), 1, owner)
    assert array.__dlpack_device__() == (CUDA, 1)
    for stream in (None, -1, 1, 12345):
        capsule = array.__dlpack__(stream=stream, max_version=(1, 0), dl_device=(CUDA, 1))
        tensor = _tensor(capsule)
        assert (tensor.data, tensor.device_type, tensor.device_id) == (array.pointer, CUDA, 1)
        assert (tensor.code, tensor.bits, tensor.lanes, tensor.byte_offset) == (2, 32, 1, 0)
        found = _from_capsule("x", capsule, 1)
        assert (found.pointer, found.shape, found.dtype) == (array.pointer, (2, 3), array.dtype)
    row = array.row(1)
    assert (row.pointer, row.shape, row.owner) == (array.pointer + 12, (3,), owner)
    for wrong in ({"copy": True}, {"dl_device": (CPU, 0)}):
        with pytest.raises(BufferError, match="in place only"):
            array.__dlpack__(**wrong)  # type: ignore[arg-type]
    with pytest.raises((BufferError, RuntimeError)):  # which destroys a capsule unread
        np.from_dlpack(array)


def test_accept_leaves_numpy_arrays_alone() -> None:
    assert accept({"image": IMAGE}, "cpu")["image"] is IMAGE


def test_engines_do_not_leak(tiny_engine: Path) -> None:
    """Hundreds of runs and some loadings take no more memory than the first of each (and see
    `python -m benchmarks.pipeline` for 10,000 of the shipped engine).
    """

    def resident() -> float:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6

    for device in ("cpu", "openvino"):
        with load_engine(tiny_engine, device) as engine:
            for _ in range(20):
                engine.run({"image": IMAGE})
            growth = []
            for _ in range(2):  # a leak grows in every round; others in this process in some
                before = resident()
                for _ in range(40):  # a face kept of each would be 2 MB
                    engine.run({"image": IMAGE})
                growth.append(resident() - before)
            assert min(growth) < 1.5, (device, growth)
        load_engine(tiny_engine, device).close()
        growth = []
        for _ in range(2):
            before = resident()
            load_engine(tiny_engine, device).close()
            growth.append(resident() - before)
        assert min(growth) < 5, (device, growth)


def test_a_plan_that_cannot_run_says_why(
    plan: Path, here: Command, face_file: Path, tmp_path: Path
) -> None:
    """Without a driver; cut; of another version; and asked to run on the CPU."""
    from dic.driver import has_driver

    if has_driver():
        pytest.skip("a plan runs here")
    line = ("runtime.infer", face_file, "-o", tmp_path / "out.png", "--engine")
    assert "no NVIDIA driver works here" in one_line_error(here(*line, plan), 2)
    assert "only on NVIDIA GPUs" in one_line_error(here(*line, plan, "--device", "cpu"), 2)
    cut, other = tmp_path / "cut.trt", tmp_path / "other.trt"
    whole = plan.read_bytes()
    cut.write_bytes(whole[:40])
    assert "cannot run here" in one_line_error(here(*line, cut), 2)
    other.write_bytes(b"ptrt" + whole[4:])
    assert "tensorrt is not installed" in one_line_error(here(*line, other), 2)
    assert not (tmp_path / "out.png").exists()


def test_a_plan_tells_itsplan_metadata(plan: Path, tmp_path: Path) -> None:
    """With the JSON beside it, and without."""
    from dic.engine_file import TensorInfo
    from runtime.engines.tensorrt.plan_file import described_plan, plan_metadata

    image = (TensorInfo("image", "uint8", (None, 16, 16, 3)),)
    outputs = (
        TensorInfo("face", "uint8", (None, 128, 128, 3)),
        TensorInfo("landmarks", "float32", (None, 68, 2)),
        TensorInfo("scores", "float32", (None, 68)),
    )
    content = plan.read_bytes()
    known = plan_metadata(plan, described_plan(plan, content), image, outputs)
    assert (known.io, known.steps, known.precision, known.rest["verified"]) == (
        "image", 2, "fp32", "no",
    )  # fmt: skip
    bare = tmp_path / "bare.trt"
    shutil.copy(plan, bare)
    guessed = plan_metadata(bare, described_plan(bare, content), image, outputs)
    assert (guessed.io, guessed.scale, guessed.landmarks) == ("image", 8, 68)
    sidecar = json.loads(plan.with_name(f"{plan.name}.json").read_text())
    for changes, why in (
        ({"format_version": "9"}, "format version 9 is not supported"),
        ({"plan": {"sha256": "0"}}, "another plan"),
    ):
        (tmp_path / "bare.trt.json").write_text(json.dumps(sidecar | changes))
        with pytest.raises(EngineError, match=why):
            plan_metadata(bare, described_plan(bare, content), image, outputs)
    (tmp_path / "bare.trt.json").write_text("{")
    with pytest.raises(EngineError, match="damaged"):
        described_plan(bare, content)


def test_telemetry_stays_off_and_the_environment_as_it_was(
    tiny_engine: Path, tmp_path: Path
) -> None:
    """ONNX Runtime and OpenVINO store identifiers in the home folder when telemetry starts."""
    code = (
        "import os, numpy\n"
        "before = dict(os.environ)\n"
        "from runtime import load_engine\n"
        "for device in ('cpu', 'openvino'):\n"
        f"    with load_engine({str(tiny_engine)!r}, device) as engine:\n"
        "        engine.run({'image': numpy.zeros((1, 16, 16, 3), numpy.uint8)})\n"
        "assert dict(os.environ) == before\n"
    )
    inherited = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**inherited, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_a_plan_computes_what_the_cpu_computes(plan: Path, tiny_engine: Path) -> None:
    with load_engine(plan, "cuda") as gpu, load_engine(tiny_engine, "cpu") as cpu:
        assert gpu.max_batch == 4
        for batch in (1, 4, 2, 1):
            image = np.random.default_rng(batch).integers(0, 256, (batch, 16, 16, 3), np.uint8)
            for _ in range(2):  # before, at and after a CUDA graph is captured
                given, wanted = (engine.run({"image": image}) for engine in (gpu, cpu))
                assert np.abs(given["face"].astype(int) - wanted["face"]).max() <= 1
        with pytest.raises(ValueError, match="batches of up to 4"):
            gpu.run({"image": np.zeros((5, 16, 16, 3), np.uint8)})
    assert json.loads(plan.with_name(f"{plan.name}.json").read_text())["verified"] != "no"


@pytest.mark.gpu
def test_photographs_in_gpu_memory_equal_those_in_host_memory(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not any((place / FATBIN).is_file() for place in PLACES):
        pytest.skip("the CUDA kernels are not built here (make kernels)")
    part_photographs(str(plan))
    assert "differ by up to" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["plan", "onnx"])
def test_arrays_on_the_gpu_stay_there(kind: str, plan: Path, tiny_engine: Path) -> None:
    from runtime.engines.onnxruntime import GPU, available

    if kind == "onnx" and not available(GPU):
        pytest.skip("this ONNX Runtime has no provider for GPUs")
    path = plan if kind == "plan" else tiny_engine
    with load_engine(path, "cuda") as engine:
        wanted = engine.run({"image": IMAGE})["face"]
        given = engine.run({"image": torch.from_numpy(IMAGE).cuda()})["face"]
        assert isinstance(given, DeviceArray)
        np.testing.assert_array_equal(torch.as_tensor(given, device="cuda").cpu().numpy(), wanted)
