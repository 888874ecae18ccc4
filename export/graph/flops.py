"""Count the floating-point operations of an ONNX graph: of any engine file, without PyTorch.

`benchmarks.measure.roofline.operations` counts those of the PyTorch network; a test holds the two
equal.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import onnx


def flops(model: onnx.ModelProto, batch: int = 1) -> Counter[str]:
    """Floating-point operations of one run, by operator; a multiply-add counts as two.

    Counted are convolutions, transposed convolutions and matrix products; everything else is under
    2 % of a DIC network. Padding counts like pixels, as is usual.

    Args:
        model: shapes static except for the batch.
        batch: faces per run.

    Raises:
        ValueError: a shape cannot be inferred.
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
        raise ValueError(f"the shapes of {node.op_type} {node.name} cannot be inferred")
    if node.op_type == "Conv":
        # Per output element: kernel size · input channels of its group.
        return 2 * math.prod(out) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":
        # Per input element: kernel size · output channels of its group.
        return 2 * math.prod(left) * math.prod(right[1:])
    return 2 * math.prod(out) * left[-1]
