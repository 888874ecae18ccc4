"""Exported graphs compared with PyTorch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import DATA, TINY, Command, one_line_error

from export.choices import Choices, Target
from export.exporter import export
from export.gate.blocks import GateError
from export.graph.interface import Io, Signature
from export.graph.packed import pack
from export.graph.unroll import unroll
from runtime.engines.load import load_engine
from train.checkpoint import load_checkpoint
from train.model.network import DIC

FULL_OUTPUTS = {"sr": (3, 128, 128), "heatmap": (68, 32, 32)}


def session(model: Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    held = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(held, providers=["CPUExecutionProvider"])


def properties(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("target", Target)
def test_an_all_steps_engine_matches_the_authors_outputs(tmp_path: Path, target: Target) -> None:
    """The authors' checkpoint in ONNX Runtime against outputs of the authors' code."""
    oracle = np.load(DATA / "dic_small_original_expected.npz")
    checkpoint = load_checkpoint(DATA / "dic_small_original.pth", steps=3)
    path = tmp_path / "steps.onnx"
    export(checkpoint, Signature(Io.TENSOR, 3, True, all_steps=True), path, Choices(target=target))
    engine = session(path)
    names = [output.name for output in engine.get_outputs()]
    assert names == [f"{kind}_{i}" for kind in ("sr", "heatmap") for i in range(3)]
    for batch in (1, 3):
        given = engine.run(names, {"lq": np.repeat(oracle["lq"], batch, 0)})
        for name, value in zip(names, given, strict=True):
            kind, step = name.split("_")
            error = np.abs(value - oracle[kind][int(step)]).max()
            assert value.shape == (batch, *FULL_OUTPUTS[kind])
            assert error <= 1e-4, f"{name} at batch {batch}: {error:.2e}"


def test_an_image_engine_keeps_the_contract(tiny_engine: Path) -> None:
    engine = session(tiny_engine)
    (image,) = engine.get_inputs()
    assert (image.name, image.type) == ("image", "tensor(uint8)")
    assert image.shape[1:] == [16, 16, 3]
    assert isinstance(image.shape[0], str)
    outputs = {o.name: (o.type, o.shape[1:]) for o in engine.get_outputs()}
    assert outputs == {
        "face": ("tensor(uint8)", [128, 128, 3]),
        "landmarks": ("tensor(float)", [68, 2]),
        "scores": ("tensor(float)", [68]),
    }


def test_face_only_engines_drop_the_last_landmark_pass(tiny_network: DIC) -> None:
    whole = unroll(tiny_network, Signature(Io.TENSOR, 2, True, all_steps=True))
    bare = unroll(tiny_network, Signature(Io.IMAGE, 2, False))
    assert [output.name for output in bare.graph.output] == ["face"]
    convolutions = [
        sum(node.op_type == "Conv" for node in model.graph.node) for model in (whole, bare)
    ]
    hourglass = sum(isinstance(m, torch.nn.Conv2d) for m in tiny_network.hour_glass.modules())
    assert convolutions[0] - convolutions[1] == hourglass


def test_unrolling_stores_weights_once(tiny_network: DIC) -> None:
    weights = sum(p.numel() for p in tiny_network.parameters())
    for steps in (2, 4):
        model = unroll(tiny_network, Signature(Io.TENSOR, steps, True))
        stored = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
        assert stored <= 1.05 * weights, f"{stored} numbers stored at {steps} steps"


def test_the_graph_for_cpus_has_no_transposed_projections_and_no_pads(tiny_network: DIC) -> None:
    model = unroll(pack(tiny_network), Signature(Io.TENSOR, 2, True))
    kinds = Counter(node.op_type for node in model.graph.node)
    assert not {"ConvTranspose", "Pad", "PRelu"} & kinds.keys()


def test_weights_that_phases_share_are_kept_once() -> None:
    """Otherwise a full-size network's file would be a quarter larger."""
    torch.manual_seed(0)
    network = DIC(replace(TINY, channels=48, projection=8)).eval()
    model = unroll(pack(network), Signature(Io.TENSOR, 2, True, all_steps=True))
    held = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    plain = sum(p.numel() * p.element_size() for p in network.parameters())
    assert held < 1.05 * plain, "biases and the hourglass's merged convolution, 3 %; not 30 %"
    repeated = [node for node in model.graph.node if node.op_type == "Tile"]
    assert repeated, "phases repeat the weights when the graph is loaded"


def test_no_paths_of_the_exporting_machine_are_written(tiny_engine: Path) -> None:
    content = tiny_engine.read_bytes()
    for trace in (b".py", b"site-packages", str(Path.home()).encode()):
        assert trace not in content


def test_metadata(tiny_checkpoint: Path, tiny_engine: Path) -> None:
    import hashlib

    found = properties(tiny_engine)
    assert found["dic.format_version"] == "1"
    assert found["dic.steps"] == "2"
    assert found["dic.precision"] == "fp32"
    assert found["dic.io"] == "image"
    assert found["dic.landmarks"] == "68"
    assert found["dic.scale"] == "8"
    sha256 = hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert found["dic.checkpoint_sha256"] == sha256
    assert 0 <= json.loads(found["dic.export_error"])["error"] <= 1e-5
    assert json.loads(found["dic.versions"])["onnx"] == onnx.__version__


@pytest.mark.parametrize(
    "signature",
    [Signature(Io.IMAGE, 2, True), Signature(Io.TENSOR, 2, True, all_steps=True)],
)
def test_a_graph_that_differs_is_not_written(
    signature: Signature,
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong bias: the error names its block, and nothing is written."""
    checkpoint = load_checkpoint(tiny_checkpoint)

    def planted(network: DIC, signature: Signature, opset: int, fold: int) -> onnx.ModelProto:
        model = unroll(network, signature, opset, fold)
        bias = next(t for t in model.graph.initializer if t.name.endswith("conv_last.2.bias"))
        value = onnx.numpy_helper.to_array(bias) + 2e-3
        bias.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), bias.name))
        return model

    monkeypatch.setattr("export.exporter.unroll", planted)
    path = tmp_path / "wrong.onnx"
    with pytest.raises(GateError, match=r"first at step 1, conv_last, off by"):
        export(checkpoint, signature, path)
    assert not list(tmp_path.iterdir())


def test_a_graph_with_wrong_landmarks_is_not_written(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Landmarks moved by one pixel."""

    def moved(network: DIC, signature: Signature, opset: int, fold: int) -> onnx.ModelProto:
        model = unroll(network, signature, opset, fold)
        for node in model.graph.node:
            for i, name in enumerate(node.output):
                if name == "landmarks":
                    node.output[i] = "right"
        one = onnx.helper.make_tensor("one", onnx.TensorProto.FLOAT, [], [1.0])
        model.graph.initializer.append(one)
        model.graph.node.append(onnx.helper.make_node("Add", ["right", "one"], ["landmarks"]))
        return model

    monkeypatch.setattr("export.exporter.unroll", moved)
    with pytest.raises(GateError, match=r"'landmarks' does not decode from its heatmaps"):
        export(load_checkpoint(tiny_checkpoint), Signature(Io.IMAGE, 2, True), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_metadata_of_tensor_engines_says_whether_heatmaps_are_outputs(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    for all_steps, landmarks, outputs in ((False, "0", 1), (True, "68", 4)):
        path = tmp_path / "tensor.onnx"
        export(checkpoint, Signature(Io.TENSOR, 2, True, all_steps), path)
        assert properties(path)["dic.landmarks"] == landmarks
        with load_engine(path) as engine:
            assert len(engine.outputs) == outputs


def test_other_landmark_counts_export(tmp_path: Path) -> None:
    from train.checkpoint import save_checkpoint

    path = tmp_path / "helen.pth"
    save_checkpoint(path, DIC(replace(TINY, landmarks=194)), {})
    export(load_checkpoint(path), Signature(Io.IMAGE, 2, True), tmp_path / "helen.onnx")
    shapes = {o.name: o.shape[1:] for o in session(tmp_path / "helen.onnx").get_outputs()}
    assert shapes["landmarks"] == [194, 2]


def test_the_command(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "new" / "small.onnx"
    done = command(
        "export.onnx",
        DATA / "dic_small_mmediting.pth",
        "-o",
        out,
        "--steps",
        1,
        "--no-landmarks",
        *("--target", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "compared with PyTorch: difference" in done.stderr
    assert properties(out)["dic.steps"] == "1"
    assert properties(out)["dic.target"] == "cpu"
    assert [o.name for o in session(out).get_outputs()] == ["face"]


def test_a_step_count_that_was_not_trained_is_reported(
    here: Command, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    done = here("export.onnx", tiny_checkpoint, "--steps", 1, "-o", tmp_path / "x.onnx")
    assert done.returncode == 0, done.stderr
    assert "was trained with 2 steps and is exported with 1" in done.stderr


def test_command_errors_are_one_line(here: Command, tmp_path: Path) -> None:
    small = DATA / "dic_small_mmediting.pth"
    other = tmp_path / "other.pth"
    torch.save({"state_dict": {"layer1.weight": torch.zeros(3)}}, other)
    truncated = tmp_path / "truncated.pth"
    truncated.write_bytes(small.read_bytes()[:5000])
    same = tmp_path / "same.onnx"
    same.symlink_to(other)
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    out = tmp_path / "out.onnx"
    (tmp_path / "file").write_text("")
    cases = [
        ([], "CKPT"),
        ([tmp_path / "absent.pth"], "No such file"),
        ([other], "not a DIC network"),
        ([truncated], "truncated.pth"),
        ([small, "--steps", "0"], "--steps"),
        ([small, "--steps", "two"], "--steps"),
        ([small, "--all-steps"], "--io tensor"),
        ([small, "--io", "video"], "--io"),
        ([small, "--steps", "1", "-o", tmp_path / "file" / "x.onnx"], "cannot be written"),
        ([small, "-o", tmp_path / "face.txt"], "must end in .onnx"),
        ([tmp_path / "an.onnx"], "is an engine already"),
        ([small, "-o", "/proc/x.onnx"], "cannot be written"),
        ([other, "-o", same], "would be overwritten"),
        ([small, "-o", folder], "is a folder"),
        ([small, "--memory", "much"], "is no size"),
        ([small, "--memory", "10M"], "--memory 10 MB: the command takes"),
    ]
    for arguments, why in cases:
        done = here("export.onnx", *arguments, *([] if "-o" in arguments else ["-o", out]))
        assert why in one_line_error(done, 2)
        assert not out.exists()
