"""Unroll a network's recurrence into one ONNX graph."""

from __future__ import annotations

import onnx
import torch
from onnx import helper

from export.graph.interface import Signature, wrap
from export.graph.names import node_names
from export.graph.record import Graph, record
from train.model.network import DIC

OPSET = 20  # the newest that TensorRT 10.0 reads
# Constants of up to this many elements are computed: shapes, biases, Helen's 5×194 component
# matrix. Nodes that repeat weights (`export.graph.packed`) stay in the graph; runtimes compute them
# once, when they load it.
FOLDED = 1000
LARGEST_WEIGHT = 10_000_000  # elements, more than any convolution's weight has


def unroll(
    network: DIC, signature: Signature, opset: int = OPSET, fold: int = FOLDED
) -> onnx.ModelProto:
    """Unroll the recurrence into one graph with a dynamic batch; weights are stored once.

    Args:
        opset: the ONNX opset version, at least 18.
        fold: largest number of elements of a constant that operations are applied to.

    Returns:
        the graph, its nodes and their results named by `export.graph.names`.
    """
    sample = signature.sample(1, torch.Generator().manual_seed(0))
    graph = record(wrap(network, signature), sample, signature.input, fold)
    used = _used(graph)
    nodes = [graph.nodes[i] for i in used]
    names = node_names([(graph.scopes[i], graph.nodes[i].op_type) for i in used])
    renamed = dict(zip(graph.outputs, signature.outputs, strict=True))
    for node, name in zip(nodes, names, strict=True):
        node.name = name
        several = len(node.output) > 1
        for number, value in enumerate(node.output):
            renamed.setdefault(value, f"{name}:{number}" if several else name)
    for node in nodes:
        for values in (node.input, node.output):
            values[:] = [renamed.get(value, value) for value in values]
    source = helper.make_tensor_value_info(
        signature.input,
        helper.np_dtype_to_tensor_dtype(sample.numpy().dtype),
        ["batch", *sample.shape[1:]],
    )
    wanted = {value for node in nodes for value in node.input}
    infos = {
        renamed[value]: helper.make_tensor_value_info(renamed[value], kind, shape)
        for value, (kind, shape) in graph.shapes.items()
        if value in renamed
    }
    outputs = [infos.pop(name) for name in signature.outputs]
    made = helper.make_graph(
        nodes,
        "dic",
        [source],
        outputs,
        [tensor for name, tensor in graph.initializers.items() if name in wanted],
        value_info=list(infos.values()),
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(
        made,
        opset_imports=imports,
        ir_version=helper.find_min_ir_version_for(imports),
        producer_name="dic-toolkit",
    )


def _used(graph: Graph) -> list[int]:
    """The indices of the nodes that the outputs depend on, in order."""
    wanted, kept = set(graph.outputs), []
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        if wanted & set(node.output):
            wanted.update(node.input)
            kept.append(index)
    return kept[::-1]
