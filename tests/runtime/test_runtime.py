"""Loading, refusing and running engines."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT

from dic.engine_file import EngineError
from export.graph.interface import Io, Signature, wrap
from runtime.engines.load import load_engine
from runtime.engines.onnxruntime import GPU, available
from runtime.restorer import FaceRestorer
from train.checkpoint import load_checkpoint
from train.data.pairs import shrink


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_an_engine_computes_what_pytorch_computes(
    device: str, tiny_checkpoint: Path, tiny_engine: Path
) -> None:
    network = load_checkpoint(tiny_checkpoint).network
    reference = wrap(network, Signature(Io.IMAGE, 2, True))
    rng = np.random.default_rng(0)
    with load_engine(tiny_engine, device) as engine:
        for batch in (1, 2, 7):
            image = rng.integers(0, 256, (batch, 16, 16, 3), dtype=np.uint8)
            given = engine.run({"image": image})
            with torch.no_grad():
                wanted = [t.numpy() for t in reference(torch.from_numpy(image))]
            assert np.abs(given["face"].astype(int) - wanted[0]).max() <= 1
            np.testing.assert_allclose(given["scores"], wanted[2], atol=1e-5)
            assert (given["landmarks"] == wanted[1]).mean() > 0.99


def test_an_engine_describes_itself(tiny_engine: Path) -> None:
    with load_engine(str(tiny_engine), "cpu") as engine:
        assert str(engine.inputs[0]) == "image uint8 [batch, 16, 16, 3]"
        assert [output.name for output in engine.outputs] == ["face", "landmarks", "scores"]
        assert (engine.metadata.steps, engine.metadata.landmarks) == (2, 68)
        assert engine.device == "cpu"
        assert "CPUExecutionProvider" in engine.backend


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_batches_threads_and_order_do_not_matter(device: str, tiny_engine: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    with load_engine(tiny_engine, device) as engine:
        alone = [engine.run({"image": images[i : i + 1]})["face"][0] for i in range(6)]
        together = engine.run({"image": images})["face"]
        results: dict[int, np.ndarray] = {}

        def work(i: int) -> None:
            results[i] = engine.run({"image": images[i : i + 1]})["face"][0]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i in range(6):
        assert np.abs(alone[i].astype(int) - together[i]).max() <= 1
        np.testing.assert_array_equal(alone[i], results[i])


@pytest.mark.parametrize(
    "feed",
    [
        {},
        {"picture": np.zeros((1, 16, 16, 3), np.uint8)},
        {"image": np.zeros((1, 16, 16, 3), np.float32)},
        {"image": np.zeros((1, 3, 16, 16), np.uint8)},
        {"image": np.zeros((0, 16, 16, 3), np.uint8)},
        {"image": np.zeros((16, 16, 3), np.uint8)},
    ],
)
@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_wrong_input_says_what_is_right(
    device: str, feed: dict[str, np.ndarray], tiny_engine: Path
) -> None:
    with (
        load_engine(tiny_engine, device) as engine,
        pytest.raises(ValueError, match=r"image uint8 \[batch, 16, 16, 3\]"),
    ):
        engine.run(feed)


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_a_closed_engine_says_so(device: str, tiny_engine: Path) -> None:
    engine = load_engine(tiny_engine, device)
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.run({"image": np.zeros((1, 16, 16, 3), np.uint8)})


def altered(tiny_engine: Path, tmp_path: Path, **properties: str | None) -> Path:
    model = onnx.load(tiny_engine)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    kept |= {f"dic.{key}": value for key, value in properties.items() if value is not None}
    for key in [f"dic.{key}" for key, value in properties.items() if value is None]:
        del kept[key]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept)
    path = tmp_path / "altered.onnx"
    onnx.save(model, path)
    return path


def test_unusable_engines_say_why(tiny_engine: Path, tmp_path: Path) -> None:
    whole = tiny_engine.read_bytes()
    truncated, empty, plan = (tmp_path / name for name in ("cut.onnx", "empty.onnx", "dic.trt"))
    truncated.write_bytes(whole[: len(whole) // 2])
    empty.write_bytes(b"")
    plan.write_bytes(b"vtrt" + bytes(100))
    cases = [
        (tmp_path / "absent.onnx", "No such file"),
        (tmp_path, "directory"),
        (truncated, "not an ONNX model"),
        (empty, "no engine|empty|not an ONNX model|not a DIC engine"),
        (plan, "TensorRT-RTX plan"),
    ]
    for path, why in cases:
        with pytest.raises(EngineError, match=why) as caught:
            load_engine(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({"format_version": "7"}, "format version 7 is not supported"),
        ({"format_version": None}, "not a DIC engine"),
        ({"steps": None}, "damaged metadata"),
        ({"io": "tensor"}, r"input is image uint8 .* requires lq float32"),
        ({"landmarks": "0"}, "outputs are .* requires face uint8"),
    ],
)
def test_engines_of_another_kind_are_refused(
    properties: dict[str, str | None], why: str, tiny_engine: Path, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=why):
        load_engine(altered(tiny_engine, tmp_path, **properties))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:0", "openvino:1", ""])
def test_unknown_devices_are_refused(device: str, tiny_engine: Path) -> None:
    with pytest.raises(EngineError, match="use auto, cpu, openvino, cuda"):
        load_engine(tiny_engine, device)


def test_a_gpu_that_is_not_there_is_no_silent_cpu(tiny_engine: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(EngineError, match=r"no GPU.*dic-toolkit\[gpu\]"):
        load_engine(tiny_engine, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not available(GPU), reason="this ONNX Runtime has no provider for GPUs")
def test_the_gpu_computes_what_the_cpu_computes(tiny_engine: Path) -> None:
    image = np.random.default_rng(2).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    with load_engine(tiny_engine, "cuda") as gpu, load_engine(tiny_engine, "cpu") as cpu:
        assert gpu.device == "cuda:0"
        a, b = gpu.run({"image": image})["face"], cpu.run({"image": image})["face"]
    assert np.abs(a.astype(int) - b).max() <= 1


def test_restoring_crops_shrinks_them_as_in_training(
    tiny_engine: Path, faces: tuple[np.ndarray, np.ndarray]
) -> None:
    crops = list(faces[0][:5])
    with load_engine(tiny_engine) as engine:
        restored = FaceRestorer(engine, batch=2).restore(crops)
        wanted = engine.run({"image": np.stack([shrink(crop) for crop in crops])})
    assert len(restored) == 5
    for i, face in enumerate(restored):
        assert np.abs(face.image.astype(int) - wanted["face"][i]).max() <= 1
        assert face.landmarks is not None
        assert face.landmarks.shape == (68, 2)


@pytest.mark.parametrize(
    "crop",
    [
        np.zeros((16, 16, 3), np.float32),
        np.zeros((16, 20, 3), np.uint8),
        np.zeros((16, 16, 5), np.uint8),
        np.zeros((0, 0, 3), np.uint8),
        None,
    ],
)
def test_what_is_no_crop_is_refused(crop: np.ndarray, tiny_engine: Path) -> None:
    with (
        load_engine(tiny_engine) as engine,
        pytest.raises(ValueError, match=r"a (crop|picture)( must|, got)"),
    ):
        FaceRestorer(engine).restore([crop])


@pytest.mark.parametrize("device", ["cpu", "openvino", "auto"])
def test_running_an_engine_tells_nobody(device: str, tiny_engine: Path, tmp_path: Path) -> None:
    code = f"from runtime import load_engine; load_engine({str(tiny_engine)!r}, {device!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("ORT_")}
        | {"HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir()), "something was left in the home folder"


@pytest.mark.parametrize("device", ["cpu", "openvino"])
@pytest.mark.parametrize("how", ["in the order of loading", "by another thread"])
def test_a_signal_after_closing_is_no_crash(device: str, how: str, tiny_engine: Path) -> None:
    """OpenVINO leaves the thread that loads it on a signal stack of its own."""
    code = (
        "import signal, threading\n"
        "from runtime import load_engine\n"
        f"first, second = (load_engine({str(tiny_engine)!r}, {device!r}) for _ in range(2))\n"
        "def close():\n"
        "    first.close()\n"
        "    second.close()\n"
        + (
            "close()\n"
            if how == "in the order of loading"
            else "thread = threading.Thread(target=close)\nthread.start()\nthread.join()\n"
        )
        + "del first, second\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'))\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_the_runtime_needs_no_pytorch(tiny_engine: Path, face_file: Path, tmp_path: Path) -> None:
    """Run the command in a process where importing what a deployment machine lacks fails."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'PIL', 'skimage', 'train', 'export'):\n"
        "    sys.modules[name] = None\n"
        "from runtime.infer import main\n"
        f"sys.exit(main([{str(face_file)!r}, '-o', {str(tmp_path / 'out.png')!r}, "
        f"'--engine', {str(tiny_engine)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").is_file()


def test_a_damaged_engine_is_not_blamed_on_a_missing_gpu(tiny_engine: Path, tmp_path: Path) -> None:
    """One that is no ONNX any more, and one whose weights have changed."""
    whole = tiny_engine.read_bytes()
    at = len(whole) // 2
    cut, changed = tmp_path / "cut.onnx", tmp_path / "changed.onnx"
    cut.write_bytes(whole[:at] + bytes(1000) + whole[at + 1000 :])
    model = onnx.load(tiny_engine)
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) == 4:
            weights.raw_data = bytes(len(weights.raw_data))
    onnx.save(model, changed)
    for path, why in (
        (cut, r"cut\.onnx: "),
        (changed, "the file is damaged or unsuited to this device"),
    ):
        with pytest.raises(EngineError, match=why) as caught:
            load_engine(path)
        assert "no GPU" not in str(caught.value)
