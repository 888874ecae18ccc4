"""The description of an engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from conftest import TINY, Command, one_line_error
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from export.graph.flops import flops
from export.graph.interface import Io, Signature
from export.graph.packed import pack
from export.graph.unroll import unroll
from train.model.network import DIC


def graph(
    op: str, x: list[int], w: list[int], y: list[int], **attributes: object
) -> onnx.ModelProto:
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y))
    ]
    size = torch.Size(w).numel()
    weight = helper.make_tensor("w", TensorProto.FLOAT, w, [0.0] * size)
    made = helper.make_graph([node], "g", [values[0]], [values[1]], [weight])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize(
    ("model", "count"),
    [
        # 4·4 places × 6 outputs × 3·3·2 inputs of the group, times two
        (graph("Conv", [1, 4, 6, 6], [6, 2, 3, 3], [1, 6, 4, 4], group=2), 2 * 16 * 6 * 18),
        # 3·3 places × 5 inputs × 2·2·7 outputs
        (
            graph("ConvTranspose", [1, 5, 3, 3], [5, 7, 2, 2], [1, 7, 6, 6], strides=[2, 2]),
            2 * 9 * 5 * 28,
        ),
        (graph("MatMul", [1, 3, 4], [4, 5], [1, 3, 5]), 2 * 3 * 4 * 5),
    ],
    ids=["Conv", "ConvTranspose", "MatMul"],
)
def test_operations_by_hand(model: onnx.ModelProto, count: int) -> None:
    assert sum(flops(model).values()) == count
    assert sum(flops(model, batch=3).values()) == 3 * count


def test_operations_equal_pytorchs() -> None:
    """The graph has the operations of the PyTorch network; packing changes one convolution.

    Its kernels in phases are mostly zeros: 16 phases of 3 channels, each from four classes of 4
    phases with 2×2 offsets. The convolutions of ones before leaky ReLUs are within the tolerance.
    """
    network = DIC(replace(TINY, projection=8)).eval()
    signature = Signature(Io.TENSOR, 2, True, all_steps=True)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 16, 16))
    plain = sum(flops(unroll(network, signature)).values())
    assert plain == pytest.approx(counter.get_total_flops(), rel=0.01)
    packed = sum(flops(unroll(pack(network), signature)).values())
    last = 2 * 4 * (16 * 3) * (4 * TINY.channels) * 4 * 32**2
    instead_of = 2 * 3 * TINY.channels * 9 * 128**2
    assert packed == pytest.approx(plain + 2 * (last - instead_of), rel=0.01)


def test_the_command_describes_an_engine(
    command: Command, here: Command, tiny_engine: Path, tmp_path: Path
) -> None:
    done = command("export.inspect", tiny_engine)
    assert done.returncode == 0, done.stderr
    assert "runs here: yes, with ONNX Runtime" in done.stdout
    for expected in ("steps: 2", "image uint8 [batch, 16, 16, 3]", "GFLOP per face", "Conv"):
        assert expected in done.stdout
    facts = json.loads(here("export.inspect", tiny_engine, "--json").stdout)
    assert facts["metadata"]["io"] == "image"
    plan = tmp_path / "dic.trt"
    plan.write_bytes(b"vtrt" + bytes(100))
    output = here("export.inspect", plan).stdout
    assert "TensorRT-RTX plan" in output
    assert "runs here: no: " in output, "a header and 100 zero bytes are no plan"
    (tmp_path / "dic.trt.json").write_text("{")
    (tmp_path / "text").write_text("nothing")
    for path, why in (
        (plan, "damaged"),
        (tmp_path / "text", "neither an ONNX file"),
        (tmp_path / "none", "No such file"),
    ):
        assert why in one_line_error(here("export.inspect", path), 2)
