"""Triton repositories, parsed with Triton's protobuf definitions."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Command, one_line_error
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from dic.console import UserError
from dic.engine_file import EngineError
from export.exporter import write
from export.triton import MODEL_PY, main


def parsed(path: Path) -> Any:
    return text_format.Parse(path.read_text(), pb.ModelConfig())


def fake_plan(path: Path, batch: list[int], magic: bytes = b"ftrt") -> Path:
    """The header of a TensorRT plan, with the metadata file that `export.tensorrt` writes."""
    path.write_bytes(magic + bytes(100))
    facts = {
        "format_version": "1",
        "precision": "fp16",
        "io": "image",
        "export_error": "{}",
        "inputs": [{"name": "image", "dtype": "uint8", "sizes": [16, 16, 3]}],
        "outputs": [{"name": "face", "dtype": "uint8", "sizes": [128, 128, 3]}],
        "plan": {"batch": batch, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
    }
    path.with_name(f"{path.name}.json").write_text(json.dumps(facts))
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return fake_plan(tmp_path / "dic.trt", [1, 16, 64])


def test_a_repository_of_an_onnx_file(command: Command, tmp_path: Path, tiny_engine: Path) -> None:
    models = tmp_path / "models"
    done = command("export.triton", tiny_engine, "-o", models)
    assert done.returncode == 0, done.stderr
    assert (models / "dic" / "1" / "model.onnx").read_bytes() == tiny_engine.read_bytes()
    config = parsed(models / "dic" / "config.pbtxt")
    assert (config.name, config.platform, config.backend) == (
        "dic",
        "onnxruntime_onnx",
        "onnxruntime",
    )
    assert config.max_batch_size == 32
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("image", pb.TYPE_UINT8, [16, 16, 3])
    ]
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("face", pb.TYPE_UINT8, [128, 128, 3]),
        ("landmarks", pb.TYPE_FP32, [68, 2]),
        ("scores", pb.TYPE_FP32, [68]),
    ]
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 32]
    assert config.response_cache.enable
    assert [w.batch_size for w in config.model_warmup] == [1, 8, 32]
    assert config.model_warmup[0].inputs["image"].random_data


def test_batch_sizes_come_from_the_plans_profile(tmp_path: Path, plan: Path) -> None:
    arguments = [str(plan), "-o", str(tmp_path / "m"), "--device", "gpu", "--instances", "2"]
    assert main(arguments) == 0
    config = parsed(tmp_path / "m" / "dic" / "config.pbtxt")
    assert config.platform == "tensorrt_plan"
    assert config.max_batch_size == 64
    assert list(config.dynamic_batching.preferred_batch_size) == [16, 64]
    assert [w.batch_size for w in config.model_warmup] == [1, 16, 64]
    assert config.instance_group[0].count == 2
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert (tmp_path / "m" / "dic" / "1" / "model.plan").is_file()


def test_several_versions_are_kept(
    tmp_path: Path, tiny_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    for version in ("1", "2"):
        more = ["--model-version", version, "--keep-versions", "2"]
        assert main([str(tiny_engine), "-o", str(models), *more]) == 0
    assert sorted(p.name for p in (models / "dic").iterdir()) == ["1", "2", "config.pbtxt"]
    config = parsed(models / "dic" / "config.pbtxt")
    assert config.version_policy.latest.num_versions == 2
    assert "warning" not in capsys.readouterr().err
    assert main([str(tiny_engine), "-o", str(models)]) == 0
    assert "1 newer versions are there" in capsys.readouterr().err


def test_external_weights_are_copied(tmp_path: Path, tiny_engine: Path) -> None:
    source = tmp_path / "far.onnx"
    write(onnx.load(tiny_engine), source, external_data=True)
    assert main([str(source), "-o", str(tmp_path / "m"), "--name", "far"]) == 0
    version = tmp_path / "m" / "far" / "1"
    assert sorted(p.name for p in version.iterdir()) == ["far.onnx.data", "model.onnx"]
    import onnxruntime

    onnxruntime.InferenceSession(str(version / "model.onnx"), providers=["CPUExecutionProvider"])


def test_the_python_backend_runs_an_onnx_file(tmp_path: Path, tiny_engine: Path) -> None:
    models = tmp_path / "models"
    more = ["--backend", "python", "--environment", "/opt/dic", "--device", "cpu"]
    assert main([str(tiny_engine), "-o", str(models), *more]) == 0
    version = models / "dic" / "1"
    assert sorted(p.name for p in version.iterdir()) == ["model.onnx", "model.py"]
    assert (version / "model.onnx").read_bytes() == tiny_engine.read_bytes()
    config = parsed(models / "dic" / "config.pbtxt")
    assert (config.backend, config.default_model_filename) == ("python", "model.py")
    assert config.max_batch_size == 32
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 32]
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters["engine"] == "model.onnx"
    assert parameters["device"] == "cpu"
    assert parameters["EXECUTION_ENV_PATH"] == "/opt/dic"


def test_the_python_backend_is_chosen_for_a_tensorrt_rtx_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rtx = fake_plan(tmp_path / "rtx.trt", [1, 4, 16], b"vtrt")
    assert main([str(rtx), "-o", str(tmp_path / "m")]) == 0
    told = capsys.readouterr().out
    assert "(python backend)" in told
    assert "Triton's Python needs dic-toolkit" in told
    version = tmp_path / "m" / "dic" / "1"
    copied = {path.name: path.read_bytes() for path in version.iterdir()}
    assert sorted(copied) == ["model.plan", "model.plan.json", "model.py"]
    assert copied["model.plan.json"] == Path(f"{rtx}.json").read_bytes()
    config = parsed(tmp_path / "m" / "dic" / "config.pbtxt")
    assert config.parameters["engine"].string_value == "model.plan"
    assert config.parameters["device"].string_value == "auto"
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]


class _Triton(ModuleType):
    """As much of Triton's module as `execute` uses; requests are dictionaries of arrays."""

    class TritonError(Exception):
        INVALID_ARG, UNAVAILABLE = "invalid", "unavailable"

        def __init__(self, message: str, code: str) -> None:
            super().__init__(message)
            self.code = code

    class Tensor:
        @staticmethod
        def from_dlpack(name: str, capsule: object) -> str:
            return name

    @staticmethod
    def InferenceResponse(tensors: Any = (), error: Any = None) -> tuple[Any, Any]:  # noqa: N802
        return tensors, error

    @staticmethod
    def get_input_tensor_by_name(request: dict[str, Any], name: str) -> Any:
        return request[name]


@pytest.mark.parametrize(
    ("failure", "code"), [(ValueError, "invalid"), (EngineError, "unavailable")]
)
def test_in_a_batch_an_error_answers_its_own_request_only(
    monkeypatch: pytest.MonkeyPatch, failure: type[Exception], code: str
) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", _Triton("triton"))
    model = runpy.run_path(str(MODEL_PY))["TritonPythonModel"]()
    sizes = []

    class Engine:
        inputs = (SimpleNamespace(name="image"),)

        def run(self, feed: dict[str, Any]) -> dict[str, Any]:
            sizes.append(len(feed["image"]))
            if feed["image"].max() > 254:
                raise failure("too bright")
            return {"face": feed["image"].copy()}

    model._engine, model._failed = Engine(), EngineError
    good, bad = (np.full((2, 16, 16, 3), value, np.uint8) for value in (7, 255))
    assert model.execute([{"image": good}, {"image": good}]) == [(["face"], None)] * 2
    answers = model.execute([{"image": good}, {"image": bad}, {"image": good}])
    assert [tensors for tensors, _ in answers] == [["face"], (), ["face"]]
    assert (str(answers[1][1]), answers[1][1].code) == ("too bright", code)
    assert sizes == [4, 6, 2, 2, 2]


def test_a_version_written_again_holds_one_backends_files(tmp_path: Path, plan: Path) -> None:
    for backend, files in (
        ("python", ["model.plan", "model.plan.json", "model.py"]),
        ("tensorrt", ["model.plan"]),
    ):
        assert main([str(plan), "-o", str(tmp_path / "m"), "--backend", backend]) == 0
        assert sorted(p.name for p in (tmp_path / "m" / "dic" / "1").iterdir()) == files


def test_wrong_calls_write_nothing(tmp_path: Path, tiny_engine: Path, plan: Path) -> None:
    rtx = fake_plan(tmp_path / "rtx.trt", [1, 4, 16], b"vtrt")
    both = str(tmp_path / "both")
    assert main([str(plan), "-o", both, "--backend", "python"]) == 0
    (tmp_path / "blocked" / "dic" / "1" / "model.py").mkdir(parents=True)
    out = tmp_path / "models"
    python = ["--backend", "python"]
    cases: list[tuple[list[object], str]] = [
        (
            [plan, "--backend", "onnxruntime"],
            "does not run a TensorRT plan; use tensorrt or python",
        ),
        ([tiny_engine, "--backend", "tensorrt"], "an ONNX file; use onnxruntime or python"),
        ([rtx, "--backend", "tensorrt"], "does not run a TensorRT-RTX plan; use python"),
        ([rtx, "--device", "cpu"], "GPUs only"),
        ([tiny_engine, "--environment", "/opt/dic"], "the onnxruntime backend runs no Python"),
        ([plan, "-o", both, "--model-version", "2"], "another --name"),
        ([tiny_engine, "-o", both, "--model-version", "2", *python], "another --name"),
        ([tiny_engine, "-o", tmp_path / "blocked", *python], "is a folder"),
    ]
    for arguments, why in cases:
        extra = [] if "-o" in arguments else ["-o", out]
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match=re.escape(why)):
            main([str(argument) for argument in [*arguments, *extra]])
        assert sorted(tmp_path.rglob("*")) == before, arguments


def test_command_errors_are_one_line(
    here: Command, tmp_path: Path, tiny_engine: Path, plan: Path
) -> None:
    rtx, bare = tmp_path / "rtx.trt", tmp_path / "bare.trt"
    rtx.write_bytes(b"vtrt" + bytes(10))
    bare.write_bytes(b"ftrt" + bytes(10))
    other = tmp_path / "other" / "dic"
    other.mkdir(parents=True)
    (other / "config.pbtxt").write_text("name: {")
    assert main([str(plan), "-o", str(tmp_path / "taken")]) == 0
    swapped = fake_plan(tmp_path / "swapped.trt", [1, 1, 1])
    swapped.write_bytes(b"ftrt" + bytes(7))
    out = tmp_path / "models"
    cases: list[tuple[list[object], str]] = [
        ([tmp_path / "none.onnx"], "No such file"),
        ([rtx], "rtx.trt.json is needed"),
        ([plan, "--backend", "onnxruntime"], "--backend onnxruntime does not run a TensorRT plan"),
        ([bare], "bare.trt.json is needed"),
        ([tiny_engine, "--name", "../x"], "--name"),
        ([tiny_engine, "--instances", "0"], "--instances"),
        ([tiny_engine, "--model-version", "0"], "--model-version"),
        *(
            ([tiny_engine, option, value], f"{option} must be")
            for option, value in (
                ("--max-batch", "0"),
                ("--max-batch", str(2**31)),
                ("--instances", "9" * 30),
                ("--queue-delay", str(2**64)),
                ("--keep-versions", str(2**32)),
                ("--model-version", str(2**63)),
            )
        ),
        ([plan, "--max-batch", "65"], "up to 64"),
        ([plan, "--device", "cpu"], "GPUs only"),
        ([fake_plan(tmp_path / "large.trt", [2, 4, 8])], "--min-batch 1"),
        ([swapped], "belongs to another plan"),
        ([tiny_engine, "-o", tmp_path / "other"], "not a Triton configuration"),
        ([tiny_engine, "-o", tmp_path / "taken", "--model-version", "2"], "another --name"),
        ([tiny_engine, "-o", tiny_engine], "cannot be written"),
    ]
    for arguments, why in cases:
        extra = [] if "-o" in arguments else ["-o", out]
        assert why in one_line_error(here("export.triton", *arguments, *extra), 2), arguments
        assert not out.exists()
