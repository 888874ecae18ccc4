"""Half precisions on a CPU: the same graph in float32, the result of every node rounded.

ONNX Runtime's CPU provider computes nothing in bfloat16, and float16 by leaving out the roundings
between its layers. Here each float16 or bfloat16 tensor becomes a float32 one whose values have
been cast there and back. A GPU that accumulates in float32 rounds no more often than that; where
it fuses nodes, less. One that accumulates in float16 is not what this stands for.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def is_low(model: onnx.ModelProto) -> bool:
    """Whether a model computes in half precision anywhere."""
    casts = (a for n in model.graph.node if n.op_type == "Cast" for a in n.attribute)
    return any(a.name == "to" and a.i in LOW for a in casts)


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that gives, in float32, what `model` gives with float16 or bfloat16 inside.

    Args:
        model: with the types of all its values inferable.

    Raises:
        ValueError: one is not; its rounding would be left out silently.
    """
    typed = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in typed.graph.value_info}
    types |= {v.name: v.type.tensor_type.elem_type for v in typed.graph.output}
    unknown = [n for node in model.graph.node for n in node.output if n and not types.get(n)]
    if unknown:
        raise ValueError(f"the types of {len(unknown)} values are not known, first: {unknown[0]}")
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
                ):  # named as parts of the node, which ends in them
                    part = f"{node.name}/{made}"
                    casts.append(helper.make_node("Cast", [taken], [made], part, to=kind))
        graph.node.append(node)
        graph.node.extend(casts)
    return result
