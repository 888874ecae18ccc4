"""The recorder: each operator against PyTorch, whole networks against PyTorch's own exporter."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.graph.interface import Io, Signature, wrap
from export.graph.record import Graph, record
from export.graph.unroll import FOLDED, unroll
from train.model.network import DIC

Function = Callable[[Tensor], Tensor | tuple[Tensor, ...]]


class Calls(nn.Module):
    """A module that calls a function of its input, and has a weight."""

    def __init__(self, function: Function | Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3, generator=generator))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        given: Any = self.function
        try:
            result = given(x)
        except TypeError:
            result = given(x, self.weight)
        return result if isinstance(result, tuple) else (result,)


def model_of(graph: Graph, sample: Tensor) -> onnx.ModelProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(sample.numpy().dtype)
    made = onnx.helper.make_graph(
        graph.nodes,
        "test",
        [onnx.helper.make_tensor_value_info("x", kind, ["batch", *sample.shape[1:]])],
        [
            onnx.helper.make_tensor_value_info(name, *graph.shapes[name])
            if name in graph.shapes
            else onnx.helper.make_empty_tensor_value_info(name)
            for name in graph.outputs
        ],
        list(graph.initializers.values()),
    )
    model = onnx.helper.make_model(
        made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, feed: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    results: list[Any] = session.run(None, feed)
    return results


OPERATIONS: dict[str, Any] = {
    "arithmetic": lambda x: (x + 1) * 2 / (x * x + 3) - x,
    "types are promoted": lambda x: x + torch.full((1,), 0.5, dtype=torch.float16),
    "casts": lambda x: (x * 9).to(torch.uint8).float(),
    "halves": lambda x: x.half() + x.half(),
    "layouts": lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 2, 1),
    "clamped": lambda x: x.clamp(0.2, 0.7) + x.clamp(min=0.5) + x.clamp(max=0.5),
    "rounded to even": lambda x: (x * 8).round() / 2 - (x * 4).round(),
    "activations": lambda x: F.relu(x - 0.5) + F.leaky_relu(x - 0.5, 0.1) + nn.PReLU()(x - 0.5),
    "convolved": lambda x, w: F.conv2d(x, w, stride=2, padding=1),
    "in groups": lambda x, w: F.conv2d(x, w[:, :2], padding=(0, 2), dilation=2, groups=2),
    "transposed": lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1),
    "padded, then convolved": lambda x, w: F.conv2d(F.pad(x, (1, 0, 2, 3)), w),
    "padded and used twice": lambda x, w: (F.conv2d(p := F.pad(x, (1, 0, 2, 3)), w), p * 2),
    "padded with ones": lambda x, w: F.conv2d(F.pad(x, (1, 0, 2, 3), value=1.0), w),
    "cropped by a padding": lambda x, w: F.conv2d(F.pad(x, (-1, 0, 2, 3)), w),
    "pooled": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "enlarged": lambda x: F.interpolate(x, size=(24, 12), mode="bilinear"),
    "enlarged between corners": lambda x: F.interpolate(
        x, size=(12, 12), mode="bilinear", align_corners=True
    ),
    "shuffled": lambda x: F.pixel_shuffle(x, 2),
    "reduced": lambda x: (x.amax((2, 3), keepdim=True), x.sum(1)),
    "softmax": lambda x: x.softmax(1),
    "top": lambda x: x.flatten(1).topk(3)[0],
    "integers": lambda x: (
        (i := x.flatten(2).topk(2)[1]) % 5,
        torch.div(i, 5, rounding_mode="trunc"),
    ),
    "compared": lambda x: torch.where(x[:, 1:] > x[:, :3], 1.0, -1.0),
    "compared with a number's type": lambda x: torch.where(x.half() > x[:, :1] * 0.5, x, x * 2),
    "joined and stacked": lambda x: (torch.cat((x, x * 2), 1), torch.stack((x, x * 2), -1)),
    "split": lambda x: x.chunk(2, dim=1)[1],
    "sliced": lambda x: x[:, 1:3, ::2, :-1],
    "selected": lambda x: x[:, 2],
    "reshaped": lambda x: x.unflatten(1, (2, -1)).flatten(2).unsqueeze(-1),
    "a constant's shape": lambda x, w: x + w.reshape(4, 36)[:, :6].reshape(1, 4, 6, 1),
    "constants": lambda x, w: F.conv2d(
        x, torch.cat((w.index_select(2, torch.tensor([2, 0])),) * 2)
    ),
    "repeated": lambda x, w: F.conv2d(x, w.repeat(3, 1, 1, 1).permute(0, 1, 3, 2)),
    "a padded constant": lambda x, w: x + F.pad(w[:1], (0, 3, 3, 0)),
}


@pytest.mark.parametrize("fold", [0, FOLDED])
@pytest.mark.parametrize("what", OPERATIONS)
def test_operations_equal_pytorchs(what: str, fold: int) -> None:
    module = Calls(OPERATIONS[what]).eval()
    sample = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    model = model_of(record(module, sample, "x", fold), sample)
    for batch in (1, 5):
        x = torch.rand(batch, 4, 6, 6, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = module(x)
        for ours, theirs in zip(run(model, {"x": x.numpy()}), expected, strict=True):
            assert ours.dtype == theirs.numpy().dtype
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)


def test_a_padding_becomes_the_convolutions_own() -> None:
    graph = record(Calls(OPERATIONS["padded, then convolved"]), torch.rand(1, 4, 6, 6), "x", 0)
    assert [node.op_type for node in graph.nodes] == ["Conv"]


def test_small_constants_are_computed_and_large_ones_are_nodes() -> None:
    module = Calls(OPERATIONS["repeated"])
    kinds = {
        fold: [node.op_type for node in record(module, torch.rand(1, 4, 6, 6), "x", fold).nodes]
        for fold in (0, 500, FOLDED)
    }
    assert kinds[0] == kinds[0][:2] + ["Conv"] == ["Tile", "Transpose", "Conv"]
    assert kinds[500] == ["Conv"], "the weight has 144 elements, repeated 432"
    assert kinds[FOLDED] == ["Conv"]


def test_equal_constants_and_nodes_are_there_once() -> None:
    def twice(x: Tensor, w: Tensor) -> Tensor:
        again = w.detach().clone()
        return F.conv2d(x, w.repeat(2, 1, 1, 1)) + F.conv2d(x, again.repeat(2, 1, 1, 1))

    graph = record(Calls(twice), torch.rand(1, 4, 6, 6), "x", 0)
    assert Counter(node.op_type for node in graph.nodes) == {"Tile": 1, "Conv": 1, "Add": 1}
    assert [name for name in graph.initializers if "constant" not in name] == ["weight"]


def test_results_may_be_equal_or_the_input() -> None:
    sample = torch.rand(1, 4, 6, 6)
    model = model_of(record(Calls(lambda x: (y := x + 1, y, x)), sample, "x", 0), sample)
    one, same, given = run(model, {"x": sample.numpy()})
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(given, sample.numpy())


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x.sin(), "aten.sin.default: has no ONNX equivalent"),
        (lambda x: x.sum(0), "mixes the elements of a batch"),
        (lambda x: x.flatten(0, 1), "mixes the elements of a batch"),
        (lambda x: torch.cat((x, x)), "mixes the elements of a batch"),
        (lambda x: x.sum(), "mixes the elements of a batch"),
        (lambda x: F.interpolate(x, size=(8, 8), mode="bilinear"), "an enlargement from"),
        (lambda x: x.split(3, 1)[0], "a split into unequal parts"),
        (lambda x: x % 0.3, "a remainder of floating-point numbers"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "a division rounded by floor"),
        (lambda x: torch.add(x, x, alpha=2), "Add with a factor"),
    ],
)
def test_what_cannot_be_recorded_is_named(function: Function, why: str) -> None:
    with pytest.raises(NotImplementedError, match=why):
        record(Calls(function), torch.rand(1, 4, 6, 6), "x", 0)


def test_hooks_are_removed_after_an_error() -> None:
    module = Calls(lambda x: x.sin())
    with pytest.raises(NotImplementedError):
        record(module, torch.rand(1, 4, 6, 6), "x", 0)
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def test_a_network_equals_pytorchs_own_export(tiny_network: DIC) -> None:
    """The same convolutions in the same order, and the same results."""
    signature = Signature(Io.IMAGE, 2, True)
    sample = signature.sample(2, torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            wrap(tiny_network, signature),
            (sample,),
            dynamo=True,
            opset_version=20,
            input_names=[signature.input],
            output_names=list(signature.outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    theirs, ours = program.model_proto, unroll(tiny_network, signature)
    layers = [
        [
            (
                node.op_type,
                *sorted((a.name, str(a)) for a in node.attribute if a.name != "auto_pad"),
            )
            for node in model.graph.node
            if node.op_type in ("Conv", "ConvTranspose", "MaxPool")
        ]
        for model in (theirs, ours)
    ]
    assert [layer[0] for layer in layers[0]] == [layer[0] for layer in layers[1]]
    assert len(ours.graph.node) <= len(theirs.graph.node)
    faces = signature.sample(3, torch.Generator().manual_seed(1)).numpy()
    for name, one, other in zip(
        signature.outputs,
        *(run(model, {signature.input: faces}) for model in (theirs, ours)),
        strict=True,
    ):
        np.testing.assert_allclose(one.astype(float), other, rtol=1e-5, atol=1e-5, err_msg=name)
