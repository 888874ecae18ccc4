"""Engine files of other programs, versions and states: loaded right, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from dic.console import UserError
from dic.engine_file import EngineError
from export.inspect import describe, inspect
from runtime.engines.load import load_engine

Change = Callable[[onnx.ModelProto], object]


def entry(key: str, value: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (found,) = (e for e in model.metadata_props if e.key == f"dic.{key}")
        found.value = value

    return change


def number(field: str, value: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        setattr(model if field == "ir_version" else model.opset_import[0], field, value)

    return change


def weights_in(location: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if len(t.raw_data) > 1000)
        set_external_data(tensor, location, 0, len(tensor.raw_data))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL

    return change


def other_weight(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]  # the first layer's, which every pixel depends on
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] += 10
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def renamed_input(model: onnx.ModelProto) -> None:
    old, model.graph.input[0].name = model.graph.input[0].name, "picture"
    for node in model.graph.node:
        node.input[:] = ["picture" if name == old else name for name in node.input]


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def no_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (number("ir_version", 3), ""),
        (number("ir_version", 99), "ONNX Runtime can load"),
        (number("version", 99), "ONNX Runtime can load"),
        (number("version", 1), "ONNX Runtime can load"),
        (unknown_operator, "com.example"),
        (no_metadata, "not a DIC engine"),
        (entry("format_version", "2"), "format version 2 is not supported"),
        (entry("format_version", "1\n\n"), "format version 1 is not supported"),
        (entry("steps", "x"), "damaged metadata"),
        (entry("io", "tensor"), "its metadata requires lq"),
        (entry("landmarks", "5"), "its metadata requires"),
        (entry("scale", "4"), "its metadata requires"),
        (fixed_batch, r"\[1, 16, 16, 3\], but its metadata requires"),
        (renamed_input, "its input is picture"),
        (other_weight, "differ from PyTorch's"),
        (weights_in("absent.data"), "absent.data: No such file"),
    ],
)
def test_graphs_of_other_versions_and_states(
    change: Change, why: str, tiny_engine: Path, tmp_path: Path
) -> None:
    model = onnx.load(tiny_engine)
    change(model)
    path = tmp_path / "a.onnx"
    onnx.save(model, path)
    if why:
        with pytest.raises(EngineError, match=why) as refused:
            load_engine(path, "cpu", threads=1)
        assert "\n" not in str(refused.value)
        return
    picture = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    with load_engine(path, "cpu", threads=1) as given, load_engine(tiny_engine, "cpu") as wanted:
        assert np.array_equal(
            given.run({"image": picture})["face"], wanted.run({"image": picture})["face"]
        )


@pytest.mark.parametrize("location", ["../weights.data", "/weights.data"])
def test_weights_outside_the_folder_are_not_read(
    location: str, tiny_engine: Path, tmp_path: Path
) -> None:
    """Else `export.triton` would copy any file that an engine names."""
    (tmp_path / "weights.data").write_bytes(bytes(2**16))
    (tmp_path / "engine").mkdir()
    model = onnx.load(tiny_engine)
    weights_in(location if location[0] == "." else str(tmp_path / location[1:]))(model)
    path = tmp_path / "engine" / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="outside its folder"):
        inspect(path)
    with pytest.raises(EngineError):
        load_engine(path, "cpu", threads=1)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x1c\0\0\0ORTM" + bytes(200), "not an ONNX|neither an ONNX"),
        (b"\x1c\0\0\0TFL3" + bytes(200), "not an ONNX|neither an ONNX"),
        (b'<?xml version="1.0"?>\n<net name="dic" version="11"></net>\n', "not an ONNX|neither"),
        (b"<!DOCTYPE html><html></html>", "not an ONNX|neither an ONNX"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 1\n", "not an ONNX|neither an ONNX"),
        (b"\x1f\x8b\x08" + bytes(100), "not an ONNX|neither an ONNX"),
        (b"\x08\x01\x12\x10" + b"saved_model_main" * 4, "not an ONNX|neither an ONNX"),
        (b"PK\x03\x04" + bytes(100), "is a checkpoint"),
        (bytes(1000), "not a DIC engine|neither an ONNX"),
        (b"", "not an ONNX|neither an ONNX"),
    ],
    ids=["ort", "tflite", "openvino", "html", "lfs", "gzip", "tf", "checkpoint", "zeros", "empty"],
)
def test_files_of_other_formats(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=why):
        load_engine(path, "cpu", threads=1)
    with pytest.raises(UserError, match=why):
        inspect(path)


@pytest.mark.parametrize(("magic", "library"), [(b"ptrt", "TensorRT"), (b"vtrt", "TensorRT-RTX")])
def test_plans_are_described_where_there_is_no_gpu(
    magic: bytes, library: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.trt"
    path.write_bytes(magic + bytes(100))
    with pytest.raises(EngineError, match=f"a {library} plan runs only on NVIDIA GPUs"):
        load_engine(path, "cpu")
    assert f"{library} plan" in describe(inspect(path))
