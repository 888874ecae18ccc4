"""The types that a plan's layers compute in, read from the network that the builder parsed."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from dic.console import UserError
from export.choices import Choices, Precision
from export.exporter import build
from export.graph.interface import Io, Signature
from export.plan.builder import PlanBuilder
from export.plan.flavour import Flavour, PlanChoices
from export.plan.layers import NEEDED, check_precision
from train.checkpoint import load_checkpoint


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_layers_have_the_precision_of_the_graph(
    precision: Precision, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    network, path = load_checkpoint(tiny_checkpoint).network, tmp_path / "x.onnx"
    onnx.save(build(network, Signature(Io.IMAGE, 2, True), Choices(precision=precision)), path)
    builder = PlanBuilder(Flavour("tensorrt_rtx", "TensorRT-RTX", trt), path, PlanChoices())
    builder.build()
    check_precision(path, precision.value, builder.layers)
    most = max(builder.layers, key=lambda kind: builder.layers[kind])
    assert most == NEEDED[precision.value]
    other = "fp16" if precision is Precision.INT8 else "bf16"
    with pytest.raises(UserError, match=f"is {other}, but the plan's layers compute in"):
        check_precision(path, other, {most: 1})
