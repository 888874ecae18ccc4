"""The memory that an export reserves."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch
from conftest import TINY, Command, one_line_error

from export.choices import Precision
from export.needs import activation_bytes, needed_bytes
from train.checkpoint import save_checkpoint
from train.model.network import DIC, NetworkConfig

LAYERS = ("Conv", "ConvTranspose", "PRelu", "Relu", "MaxPool", "DepthToSpace")


def test_activations_are_those_of_the_exported_graph(tiny_engine: Path) -> None:
    model = onnx.load(tiny_engine)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    typed = onnx.shape_inference.infer_shapes(model)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in typed.graph.value_info
    }
    counted = [n.output[0] for n in typed.graph.node if n.op_type in LAYERS]
    in_graph = 4 * sum(math.prod(shapes[name]) for name in counted if name in shapes)
    assert activation_bytes(DIC(TINY), TINY.steps) == pytest.approx(in_graph, rel=0.05)


@pytest.mark.parametrize(
    "larger",
    [
        {"channels": 8},
        {"groups": 3},
        {"projection": 4},
        {"hourglass_channels": 16},
        {"steps": 3},
    ],
    ids=str,
)
def test_the_bound_grows_with_every_size(larger: dict[str, int]) -> None:
    sizes = vars(TINY) | larger
    with torch.device("meta"):
        small, large = DIC(TINY), DIC(NetworkConfig(**sizes))
    for precision in Precision:
        assert needed_bytes(large, sizes["steps"], precision) > needed_bytes(
            small, TINY.steps, precision
        )


def test_a_network_that_needs_more_is_refused_before_any_work(
    tmp_path: Path, here: Command
) -> None:
    """Of few weights, but large activations."""
    sizes = vars(TINY) | {"channels": 32, "projection": 8}
    path, out = tmp_path / "large.pth", tmp_path / "dic.onnx"
    save_checkpoint(path, DIC(NetworkConfig(**sizes)), {})
    done = here("export.onnx", path, "-o", out, "--memory", "2G", "--steps", 64)
    assert "needs up to" in one_line_error(done, 2)
    assert "unrolling" not in done.stderr
    assert not out.exists()
