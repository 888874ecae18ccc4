"""Plans, built by TensorRT-RTX, which needs no GPU to build."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from conftest import ROOT, Command, one_line_error
from onnx import TensorProto, helper

from dic.console import UserError
from dic.engine_file import EngineError
from export.choices import Choices, Precision
from export.engine_file import read_engine_file
from export.exporter import build, write
from export.graph.interface import Io, Signature
from export.plan.builder import PlanBuilder
from export.plan.flavour import Flavour, PlanChoices, pick
from runtime.engines.load import load_engine
from train.checkpoint import load_checkpoint
from train.model.network import DIC, NetworkConfig


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    return Flavour("tensorrt_rtx", "TensorRT-RTX", pytest.importorskip("tensorrt_rtx"))


@pytest.mark.parametrize("precision", Precision)
def test_every_precision_builds(
    rtx: Flavour, precision: Precision, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    io = (
        Io.TENSOR if precision is Precision.FP32 else Io.IMAGE
    )  # fp32 with image I/O is built below
    network = load_checkpoint(tiny_checkpoint).network
    path = tmp_path / "x.onnx"
    onnx.save(build(network, Signature(io, 2, True), Choices(precision=precision)), path)
    plan = PlanBuilder(rtx, path, PlanChoices()).build()
    assert bytes(plan[:4]) == b"vtrt"


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_the_full_size_network_builds(rtx: Flavour, precision: Precision, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "full.onnx"
    network = DIC(NetworkConfig()).eval()
    onnx.save(build(network, Signature(Io.IMAGE, 2, True), Choices(precision=precision)), path)
    plan = PlanBuilder(rtx, path, PlanChoices()).build()
    weights = sum(p.numel() for p in network.parameters())
    least = weights * (4 if precision is Precision.FP32 else 2)
    assert len(plan) > 0.9 * least


def test_the_command(command: Command, here: Command, tmp_path: Path, tiny_engine: Path) -> None:
    out = tmp_path / "new" / "dic.trt"
    done = command(
        "export.tensorrt",
        tiny_engine,
        *("-o", out, "--flavour", "tensorrt_rtx"),
        *("--max-batch", 4, "--compute-capability", "7.5", "12.0"),
    )
    assert done.returncode == 0, done.stderr
    assert "unverified" in done.stderr
    assert sorted(p.name for p in out.parent.iterdir()) == ["dic.trt", "dic.trt.json"]
    metadata = json.loads((out.parent / "dic.trt.json").read_text())
    assert metadata["verified"] == "no"
    assert metadata["precision"] == "fp32"
    assert metadata["plan"]["batch"] == [1, 4, 4]
    assert metadata["plan"]["compute_capability"] == ["7.5", "12.0"]
    assert metadata["plan"]["flavour"] == "tensorrt_rtx"
    source = read_engine_file(tiny_engine)
    assert metadata["samples"] == source.metadata["samples"]
    assert read_engine_file(out).inputs == source.inputs
    with pytest.raises(EngineError, match="TensorRT-RTX plan"):
        load_engine(out)
    facts = here("export.inspect", out)
    assert facts.returncode == 0, facts.stderr
    assert "runs here: " in facts.stdout
    assert "output: face uint8 [batch, 128, 128, 3]" in facts.stdout


def test_tf32_is_verified_with_fp16s_limits(
    here: Command, tmp_path: Path, tiny_engine: Path
) -> None:
    limits = {}
    for extra in ([], ["--tf32"]):
        out = tmp_path / "dic.trt"
        done = here("export.tensorrt", tiny_engine, "-o", out, *extra)
        assert done.returncode == 0, done.stderr
        metadata = json.loads((tmp_path / "dic.trt.json").read_text())
        limits[bool(extra)] = json.loads(metadata["export_error"])["limits"]
    assert 1e-5 < limits[False]["error"] < 1e-3
    assert limits[True] == {"psnr": 0.02, "landmarks": 0.1, "levels": 0.5}


def graph_of(*nodes: onnx.NodeProto, opset: int = 20) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(list(nodes), "g", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("elsewhere", 1)],
        ir_version=9,
    )
    for key in ("format_version", "precision", "io", "export_error"):
        model.metadata_props.add(key=f"dic.{key}", value="1")
    return model


def test_a_parser_error_names_the_node_and_the_reason(rtx: Flavour, tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    node = helper.make_node("Fold", ["x"], ["y"], name="step2/odd/Fold", domain="elsewhere")
    onnx.save(graph_of(node), path)
    with pytest.raises(
        UserError, match=r"cannot parse it: node step2/odd/Fold \(Fold\): "
    ) as error:
        PlanBuilder(rtx, path, PlanChoices()).build()
    assert "\n" not in str(error.value)


def test_command_errors_are_one_line(
    here: Command, tmp_path: Path, tiny_engine: Path, tiny_checkpoint: Path
) -> None:
    far, checkpoint = tmp_path / "far.onnx", tiny_checkpoint
    write(onnx.load(tiny_engine), far, external_data=True)
    (tmp_path / "far.onnx.data").write_bytes(b"short")
    relu = helper.make_node("Relu", ["x"], ["y"], name="r")
    foreign, new = tmp_path / "foreign.onnx", tmp_path / "new.onnx"
    model = graph_of(relu)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    onnx.save(graph_of(relu, opset=99), new)
    future = tmp_path / "future.onnx"
    model = graph_of(relu)
    model.metadata_props[0].value = "99"
    onnx.save(model, future)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(tiny_engine.read_bytes()[:3000])
    plan = tmp_path / "some.trt"
    plan.write_bytes(b"vtrt" + bytes(64))
    (tmp_path / "file").write_text("")
    out = tmp_path / "out" / "x.trt"
    same, folder = tmp_path / "same.plan", tmp_path / "folder.engine"
    same.symlink_to(tiny_engine)
    folder.mkdir()
    cases: list[tuple[list[object], str]] = [
        ([], "ONNX"),
        ([tmp_path / "none.onnx"], "No such file"),
        ([tmp_path], "directory"),
        ([foreign], "not a DIC engine"),
        ([damaged], "damaged"),
        ([new], "opset"),
        ([future], "format version 99"),
        ([plan], "is a TensorRT-RTX plan already"),
        ([tiny_engine, "--flavour", "tensorrt", "--timing-cache", tmp_path], "is a folder"),
        ([tiny_engine, "--flavour", "cuda"], "--flavour"),
        ([tiny_engine, "--flavour", "tensorrt"], "not installed"),
        ([tiny_engine, "--min-batch", "9", "--max-batch", "4"], "--min-batch 9"),
        ([tiny_engine, "--opt-batch", "64", "--max-batch", "32"], "--opt-batch 64"),
        ([checkpoint], "is a checkpoint"),
        ([far], "far.onnx.data: damaged"),
        ([tiny_engine, "--min-batch", "0"], "--min-batch 0"),
        ([tiny_engine, "--workspace", "0"], "--workspace"),
        ([tiny_engine, "--workspace", "99999999999999"], "--workspace must be 1 to"),
        ([tiny_engine, "--max-batch", "0"], "--max-batch 0 must be at least 1"),
        ([tiny_engine, "--opt-batch", "0"], "--opt-batch 0 and"),
        ([tiny_engine, "--max-batch", "99999999"], "--max-batch 99999999: must be at most"),
        ([tiny_engine, "--optimization-level", "9"], "--optimization-level"),
        ([tiny_engine, "--timing-cache", "x"], "--timing-cache"),
        ([tiny_engine, "--hardware-compatible", "ampere_plus"], "--hardware-compatible"),
        ([tiny_engine, "--compute-capability", "3.5"], "builds for"),
        ([tiny_engine, "--compute-capability", "current"], "cannot build it"),
        ([tiny_engine, "-o", tmp_path / "file" / "x.trt"], "cannot be written"),
        ([tiny_engine, "-o", tmp_path / "x.onnx"], "must end in .trt"),
        ([tiny_engine, "-o", same], "would be overwritten"),
        ([tiny_engine, "-o", folder], "is a folder"),
    ]
    for arguments, why in cases:
        done = here("export.tensorrt", *arguments, *([] if "-o" in arguments else ["-o", out]))
        assert why in one_line_error(done, 2), arguments
        assert not out.parent.exists() or not list(out.parent.iterdir())


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of the two files cannot be written: neither is."""
    from export import tensorrt

    real = os.fsync
    calls = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match="No space left"):
        tensorrt.main([str(tiny_engine), "-o", str(out / "x.trt")])
    assert not list(out.iterdir())


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, tiny_engine: Path) -> None:
    out = tmp_path / "out"
    line = [sys.executable, "-m", "export.tensorrt", str(tiny_engine), "-o", str(out / "x.trt")]
    # Several targets, so that the build is still running when it is interrupted.
    line += ["--compute-capability", "8.0", "8.6", "8.9", "12.0"]
    with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "building" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130, rest
    assert rest.splitlines()[-1] == "interrupted"
    assert "Traceback" not in rest
    assert not out.exists()


def test_the_monitor_stops_the_library(rtx: Flavour, tiny_engine: Path) -> None:
    builder = PlanBuilder(rtx, tiny_engine, PlanChoices())
    builder.stopped = True  # as Ctrl-C sets it
    assert builder._build() is None
    with pytest.raises(KeyboardInterrupt):
        builder.build()


def test_names_used_with_tensorrt_exist(rtx: Flavour, tmp_path: Path) -> None:
    """TensorRT cannot be installed here; TensorRT-RTX has the same names."""
    assert {"create_timing_cache", "set_timing_cache", "get_timing_cache"} <= set(
        dir(rtx.trt.IBuilderConfig)
    )
    assert {"AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"} <= set(
        rtx.trt.HardwareCompatibilityLevel.__members__
    )
    assert {"VERSION_COMPATIBLE", "TF32"} <= set(rtx.trt.BuilderFlag.__members__)
    full = Flavour("tensorrt", "TensorRT", rtx.trt)
    with pytest.raises(UserError, match="--compute-capability"):
        full.refuse(PlanChoices(compute_capability=("8.6",)))
    full.refuse(PlanChoices(timing_cache=tmp_path, hardware_compatible="ampere_plus"))


def test_auto_skips_a_flavour_that_does_not_work(
    rtx: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT without a driver would abort the process."""
    monkeypatch.setitem(sys.modules, "tensorrt", rtx.trt)
    monkeypatch.setattr("export.plan.flavour.has_driver", lambda: False)
    assert pick("auto").is_rtx
    with pytest.raises(UserError, match="needs an NVIDIA GPU"):
        pick("tensorrt")
    monkeypatch.setattr("export.plan.flavour.has_driver", lambda: True)
    assert not pick("auto").is_rtx
