"""Emulate half precisions on a CPU: float32 arithmetic, with every node's result rounded.

ONNX Runtime's CPU provider does not support bfloat16, and computes float16 without rounding between
layers. The emulated graph keeps each float16 or bfloat16 tensor as float32 values that were cast to
half precision and back. A GPU that accumulates in float32 rounds as often, or less often where it
fuses nodes. Accumulation in float16 is not emulated.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def is_low(model: onnx.ModelProto) -> bool:
    """Whether any node of a model casts to half precision."""
    casts = (a for n in model.graph.node if n.op_type == "Cast" for a in n.attribute)
    return any(a.name == "to" and a.i in LOW for a in casts)


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 copy of a model with the roundings of its float16 and bfloat16 tensors.

    Args:
        model: a model whose tensor types can all be inferred.

    Raises:
        ValueError: a type cannot be inferred; its rounding would be missing.
    """
    typed = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in typed.graph.value_info}
    types |= {v.name: v.type.tensor_type.elem_type for v in typed.graph.output}
    unknown = [n for node in model.graph.node for n in node.output if n and not types.get(n)]
    if unknown:
        raise ValueError(f"types of {len(unknown)} tensors cannot be inferred, first: {unknown[0]}")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type in LOW:
            tensor.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor).astype("float32"), tensor.name
                )
            )
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i in LOW:
                    attribute.i = TensorProto.FLOAT
        casts = []
        for i, name in enumerate(node.output):
            if types.get(name) in LOW:
                exact, rounded = f"{name}_exact", f"{name}_rounded"
                node.output[i] = exact
                for taken, made, kind in (
                    (exact, rounded, types[name]),
                    (rounded, name, TensorProto.FLOAT),
                ):  # within the node's scope, so that they belong to its block
                    part = f"{node.name}/{made}"
                    casts.append(helper.make_node("Cast", [taken], [made], part, to=kind))
        graph.node.append(node)
        graph.node.extend(casts)
    return result
