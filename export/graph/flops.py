"""Counting what a graph computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx


def flops(model: onnx.ModelProto, batch: int = 1) -> Counter[str]:
    """Floating-point operations of one run, by operator; a multiplication and its addition are two.

    Counted are convolutions, transposed convolutions and matrix products: in a DIC network all
    else is under 2 % together. Paddings count as if they were pixels, as everybody counts.

    Args:
        model: with static shapes but for the batch.

    Raises:
        ValueError: a shape that cannot be inferred.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        first.dim_value = batch
    del fixed.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes: dict[str, tuple[int, ...]] = {t.name: tuple(t.dims) for t in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(d.dim_value for d in dims)
    found: Counter[str] = Counter()
    for node in inferred.node:
        if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            found[node.op_type] += _of_node(node, shapes)
    return found


def _of_node(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> int:
    left, right, out = (shapes.get(n) for n in (node.input[0], node.input[1], node.output[0]))
    if not (left and right and out) or 0 in (*left, *right, *out):
        raise ValueError(f"the shapes of {node.op_type} {node.name} are not known")
    if node.op_type == "Conv":
        # Each output: kernel · (channels of its group).
        return 2 * _product(out) * _product(right[1:])
    if node.op_type == "ConvTranspose":
        # Each input is spread over the kernel, into every channel of its group.
        return 2 * _product(left) * _product(right[1:])
    return 2 * _product(out) * left[-1]


def _product(numbers: Sequence[int]) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total
