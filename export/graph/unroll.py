"""Trace a network into one ONNX graph, its recurrence unrolled."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import onnx
import onnx_ir
import onnxscript
import torch
from onnx_ir.passes import common as passes
from onnxscript.rewriter.rules.common import (
    fuse_pad_into_conv_rule,
    materialize_reshape_shape_rule,
    normalize_pad_format_conv_rule,
)

from export.graph.interface import Signature, wrap
from export.graph.names import name_nodes
from train.model.network import DIC

OPSET = 20  # the newest that TensorRT 10.0 reads
# Constant folding applies to constants of up to this many elements: shapes, biases, Helen's 5×194
# component matrix. Nodes that repeat weights (`export.graph.packed`) stay in the graph; runtimes
# fold them once, when they load it.
FOLDED = 1000
LARGEST_WEIGHT = 10_000_000  # elements, more than any convolution's weight has


def unroll(
    network: DIC, signature: Signature, opset: int = OPSET, fold: int = FOLDED
) -> onnx.ModelProto:
    """Trace the recurrence into one graph with a dynamic batch; weights are stored once.

    Args:
        opset: the ONNX opset version.
        fold: largest number of elements of a constant that is folded.

    Returns:
        the graph, its nodes named by `export.graph.names`.
    """
    # The sample batch is 2: the exporter specialises a dimension of 1 to a constant.
    sample = signature.sample(2, torch.Generator().manual_seed(0))
    with _quiet_exporter():
        program = torch.onnx.export(
            wrap(network, signature),
            (sample,),
            dynamo=True,
            opset_version=opset,
            input_names=[signature.input],
            output_names=list(signature.outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
            optimize=False,
        )
        assert program is not None
        _simplify(program.model, fold)
    model: onnx.ModelProto = program.model_proto
    name_nodes(model)
    # The exporter stores a stack trace with every node: as large as a small network's weights, and
    # with paths of this machine.
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.output, model.graph):
        del part.metadata_props[:]
    return model


def _simplify(model: onnx_ir.Model, fold: int) -> None:
    """Apply those passes of onnxscript's optimiser that change such a graph.

    The full optimiser tries every rule at every node, some in quadratic time. That takes half of an
    export's time; these passes have the same result in half a second.
    """
    onnxscript.optimizer.inline(model)
    onnxscript.optimizer.fold_constants(
        model, input_size_limit=fold, output_size_limit=LARGEST_WEIGHT
    )
    rules = [
        materialize_reshape_shape_rule,  # all sizes except the batch become static
        normalize_pad_format_conv_rule,
        fuse_pad_into_conv_rule,
    ]
    onnxscript.rewriter.rewrite(model, rules)
    for cleaning in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        cleaning(model)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide the exporter's note that torchvision is not installed, and a deprecation within it."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
