"""Commands, library, server and benchmark from end to end on a simulated GPU, also under faults."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import servers
from conftest import ROOT, Command, one_line_error
from simulated import Faults, Machine
from simulated.make import LIBRARIES, make_plan
from simulated.objects import EXECUTION_TIME

from runtime import FaceRestorer
from runtime.engines.load import load_engine
from runtime.server.model import ServedModel

GPU_TESTS = Path(__file__).parent


@pytest.fixture(params=LIBRARIES)
def plan(request: pytest.FixtureRequest, tiny_engine: Path, tmp_path: Path) -> Path:
    return make_plan(tiny_engine, tmp_path / "dic.trt", request.param)


@pytest.fixture
def rtx(tiny_engine: Path, tmp_path: Path) -> Path:
    return make_plan(tiny_engine, tmp_path / "dic.trt")


@pytest.fixture
def album(faces: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    """Ten aligned faces."""
    folder = tmp_path / "album"
    folder.mkdir()
    for n, face in enumerate(faces[0][:10]):
        cv2.imwrite(str(folder / f"{n}.png"), face[:, :, ::-1])
    return folder


def same(one: Path, other: Path) -> None:
    """Pictures of the same names that differ by at most a grey level."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        a, b = (cv2.imread(str(folder / name)).astype(int) for folder in (one, other))
        assert np.abs(a - b).max() <= 1, name


def test_aligned_faces(
    infer: Command, plan: Path, machine: Machine, tiny_engine: Path, album: Path, tmp_path: Path
) -> None:
    for name, line in (("gpu", [plan]), ("cpu", [tiny_engine, "--device", "cpu"])):
        done = infer("--engine", *line, album, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert ("on cuda:0" in done.stderr) is (name == "gpu")
    same(tmp_path / "gpu", tmp_path / "cpu")
    assert machine.executions > 0


def test_photographs_with_faces(
    infer: Command,
    plan: Path,
    machine: Machine,
    fatbin: Path,
    tiny_engine: Path,
    photo_file: Path,
    tmp_path: Path,
) -> None:
    """In GPU memory, for the engine on the GPU."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for n in range(3):
        shutil.copy(photo_file, photos / f"{n}.png")
    for name, line in (("gpu", [plan]), ("cpu", [tiny_engine, "--device", "cpu"])):
        done = infer("--engine", *line, "--faces", photos, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
    same(tmp_path / "gpu", tmp_path / "cpu")
    assert machine.executions > 3
    assert machine.launches.count("paste") == 3


def test_a_video(
    infer: Command,
    rtx: Path,
    machine: Machine,
    fatbin: Path,
    tiny_engine: Path,
    photo_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In GPU memory, for the engine on the GPU. What goes to the encoder is compared."""
    av = pytest.importorskip("av")
    from runtime.video.writer import Writer

    frame = cv2.imread(str(photo_file))
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode(None))
    frames: list[np.ndarray] = []
    add = Writer.add
    monkeypatch.setattr(Writer, "add", lambda self, f: (frames.append(f.pixels), add(self, f))[1])
    for name, line in (("gpu", [rtx]), ("cpu", [tiny_engine, "--device", "cpu"])):
        out = tmp_path / f"{name}.mp4"
        done = infer("--engine", *line, "--faces", tmp_path / "clip.mp4", "-o", out)
        assert done.returncode == 0, done.stderr
        with av.open(str(out)) as container:
            assert len(list(container.decode(video=0))) == 4
    for one, other in zip(frames[:4], frames[4:], strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert machine.launches.count("paste") == 4


def test_the_library_from_eight_threads(
    plan: Path, machine: Machine, tiny_engine: Path, faces: tuple[np.ndarray, np.ndarray]
) -> None:
    crops = list(faces[0][:24])
    with FaceRestorer(tiny_engine, device="cpu") as restorer:
        wanted = restorer.restore(crops)
    with FaceRestorer(plan, device="cuda") as restorer, ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(restorer.restore, (crops[n : n + 3] for n in range(0, 24, 3))))
    for given, face in zip([face for part in parts for face in part], wanted, strict=True):
        assert np.abs(given.image.astype(int) - face.image).max() <= 1


def test_the_second_gpu(
    infer: Command, rtx: Path, machine: Machine, album: Path, tmp_path: Path
) -> None:
    machine.add_gpu()
    done = infer("--engine", rtx, "--device", "cuda:1", album, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "on cuda:1" in done.stderr
    done = infer("--engine", rtx, "--device", "cuda:7", album, "-o", tmp_path / "none")
    assert "cuda:7 does not exist; this machine has 2 GPUs" in one_line_error(done, 2)


FAULTS: dict[str, tuple[dict[str, Any], str, int]] = {
    "out of memory": ({"oom_at": frozenset({1})}, "out of memory", 2),
    "a sticky error while it is verified": ({"sticky_at": 1}, "illegal memory access", 2),
    "a sticky error later": ({"sticky_at": 12}, "illegal memory access", 1),
    "no graph": ({"no_capture": True, "no_instance": True}, "", 0),
    "empty graphs": ({"empty_graphs": True}, "", 0),
    "a refused run": ({"false_at": frozenset({1})}, "planted failure", 2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_command_under_faults(
    fault: str, infer: Command, plan: Path, machine: Machine, album: Path, tmp_path: Path
) -> None:
    """Every failure is one line a file or one for all, never a traceback; nothing half-written."""
    planted, why, status = FAULTS[fault]
    machine.faults = Faults(**planted)
    out = tmp_path / "out"
    done = infer("--engine", plan, album, "-o", out)
    # How many faces were restored before a later error depends on the batches.
    assert done.returncode in ({1, 2} if status == 1 else {status}), done.stderr
    assert "Traceback" not in done.stderr
    assert why in done.stderr
    written = list(out.iterdir()) if out.exists() else []
    failed = done.stderr.count("error: ")
    assert len(written) == (0 if status == 2 else 10 - failed)
    assert all(cv2.imread(str(path)) is not None for path in written)


def test_a_plan_for_another_gpu_is_one_line(
    infer: Command, machine: Machine, tiny_engine: Path, album: Path, tmp_path: Path
) -> None:
    plan = make_plan(tiny_engine, tmp_path / "x.trt", "tensorrt", capability=(9, 0))
    done = infer("--engine", plan, album, "-o", tmp_path / "out")
    assert "incompatible device" in one_line_error(done, 2)


def test_a_served_engine_recovers_from_a_failed_run(rtx: Path, machine: Machine) -> None:
    faces = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    with ServedModel("dic", "1", lambda: load_engine(rtx, "cuda"), 64) as model:
        wanted = model.infer({"image": faces})["face"]
        machine.faults = Faults(false_at=frozenset({machine.enqueues + 1}))
        with pytest.raises(Exception, match="planted failure") as caught:
            model.infer({"image": faces})
        del caught
        for _ in range(1000):
            if model.ready:
                break
            time.sleep(0.02)
        np.testing.assert_array_equal(model.infer({"image": faces})["face"], wanted)


def environment(tmp_path: Path) -> dict[str, str]:
    paths = os.pathsep.join(map(str, (GPU_TESTS, ROOT)))
    return os.environ | {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def served(rtx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.Running]:
    """`python -m runtime.serve` in a process with a simulated GPU."""
    real = subprocess.Popen

    def popen(line: list[str], **options: Any) -> Any:
        assert line[1:3] == ["-m", "runtime.serve"]
        line = [line[0], "-m", "simulated", *line[2:]]
        return real(line, **(options | {"env": environment(tmp_path)}))

    monkeypatch.setattr(subprocess, "Popen", popen)
    running = servers.serve("--engine", f"dic={rtx}", "--device", "cuda")
    yield running
    running.process.kill()
    running.process.communicate()


def test_the_server(served: servers.Running) -> None:
    """It answers, and frees everything when it is stopped."""
    data = np.zeros(2 * 16 * 16 * 3, int).tolist()
    tensor = {"name": "image", "shape": [2, 16, 16, 3], "datatype": "UINT8", "data": data}
    url = f"http://{served.http}/v2/models/dic"
    answer = httpx.post(f"{url}/infer", json={"inputs": [tensor]}, timeout=60).json()
    assert answer["outputs"][0]["shape"] == [2, 128, 128, 3]
    status, errors = served.stop()
    assert status == 0, errors
    assert "broken rules" not in errors


def test_an_engine_that_nobody_closes_is_freed_at_the_exit(rtx: Path, tmp_path: Path) -> None:
    code = (
        "import sys, runpy; sys.argv = ['simulated', 'unclosed']\n"
        "import types; module = types.ModuleType('unclosed')\n"
        "def cli():\n"
        "    import numpy\n"
        "    from runtime.engines.load import load_engine\n"
        f"    module.engine = load_engine({str(rtx)!r}, 'cuda')\n"
        "    module.engine.run({'image': numpy.zeros((1, 16, 16, 3), numpy.uint8)})\n"
        "module.cli = cli; sys.modules['unclosed'] = module\n"
        "runpy.run_module('simulated', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=ROOT, env=environment(tmp_path), timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_the_benchmark(
    here: Command,
    rtx: Path,
    machine: Machine,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch has no simulated GPU: its reference stays on the CPU."""
    from benchmarks.contenders import gather

    real = gather.pytorch
    monkeypatch.setattr(
        gather, "pytorch", lambda network, marks, where, *more: real(network, marks, "cpu", *more)
    )
    found = tmp_path / "found.json"
    line = ["--engine", rtx, "--reference", tiny_checkpoint, "--device", "cuda"]
    line += ["--batch", 1, 3, "--rounds", 1, "--seconds", 1, "--json", found]
    done = here("benchmarks", "latency", *line)
    assert done.returncode == 0, done.stderr
    rows = [r for r in json.loads(found.read_text())["latency"] if r["name"] == "dic.trt"]
    assert [row["batch"] for row in rows] == [1, 3]
    # Simulated events see time pass only while a network runs, once between two events.
    assert {ms for row in rows for ms in row["gpu_milliseconds"]} == {EXECUTION_TIME}
